//! Plans: many frames, a handful of launches.
//!
//! ```text
//! items ─parse─▶ frame records ─┬─▶ tables: frequencies; their entries are made on the device
//!                               └─▶ tiles ─▶ blocks ─▶ tasks ─▶ runs ─by kernel, by table size─▶ jobs, launches
//! ```

mod records;
mod shape;

pub use shape::{Launch, MAX_SHARED_BYTES};

use crate::error::{InferError, Result};
use records::{FrameRecord, Table, Task, Tokens, bytes_of};
use shape::{Kernel, Run, Work, launches};
use std::ops::Range;
use tpde_core::constants::TILE_ELEMS;
use tpde_core::{CodecError, Frame, FrameView, Layout, Mode, TokenView};

/// Bytes that must be readable behind the last frame: a damaged block of 2^16 elements may take that many words it does not
/// have (at most five an element, and one a group) before its end is found wrong.
pub const OVERREAD_BYTES: usize = 1 << 20;

/// Frames begin on this many bytes, so that words lie on 2.
const FRAME_ALIGN: usize = 16;

/// One frame, and where its elements lie on the device.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// One whole frame, checked by its pack or its digests.
    pub frame: &'a [u8],
    /// Byte of the frame's first element in the base's memory; not looked at if the frame is an anchor.
    pub base_at: u64,
    /// Byte of the frame's first element in the output's memory.
    pub out_at: u64,
}

/// Where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Base and output are one memory, and every delta has `base_at == out_at`.
    InPlace,
    /// They are two that do not overlap.
    Beside,
}

/// Everything that the device needs, in flat arrays.
#[derive(Debug)]
pub struct Plan {
    target: Target,
    /// Frames, each on 16 bytes.
    bytes: Vec<u8>,
    frames: Vec<FrameRecord>,
    tasks: Vec<Task>,
    jobs: Vec<records::Job>,
    tables: Vec<Table>,
    frequencies: Vec<u16>,
    slots: u32,
    launches: Vec<Launch>,
    /// The item of every task.
    frame_of_task: Vec<u32>,
    base_end: u64,
    out_end: u64,
}

impl Plan {
    /// Plans the decoding of `items` on a device with so many multiprocessors.
    ///
    /// The frames are copied; nothing is decoded. One pass over their headers.
    ///
    /// # Errors
    /// `Frame`: one does not parse. `HostOnly`: one has elements of 1 or 8 bytes, or a given tensor; leave it out and decode it on the
    /// host. `Invalid`: outputs overlap, an offset is not a multiple of the element's size, a delta in place has another place for its
    /// base, or there is too much for one plan (2^32 blocks).
    pub fn new(items: &[Item<'_>], target: Target, multiprocessors: usize) -> Result<Self> {
        let mut plan = Self {
            target,
            bytes: Vec::with_capacity(items.iter().map(|i| i.frame.len() + FRAME_ALIGN).sum()),
            frames: Vec::with_capacity(items.len()),
            tasks: Vec::new(),
            jobs: Vec::new(),
            tables: Vec::new(),
            frequencies: Vec::new(),
            slots: 0,
            launches: Vec::new(),
            frame_of_task: Vec::new(),
            base_end: 0,
            out_end: 0,
        };
        let mut runs = Vec::new();
        let mut outputs = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let of_item = |source| InferError::Frame { index, source };
            let frame = Frame::parse(item.frame).map_err(of_item)?;
            let view = frame.view().map_err(of_item)?;
            bodies_fit(&frame, &view).map_err(of_item)?;
            outputs.push(plan.add(index, item, &view, &mut runs)?);
        }
        apart(outputs)?;
        if !plan.tables.is_empty() {
            plan.launches.push(Launch {
                kernel: "expand_tables",
                first_job: 0,
                ctas: number(plan.tables.len(), "tables")?,
                threads: 256,
                shared_bytes: 4 * (256 + 8),
            });
        }
        let (jobs, decoding) = launches(runs, multiprocessors);
        plan.launches.extend(decoding);
        plan.jobs = jobs;
        #[cfg(debug_assertions)]
        shape::check(&plan.jobs, &plan.tasks, &plan.launches);
        Ok(plan)
    }

