//! The footer of a pack: what its pieces decode to, and from what (docs/format.md §5).

use tpde_core::constants::SLICE_BYTES;
use tpde_core::wire::{Reader, Writer};
use tpde_core::{CodecError, Dtype, ID_LEN, Relation};

use super::{BlobCodec, Content, Entry, Holder, Needed, Needs};
use crate::ids::PackId;

const WHAT: &str = "pack footer";

/// Longest piece: a slice that did not compress, with its header.
const MAX_PIECE_BYTES: u64 = (SLICE_BYTES + (1 << 20)) as u64;
/// Most bytes that an entry takes in the footer: kind, id, number, base and given tensor with the ids of the packs that hold
/// them, relation, rank, count of pieces.
pub(super) const ENTRY_BYTES: usize = 192;
/// Most bytes that a piece takes in the footer.
pub(super) const PIECE_BYTES: usize = 5;
/// Fewest bytes that an entry takes: kind, id, number, count of pieces, length of one.
/// Most pieces of a pack: a reader keeps a few dozen bytes for each.
pub(super) const MAX_PIECES: usize = 1 << 20;
/// Most bytes of a footer.
pub(super) const MAX_FOOTER_BYTES: usize = 32 << 20;
const MIN_ENTRY_BYTES: usize = 1 + ID_LEN + 3;

/// Kinds below this are slices: the code of their dtype.
const KIND_PLAIN_BLOB: u8 = 62;
const KIND_ZSTD_BLOB: u8 = 63;
const KIND_HAS_BASE: u8 = 0x80;
const KIND_IS_GIVEN: u8 = 0x40;

const HOLDER_UNKNOWN: u64 = 0;
const HOLDER_HERE: u64 = 1;
/// Holders from here on are other packs.
const HOLDER_FIRST_PACK: u64 = 2;

type Read<T> = Result<T, CodecError>;

fn corrupt(detail: String) -> CodecError {
    CodecError::Corrupt { what: WHAT, detail }
}

