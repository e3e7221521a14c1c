//! Records: what the host tells the kernels, byte for byte as `kernels/records.cuh` has it.

/// A row of an array that a kernel reads: little-endian, without padding that anybody looks at.
pub(crate) trait Record {
    /// Bytes of one record.
    const BYTES: usize;
    /// Appends exactly [`Record::BYTES`].
    fn write(&self, to: &mut Vec<u8>);
}

/// All records, one behind the other.
pub(crate) fn bytes_of<R: Record>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * R::BYTES);
    for record in records {
        record.write(&mut bytes);
        debug_assert_eq!(bytes.len() % R::BYTES, 0);
    }
    bytes
}

fn put(to: &mut Vec<u8>, numbers: &[u32]) {
    numbers
        .iter()
        .for_each(|number| to.extend_from_slice(&number.to_le_bytes()));
}

/// Token tables of one use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens {
    pub(crate) direct: u32,
    pub(crate) top: u32,
    pub(crate) prob_bits: u32,
    pub(crate) slots_at: u32,
    pub(crate) slots: u32,
    pub(crate) table_of: [u8; 16],
}

impl Record for Tokens {
    const BYTES: usize = 36;
    fn write(&self, to: &mut Vec<u8>) {
        put(
            to,
            &[self.direct, self.top, self.prob_bits, self.slots_at, self.slots],
        );
        to.extend_from_slice(&self.table_of);
    }
}

/// One frame: where its elements lie, what their bits mean, and its tables.
#[derive(Debug, Clone)]
pub(crate) struct FrameRecord {
    pub(crate) base_at: u64,
    pub(crate) out_at: u64,
    pub(crate) has_base: bool,
    pub(crate) mantissa_bits: u32,
    pub(crate) exponent_mask: u32,
    pub(crate) is_signed: bool,
    pub(crate) class_origin: u32,
    pub(crate) fresh_origin: u32,
    pub(crate) lanes_sparse: u32,
    pub(crate) lanes: u32,
    pub(crate) change_probability: [u16; 16],
    pub(crate) magnitudes: Tokens,
    pub(crate) dense: Tokens,
    pub(crate) fresh: Tokens,
}

impl Record for FrameRecord {
    const BYTES: usize = 192;
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.base_at.to_le_bytes());
        to.extend_from_slice(&self.out_at.to_le_bytes());
        put(
            to,
            &[
                self.has_base.into(),
                self.mantissa_bits,
                self.exponent_mask,
                self.is_signed.into(),
                self.class_origin,
                self.fresh_origin,
                self.lanes_sparse,
                self.lanes,
            ],
        );
        self.change_probability
            .iter()
            .for_each(|p| to.extend_from_slice(&p.to_le_bytes()));
        for tokens in [&self.magnitudes, &self.dense, &self.fresh] {
            tokens.write(to);
        }
        put(to, &[0]);
    }
}

/// One block, or one whole tile of SAME and RAW.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) bytes_at: u64,
    pub(crate) bytes: u32,
    pub(crate) elems: u32,
    pub(crate) first: u32,
    pub(crate) is_copy_of_base: bool,
}

impl Record for Task {
    const BYTES: usize = 24;
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.bytes_at.to_le_bytes());
        put(
            to,
            &[self.bytes, self.elems, self.first, self.is_copy_of_base.into()],
        );
    }
}

/// What one CTA does.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) frame: u32,
    pub(crate) first_task: u32,
    pub(crate) tasks: u32,
    pub(crate) staged: u32,
}

impl Record for Job {
    const BYTES: usize = 16;
    fn write(&self, to: &mut Vec<u8>) {
        put(to, &[self.frame, self.first_task, self.tasks, self.staged]);
    }
}

/// A table as the frame's header has it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) frequencies_at: u32,
    pub(crate) symbols: u32,
    pub(crate) prob_bits: u32,
    pub(crate) slots_at: u32,
}

impl Record for Table {
    const BYTES: usize = 16;
    fn write(&self, to: &mut Vec<u8>) {
        put(
            to,
            &[self.frequencies_at, self.symbols, self.prob_bits, self.slots_at],
        );
    }
}