    /// Adds one item; returns the bytes it writes.
    fn add(
        &mut self,
        index: usize,
        item: &Item<'_>,
        view: &FrameView,
        runs: &mut Vec<Run>,
    ) -> Result<Range<u64>> {
        let word_bytes = view.dtype.word_bytes();
        let host_only = |what: String| Err(InferError::HostOnly { index, what });
        if view.relation.is_some() {
            return host_only("it is coded given another tensor".into());
        }
        if word_bytes != 2 && word_bytes != 4 {
            return host_only(format!(
                "its elements ({}) are not of 2 or 4 bytes",
                view.dtype.name()
            ));
        }
        if let Some(tile) = view.tiles.iter().find(|tile| work_of(tile.mode).is_none()) {
            return host_only(format!("it has a tile of mode {:?}", tile.mode));
        }
        let place = self.place(index, item, view)?;
        let frame = number(self.frames.len(), "frames")?;
        self.bytes
            .resize(self.bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        let frame_at = self.bytes.len();
        self.bytes.extend_from_slice(item.frame);
        let record = self.record(item, view)?;
        self.add_tasks(frame, frame_at, view, &record, runs)?;
        self.frames.push(record);
        Ok(place)
    }

    /// Checks where an item's elements lie; returns the bytes it writes.
    fn place(&mut self, index: usize, item: &Item<'_>, view: &FrameView) -> Result<Range<u64>> {
        let word_bytes = view.dtype.word_bytes() as u64;
        let invalid = |what: String| InferError::Invalid {
            what: format!("frame {index}: {what}"),
        };
        let bytes = (view.elems.end - view.elems.start) * word_bytes;
        let end = |at: u64| {
            at.checked_add(bytes)
                .ok_or_else(|| invalid("its place is beyond 2^64".into()))
        };
        let (out_end, base_end) = (end(item.out_at)?, end(item.base_at)?);
        let base_fits = !view.has_base || item.base_at.is_multiple_of(word_bytes);
        if !item.out_at.is_multiple_of(word_bytes) || !base_fits {
            return Err(invalid(format!(
                "its place is not a multiple of {word_bytes} bytes"
            )));
        }
        if view.has_base {
            if self.target == Target::InPlace && item.base_at != item.out_at {
                return Err(invalid(format!(
                    "in place its base must be where its output is, not at {} and {}",
                    item.base_at, item.out_at
                )));
            }
            self.base_end = self.base_end.max(base_end);
        }
        self.out_end = self.out_end.max(out_end);
        Ok(item.out_at..out_end)
    }

    fn record(&mut self, item: &Item<'_>, view: &FrameView) -> Result<FrameRecord> {
        let (mantissa_bits, exponent_mask, is_signed) = match view.dtype.layout() {
            Layout::Float {
                exponent_bits,
                mantissa_bits,
            } => (mantissa_bits, (1 << exponent_bits) - 1, false),
            Layout::Signed => (0, 0, true),
            Layout::Unsigned => (0, 0, false),
        };
        let sparse = view.sparse.as_ref();
        let fresh = view.fresh.as_ref().map(|f| &f.tokens);
        let lanes_log2 = view.dense.as_ref().or(fresh).map_or(0, |t| t.lanes_log2);
        Ok(FrameRecord {
            base_at: item.base_at,
            out_at: item.out_at,
            has_base: view.has_base,
            mantissa_bits,
            exponent_mask,
            is_signed,
            class_origin: view.class_origin,
            fresh_origin: view.fresh.as_ref().map_or(0, |f| f.origin),
            lanes_sparse: 1 << sparse.map_or(0, |s| s.lanes_log2),
            lanes: 1 << lanes_log2,
            change_probability: sparse.map_or([1; 16], |s| s.change_probability),
            magnitudes: self.tokens(sparse.and_then(|s| s.magnitudes.as_ref()))?,
            dense: self.tokens(view.dense.as_ref())?,
            fresh: self.tokens(fresh)?,
        })
    }

    /// Takes up the tables of one use.
    fn tokens(&mut self, view: Option<&TokenView>) -> Result<Tokens> {
        let Some(view) = view else {
            return Ok(Tokens::default());
        };
        let slots_at = self.slots;
        for frequencies in &view.frequencies {
            self.tables.push(Table {
                frequencies_at: number(self.frequencies.len(), "frequencies")?,
                symbols: number(frequencies.len(), "symbols")?,
                prob_bits: view.prob_bits,
                slots_at: self.slots,
            });
            self.frequencies.extend_from_slice(frequencies);
            let slots = self.slots.checked_add(1 << view.prob_bits);
            self.slots = slots.ok_or_else(|| too_much("table entries"))?;
        }
        Ok(Tokens {
            direct: view.direct,
            top: view.top,
            prob_bits: view.prob_bits,
            slots_at,
            slots: self.slots - slots_at,
            table_of: view.table_of,
        })
    }

    fn add_tasks(
        &mut self,
        frame: u32,
        frame_at: usize,
        view: &FrameView,
        record: &FrameRecord,
        runs: &mut Vec<Run>,
    ) -> Result<()> {
        let is_float = matches!(view.dtype.layout(), Layout::Float { .. });
        #[expect(clippy::cast_possible_truncation, reason = "2 or 4")]
        let word_bytes = view.dtype.word_bytes() as u8;
        let len_elems = view.elems.end - view.elems.start;
        for work in [Work::Copy, Work::Sparse, Work::Dense, Work::Fresh] {
            let kernel = Kernel {
                work,
                is_float,
                word_bytes,
            };
            let first_task = number(self.tasks.len(), "blocks")?;
            for (tile, tile_view) in view.tiles.iter().enumerate() {
                let nothing_to_do =
                    tile_view.mode == Mode::Same && self.target == Target::InPlace && view.has_base;
                if work_of(tile_view.mode) != Some(work) || nothing_to_do {
                    continue;
                }
                let first = (tile * TILE_ELEMS) as u64;
                let elems = (len_elems - first).min(TILE_ELEMS as u64);
                let block_elems = match tile_view.mode {
                    Mode::Sparse => view.sparse.as_ref().map(|s| 1 << s.block_log2),
                    Mode::Dense => view.dense.as_ref().map(|d| 1 << d.block_log2),
                    Mode::Fresh => view.fresh.as_ref().map(|f| 1 << f.tokens.block_log2),
                    _ => None,
                };
                let block_elems: u64 = block_elems.unwrap_or(TILE_ELEMS as u64);
                let same = 0..0;
                let blocks = match tile_view.mode {
                    Mode::Same => std::slice::from_ref(&same),
                    _ => &tile_view.blocks[..],
                };
                for (block, bytes) in (0u64..).zip(blocks) {
                    let block_first = block * block_elems;
                    let task = Task {
                        bytes_at: (frame_at + bytes.start) as u64,
                        bytes: number(bytes.len(), "bytes of a block")?,
                        elems: number(elems.saturating_sub(block_first).min(block_elems), "elements")?,
                        first: number(first + block_first, "elements")?,
                        is_copy_of_base: tile_view.mode == Mode::Same,
                    };
                    self.tasks.push(task);
                    self.frame_of_task.push(frame);
                }
            }
            let tasks = number(self.tasks.len(), "blocks")? - first_task;
            let none = Tokens::default();
            let tables = match work {
                Work::Copy => &none,
                Work::Sparse => &record.magnitudes,
                Work::Dense => &record.dense,
                Work::Fresh => &record.fresh,
            };
            if tasks > 0 {
                runs.push(Run {
                    kernel,
                    staged: tables.slots,
                    table_bytes: kernel.table_bytes(tables),
                    frame,
                    first_task,
                    tasks,
                });
            }
        }
        Ok(())
    }

    /// Where the output goes.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The launches, in order: each needs those before it done only in so far as `expand_tables` comes first.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// Blocks to decode: one status word each.
    pub fn blocks(&self) -> usize {
        self.tasks.len()
    }

    /// Bytes that the base's memory must have.
    pub fn base_end(&self) -> u64 {
        self.base_end
    }

    /// Bytes that the output's memory must have.
    pub fn out_end(&self) -> u64 {
        self.out_end
    }

    /// Entries of all tables, 4 bytes each, that the device makes room for; never 0.
    pub fn slots(&self) -> usize {
        self.slots.max(1) as usize
    }

    /// The arrays that the device reads: frames (to be followed by [`OVERREAD_BYTES`]), frame records, tasks, jobs, tables, frequencies.
    pub fn arrays(&self) -> [Vec<u8>; 6] {
        let frequencies = self.frequencies.iter().flat_map(|f| f.to_le_bytes());
        [
            self.bytes.clone(),
            bytes_of(&self.frames),
            bytes_of(&self.tasks),
            bytes_of(&self.jobs),
            bytes_of(&self.tables),
            frequencies.collect(),
        ]
    }

    /// Reads the status words, one a block, as the device left them (filled with ones before the launches).
    ///
    /// # Errors
    /// `Damaged` if one is not 0; fetch that frame again.
    pub fn check(&self, status: &[u32]) -> Result<()> {
        let damaged = self.damaged(status)?;
        match damaged.first() {
            None => Ok(()),
            Some(first) => Err(InferError::Damaged {
                bad: damaged.len(),
                blocks: self.blocks(),
                index: first.index,
                first: first.first,
                status: first.status,
            }),
        }
    }

    /// The blocks whose status word is not 0.
    ///
    /// # Errors
    /// `Invalid` if there are not as many words as blocks.
    pub fn damaged(&self, status: &[u32]) -> Result<Vec<DamagedBlock>> {
        if status.len() != self.blocks() {
            let what = format!("{} status words for {} blocks", status.len(), self.blocks());
            return Err(InferError::Invalid { what });
        }
        let bad = (0..status.len()).filter(|&block| status[block] != 0);
        let block = |block: usize| DamagedBlock {
            index: self.frame_of_task[block] as usize,
            first: self.tasks[block].first,
            status: status[block],
        };
        Ok(bad.map(block).collect())
    }
}

/// A block that no encoder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedBlock {
    /// The plan's item.
    pub index: usize,
    /// Its first element, counted in the frame.
    pub first: u32,
    /// Its status word (`kernels/records.cuh`).
    pub status: u32,
}

