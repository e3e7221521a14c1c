//! The inputs of the golden files of format 1.0. Nothing here may change: the files were made from it.

use std::fs;
use std::io;
use std::path::Path;

use tpde_core::{Dtype, Layout, Relation};

use tpde_store::{Metrics, SaveRequest};

use super::GoldenFrame;
use crate::run;

/// Numbers that look random (SplitMix64, with the index for a state).
fn dice(seed: u64, index: usize) -> u64 {
    let mut z = (seed << 32 ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn bytes_of(dtype: Dtype, words: &[u64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|w| w.to_le_bytes()[..dtype.word_bytes()].to_vec())
        .collect()
}

/// Words as trained tensors have them: exponents thin out downwards, some zeros, a few specials.
fn words(dtype: Dtype, count: usize, seed: u64) -> Vec<u64> {
    let bits = 8 * dtype.word_bytes();
    (0..count)
        .map(|i| {
            let d = dice(seed, i);
            match dtype.layout() {
                Layout::Float {
                    exponent_bits,
                    mantissa_bits,
                } => {
                    let most = (1u64 << exponent_bits) - 1;
                    let exponent = match d % 997 {
                        0 => 0,
                        1 => most,
                        _ => (most / 2 - 1).saturating_sub(u64::from((d >> 10).trailing_zeros())),
                    };
                    let mantissa = d >> 20 & ((1 << mantissa_bits) - 1);
                    (d >> 63) << (bits - 1) | exponent << mantissa_bits | mantissa
                }
                Layout::Signed => (d >> 58).wrapping_sub(32),
                _ => d >> 58,
            }
        })
        .collect()
}

/// `old` with one word in `one_in` moved by a few steps, and a few of those by many.
fn moved(old: &[u64], one_in: u64, seed: u64) -> Vec<u64> {
    old.iter()
        .enumerate()
        .map(|(i, word)| {
            let d = dice(seed, i);
            let step =
                1 + u64::from((d >> 32).trailing_zeros()) + if d >> 40 & 0xff == 0 { d >> 48 } else { 0 };
            match d % one_in {
                0 if d >> 20 & 1 == 0 => word.wrapping_add(step),
                0 => word.wrapping_sub(step),
                _ => *word,
            }
        })
        .collect()
}

/// Finite f32 masters, and the same after a step.
fn masters(count: usize, seed: u64) -> (Vec<u64>, Vec<u64>) {
    let old: Vec<u64> = (0..count)
        .map(|i| {
            let d = dice(seed, i);
            (d >> 63) << 31
                | (121 - u64::from((d >> 10).trailing_zeros().min(60))) << 23
                | d >> 20 & 0x7f_ffff
        })
        .collect();
    let new = old
        .iter()
        .enumerate()
        .map(|(i, &w)| {
            let step = dice(seed + 1, i) >> 49;
            if step & 1 == 0 {
                w + step
            } else {
                w - step.min(w & 0x7f_ffff)
            }
        })
        .collect();
    (old, new)
}

/// Rounds the words of f32s to bf16, ties to even.
fn rounded(masters: &[u64]) -> Vec<u64> {
    masters
        .iter()
        .map(|w| (w + 0x7fff + (w >> 16 & 1)) >> 16 & 0xffff)
        .collect()
}

/// The frames.
pub fn frames() -> Vec<GoldenFrame> {
    let mut frames = Vec::new();
    let mut add = |name: String, dtype: Dtype, new: &[u64], base: Option<&[u64]>| {
        frames.push(GoldenFrame {
            name,
            dtype,
            new: bytes_of(dtype, new),
            base: base.map(|b| bytes_of(dtype, b)),
            given: None,
        });
    };
    for &dtype in Dtype::ALL {
        let base = words(dtype, 700, 1);
        add(format!("{}-anchor", dtype.name()), dtype, &base, None);
        for one_in in [1, 2, 50] {
            let new = moved(&base, one_in, 2);
            add(
                format!("{}-delta{one_in}", dtype.name()),
                dtype,
                &new,
                Some(&base),
            );
        }
    }
    for count in [0, 1, 7, 8, 9, 4095, 4096, 4097] {
        let base = words(Dtype::BF16, count, 3);
        let new = moved(&base, 20, 4);
        add(format!("length-{count}"), Dtype::BF16, &new, Some(&base));
    }
    // SAME, SPARSE, DENSE, FRESH, RAW and a short last tile in one frame, with digests of several groups.
    let (dtype, tile) = (Dtype::BF16, 1 << 16);
    let base = words(dtype, 5 * tile + 33, 5);
    let mut new = base.clone();
    new[tile..2 * tile].copy_from_slice(&moved(&base[tile..2 * tile], 100, 6));
    new[2 * tile..3 * tile].copy_from_slice(&moved(&base[2 * tile..3 * tile], 1, 7));
    new[3 * tile..4 * tile].copy_from_slice(&words(dtype, tile, 8));
    (0..tile).for_each(|i| new[4 * tile + i] = dice(9, i) & 0xffff);
    add("mixed".into(), dtype, &new, Some(&base));
    let (old, new) = masters(9000, 10);
    let (weights, old_weights) = (rounded(&new), rounded(&old));
    let mut given =
        |name: &str, dtype: Dtype, new: &[u64], base: Option<&[u64]>, relation: Relation, given: &[u64]| {
            frames.push(GoldenFrame {
                name: format!("given-{name}"),
                dtype,
                new: bytes_of(dtype, new),
                base: base.map(|b| bytes_of(dtype, b)),
                given: Some((relation, bytes_of(relation.given_dtype(dtype), given))),
            });
        };
    given(
        "rounded",
        Dtype::F32,
        &new,
        Some(&old),
        Relation::Rounded,
        &weights,
    );
    given(
        "rounded-anchor",
        Dtype::F32,
        &new,
        None,
        Relation::Rounded,
        &weights,
    );
    given("scale", Dtype::F32, &new, None, Relation::Scale, &old);
    given("cast", Dtype::BF16, &weights, None, Relation::Cast, &new);
    given(
        "cast-moved",
        Dtype::BF16,
        &moved(&old_weights, 30, 11),
        None,
        Relation::Cast,
        &new,
    );
    frames
}

/// Steps of the run in the golden store.
pub const STEPS: [u64; 3] = [100, 200, 300];

/// How the checkpoint of one of [`STEPS`] is saved.
pub fn request(folder: &Path, step: u64) -> SaveRequest {
    let mut request = SaveRequest::new(folder, run(), step);
    let metrics = [format!("loss={}", 300.0 / step as f64), "eval/nan=NaN".to_owned()];
    let metrics = metrics.iter().take(usize::try_from(step).unwrap_or(0) / 100 - 1);
    request.metrics = Metrics::new(metrics.map(|m| m.parse().unwrap()).collect()).unwrap();
    request.note = format!("note of step {step}");
    request
        .environment
        .insert("made by".to_owned(), "the golden files' builder".to_owned());
    request
}

/// Writes the checkpoint of one of [`STEPS`] into a new folder.
///
/// # Errors
/// What the file system says.
pub fn checkpoint(folder: &Path, step: u64) -> io::Result<()> {
    fs::create_dir_all(folder.join("sub"))?;
    let mut masters = masters(3000, 20).0;
    for turn in 0..step / 100 {
        masters = moved(&masters, 3, 21 + turn);
    }
    let weights = rounded(&masters);
    let first = words(Dtype::F32, 3000, 30 + step);
    let second: Vec<u64> = words(Dtype::F32, 3000, 40 + step)
        .iter()
        .map(|w| w & 0x7fff_ffff)
        .collect();
    let tensors: [(&str, Dtype, &[u64]); 5] = [
        ("model.w", Dtype::BF16, &weights),
        ("optimizer.master.model.w", Dtype::F32, &masters),
        ("optimizer.exp_avg.model.w", Dtype::F32, &first),
        ("optimizer.exp_avg_sq.model.w", Dtype::F32, &second),
        ("step", Dtype::I64, &[step]),
    ];
    let mut header = String::from("{");
    let mut data = Vec::new();
    for (i, (name, dtype, words)) in tensors.iter().enumerate() {
        let start = data.len();
        data.extend(bytes_of(*dtype, words));
        let comma = if i == 0 { "" } else { "," };
        let (dtype, count, end) = (dtype.name(), words.len(), data.len());
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{count}],\"data_offsets\":[{start},{end}]}}"
        );
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("state.safetensors"), file)?;
    fs::write(
        folder.join("sub/notes.txt"),
        format!("notes of step {step}\n").repeat(40),
    )
}
