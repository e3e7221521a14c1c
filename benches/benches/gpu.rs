//! Decode + add of bf16 weights on a GPU, at five shares of unchanged elements, beside the in-place floor.
//!
//! Weights are normal (std 0.02) with f32 masters; the new ones are the masters after one normal step, rounded, so that how
//! likely a weight changes depends on its exponent as it does in training. Times are of the device's own events.
//!
//! Arguments: `--elems N` (millions, default 512); `--arrays DIR` writes base.bf16 and new-SHARE.bf16 there, for other tools to be
//! measured on the same words.

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaSlice, CudaStream};
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tpde_bench::machine::describe;
use tpde_bench::report::Table;
use tpde_core::{Base, Dtype, Frame, Mode, Slice, encode_frame, tensor_id};
use tpde_infer::device::{Device, Loaded};
use tpde_infer::plan::{Item, Plan, Target};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Elements of one tensor, and of one frame.
const TENSOR_ELEMS: usize = 1 << 23;
const REPEATS: usize = 15;
const UNCHANGED: [f64; 5] = [0.988, 0.92, 0.776, 0.305, 0.09];
/// bf16 elements of a sector: the least that the device's memory reads or writes.
const SECTOR_ELEMS: usize = 16;

fn main() -> Result<(), Failure> {
    let mut millions = 512;
    let mut arrays = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--elems" => millions = arguments.next().ok_or("--elems needs a number")?.parse()?,
            "--arrays" => arrays = Some(PathBuf::from(arguments.next().ok_or("--arrays needs a folder")?)),
            // What cargo bench adds.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => {
            println!("no measurement: {error}");
            return Ok(());
        }
    };
    let stream = device.context().new_stream()?;
    println!(
        "decode + add on {} ({}, {} multiprocessors); host {}",
        device.context().name()?,
        device.architecture(),
        device.multiprocessors()?,
        describe()
    );
    let bandwidth = copy_bandwidth(&stream)?;
    println!("copy: {:.0} GB/s, read + written\n", bandwidth / 1e9);

    let tensors = (millions << 20) / TENSOR_ELEMS;
    let started = Instant::now();
    let masters: Vec<Vec<f32>> = (0..tensors).into_par_iter().map(masters).collect();
    let base: Vec<Vec<u16>> = masters
        .par_iter()
        .map(|m| m.iter().map(|&w| rounded(w)).collect())
        .collect();
    println!(
        "{} M weights made in {:.1} s\n",
        millions,
        started.elapsed().as_secs_f64()
    );
    if let Some(folder) = &arrays {
        write_array(&folder.join("base.bf16"), &base)?;
    }
    let mut table = Table::new(&[
        "unchanged",
        "bits/elem",
        "SAME/SPARSE/DENSE/FRESH",
        "launches",
        "floor G/s",
        "in place us",
        "G elem/s",
        "x floor",
        "beside G/s",
        "touched",
        "encode s",
    ]);
    for unchanged in UNCHANGED {
        measure(
            &device,
            &stream,
            bandwidth,
            unchanged,
            &masters,
            &base,
            arrays.as_ref(),
            &mut table,
        )?;
    }
    table.print();
    layers(&device, &stream)
}

