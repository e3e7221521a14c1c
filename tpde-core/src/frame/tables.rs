//! The tables of a frame: one set a mode, built once and shared by all its tiles.

use crate::bits::{BitReader, BitWriter};
use crate::classes::{ClassMap, Classes, merge_classes};
use crate::constants::{MAX_CLASSES, MAX_PROB_BITS, MAX_TABLE_BYTES, MIN_PROB_BITS};
use crate::cost;
use crate::dtype::Layout;
use crate::error::{Result, corrupt};
use crate::rans::change::{best_cost, change_probability, log_odds_of};
use crate::rans::table::{Logs, Table, logs_bits, quantise, read_logs, write_logs};
use crate::tile::Relation;
use crate::token::TokenShape;
use crate::wire::{Reader, Writer};

/// Tables of tokens, chosen by class.
#[derive(Debug, Clone)]
pub(crate) struct TokenTables {
    pub(crate) shape: TokenShape,
    pub(crate) map: ClassMap,
    pub(crate) prob_bits: u32,
    logs: Vec<Logs>,
}

/// Most tables of `prob_bits` that fit a GPU block's shared memory.
fn most_tables(prob_bits: u32) -> usize {
    MAX_TABLE_BYTES / (4 << prob_bits)
}

impl TokenTables {
    /// Builds the cheapest set for one histogram a class; `None` if all are empty.
    pub(crate) fn fit(histograms: &[Vec<u32>], shape: TokenShape) -> Option<Self> {
        let price = |h: &[u32]| cost::entropy(h) + cost::bits(logs_bits(&quantise(h)));
        let mut best: Option<(u64, Self)> = None;
        let (mut map, mut merged) = merge_classes(histograms, MAX_CLASSES, price);
        // Finer probabilities leave room for fewer tables: merging goes on from what was merged before.
        for prob_bits in MIN_PROB_BITS..=MAX_PROB_BITS {
            let (further, joined) = merge_classes(&merged, most_tables(prob_bits), price);
            map.table_of = map.table_of.map(|t| further.table_of[usize::from(t)]);
            merged = joined;
            if merged.is_empty() {
                return None;
            }
            let logs: Vec<Logs> = merged.iter().map(|h| quantise(h)).collect();
            let mut total = 0;
            for (h, logs) in merged.iter().zip(&logs) {
                total += Table::from_logs(logs, prob_bits).cost(h)? + cost::bits(logs_bits(logs));
            }
            if best.as_ref().is_none_or(|(least, _)| total < *least) {
                let map = map.clone();
                best = Some((
                    total,
                    Self {
                        shape,
                        map,
                        prob_bits,
                        logs,
                    },
                ));
            }
        }
        best.map(|(_, set)| set)
    }

    /// Whether the table of `class` can code `symbol`.
    pub(crate) fn has(&self, class: usize, symbol: usize) -> bool {
        self.table_has(usize::from(self.map.table_of[class]), symbol)
    }

    /// Whether table number `table` can code `symbol`.
    pub(crate) fn table_has(&self, table: usize, symbol: usize) -> bool {
        self.logs[table][symbol] > 0
    }

    /// Every table of the set.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Table> {
        self.logs
            .iter()
            .map(|logs| Table::from_logs(logs, self.prob_bits))
    }

    fn write(&self, w: &mut Writer, with_map: bool) {
        self.shape.write(w);
        #[expect(clippy::cast_possible_truncation, reason = "10..=12")]
        w.u8(self.prob_bits as u8);
        if with_map {
            self.map.write(w);
        }
        let mut bits = BitWriter::default();
        self.logs.iter().for_each(|logs| write_logs(logs, &mut bits));
        w.raw(&bits.into_bytes());
    }

    fn read(r: &mut Reader<'_>, width: u32, with_map: bool) -> Result<Self> {
        const WHAT: &str = "token tables";
        let shape = TokenShape::read(r, width)?;
        let prob_bits = u32::from(r.u8(WHAT)?);
        if !(MIN_PROB_BITS..=MAX_PROB_BITS).contains(&prob_bits) {
            return Err(corrupt(WHAT, format!("probabilities of {prob_bits} bits")));
        }
        let map = if with_map {
            ClassMap::read(r)?
        } else {
            ClassMap::ONE
        };
        let count = map.tables();
        if count > most_tables(prob_bits) {
            return Err(corrupt(WHAT, format!("{count} tables of {prob_bits} bits")));
        }
        let rest = r.clone().take(r.left(), WHAT)?;
        let mut bits = BitReader::new(rest);
        let logs = (0..count)
            .map(|_| read_logs(&mut bits, shape.symbols()))
            .collect::<Result<_>>()?;
        let used = bits.next_byte();
        bits.end(8 * used, 8, WHAT)?;
        r.take(used, WHAT)?;
        Ok(Self {
            shape,
            map,
            prob_bits,
            logs,
        })
    }
}

/// Log-odds of a change, chosen by class.
#[derive(Debug, Clone)]
pub(crate) struct ChangeTables {
    map: ClassMap,
    log_odds: Vec<u8>,
}

