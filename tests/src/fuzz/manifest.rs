//! Manifests.

use tpde_store::manifest::MAX_MANIFEST_BYTES;
use tpde_store::{Manifest, ManifestId, StoreError};

use super::{Target, golden};

/// Whatever a manifest says under its right name, packed well or as it is, it is refused or read; and written again reads the same.
pub(super) const TARGET: Target = Target {
    name: "manifest",
    run,
    seeds,
    inputs: 30_000,
};

/// Before the compressed record.
const HEAD: &[u8] = b"TPDEMF\x01";

/// Golden manifests, as they are and without their compression.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = golden("store/manifests");
    for stored in seeds.clone() {
        seeds.push(zstd::bulk::decompress(&stored[HEAD.len()..], MAX_MANIFEST_BYTES).unwrap());
    }
    seeds
}

fn run(bytes: &[u8]) -> bool {
    if bytes.starts_with(HEAD) {
        return is_read(bytes);
    }
    let packed = zstd::bulk::compress(bytes, 1).unwrap();
    is_read(&[HEAD, &packed].concat())
}

fn is_read(bytes: &[u8]) -> bool {
    let manifest = match Manifest::decode(ManifestId::of(bytes), bytes) {
        Ok(manifest) => manifest,
        Err(StoreError::Corrupt { .. } | StoreError::Newer { .. } | StoreError::Codec(_)) => return false,
        Err(other) => panic!("{other}"),
    };
    manifest.raw_bytes();
    manifest.fingerprint();
    for file in &manifest.files {
        manifest.file_digest(file);
        manifest.file_len_bytes(file);
        manifest.blobs_len_bytes(file);
    }
    assert!(
        manifest.named_tensors().count() >= manifest.files.iter().map(|f| f.content.tensors().len()).sum()
    );
    let (id, again) = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(id, &again).unwrap(), manifest);
    true
}
