//! Safetensors files: which bytes are the header, and which are which tensor.
//!
//! The header is kept as it was written (key order, padding, metadata), so the file comes back byte for byte. The
//! `safetensors` crate reads it; this module checks it against the file (the crate would want all of the
//! file in memory) and names file, tensor and next step in its errors.

use safetensors::tensor::Metadata;
use tpde_core::Dtype;

use super::source::SourceFile;
use crate::error::{Result, StoreError};
use crate::manifest::MAX_DIMS;

/// Bytes of the length prefix.
const PREFIX_BYTES: usize = 8;
/// Longest header, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// One tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInFile {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// Where its bytes start in the file.
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
}

/// A file's header and tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Length prefix and header, as they stand in the file.
    pub(crate) header: Vec<u8>,
    /// Tensors by offset; together they are the rest of the file.
    pub(crate) tensors: Vec<TensorInFile>,
}

/// Reads and checks the header of `file`.
///
/// # Errors
/// `Input` for a truncated, overlapping or lying header, an unknown dtype, or bytes that belong to no tensor.
pub(crate) fn read_layout(file: &SourceFile) -> Result<Layout> {
    let refuse = |detail: String| {
        StoreError::input(
            file.shown(),
            detail,
            "Write the file again, or keep it as plain bytes with --opaque and its name",
        )
    };
    let len_bytes = file.len_bytes();
    if len_bytes < PREFIX_BYTES as u64 {
        return Err(refuse(format!(
            "it has {len_bytes} bytes, too few for a safetensors header"
        )));
    }
    let mut prefix = [0u8; PREFIX_BYTES];
    prefix.copy_from_slice(&file.read_at(0, PREFIX_BYTES)?);
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > MAX_HEADER_BYTES || header_bytes > len_bytes - PREFIX_BYTES as u64 {
        return Err(refuse(format!(
            "its header claims {header_bytes} bytes, the file has {len_bytes}: it is truncated or not a safetensors file"
        )));
    }
    let start = PREFIX_BYTES as u64 + header_bytes;
    #[expect(clippy::cast_possible_truncation, reason = "at most 100 MiB")]
    let header = file.read_at(0, start as usize)?;
    let metadata: Metadata = serde_json::from_slice(&header[PREFIX_BYTES..])
        .map_err(|e| refuse(format!("its header is not valid ({e})")))?;
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let dtype_name = info.dtype.to_string();
        let Some(dtype) = Dtype::from_name(&dtype_name) else {
            return Err(refuse(format!(
                "tensor {name:?} has dtype {dtype_name}, which this tpde does not know"
            )));
        };
        if info.shape.len() > MAX_DIMS {
            return Err(refuse(format!(
                "tensor {name:?} has {} dimensions",
                info.shape.len()
            )));
        }
        let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let bits = info
            .shape
            .iter()
            .try_fold(dtype.shape_bits(), |bits, &d| bits.checked_mul(d as u64));
        if bits.is_none() || bits != to.checked_sub(from).and_then(|bytes| bytes.checked_mul(8)) {
            return Err(refuse(format!(
                "tensor {name:?} of dtype {dtype_name} and shape {:?} claims bytes {from} to {to}",
                info.shape
            )));
        }
        if to > len_bytes - start {
            return Err(refuse(format!(
                "tensor {name:?} ends at byte {}, the file has {len_bytes}: it is truncated",
                start.saturating_add(to)
            )));
        }
        let shape = info.shape.iter().map(|&d| d as u64).collect();
        let tensor = TensorInFile {
            name,
            dtype,
            shape,
            offset_bytes: start + from,
            len_bytes: to - from,
        };
        tensors.push(tensor);
    }
    tensors
        .sort_by(|a, b| (a.offset_bytes, a.len_bytes, &a.name).cmp(&(b.offset_bytes, b.len_bytes, &b.name)));
    let mut end = start;
    for tensor in &tensors {
        if tensor.offset_bytes != end {
            let at = tensor.offset_bytes;
            return Err(refuse(format!(
                "tensor {:?} starts at byte {at}, the one before ends at {end}",
                tensor.name
            )));
        }
        end += tensor.len_bytes;
    }
    if end != len_bytes {
        return Err(refuse(format!(
            "{} bytes behind the last tensor belong to none",
            len_bytes - end
        )));
    }
    Ok(Layout { header, tensors })
}

/// Whether a file of this name is read as safetensors.
pub(crate) fn is_named_like_one(path: &str) -> bool {
    path.ends_with(".safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 1);
        bytes
    }

    fn layout_of(bytes: &[u8]) -> Result<Layout> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, bytes).unwrap();
        read_layout(&SourceFile::open(&path)?)
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"I8","shape":[0],"data_offsets":[16,16]}}  "#;

    /// Promise: the header is kept to the byte, and tensors come in the order of their offsets.
    #[test]
    fn a_good_file() {
        let bytes = file_of(GOOD, 16);
        let layout = layout_of(&bytes).unwrap();
        assert_eq!(layout.header, bytes[..bytes.len() - 16]);
        let names: Vec<_> = layout
            .tensors
            .iter()
            .map(|t| (t.name.as_str(), t.len_bytes))
            .collect();
        assert_eq!(names, [("a", 4), ("b", 12), ("z", 0)]);
        assert_eq!(layout.tensors[1].shape, [2, 3]);
    }

    /// Promise: truncated, overlapping, lying and trailing bytes are each refused with the file's name and a next step.
    #[test]
    fn bad_files() {
        let swap = |from: &str, to: &str| file_of(&GOOD.replace(from, to), 16);
        let good = file_of(GOOD, 16);
        let cases = [
            vec![1, 2, 3],
            good[..20].to_vec(),
            good[..good.len() - 1].to_vec(),
            file_of(GOOD, 17),
            swap("[4,16]", "[3,15]"),
            swap("[4,16]", "[5,17]"),
            swap("[2,3]", "[2,4]"),
            swap("[2,3]", "[9223372036854775807,9223372036854775807]"),
            swap("\"BF16\"", "\"BF99\""),
            swap("\"b\"", "\"a\""),
            swap("{\"__m", "[\"__m"),
            u64::MAX.to_le_bytes().to_vec(),
        ];
        for (i, case) in cases.iter().enumerate() {
            let error = layout_of(case).unwrap_err().to_string();
            assert!(
                error.contains("m.safetensors") && error.contains("--opaque"),
                "case {i}: {error}"
            );
        }
    }
}
