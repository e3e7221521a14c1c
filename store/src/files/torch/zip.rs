//! Where the entries of a zip archive lie in their file.
//!
//! ```text
//! local header, bytes | local header, bytes | … | directory | [zip64 record, zip64 locator] | end record
//! ```
//! Nothing that the archive says is taken on trust: every offset is compared with the file, and entries that overlap each other or the
//! directory make the whole archive unusable here. Entries that nobody asks for need not make sense.

use std::ops::Range;

use super::Why;
use crate::error::StoreError;
use crate::files::source::SourceFile;

const LOCAL_MAGIC: &[u8; 4] = b"PK\x03\x04";
const CENTRAL_MAGIC: &[u8; 4] = b"PK\x01\x02";
const END_MAGIC: &[u8; 4] = b"PK\x05\x06";
const END64_MAGIC: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_MAGIC: &[u8; 4] = b"PK\x06\x07";

const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;
/// Longest comment behind the end record.
const MAX_COMMENT_BYTES: usize = 65_535;
/// Longest directory that is read: half a million entries.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// Extra field that holds numbers of more than 32 bits.
const ZIP64_FIELD: u16 = 1;
/// Encrypted, strongly encrypted, directory masked.
const FLAGS_ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const METHOD_STORED: u16 = 0;

/// An entry as the directory tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Whether its bytes stand in the file as they are.
    pub(super) is_plain: bool,
    is_encrypted: bool,
    len_bytes: u64,
    header_at: u64,
}

/// What the directory of an archive says.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// Where the directory starts, and so the last entry must have ended.
    start: u64,
}

/// Whether a file that starts with these bytes may be an archive.
pub(super) fn is_archive(start: &[u8]) -> bool {
    start.starts_with(LOCAL_MAGIC)
}

/// Why an archive whose end is not there cannot be read.
const NO_END_WHY: &str = "its zip directory cannot be found: it is truncated or damaged";

/// Whether `file` begins as an archive and does not end as one.
///
/// # Errors
/// As [`SourceFile::read_at`].
pub(super) fn is_cut_short(file: &SourceFile) -> Result<bool, StoreError> {
    let start_bytes = file.len_bytes().min(LOCAL_MAGIC.len() as u64);
    #[expect(clippy::cast_possible_truncation, reason = "at most the length of the magic")]
    let start = file.read_at(0, start_bytes as usize)?;
    match is_archive(&start).then(|| read_directory(file)) {
        Some(Err(Why::Unusable(why))) => Ok(why == NO_END_WHY),
        Some(Err(Why::Store(error))) => Err(error),
        Some(Ok(_)) | None => Ok(false),
    }
}

