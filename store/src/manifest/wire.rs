//! A manifest as bytes (docs/format.md §6).
//!
//! ```text
//! "TPDEMF" version | zstd of the record
//! ```

use std::collections::BTreeMap;

use tpde_core::constants::MAX_TENSOR_ELEMS;
use tpde_core::wire::{Reader, Writer};
use tpde_core::{CodecError, Dtype, ID_LEN, TensorId};

use super::checks::{Lists, check_places, index};
use super::{BlobRecord, FileContent, FileRecord, Manifest, TensorRecord};
use crate::content::BLOB_BYTES;
use crate::error::{Result, StoreError};
use crate::files::paths;
use crate::ids::{BlobId, LeaseId, ManifestId, PackId};
use crate::metrics::Metrics;

const MAGIC: &[u8; 6] = b"TPDEMF";
const VERSION: u8 = 1;
const ZSTD_LEVEL: i32 = 19;
const FLAG_ARCHIVED_WEIGHTS: u8 = 1;
/// Most bytes that a manifest may decompress to.
pub const MAX_MANIFEST_BYTES: usize = 256 << 20;
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 64;

impl Manifest {
    /// The stored bytes and the name they go under.
    ///
    /// # Errors
    /// `Input` if the checkpoint has more files and tensors than one manifest holds.
    pub fn encode(&self) -> Result<(ManifestId, Vec<u8>)> {
        let record = self.write();
        if record.len() > MAX_MANIFEST_BYTES {
            return Err(StoreError::input(
                "the checkpoint",
                format!(
                    "its manifest would take {} bytes, the limit is {MAX_MANIFEST_BYTES}",
                    record.len()
                ),
                "Save fewer files at once",
            ));
        }
        let packed = zstd::bulk::compress(&record, ZSTD_LEVEL).map_err(|source| StoreError::Backend {
            action: "compress",
            key: "the manifest".into(),
            source: source.into(),
            hint: "Free some memory and run the command again".into(),
        })?;
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&packed);
        Ok((ManifestId::of(&bytes), bytes))
    }

    /// Reads stored bytes, which must hash to `id`.
    ///
    /// # Errors
    /// `Corrupt` if they do not, or do not make sense; `Newer` if this build is too old for them.
    pub fn decode(id: ManifestId, bytes: &[u8]) -> Result<Self> {
        let name = || format!("manifest {}", id.short());
        if ManifestId::of(bytes) != id {
            return Err(StoreError::corrupt(name(), "its bytes do not match its name"));
        }
        Self::parse(bytes).map_err(|e| StoreError::decoding(name(), e))
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, CodecError> {
        const WHAT: &str = "manifest";
        let mut r = Reader::new(bytes);
        if r.take(MAGIC.len(), WHAT)? != MAGIC {
            return Err(corrupt("it does not start like one"));
        }
        let version = r.u8(WHAT)?;
        if version != VERSION {
            let (found, known) = (version.into(), VERSION.into());
            return Err(CodecError::Unsupported {
                what: "manifest version",
                found,
                known,
            });
        }
        let packed = r.take(r.left(), WHAT)?;
        let record = crate::compress::decompress(packed, &[], MAX_MANIFEST_BYTES).map_err(|e| corrupt(&e))?;
        Self::read(&record)
    }

    fn write(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.prefixed(self.run.as_bytes());
        w.varint(self.step);
        w.varint(self.created_unix_ms);
        match &self.parent {
            Some(parent) => {
                w.u8(1);
                w.raw(parent.as_bytes());
            }
            None => w.u8(0),
        }
        w.prefixed(self.writer.as_bytes());
        w.u8(if self.archived_weights {
            FLAG_ARCHIVED_WEIGHTS
        } else {
            0
        });
        self.metrics.write(&mut w);
        w.prefixed(self.note.as_bytes());
        w.varint(self.environment.len() as u64);
        for (name, value) in &self.environment {
            w.prefixed(name.as_bytes());
            w.prefixed(value.as_bytes());
        }
        w.varint(self.packs.len() as u64);
        self.packs.iter().for_each(|p| w.raw(p.as_bytes()));
        // Columns: like beside like compresses better.
        w.varint(self.tensors.len() as u64);
        self.tensors.iter().for_each(|t| w.raw(t.id.as_bytes()));
        self.tensors.iter().for_each(|t| w.u8(t.dtype.code()));
        self.tensors.iter().for_each(|t| w.varint(t.len_bytes));
        for t in &self.tensors {
            w.varint(t.packs.len() as u64);
            t.packs.iter().for_each(|&p| w.varint(p.into()));
        }
        self.tensors.iter().for_each(|t| w.u8(t.rank));
        let reads = |t: &TensorRecord| u8::from(t.has_base) | u8::from(t.is_given) << 1;
        self.tensors.iter().for_each(|t| w.u8(reads(t)));
        self.tensors.iter().for_each(|t| w.varint(t.stored_bytes));
        self.tensors.iter().for_each(|t| w.varint(t.changed_elems));
        self.tensors.iter().for_each(|t| w.varint(t.max_ulp));
        w.varint(self.blobs.len() as u64);
        for blob in &self.blobs {
            w.raw(blob.id.as_bytes());
            w.varint(blob.len_bytes);
            w.varint(blob.pack.into());
            w.varint(blob.stored_bytes);
        }
        w.varint(self.files.len() as u64);
        for file in &self.files {
            w.prefixed(file.path.as_bytes());
            w.varint(file.mode.into());
            file.content.write(&mut w);
        }
        w.varint(u64::from(self.lease.is_some()));
        if let Some(lease) = &self.lease {
            w.varint(LEASE);
            w.prefixed(lease.as_bytes());
        }
        w.into_bytes()
    }

    fn read(record: &[u8]) -> std::result::Result<Self, CodecError> {
        const WHAT: &str = "manifest";
        type Read<T> = std::result::Result<T, CodecError>;
        let mut r = Reader::new(record);
        let run = r.text(WHAT)?.to_owned();
        let step = r.varint(WHAT)?;
        let created_unix_ms = r.varint(WHAT)?;
        let parent = match r.u8(WHAT)? {
            0 => None,
            1 => Some(ManifestId::from_bytes(r.array(WHAT)?)),
            other => return Err(corrupt(&format!("parent flag {other}"))),
        };
        let writer = r.text(WHAT)?.to_owned();
        let archived_weights = match r.u8(WHAT)? {
            0 => false,
            FLAG_ARCHIVED_WEIGHTS => true,
            other => return Err(corrupt(&format!("flags {other:#x}"))),
        };
        let mut lists = Lists::default();
        let metrics = Metrics::read(&mut r)?;
        let note = r.text(WHAT)?.to_owned();
        let mut environment = BTreeMap::new();
        for _ in 0..lists.count(&mut r, 2)? {
            let name = r.text(WHAT)?;
            if environment
                .last_key_value()
                .is_some_and(|(last, _): (&String, _)| last.as_str() >= name)
            {
                return Err(corrupt(&format!("{name:?} is out of order in the environment")));
            }
            environment.insert(name.to_owned(), r.text(WHAT)?.to_owned());
        }
        let packs = lists.count(&mut r, ID_LEN)?;
        let packs: Vec<PackId> = (0..packs)
            .map(|_| r.array(WHAT).map(PackId::from_bytes))
            .collect::<Read<_>>()?;
        let count = lists.count(&mut r, ID_LEN + 8)?;
        let ids: Vec<TensorId> = (0..count)
            .map(|_| r.array(WHAT).map(TensorId::from_bytes))
            .collect::<Read<_>>()?;
        let dtypes: Vec<Dtype> = (0..count)
            .map(|_| Dtype::from_code(r.u8(WHAT)?))
            .collect::<Read<_>>()?;
        let column = |r: &mut Reader<'_>| -> Read<Vec<u64>> { (0..count).map(|_| r.varint(WHAT)).collect() };
        let lens = column(&mut r)?;
        let mut holders = Vec::with_capacity(count);
        for _ in 0..count {
            let parts = lists.count(&mut r, 1)?;
            holders.push(
                (0..parts)
                    .map(|_| index(&mut r, packs.len()))
                    .collect::<Read<Vec<u32>>>()?,
            );
        }
        let ranks: Vec<u8> = (0..count).map(|_| r.u8(WHAT)).collect::<Read<_>>()?;
        let reads = (0..count).map(|_| match r.u8(WHAT)? {
            flags @ 0..=3 => Ok((flags & 1 != 0, flags & 2 != 0)),
            other => Err(corrupt(&format!("reads {other:#x}"))),
        });
        let reads: Vec<(bool, bool)> = reads.collect::<Read<_>>()?;
        let (stored, changed, ulps) = (column(&mut r)?, column(&mut r)?, column(&mut r)?);
        let mut tensors = Vec::with_capacity(count);
        for (i, packs) in holders.into_iter().enumerate() {
            let word = dtypes[i].word_bytes() as u64;
            if !lens[i].is_multiple_of(word) || lens[i] / word > MAX_TENSOR_ELEMS {
                return Err(corrupt(&format!(
                    "a {} tensor of {} bytes",
                    dtypes[i].name(),
                    lens[i]
                )));
            }
            tensors.push(TensorRecord {
                id: ids[i],
                dtype: dtypes[i],
                len_bytes: lens[i],
                packs,
                rank: ranks[i],
                has_base: reads[i].0,
                is_given: reads[i].1,
                stored_bytes: stored[i],
                changed_elems: changed[i],
                max_ulp: ulps[i],
            });
        }

        let count = lists.count(&mut r, ID_LEN + 3)?;
        let mut blobs = Vec::with_capacity(count);
        for _ in 0..count {
            let id = BlobId::from_bytes(r.array(WHAT)?);
            let len_bytes = r.varint(WHAT)?;
            if len_bytes > BLOB_BYTES as u64 {
                return Err(corrupt(&format!("a blob of {len_bytes} bytes")));
            }
            blobs.push(BlobRecord {
                id,
                len_bytes,
                pack: index(&mut r, packs.len())?,
                stored_bytes: r.varint(WHAT)?,
            });
        }

        let count = lists.count(&mut r, 3)?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            let path = r.text(WHAT)?.to_owned();
            if let Some(fault) = paths::fault(&path) {
                return Err(corrupt(&format!(
                    "path {path:?}: {fault}; nothing is written outside a target"
                )));
            }
            let mode = r.varint(WHAT)?;
            let mode = u32::try_from(mode).map_err(|_| corrupt(&format!("mode {mode:o}")))?;
            let content = FileContent::read(&mut r, &mut lists, &tensors, &blobs)?;
            files.push(FileRecord { path, mode, content });
        }
        check_places(&files)?;
        let lease = read_additions(&mut r, &mut lists)?;
        r.end(WHAT)?;
        let manifest = Self {
            run,
            step,
            created_unix_ms,
            parent,
            writer,
            archived_weights,
            metrics,
            note,
            environment,
            packs,
            tensors,
            blobs,
            files,
            lease,
        };
        // No sum of lengths that anybody forms can overflow.
        let contents = manifest.tensors.iter().map(|t| u128::from(t.len_bytes));
        let named = manifest.named_tensors().map(|(.., t)| u128::from(t.len_bytes));
        let total: u128 = contents.chain(named).sum();
        if total > 1 << 60 {
            return Err(corrupt(&format!("{total} bytes of tensors")));
        }
        Ok(manifest)
    }
}

