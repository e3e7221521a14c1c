//! zstd for everything that is not a tensor, with an earlier version of the same file as prefix.

use std::io::Read;

/// Up to this many bytes the highest level is affordable.
const SMALL_BYTES: usize = 1 << 20;
const SMALL_LEVEL: i32 = 19;
const LARGE_LEVEL: i32 = 6;
/// Widest window: it spans a prefix and a blob behind it.
const MAX_WINDOW_LOG: u32 = 25;
const MIN_WINDOW_LOG: u32 = 10;

/// Compresses `bytes` given `prefix` (empty for none), or `None` if that does not make it smaller.
pub(crate) fn compress(bytes: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    let level = if bytes.len() <= SMALL_BYTES {
        SMALL_LEVEL
    } else {
        LARGE_LEVEL
    };
    let span = (prefix.len() + bytes.len()).next_power_of_two().trailing_zeros();
    let attempt = || -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), level, prefix)?;
        encoder.window_log(span.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG))?;
        encoder.include_checksum(false)?;
        encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
        std::io::Write::write_all(&mut encoder, bytes)?;
        encoder.finish()
    };
    // Out of memory is the only way to fail, and storing plainly is always right.
    attempt().ok().filter(|packed| packed.len() < bytes.len())
}

/// Inverse of [`compress`]; fails above `most_bytes` before allocating for them.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn decompress(packed: &[u8], prefix: &[u8], most_bytes: usize) -> Result<Vec<u8>, String> {
    let attempt = || -> std::io::Result<Vec<u8>> {
        let mut decoder = zstd::Decoder::with_ref_prefix(packed, prefix)?.single_frame();
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        let mut bytes = Vec::new();
        (&mut decoder)
            .take(most_bytes as u64 + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() <= most_bytes && !decoder.finish().is_empty() {
            return Err(std::io::Error::other("bytes follow the frame"));
        }
        Ok(bytes)
    };
    let bytes = attempt().map_err(|e| format!("zstd: {e}"))?;
    if bytes.len() > most_bytes {
        return Err(format!("it decompresses to more than {most_bytes} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: blobs survive with and without a prefix, a prefix helps, and a bomb is refused.
    #[test]
    fn round_trip_and_limit() {
        let old: Vec<u8> = (0..60_000u32)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes())
            .collect();
        let mut new = old.clone();
        new.extend_from_slice(b"one more line");
        let packed = compress(&new, &old).unwrap();
        assert!(packed.len() < 200, "{}", packed.len());
        assert_eq!(decompress(&packed, &old, new.len()).unwrap(), new);
        assert!(compress(&old, &[]).is_none_or(|p| p.len() < old.len()));
        let bomb = compress(&vec![0; 1 << 20], &[]).unwrap();
        assert!(decompress(&bomb, &[], 1 << 19).unwrap_err().contains("more than"));
        assert_eq!(decompress(&bomb, &[], 1 << 20).unwrap().len(), 1 << 20);
    }
}
