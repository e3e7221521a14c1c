//! How fast one core decodes tiles of bf16 weights, beside a copy of the same bytes in the same run.
//!
//! The weights are normal, as at initialisation; each is the rounding of an f32 master, which a Gaussian step moves. The step's
//! size is chosen for the share of weights that change. Decoding hashes what it decoded; the hash alone is measured too, and
//! the difference is what the tiles cost. `TPDE_ISA=scalar` measures the definition; a share as argument measures that one only.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tpde_bench::data::Noise;
use tpde_bench::machine::describe;
use tpde_bench::report::Table;
use tpde_core::{
    Base, Chain, Dtype, Frame, Link, Mode, Slice, encode_frame, slice_hash, slices_of, tensor_id,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ELEMS: usize = 64 << 20;
const REPEATS: usize = 9;
/// Shares of the weights that change.
const CHANGED: [f64; 6] = [0.005, 0.02, 0.10, 0.30, 0.60, 0.94];

fn main() -> Result<(), Failure> {
    let isa = std::env::var("TPDE_ISA").unwrap_or_else(|_| "widest".into());
    println!(
        "decoding {} MiB of bf16 on one core, {isa} instructions, best of {REPEATS}, on {}\n",
        ELEMS >> 19,
        describe()
    );
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let masters = normal(&mut Noise::new(1), ELEMS)
        .into_iter()
        .map(|n| 0.02 * n)
        .collect::<Vec<f32>>();
    let moves = normal(&mut Noise::new(2), ELEMS);
    let mut table = Table::new(&[
        "changed",
        "bits/element",
        "modes",
        "copy GB/s",
        "with digests GB/s",
        "digests GB/s",
        "tiles GB/s",
        "tiles x copy",
    ]);
    let only: Option<f64> = std::env::args().find_map(|arg| arg.parse().ok());
    for share in CHANGED
        .into_iter()
        .filter(|share| only.is_none_or(|only| only == *share))
    {
        let row = pool.install(|| measure(&masters, &moves, share))?;
        table.row(row);
    }
    table.print();
    Ok(())
}

/// Normal numbers, two at a time (Box and Muller).
#[expect(clippy::cast_possible_truncation, reason = "an f32 is what is asked for")]
fn normal(noise: &mut Noise, count: usize) -> Vec<f32> {
    let mut unit = || (noise.word() >> 11) as f64 / (1u64 << 53) as f64;
    let mut numbers = Vec::with_capacity(count + 1);
    while numbers.len() < count {
        let (radius, angle) = (
            (-2.0 * (1.0 - unit()).ln()).sqrt(),
            std::f64::consts::TAU * unit(),
        );
        numbers.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    numbers.truncate(count);
    numbers
}

/// Rounded to nearest, ties to even; finite numbers only.
fn bf16(master: f32) -> u16 {
    let bits = master.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The size of a step that changes `share` of the weights, from a sample.
fn step_for(masters: &[f32], moves: &[f32], share: f64) -> f32 {
    const SAMPLE: usize = 1 << 18;
    let changed = |step: f32| {
        let pairs = masters.iter().zip(moves).take(SAMPLE);
        pairs.filter(|&(&w, &m)| bf16(w) != bf16(w + step * m)).count() as f64 / SAMPLE as f64
    };
    let (mut low, mut high) = (1e-9f32, 1.0f32);
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if changed(middle) < share {
            low = middle
        } else {
            high = middle
        }
    }
    high
}

fn measure(masters: &[f32], moves: &[f32], share: f64) -> Result<Vec<String>, Failure> {
    let step = step_for(masters, moves, share);
    let bytes = |words: &mut dyn Iterator<Item = u16>| words.flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let base = bytes(&mut masters.iter().map(|&w| bf16(w)));
    let new = bytes(&mut masters.iter().zip(moves).map(|(&w, &m)| bf16(w + step * m)));
    let differing = base.chunks(2).zip(new.chunks(2)).filter(|(a, b)| a != b).count();
    let id = tensor_id(&base);
    let slices: Vec<(Slice, std::ops::Range<usize>)> = slices_of(Dtype::BF16, ELEMS as u64)
        .enumerate()
        .map(|(index, elems)| {
            #[expect(clippy::cast_possible_truncation, reason = "the weights are in memory")]
            let at = |elem: u64| elem as usize * Dtype::BF16.word_bytes();
            let slice = Slice {
                dtype: Dtype::BF16,
                total_elems: ELEMS as u64,
                index,
            };
            (slice, at(elems.start)..at(elems.end))
        })
        .collect();
    let encoded = slices
        .iter()
        .map(|(slice, at)| {
            let base = Base {
                id,
                bytes: &base[at.clone()],
            };
            Ok(encode_frame(*slice, &new[at.clone()], Some(base), None)?.bytes)
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let frames = encoded
        .iter()
        .map(|bytes| Frame::parse(bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let chains = frames
        .iter()
        .zip(&slices)
        .map(|(frame, (_, at))| {
            Chain::new(vec![
                Link::plain(Dtype::BF16, &base[at.clone()]),
                Link::frame(frame, Some(0), None),
            ])
        })
        .collect::<Result<Vec<_>, _>>()?;

    let mut out = vec![0u8; new.len()];
    let (mut copy, mut whole, mut hash) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..REPEATS {
        let start = Instant::now();
        out.copy_from_slice(black_box(&base));
        copy = copy.min(start.elapsed());
        black_box(&mut out);
        let start = Instant::now();
        for (chain, (_, at)) in chains.iter().zip(&slices) {
            chain.decode(&mut out[at.clone()])?;
        }
        whole = whole.min(start.elapsed());
        if out != new {
            return Err("decoded to other bytes".into());
        }
        let start = Instant::now();
        for (_, at) in &slices {
            black_box(slice_hash(&out[at.clone()], at.start as u64, out.len() as u64));
        }
        hash = hash.min(start.elapsed());
    }
    let rate = |time: Duration| new.len() as f64 / time.as_secs_f64() / 1e9;
    let tiles = whole.saturating_sub(hash);
    Ok(vec![
        format!("{:.2} %", 100.0 * differing as f64 / ELEMS as f64),
        format!(
            "{:.3}",
            8.0 * encoded.iter().map(Vec::len).sum::<usize>() as f64 / ELEMS as f64
        ),
        modes(&frames),
        format!("{:.2}", rate(copy)),
        format!("{:.2}", rate(whole)),
        format!("{:.2}", rate(hash)),
        format!("{:.2}", rate(tiles)),
        format!("{:.2}", rate(tiles) / rate(copy)),
    ])
}

/// How many tiles have which mode.
fn modes(frames: &[Frame<'_>]) -> String {
    let of = |mode: Mode| {
        let tiles = frames.iter().flat_map(|frame| frame.tiles());
        (tiles.filter(|(m, _)| *m == mode).count(), mode.name())
    };
    let counts = Mode::ALL.map(of).into_iter().filter(|(count, _)| *count > 0);
    counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect::<Vec<_>>()
        .join(", ")
}
