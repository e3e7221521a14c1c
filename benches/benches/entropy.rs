//! How far frames of a large tensor lie above the entropy, from 0.08 bits an element to dense changes.
//!
//! 16 M bf16 weights (normal, std 0.02, f32 masters), and the same after a normal step of the masters; H is the plain conditional
//! entropy of signed residuals given the class of the base, so that it charges nothing for tables. Wanted: at most 2 % above it
//! from 0.08 bits an element on, digests aside, and digests at most 0.5 %.
//!
//! Then the same weights as other types, beside the floor of an ideal adaptive code (tpde-core, `floor_bytes`).

use tpde_bench::machine::describe;
use tpde_bench::report::Table;
use tpde_core::{Base, Chain, Dtype, Frame, Link, Slice, encode_frame, floor_bytes, slices_of, tensor_id};

const ELEMS: usize = 16 << 20;
const STEPS: [f64; 8] = [3e-7, 5e-7, 1e-6, 6e-6, 1e-5, 5e-5, 1.6e-4, 1e-3];

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A normal number times `scale`.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32s")]
    fn normal(&mut self, scale: f64) -> f32 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        (scale * radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }
}

/// To the nearest bf16, ties to even.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn ordinal(word: u16) -> i32 {
    let signed = i32::from(word.cast_signed());
    if signed < 0 {
        i32::from((word ^ 0x7fff).cast_signed())
    } else {
        signed
    }
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Entropy of all residuals given the exponent of the base, in bits.
fn entropy(base: &[u16], new: &[u16]) -> f64 {
    use std::collections::HashMap;
    let mut pairs: HashMap<(u16, i32), u64> = HashMap::new();
    let mut classes: HashMap<u16, u64> = HashMap::new();
    let highest = base.iter().map(|b| b >> 7 & 0xff).max().unwrap_or(0);
    for (&b, &n) in base.iter().zip(new) {
        let class = (highest - (b >> 7 & 0xff)).min(15);
        *pairs.entry((class, ordinal(n) - ordinal(b))).or_default() += 1;
        *classes.entry(class).or_default() += 1;
    }
    let bits = |(&(class, _), &n): (&(u16, i32), &u64)| n as f64 * (classes[&class] as f64 / n as f64).log2();
    pairs.iter().map(bits).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{}\n", describe());
    let mut random = Random(0x1234_5678_9abc_def1);
    let masters: Vec<f32> = (0..ELEMS).map(|_| random.normal(0.02)).collect();
    let base: Vec<u16> = masters.iter().map(|&m| rounded(m)).collect();
    let base_bytes = bytes_of(&base);
    let id = tensor_id(&base_bytes);
    let mut table = Table::new(&[
        "unchanged",
        "H bits/elem",
        "frames bits/elem",
        "above H",
        "of that digests",
        "lanes",
        "tables",
        "directory, headers",
    ]);
    for step in STEPS {
        let new: Vec<u16> = masters
            .iter()
            .map(|&m| rounded(m + random.normal(step)))
            .collect();
        let new_bytes = bytes_of(&new);
        let same = base.iter().zip(&new).filter(|(b, n)| b == n).count();
        let entropy = entropy(&base, &new);
        let mut ledger = tpde_core::Ledger::default();
        for (index, range) in slices_of(Dtype::BF16, ELEMS as u64).enumerate() {
            let bytes = 2 * usize::try_from(range.start)?..2 * usize::try_from(range.end)?;
            let slice = Slice {
                dtype: Dtype::BF16,
                total_elems: ELEMS as u64,
                index,
            };
            let against = Base {
                id,
                bytes: &base_bytes[bytes.clone()],
            };
            let encoded = encode_frame(slice, &new_bytes[bytes.clone()], Some(against), None)?;
            let frame = Frame::parse(&encoded.bytes)?;
            let links = vec![
                Link::plain(Dtype::BF16, against.bytes),
                Link::frame(&frame, Some(0), None),
            ];
            let chain = Chain::new(links)?;
            let mut out = vec![0; bytes.len()];
            chain.decode(&mut out)?;
            assert!(out == new_bytes[bytes], "not lossless");
            ledger = ledger.plus(&chain.ledger()?);
        }
        let share = |bytes: f64| format!("{:.2} %", 800.0 * bytes / entropy);
        table.row(vec![
            format!("{:.2} %", 100.0 * same as f64 / ELEMS as f64),
            format!("{:.4}", entropy / ELEMS as f64),
            format!("{:.4}", 8.0 * ledger.total_bytes as f64 / ELEMS as f64),
            share(ledger.total_bytes as f64 - entropy / 8.0),
            share(ledger.digest_bytes as f64),
            share(ledger.lane_bytes()),
            share(ledger.table_bytes as f64),
            share((ledger.directory_bytes + ledger.header_bytes) as f64),
        ]);
    }
    table.print();
    other_types(&masters, &mut random)
}

