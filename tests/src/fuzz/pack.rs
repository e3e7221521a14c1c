//! Packs: their ends, which are read before anything else of them is known.

use std::ops::Range;

use tpde_store::ids::PackId;
use tpde_store::keys::Key;
use tpde_store::pack::{Content, ContentHash, Entry, Needs, PackWriter, Part, read_entries};
use tpde_store::{Objects, StoreError};

use super::{Target, golden};

/// Whatever a pack's end says under a right hash, it is refused or read; what is read lies in the pack, and written again reads the same.
pub(super) const TARGET: Target = Target {
    name: "pack",
    run,
    seeds: || golden("store/packs"),
    inputs: 60_000,
};

/// Behind the footer: its hash, its length, magic and version.
const TRAILER_BYTES: usize = 32 + 4 + 8;

/// A piece: of what, what it reads, its rank, where it lies.
type Piece = (ContentHash, Part, Needs, u8, Range<u64>);

fn run(bytes: &[u8]) -> bool {
    let bytes = with_right_hash(bytes);
    let Some(entries) = entries_of(bytes.clone()) else {
        return false;
    };
    let mut again = PackWriter::default();
    for entry in &entries {
        for (number, piece) in entry.pieces.iter().enumerate() {
            let content = match entry.content {
                Content::Slices { dtype, first } => Content::Slices {
                    dtype,
                    first: first.saturating_add(number as u32),
                },
                blob => blob,
            };
            let piece = &bytes[piece.start as usize..piece.end as usize];
            again.add(entry.id, content, entry.needs, entry.rank, piece);
        }
    }
    let (_, written, _) = again.finish();
    let found = entries_of(written.into()).expect("what was written is read");
    assert_eq!(pieces(&found), pieces(&entries));
    true
}

/// The pack with the hash that its footer should have, if it has a footer.
fn with_right_hash(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(footer_end) = bytes.len().checked_sub(TRAILER_BYTES) {
        let len: [u8; 4] = bytes[footer_end + 32..footer_end + 36].try_into().unwrap();
        if let Some(start) = footer_end.checked_sub(u32::from_le_bytes(len) as usize) {
            let hash = blake3::hash(&bytes[start..footer_end]);
            bytes[footer_end..footer_end + 32].copy_from_slice(hash.as_bytes());
        }
    }
    bytes
}

fn entries_of(bytes: Vec<u8>) -> Option<Vec<Entry>> {
    let objects = Objects::memory();
    let id = PackId::of(&bytes);
    objects.create(&Key::Pack(id), bytes.into()).unwrap();
    match read_entries(&objects, id) {
        Ok(entries) => Some(entries),
        Err(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

fn pieces(entries: &[Entry]) -> Vec<Piece> {
    let of = |entry: &Entry| -> Vec<Piece> {
        let pieces = entry.pieces.iter().enumerate();
        pieces
            .map(|(n, range)| (entry.id, entry.part(n), entry.needs, entry.rank, range.clone()))
            .collect()
    };
    entries.iter().flat_map(of).collect()
}