/// Number of the addition that names the writer's lease.
const LEASE: u64 = 1;

/// What later builds have to say beyond this record: an even number must be understood, an odd one may be passed over.
fn read_additions(r: &mut Reader<'_>, lists: &mut Lists) -> std::result::Result<Option<LeaseId>, CodecError> {
    const WHAT: &str = "manifest addition";
    let mut lease = None;
    for _ in 0..lists.count(r, 2)? {
        let number = r.varint(WHAT)?;
        let addition = r.prefixed(WHAT)?;
        if number == LEASE {
            let id = addition
                .try_into()
                .map_err(|_| corrupt("a lease of another length"))?;
            if lease.replace(LeaseId::from_bytes(id)).is_some() {
                return Err(corrupt("two leases"));
            }
        } else if number.is_multiple_of(2) {
            return Err(CodecError::Unsupported {
                what: WHAT,
                found: number,
                known: 0,
            });
        }
    }
    Ok(lease)
}

pub(super) fn corrupt(detail: &str) -> CodecError {
    CodecError::Corrupt {
        what: "manifest",
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NamedTensor;
    use super::*;
    use crate::roles::Role;

    fn sample() -> Manifest {
        let tensor = TensorRecord {
            id: TensorId::of(b"w"),
            dtype: Dtype::BF16,
            len_bytes: 24,
            packs: vec![0, 1],
            rank: 3,
            has_base: true,
            is_given: true,
            stored_bytes: 17,
            changed_elems: 5,
            max_ulp: 2,
        };
        let blob = BlobRecord {
            id: BlobId::of(b"h"),
            len_bytes: 90,
            pack: 1,
            stored_bytes: 40,
        };
        let named = NamedTensor {
            name: "model.w é".into(),
            shape: vec![3, 4],
            tensor: 0,
            role: Role::Weight,
        };
        Manifest {
            run: "llama".into(),
            step: 500,
            created_unix_ms: 1_700_000_000_000,
            parent: Some(ManifestId::of(b"p")),
            writer: "tpde test".into(),
            archived_weights: true,
            metrics: Metrics::new(vec!["loss=1.5".parse().unwrap()]).unwrap(),
            note: "before the spike".into(),
            environment: BTreeMap::from([("torch".to_owned(), "2.9".to_owned())]),
            lease: None,
            packs: vec![PackId::of(b"1"), PackId::of(b"2")],
            tensors: vec![tensor],
            blobs: vec![blob],
            files: vec![
                FileRecord {
                    path: "a".into(),
                    mode: 0o755,
                    content: FileContent::Directory,
                },
                FileRecord {
                    path: "a/config.json".into(),
                    mode: 0o644,
                    content: FileContent::Opaque {
                        digest: [9; 32],
                        blobs: vec![0],
                    },
                },
                FileRecord {
                    path: "model.safetensors".into(),
                    mode: 0o600,
                    content: FileContent::Safetensors {
                        header: vec![0],
                        tensors: vec![named.clone()],
                    },
                },
                FileRecord {
                    path: "optimizer.pt".into(),
                    mode: 0o600,
                    content: FileContent::Torch {
                        container: vec![0],
                        tensors: vec![named.clone(), named],
                        gap_bytes: vec![64, 26],
                    },
                },
            ],
        }
    }

    /// Promise: a manifest survives the wire, and its name is the hash of its bytes.
    #[test]
    fn round_trip() {
        let manifest = sample();
        let (id, bytes) = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(id, &bytes).unwrap(), manifest);
        assert_eq!(manifest.raw_bytes(), 90 + 90 + 24 + 90 + 24 + 24);
        let mut moved = manifest.clone();
        moved.packs.reverse();
        moved.created_unix_ms += 1;
        assert_eq!(moved.fingerprint(), manifest.fingerprint());
        moved.files[1].mode = 0o600;
        assert_ne!(moved.fingerprint(), manifest.fingerprint());
        // A tensor that stands elsewhere in the same bytes makes another file.
        let mut shifted = manifest.clone();
        if let FileContent::Torch { gap_bytes, .. } = &mut shifted.files[3].content {
            gap_bytes[0] -= 1;
        }
        assert_ne!(shifted.fingerprint(), manifest.fingerprint());
    }

    /// Promise: an addition of a later build is passed over if its number is odd, and asks for that build if it is even.
    #[test]
    fn additions() {
        let manifest = sample();
        let mut record = manifest.write();
        assert_eq!(record.pop(), Some(0));
        for (number, is_passed_over) in [(3, true), (0, false), (2, false), (0x7f, true)] {
            let with = [&record[..], &[1, number, 3, b'a', b'b', b'c']].concat();
            match Manifest::read(&with) {
                Ok(read) => assert!(is_passed_over && read == manifest, "{number}"),
                Err(error) => {
                    assert!(
                        !is_passed_over && matches!(error, CodecError::Unsupported { .. }),
                        "{error}"
                    );
                }
            }
        }
    }

    /// Promise: tensors of a PyTorch file do not stand further apart than its container is long.
    #[test]
    fn gaps() {
        for (gaps, is_good) in [
            ([64, 26], true),
            ([0, 0], true),
            ([64, 27], false),
            ([1, u64::MAX], false),
        ] {
            let mut manifest = sample();
            if let FileContent::Torch { gap_bytes, .. } = &mut manifest.files[3].content {
                *gap_bytes = gaps.to_vec();
            }
            assert_eq!(Manifest::read(&manifest.write()).is_ok(), is_good, "{gaps:?}");
        }
    }

    /// Promise: every truncation and flip is refused by name; and behind the name check (a hostile store can rename), every
    /// truncation and flip of the record is an error or a well-formed manifest, never a panic.
    #[test]
    fn every_truncation_and_flip() {
        let manifest = sample();
        let (id, bytes) = manifest.encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(id, &bytes[..cut]).is_err());
            assert!(Manifest::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(
                Manifest::decode(id, &bad),
                Err(StoreError::Corrupt { .. })
            ));
            let _ = Manifest::parse(&bad);
        }
        let record = manifest.write();
        for cut in 0..record.len() {
            assert!(Manifest::read(&record[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..8 * record.len() {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Manifest::read(&bad) {
                read.fingerprint();
                read.raw_bytes();
            }
        }
    }
}