impl ChangeTables {
    /// Builds the cheapest set for `(unchanged, changed)` counts a class.
    pub(crate) fn fit(unchanged_changed: &[[u32; 2]]) -> Self {
        let histograms: Vec<Vec<u32>> = unchanged_changed.iter().map(|c| c.to_vec()).collect();
        let counts = |h: &[u32]| (u64::from(h[1]), u64::from(h[0]) + u64::from(h[1]));
        let (map, merged) = merge_classes(&histograms, MAX_CLASSES, |h| {
            let (changed, count) = counts(h);
            best_cost(changed, count) + cost::bits(8)
        });
        let log_odds = merged
            .iter()
            .map(|h| {
                let (changed, count) = counts(h);
                log_odds_of(changed, count)
            })
            .collect();
        Self { map, log_odds }
    }

    /// Change probability of every class, in 1/65536.
    pub(crate) fn probability_by_class(&self) -> [u16; MAX_CLASSES] {
        self.map
            .table_of
            .map(|table| change_probability(self.log_odds[usize::from(table)]))
    }

    fn write(&self, w: &mut Writer) {
        self.map.write(w);
        w.raw(&self.log_odds);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        const WHAT: &str = "change tables";
        let map = ClassMap::read(r)?;
        let log_odds = r.take(map.tables(), WHAT)?.to_vec();
        if log_odds.contains(&0) {
            return Err(corrupt(WHAT, "log-odds of 0"));
        }
        Ok(Self { map, log_odds })
    }
}

/// What SPARSE needs.
#[derive(Debug, Clone)]
pub(crate) struct SparseTables {
    pub(crate) changes: ChangeTables,
    /// Of the magnitudes of the elements that change; absent if none does.
    pub(crate) magnitudes: Option<TokenTables>,
}

/// What FRESH needs.
#[derive(Debug, Clone)]
pub(crate) struct FreshTables {
    /// Exponents count downwards from here.
    pub(crate) origin: u32,
    /// Classes of the given tensor's words, which choose the table; without, there is one.
    pub(crate) scale: Option<Classes>,
    pub(crate) tokens: TokenTables,
}

/// All tables of a frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrameTables {
    pub(crate) classes: Option<Classes>,
    pub(crate) sparse: Option<SparseTables>,
    pub(crate) dense: Option<TokenTables>,
    pub(crate) fresh: Option<FreshTables>,
}

const HAS_SPARSE: u8 = 1;
const HAS_DENSE: u8 = 2;
const HAS_FRESH: u8 = 4;
const HAS_MAGNITUDES: u8 = 8;

/// Width of the numbers that FRESH codes as tokens.
pub(crate) fn fresh_width(layout: Layout, width: u32) -> u32 {
    match layout {
        Layout::Float { exponent_bits, .. } => exponent_bits,
        Layout::Signed | Layout::Unsigned => width,
    }
}

impl FrameTables {
    pub(crate) fn write(&self, w: &mut Writer) {
        let magnitudes = self.sparse.as_ref().and_then(|s| s.magnitudes.as_ref());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        w.u8(flag(self.sparse.is_some(), HAS_SPARSE)
            | flag(self.dense.is_some(), HAS_DENSE)
            | flag(self.fresh.is_some(), HAS_FRESH)
            | flag(magnitudes.is_some(), HAS_MAGNITUDES));
        if let Some(classes) = self.classes {
            w.varint(classes.origin.into());
        }
        if let Some(sparse) = &self.sparse {
            sparse.changes.write(w);
        }
        if let Some(magnitudes) = magnitudes {
            magnitudes.write(w, true);
        }
        if let Some(dense) = &self.dense {
            dense.write(w, true);
        }
        if let Some(fresh) = &self.fresh {
            w.varint(fresh.origin.into());
            if let Some(scale) = fresh.scale {
                w.varint(scale.origin.into());
            }
            fresh.tokens.write(w, fresh.scale.is_some());
        }
    }

    /// Reads the tables of a frame of elements of `width` bits.
    pub(crate) fn read(
        r: &mut Reader<'_>,
        layout: Layout,
        width: u32,
        relation: Option<Relation>,
    ) -> Result<Self> {
        const WHAT: &str = "frame tables";
        const MAX_EXPONENT: usize = 1 << 11;
        let flags = r.u8(WHAT)?;
        if flags > 15 || flags & (HAS_SPARSE | HAS_MAGNITUDES) == HAS_MAGNITUDES {
            return Err(corrupt(WHAT, format!("flags {flags:#04x}")));
        }
        let mut tables = Self::default();
        let magnitude_width = Relation::magnitude_width(relation, width);
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^11")]
        let origin = |r: &mut Reader<'_>| r.size(MAX_EXPONENT, "exponent origin").map(|o| o as u32);
        if flags & (HAS_SPARSE | HAS_DENSE) != 0 {
            tables.classes = Some(Classes { origin: origin(r)? });
        }
        if flags & HAS_SPARSE != 0 {
            let changes = ChangeTables::read(r)?;
            let has_magnitudes = flags & HAS_MAGNITUDES != 0;
            let magnitudes = has_magnitudes
                .then(|| TokenTables::read(r, magnitude_width, true))
                .transpose()?;
            tables.sparse = Some(SparseTables { changes, magnitudes });
        }
        if flags & HAS_DENSE != 0 {
            tables.dense = Some(TokenTables::read(r, magnitude_width, true)?);
        }
        if flags & HAS_FRESH != 0 {
            let fresh_origin = origin(r)?;
            let scale = match relation {
                Some(Relation::Scale) => Some(Classes { origin: origin(r)? }),
                _ => None,
            };
            tables.fresh = Some(FreshTables {
                origin: fresh_origin,
                scale,
                tokens: TokenTables::read(r, fresh_width(layout, width), scale.is_some())?,
            });
        }
        Ok(tables)
    }
}