/// Bytes a second of a copy within the device, read and written counted.
fn copy_bandwidth(stream: &Arc<CudaStream>) -> Result<f64, Failure> {
    let bytes = 2 << 30;
    let from = stream.alloc_zeros::<u8>(bytes)?;
    let mut to = stream.alloc_zeros::<u8>(bytes)?;
    let seconds = median(stream, || Ok(()), || Ok(stream.memcpy_dtod(&from, &mut to)?))?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// Median seconds of `work` on the stream, `before` not counted.
fn median(
    stream: &Arc<CudaStream>,
    mut before: impl FnMut() -> Result<(), Failure>,
    mut work: impl FnMut() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for repeat in 0..REPEATS + 2 {
        before()?;
        let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        work()?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
        let milliseconds = start.elapsed_ms(&end)?;
        if repeat >= 2 {
            times.push(f64::from(milliseconds) / 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// In (0, 1).
    fn unit(&mut self) -> f32 {
        ((self.next() & 0xff_ffff) as f32 + 0.5) / 16_777_216.0
    }

    /// Two independent normal numbers.
    fn normal(&mut self) -> [f32; 2] {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let angle = std::f32::consts::TAU * self.unit();
        [radius * angle.cos(), radius * angle.sin()]
    }
}

fn masters(tensor: usize) -> Vec<f32> {
    let mut random = Random(tensor as u64 * 0x9e37_79b9_7f4a_7c15 + 0x1234_5679);
    (0..TENSOR_ELEMS / 2)
        .flat_map(|_| random.normal().map(|n| 0.02 * n))
        .collect()
}

/// To the nearest bf16, ties to even.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The weights after a step: each master moves by a normal number times `rate`.
fn stepped(masters: &[f32], rate: f32, seed: usize) -> Vec<u16> {
    let mut random = Random(seed as u64 * 0x9e37_79b9_7f4a_7c15 + 0x9876_5431);
    masters
        .chunks(2)
        .flat_map(|pair| {
            let steps = random.normal();
            pair.iter()
                .zip(steps)
                .map(|(master, step)| rounded(master + rate * step))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The rate at which that share of weights stays as it is.
fn rate_for(unchanged: f64, masters: &[f32]) -> f32 {
    let sample = &masters[..1 << 19];
    let (mut low, mut high) = (1e-9_f32, 1e-1_f32);
    for _ in 0..30 {
        let rate = (low * high).sqrt();
        let new = stepped(sample, rate, 1);
        let same = new
            .iter()
            .zip(sample)
            .filter(|(n, m)| **n == rounded(**m))
            .count();
        if same as f64 / sample.len() as f64 > unchanged {
            low = rate;
        } else {
            high = rate;
        }
    }
    low
}

fn as_bytes(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn write_array(path: &std::path::Path, tensors: &[Vec<u16>]) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for tensor in tensors {
        file.write_all(&as_bytes(tensor))?;
    }
    Ok(file.flush()?)
}

fn encoded(base: &[u16], new: &[u16]) -> Result<Vec<u8>, Failure> {
    let (base, new) = (as_bytes(base), as_bytes(new));
    let slice = Slice {
        dtype: Dtype::BF16,
        total_elems: (new.len() / 2) as u64,
        index: 0,
    };
    let against = Base {
        id: tensor_id(&base),
        bytes: &base,
    };
    Ok(encode_frame(slice, &new, Some(against), None)?.bytes)
}

fn upload(stream: &Arc<CudaStream>, tensors: &[Vec<u16>]) -> Result<CudaSlice<u8>, Failure> {
    let tensor_bytes = 2 * TENSOR_ELEMS;
    let mut memory = stream.alloc_zeros::<u8>(tensors.len() * tensor_bytes)?;
    for (i, tensor) in tensors.iter().enumerate() {
        let mut part = memory.slice_mut(i * tensor_bytes..(i + 1) * tensor_bytes);
        stream.memcpy_htod(&as_bytes(tensor), &mut part)?;
    }
    Ok(memory)
}

fn plan(frames: &[Vec<u8>], target: Target, device: &Device) -> Result<Plan, Failure> {
    let item = |(i, frame)| {
        let at = (i * 2 * TENSOR_ELEMS) as u64;
        Item {
            frame,
            base_at: at,
            out_at: at,
        }
    };
    let items: Vec<Item<'_>> = frames.iter().map(Vec::as_slice).enumerate().map(item).collect();
    Ok(Plan::new(&items, target, device.multiprocessors()?)?)
}

fn must_equal(
    stream: &Arc<CudaStream>,
    memory: &CudaSlice<u8>,
    expected: &[Vec<u16>],
) -> Result<(), Failure> {
    let found = stream.clone_dtoh(memory)?;
    let same = found
        .par_chunks(2 * TENSOR_ELEMS)
        .zip(expected)
        .all(|(found, expected)| found == as_bytes(expected));
    if same {
        Ok(())
    } else {
        Err("the device decodes to other bytes".into())
    }
}

#[expect(clippy::too_many_arguments, reason = "one row of the table")]
fn measure(
    device: &Device,
    stream: &Arc<CudaStream>,
    bandwidth: f64,
    unchanged: f64,
    masters: &[Vec<f32>],
    base: &[Vec<u16>],
    arrays: Option<&PathBuf>,
    table: &mut Table,
) -> Result<(), Failure> {
    let rate = rate_for(unchanged, &masters[0]);
    let new: Vec<Vec<u16>> = masters
        .par_iter()
        .enumerate()
        .map(|(i, m)| stepped(m, rate, i + 1))
        .collect();
    let started = Instant::now();
    let frames: Vec<Vec<u8>> = base
        .par_iter()
        .zip(&new)
        .map(|(b, n)| encoded(b, n))
        .collect::<Result<_, Failure>>()?;
    let encode_seconds = started.elapsed().as_secs_f64();
    if let Some(folder) = arrays {
        write_array(&folder.join(format!("new-{unchanged}.bf16")), &new)?;
    }

    let elems = base.len() * TENSOR_ELEMS;
    let compressed: usize = frames.iter().map(Vec::len).sum();
    let count = |of: &(dyn Fn(&[u16], &[u16]) -> usize + Sync)| -> usize {
        base.par_iter().zip(&new).map(|(b, n)| of(b, n)).sum()
    };
    let same = count(&|b, n| b.iter().zip(n).filter(|(x, y)| x == y).count());
    let sectors = count(&|b, n| {
        let pairs = b.chunks(SECTOR_ELEMS).zip(n.chunks(SECTOR_ELEMS));
        pairs.filter(|(x, y)| x != y).count()
    });
    let floor_seconds = (2 * elems + compressed + 2 * SECTOR_ELEMS * sectors) as f64 / bandwidth;
    let modes = frames.iter().map(|f| {
        let frame = Frame::parse(f)?;
        Ok([Mode::Same, Mode::Sparse, Mode::Dense, Mode::Fresh]
            .map(|mode| frame.tiles().iter().filter(|tile| tile.0 == mode).count()))
    });
    let modes: Vec<[usize; 4]> = modes.collect::<Result<_, Failure>>()?;
    let modes = [0, 1, 2, 3].map(|i| modes.iter().map(|m| m[i]).sum::<usize>().to_string());

    let base_dev = upload(stream, base)?;
    let mut weights = stream.alloc_zeros::<u8>(2 * elems)?;
    let mut in_place = Loaded::new(device, plan(&frames, Target::InPlace, device)?, stream)?;
    let launches = in_place.plan().launches().len();
    // Two closures want the same memory, one after the other.
    let weights_cell = std::cell::RefCell::new(&mut weights);
    let seconds = median(
        stream,
        || Ok(stream.memcpy_dtod(&base_dev, &mut **weights_cell.borrow_mut())?),
        || Ok(in_place.run_in_place(&mut weights_cell.borrow_mut())?),
    )?;
    in_place.check()?;
    must_equal(stream, &weights, &new)?;
    drop(in_place);

    let mut beside = Loaded::new(device, plan(&frames, Target::Beside, device)?, stream)?;
    stream.memset_zeros(&mut weights)?;
    let beside_seconds = median(
        stream,
        || Ok(()),
        || Ok(beside.run_beside(&base_dev, &mut weights)?),
    )?;
    beside.check()?;
    must_equal(stream, &weights, &new)?;

    let giga = |seconds: f64| elems as f64 / seconds / 1e9;
    table.row(vec![
        format!("{:.2} %", 100.0 * same as f64 / elems as f64),
        format!("{:.4}", 8.0 * compressed as f64 / elems as f64),
        modes.join("/"),
        launches.to_string(),
        format!("{:.0}", giga(floor_seconds)),
        format!("{:.0}", 1e6 * seconds),
        format!("{:.0}", giga(seconds)),
        format!("{:.3}", floor_seconds / seconds),
        format!("{:.0}", giga(beside_seconds)),
        format!("{:.3}", (sectors * SECTOR_ELEMS) as f64 / elems as f64),
        format!("{encode_seconds:.1}"),
    ]);
    Ok(())
}

/// One 1024 x 4096 layer: from the first launch to the checked status words, on the host's clock; the frame is on the device.
fn layers(device: &Device, stream: &Arc<CudaStream>) -> Result<(), Failure> {
    let masters = masters(0);
    let layer = &masters[..1024 * 4096];
    let base: Vec<u16> = layer.iter().map(|&w| rounded(w)).collect();
    let mut table = Table::new(&["one 1024 x 4096 layer", "launch to done us", "on the device us"]);
    for unchanged in UNCHANGED {
        let new = stepped(layer, rate_for(unchanged, layer), 1);
        let frame = [encoded(&base, &new)?];
        let mut loaded = Loaded::new(device, plan(&frame, Target::Beside, device)?, stream)?;
        let base_dev = stream.clone_htod(&as_bytes(&base))?;
        let mut out = stream.alloc_zeros::<u8>(2 * base.len())?;
        let mut times = Vec::new();
        for _ in 0..50 {
            stream.synchronize()?;
            let started = Instant::now();
            loaded.run_beside(&base_dev, &mut out)?;
            loaded.check()?;
            times.push(started.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let device_seconds = median(stream, || Ok(()), || Ok(loaded.run_beside(&base_dev, &mut out)?))?;
        table.row(vec![
            format!("{:.1} % unchanged", 100.0 * unchanged),
            format!("{:.0}", 1e6 * times[times.len() / 2]),
            format!("{:.0}", 1e6 * device_seconds),
        ]);
    }
    table.print();
    Ok(())
}