/// Reads the directory of `file`.
///
/// # Errors
/// `Unusable` if there is none, or it does not make sense; `Store` if the file cannot be read.
pub(super) fn read_directory(file: &SourceFile) -> Result<Directory, Why> {
    const NO_END: Why = Why::Unusable(NO_END_WHY);
    let len_bytes = file.len_bytes();
    #[expect(clippy::cast_possible_truncation, reason = "at most 65 577")]
    let tail_bytes = len_bytes.min((LOCATOR_BYTES + END_BYTES + MAX_COMMENT_BYTES) as u64) as usize;
    let tail_at = len_bytes - tail_bytes as u64;
    let tail = file.read_at(tail_at, tail_bytes)?;
    // The comment may hold anything, but it ends the file.
    let is_end = |&at: &usize| {
        tail[at..].starts_with(END_MAGIC)
            && at + END_BYTES + usize::from(u16_at(&tail, at + 20)) == tail.len()
    };
    let at = (0..=tail_bytes.checked_sub(END_BYTES).ok_or(NO_END)?)
        .rev()
        .find(is_end)
        .ok_or(NO_END)?;
    let end = &tail[at..at + END_BYTES];
    let mut count = u64::from(u16_at(end, 10));
    let mut bytes = u64::from(u32_at(end, 12));
    let mut start = u64::from(u32_at(end, 16));
    let mut limit = tail_at + at as u64;
    let disks = [u16_at(end, 4), u16_at(end, 6)];
    let mut is_whole = disks == [0, 0] && u16_at(end, 8) == u16_at(end, 10);
    if let Some(locator) = at.checked_sub(LOCATOR_BYTES).map(|from| &tail[from..at])
        && locator.starts_with(LOCATOR_MAGIC)
    {
        let record_at = u64_at(locator, 8);
        let fits = |at: &u64| {
            at.checked_add((END64_BYTES + LOCATOR_BYTES) as u64)
                .is_some_and(|end| end <= limit)
        };
        let record_at = Some(record_at).filter(fits).ok_or(NO_END)?;
        let record = file.read_at(record_at, END64_BYTES)?;
        if !record.starts_with(END64_MAGIC) {
            return Err(NO_END);
        }
        is_whole = u32_at(&record, 16) == 0
            && u32_at(&record, 20) == 0
            && u64_at(&record, 24) == u64_at(&record, 32);
        (count, bytes, start) = (u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
        limit = record_at;
    }
    if !is_whole {
        return Err(Why::Unusable("its zip archive is split over several files"));
    }
    if start.checked_add(bytes).is_none_or(|end| end > limit) {
        return Err(Why::Unusable("its zip directory does not lie where it should"));
    }
    if bytes > MAX_DIRECTORY_BYTES {
        return Err(Why::Unusable("its zip directory is too large"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_DIRECTORY_BYTES")]
    let directory = file.read_at(start, bytes as usize)?;
    Ok(Directory {
        entries: parse(&directory, count).ok_or(Why::Unusable("its zip directory is damaged"))?,
        start,
    })
}

/// The entries of a directory; `None` if it does not hold exactly `count`.
fn parse(mut rest: &[u8], count: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let fixed = rest
            .get(..CENTRAL_BYTES)
            .filter(|f| f.starts_with(CENTRAL_MAGIC))?;
        let name_end = CENTRAL_BYTES + usize::from(u16_at(fixed, 28));
        let extra_end = name_end + usize::from(u16_at(fixed, 30));
        let end = extra_end + usize::from(u16_at(fixed, 32));
        let name = rest.get(CENTRAL_BYTES..name_end)?;
        let mut wide = zip64_field(rest.get(name_end..extra_end)?);
        // The wide numbers stand in this order, each only if the narrow one says so.
        let mut number = |at: usize| match u32_at(fixed, at) {
            u32::MAX => {
                let (first, others) = wide.split_at_checked(8)?;
                wide = others;
                Some(u64_at(first, 0))
            }
            narrow => Some(u64::from(narrow)),
        };
        let (len_bytes, packed_bytes, header_at) = (number(24)?, number(20)?, number(42)?);
        let (flags, method) = (u16_at(fixed, 8), u16_at(fixed, 10));
        entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            is_plain: method == METHOD_STORED && packed_bytes == len_bytes,
            is_encrypted: flags & FLAGS_ENCRYPTED != 0,
            len_bytes,
            header_at,
        });
        rest = rest.get(end..)?;
    }
    (entries.len() as u64 == count).then_some(entries)
}

/// What the extra fields of an entry hold of wide numbers.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let Some((field, others)) = rest.split_at_checked(usize::from(u16_at(head, 2))) else {
            break;
        };
        if u16_at(head, 0) == ZIP64_FIELD {
            return field;
        }
        extra = others;
    }
    &[]
}

impl Directory {
    /// Where the bytes of each of `wanted` (indices of entries) lie in the file, in the same order.
    ///
    /// Law: the ranges lie in the file and do not overlap.
    ///
    /// # Errors
    /// `Unusable` if an entry is compressed, encrypted, not where the directory says, or overlaps another; `Store` if the file cannot
    /// be read.
    pub(super) fn locate(&self, file: &SourceFile, wanted: &[usize]) -> Result<Vec<Range<u64>>, Why> {
        let mut found = Vec::with_capacity(wanted.len());
        for &at in wanted {
            found.push(self.place(file, &self.entries[at])?);
        }
        let mut places: Vec<(u64, u64)> = wanted
            .iter()
            .zip(&found)
            .map(|(&at, range)| (self.entries[at].header_at, range.end))
            .collect();
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(Why::Unusable("entries of its zip archive overlap"));
        }
        Ok(found)
    }

    fn place(&self, file: &SourceFile, entry: &Entry) -> Result<Range<u64>, Why> {
        const ASTRAY: Why = Why::Unusable("an entry of its zip archive is not where the directory says");
        if entry.is_encrypted {
            return Err(Why::Unusable("its zip archive is encrypted"));
        }
        if !entry.is_plain {
            return Err(Why::Unusable("its zip archive is compressed"));
        }
        // The name in a local header is that of the directory, so its length is known before it is read.
        let head_bytes = LOCAL_BYTES + entry.name.len();
        let head_end = entry.header_at.checked_add(head_bytes as u64).ok_or(ASTRAY)?;
        if head_end > self.start {
            return Err(ASTRAY);
        }
        let head = file.read_at(entry.header_at, head_bytes)?;
        let same_name = usize::from(u16_at(&head, 26)) == entry.name.len()
            && head[LOCAL_BYTES..] == *entry.name.as_bytes();
        if !head.starts_with(LOCAL_MAGIC) || !same_name {
            return Err(ASTRAY);
        }
        let start = head_end + u64::from(u16_at(&head, 28));
        let end = start.checked_add(entry.len_bytes).ok_or(ASTRAY)?;
        (end <= self.start).then_some(start..end).ok_or(ASTRAY)
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
