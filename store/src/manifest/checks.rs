//! What a manifest must not say: more than a reader can hold, shapes that do not fit, places that exclude each other.

use tpde_core::CodecError;
use tpde_core::wire::Reader;

use super::wire::corrupt;
use super::{FileContent, FileRecord, TensorRecord};

/// Most things that a manifest may list, all its lists together: half a million tensors and more, and half a gigabyte in memory.
const MAX_COUNTS: usize = 1 << 22;

/// Counts what all lists of a manifest hold together.
#[derive(Default)]
pub(super) struct Lists {
    counted: usize,
}

impl Lists {
    /// Reads the length of a list whose elements take at least `min_len` bytes each.
    pub(super) fn count(
        &mut self,
        r: &mut Reader<'_>,
        min_len: usize,
    ) -> std::result::Result<usize, CodecError> {
        let count = r.count(min_len, "manifest")?;
        self.counted = self.counted.saturating_add(count);
        if self.counted > MAX_COUNTS {
            return Err(corrupt(&format!("it lists more than {MAX_COUNTS} things")));
        }
        Ok(count)
    }
}

/// Reads an index into a list of `len` things.
pub(super) fn index(r: &mut Reader<'_>, len: usize) -> std::result::Result<u32, CodecError> {
    let i = r.varint("manifest")?;
    u32::try_from(i)
        .ok()
        .filter(|&i| (i as usize) < len)
        .ok_or_else(|| corrupt(&format!("index {i} of {len}")))
}

/// A shape has as many elements as the content.
pub(super) fn check_shape(shape: &[u64], record: &TensorRecord) -> std::result::Result<(), String> {
    let elems = shape.iter().try_fold(1u64, |elems, &d| elems.checked_mul(d));
    let bits = elems.and_then(|elems| elems.checked_mul(record.dtype.shape_bits()));
    match bits {
        Some(bits) if bits.div_ceil(8) == record.len_bytes => Ok(()),
        _ => Err(format!(
            "shape {shape:?} of {} in {} bytes",
            record.dtype.name(),
            record.len_bytes
        )),
    }
}

/// Paths ascend, and nothing lies below a file that is not a directory.
pub(super) fn check_places(files: &[FileRecord]) -> std::result::Result<(), CodecError> {
    if let Some(pair) = files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
        return Err(corrupt(&format!("path {:?} is out of order", pair[1].path)));
    }
    let is_dir = |path: &str| {
        let at = files.binary_search_by(|file| file.path.as_str().cmp(path));
        at.is_err() || at.is_ok_and(|at| files[at].content == FileContent::Directory)
    };
    for file in files {
        let above = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
        if let Some(other) = above.into_iter().find(|above| !is_dir(above)) {
            return Err(corrupt(&format!(
                "path {:?} lies below the file {other:?}",
                file.path
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpde_core::wire::Writer;
    use tpde_core::{Dtype, TensorId};

    /// Promise: lists that together hold too much are refused before they are read.
    #[test]
    fn lists_are_counted_together() {
        let mut w = Writer::new();
        w.varint(3 << 20);
        let mut bytes = w.into_bytes();
        bytes.resize(4 << 20, 0);
        let mut lists = Lists::default();
        assert_eq!(lists.count(&mut Reader::new(&bytes), 1), Ok(3 << 20));
        assert!(lists.count(&mut Reader::new(&bytes), 1).is_err());
    }

    /// Promise: a shape stands for exactly the bytes there are, also for elements of less than a byte.
    #[test]
    fn shapes() {
        let record = |dtype, len_bytes| TensorRecord {
            id: TensorId::of(b"w"),
            dtype,
            len_bytes,
            packs: Vec::new(),
            rank: 0,
            has_base: false,
            is_given: false,
            stored_bytes: 0,
            changed_elems: 0,
            max_ulp: 0,
        };
        let fits = |shape: &[u64], dtype, len_bytes| check_shape(shape, &record(dtype, len_bytes)).is_ok();
        assert!(fits(&[3, 4], Dtype::BF16, 24) && fits(&[], Dtype::F32, 4) && fits(&[0, 7], Dtype::F32, 0));
        assert!(fits(&[6], Dtype::F4, 3));
        assert!(!fits(&[3, 4], Dtype::BF16, 22) && !fits(&[u64::MAX, 2], Dtype::BF16, 0));
    }
}