/// The bits of `value` as `dtype`; 8-bit types scaled to their range.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low bytes of a number in range"
)]
fn bits_of(dtype: Dtype, value: f32) -> u64 {
    match dtype {
        Dtype::F64 => f64::from(value).to_bits(),
        Dtype::F32 => value.to_bits().into(),
        Dtype::F16 => half::f16::from_f32(value).to_bits().into(),
        // The upper byte of an f16, rounded.
        Dtype::F8E5M2 => (u64::from(half::f16::from_f32(value).to_bits()) + 0x80) >> 8,
        // Three bits of mantissa, an exponent counted from 2^-14: normal numbers of 2^-14 to 2^1.
        Dtype::F8E4M3 => {
            let bits = value.to_bits() + (1 << 19);
            let exponent = (bits >> 23 & 0xff).clamp(113, 127) - 113;
            u64::from(bits >> 31 << 7 | exponent << 3 | bits >> 20 & 7)
        }
        _ => u64::from((value * 1270.0).round().clamp(-127.0, 127.0) as i8 as u8),
    }
}

fn other_types(masters: &[f32], random: &mut Random) -> Result<(), Box<dyn std::error::Error>> {
    let masters = &masters[..4 << 20];
    let mut table = Table::new(&["type", "step", "unchanged", "frame bits/elem", "floor", "x floor"]);
    for dtype in [
        Dtype::F16,
        Dtype::F32,
        Dtype::F64,
        Dtype::F8E4M3,
        Dtype::F8E5M2,
        Dtype::I8,
    ] {
        let bytes = |values: &mut dyn Iterator<Item = f32>| -> Vec<u8> {
            values
                .flat_map(|v| {
                    bits_of(dtype, v)
                        .to_le_bytes()
                        .into_iter()
                        .take(dtype.word_bytes())
                })
                .collect()
        };
        let base = bytes(&mut masters.iter().copied());
        let slice = Slice {
            dtype,
            total_elems: masters.len() as u64,
            index: 0,
        };
        for step in [None, Some(1e-6), Some(5e-5), Some(1e-3)] {
            let new = match step {
                Some(step) => bytes(&mut masters.iter().map(|m| m + random.normal(step))),
                None => base.clone(),
            };
            let against = step.map(|_| Base {
                id: tensor_id(&base),
                bytes: &base,
            });
            let frame = encode_frame(slice, &new, against, None)?;
            let floor = floor_bytes(slice, &new, against, None)?;
            let same = base
                .chunks(dtype.word_bytes())
                .zip(new.chunks(dtype.word_bytes()))
                .filter(|(b, n)| b == n)
                .count();
            let bits = |bytes: f64| format!("{:.4}", 8.0 * bytes / masters.len() as f64);
            table.row(vec![
                dtype.name().to_owned(),
                step.map_or("no base".to_owned(), |s| format!("{s:e}")),
                format!("{:.2} %", 100.0 * same as f64 / masters.len() as f64),
                bits(frame.bytes.len() as f64),
                bits(floor),
                format!("{:.4}", frame.bytes.len() as f64 / floor),
            ]);
        }
    }
    table.print();
    Ok(())
}
