//! Files for tests.

/// A safetensors file of one tensor `w` of BF16 with these bytes.
pub(crate) fn one_tensor(bytes: &[u8]) -> Vec<u8> {
    let header = format!(
        r#"{{"w":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        bytes.len() / 2,
        bytes.len()
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytes);
    file
}