/// Checks the bodies that no stream's end proves: SAME has none, RAW is the tile.
fn bodies_fit(frame: &Frame<'_>, view: &FrameView) -> std::result::Result<(), CodecError> {
    for (tile, &(mode, bytes)) in frame.tiles().iter().enumerate() {
        let tile_bytes = view.dtype.tile_bytes();
        let expected = match mode {
            Mode::Same => 0,
            Mode::Raw => tile_bytes.min(frame.len_bytes() - tile * tile_bytes),
            _ => continue,
        };
        if bytes != expected {
            return Err(CodecError::Corrupt {
                what: "tile body",
                detail: format!("{mode:?} tile {tile} has {bytes} bytes, not {expected}"),
            });
        }
    }
    Ok(())
}

fn work_of(mode: Mode) -> Option<Work> {
    match mode {
        Mode::Same | Mode::Raw => Some(Work::Copy),
        Mode::Sparse => Some(Work::Sparse),
        Mode::Dense => Some(Work::Dense),
        Mode::Fresh => Some(Work::Fresh),
        _ => None,
    }
}

/// Refuses outputs that overlap: their order of writing would decide what comes out.
fn apart(mut outputs: Vec<Range<u64>>) -> Result<()> {
    outputs.retain(|range| !range.is_empty());
    outputs.sort_by_key(|range| range.start);
    match outputs.windows(2).find(|pair| pair[1].start < pair[0].end) {
        None => Ok(()),
        Some(pair) => Err(InferError::Invalid {
            what: format!("the outputs at bytes {:?} and {:?} overlap", pair[0], pair[1]),
        }),
    }
}

fn too_much(what: &str) -> InferError {
    InferError::Invalid {
        what: format!("more than 2^32 {what} in one plan; split it"),
    }
}

fn number(count: impl TryInto<u32>, what: &str) -> Result<u32> {
    count.try_into().map_err(|_| too_much(what))
}