/// The other packs that entries name, in order, each once.
pub(crate) fn named_packs(entries: &[Entry]) -> Vec<PackId> {
    let needed = entries
        .iter()
        .flat_map(|e| e.needs.base.into_iter().chain(e.needs.given.map(|(_, n)| n)));
    let mut packs: Vec<PackId> = needed
        .filter_map(|needed| match needed.holder {
            Holder::Pack(pack) => Some(pack),
            Holder::Unknown | Holder::Here => None,
        })
        .collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

/// Writes a footer. Inverse of [`read_footer`].
pub(super) fn write_footer(entries: &[Entry]) -> Vec<u8> {
    let packs = named_packs(entries);
    let mut w = Writer::new();
    w.varint(packs.len() as u64);
    packs.iter().for_each(|p| w.raw(p.as_bytes()));
    let needed = |w: &mut Writer, needed: &Needed| {
        w.raw(&needed.prefix);
        w.varint(match needed.holder {
            Holder::Unknown => HOLDER_UNKNOWN,
            Holder::Here => HOLDER_HERE,
            Holder::Pack(pack) => packs
                .binary_search(&pack)
                .map_or(HOLDER_UNKNOWN, |i| HOLDER_FIRST_PACK + i as u64),
        });
    };
    w.varint(entries.len() as u64);
    for entry in entries {
        let (kind, number) = match entry.content {
            Content::Slices { dtype, first } => (dtype.code(), first.into()),
            Content::Blob { len_bytes, codec } => match codec {
                BlobCodec::Plain => (KIND_PLAIN_BLOB, len_bytes),
                BlobCodec::Zstd => (KIND_ZSTD_BLOB, len_bytes),
            },
        };
        let base_flag = entry.needs.base.map_or(0, |_| KIND_HAS_BASE);
        let given_flag = entry.needs.given.map_or(0, |_| KIND_IS_GIVEN);
        w.u8(kind | base_flag | given_flag);
        w.raw(&entry.id);
        w.varint(number);
        if let Some(base) = &entry.needs.base {
            needed(&mut w, base);
        }
        if let Some((relation, given)) = &entry.needs.given {
            w.u8(*relation as u8);
            needed(&mut w, given);
        }
        if !entry.needs.is_empty() {
            w.u8(entry.rank);
        }
        w.varint(entry.pieces.len() as u64);
        entry.pieces.iter().for_each(|p| w.varint(p.end - p.start));
    }
    w.into_bytes()
}

fn read_needed(r: &mut Reader<'_>, packs: &[PackId]) -> Read<Needed> {
    let prefix = r.array(WHAT)?;
    let holder = match r.varint(WHAT)? {
        HOLDER_UNKNOWN => Holder::Unknown,
        HOLDER_HERE => Holder::Here,
        n => {
            let i = usize::try_from(n - HOLDER_FIRST_PACK).ok();
            let pack = i.and_then(|i| packs.get(i));
            Holder::Pack(*pack.ok_or_else(|| corrupt(format!("hint {n} of {} packs", packs.len())))?)
        }
    };
    Ok(Needed { prefix, holder })
}

fn read_content(kind: u8, number: u64) -> Read<Content> {
    Ok(match kind {
        KIND_PLAIN_BLOB => Content::Blob {
            len_bytes: number,
            codec: BlobCodec::Plain,
        },
        KIND_ZSTD_BLOB => Content::Blob {
            len_bytes: number,
            codec: BlobCodec::Zstd,
        },
        code => Content::Slices {
            dtype: Dtype::from_code(code)?,
            first: u32::try_from(number).map_err(|_| corrupt(format!("slice {number}")))?,
        },
    })
}

/// What an entry of `content` reads, and its rank.
fn read_needs(r: &mut Reader<'_>, packs: &[PackId], kind: u8, content: Content) -> Read<(Needs, u8)> {
    let mut needs = Needs::default();
    if kind & KIND_HAS_BASE != 0 {
        needs.base = Some(read_needed(r, packs)?);
    }
    if kind & KIND_IS_GIVEN != 0 {
        let code = r.u8(WHAT)?;
        let relation = Relation::ALL.into_iter().find(|&r| r as u8 == code);
        let relation = relation.ok_or(CodecError::Unsupported {
            what: "relation of a given tensor",
            found: code.into(),
            known: Relation::ALL.len() as u64,
        })?;
        needs.given = Some((relation, read_needed(r, packs)?));
    }
    if needs.is_empty() {
        return Ok((needs, 0));
    }
    match content {
        Content::Blob {
            codec: BlobCodec::Plain,
            ..
        } => return Err(corrupt("a plain blob that reads another".into())),
        Content::Blob { .. } if needs.given.is_some() => {
            return Err(corrupt("a blob that is given a tensor".into()));
        }
        Content::Blob { .. } | Content::Slices { .. } => {}
    }
    match r.u8(WHAT)? {
        0 => Err(corrupt("rank 0 of an entry that reads another".into())),
        rank => Ok((needs, rank)),
    }
}

/// Reads the entries of a footer.
///
/// * `bodies_bytes`: bytes of all pieces.
///
/// # Errors
/// `Truncated`, `Corrupt`, `Unsupported`.
pub(super) fn read_footer(footer: &[u8], bodies_bytes: u64) -> Read<Vec<Entry>> {
    let mut r = Reader::new(footer);
    let packs = r.count(ID_LEN, WHAT)?;
    let packs: Vec<PackId> = (0..packs)
        .map(|_| r.array(WHAT).map(PackId::from_bytes))
        .collect::<Read<_>>()?;
    let count = r.count(MIN_ENTRY_BYTES, WHAT)?;
    let mut entries = Vec::with_capacity(count);
    let (mut offset, mut all_pieces) = (0u64, 0usize);
    for _ in 0..count {
        let kind = r.u8(WHAT)?;
        let id = r.array(WHAT)?;
        let number = r.varint(WHAT)?;
        let content = read_content(kind & !(KIND_HAS_BASE | KIND_IS_GIVEN), number)?;
        let (needs, rank) = read_needs(&mut r, &packs, kind, content)?;
        let count = r.count(1, WHAT)?;
        all_pieces += count;
        if all_pieces > MAX_PIECES {
            return Err(corrupt(format!("more than {MAX_PIECES} pieces")));
        }
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let piece_bytes = r.varint(WHAT)?;
            if piece_bytes == 0 && matches!(content, Content::Slices { .. }) {
                return Err(corrupt("an empty frame".into()));
            }
            if piece_bytes > MAX_PIECE_BYTES {
                return Err(corrupt(format!("a piece of {piece_bytes} bytes")));
            }
            let end = offset.checked_add(piece_bytes).filter(|&end| end <= bodies_bytes);
            let end = end.ok_or_else(|| corrupt("a piece ends behind the pieces".into()))?;
            pieces.push(offset..end);
            offset = end;
        }
        if matches!(content, Content::Blob { .. }) && pieces.len() != 1 || pieces.is_empty() {
            return Err(corrupt(format!("{} pieces", pieces.len())));
        }
        entries.push(Entry {
            id,
            content,
            needs,
            rank,
            pieces,
        });
    }
    r.end(WHAT)?;
    if offset != bodies_bytes {
        return Err(corrupt(format!("{offset} of {bodies_bytes} bytes are described")));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer of one entry: `kind`, what follows the number, and one piece of three bytes.
    fn footer(kind: u8, number: u8, needs: &[u8]) -> Vec<u8> {
        [&[0, 1, kind][..], &[7; 32], &[number], needs, &[1, 3]].concat()
    }

    fn needed(holder: u8) -> Vec<u8> {
        [&[8; 16][..], &[holder]].concat()
    }

    /// Promise: an entry may read a base and a given tensor; a blob has no given tensor, a plain one reads nothing, what reads
    /// another has a rank above 0, and kinds, relations and hints that are not known are refused.
    #[test]
    fn what_an_entry_may_read() {
        let read = |bytes: &[u8]| read_footer(bytes, 3);
        let base = [needed(0), vec![2]].concat();
        let given = [vec![1], needed(1), vec![2]].concat();
        let both = [needed(1), vec![1], needed(0), vec![3]].concat();
        let sound = [
            footer(12, 0, &[]),
            footer(12 | 128, 0, &base),
            footer(12 | 64, 0, &given),
            footer(12 | 192, 0, &both),
            footer(63 | 128, 3, &base),
        ];
        for bytes in &sound {
            let entries = read(bytes).unwrap();
            assert_eq!(write_footer(&entries), *bytes);
            for cut in 0..bytes.len() {
                assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        let refused = [
            (footer(62 | 128, 3, &base), "reads another"),
            (footer(63 | 64, 3, &given), "given"),
            (footer(12 | 128, 0, &[needed(0), vec![0]].concat()), "rank 0"),
            (footer(12 | 128, 0, &[needed(2), vec![1]].concat()), "hint 2"),
            (footer(61, 0, &[]), "dtype"),
            (footer(22, 0, &[]), "dtype"),
            (
                footer(12 | 64, 0, &[vec![0], needed(1), vec![2]].concat()),
                "relation",
            ),
            (
                footer(12 | 64, 0, &[vec![9], needed(1), vec![2]].concat()),
                "relation",
            ),
        ];
        for (bytes, reason) in refused {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
