//! Bytes that look a little like others: without knowledge of any format, but for numbers.

use crate::Rng;

/// Numbers at which limits and signs lie.
const ODD: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    1 << 24,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 48,
    1 << 63,
    u64::MAX,
];

/// Longest input that is made.
const MOST: usize = 1 << 16;

/// Changes one of `pool` in a few places.
pub(super) fn mutated(rng: &mut Rng, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.pick(pool).clone();
    for _ in 0..1 + rng.below(4) {
        change(rng, &mut bytes, pool);
    }
    bytes.truncate(MOST);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
    let end = bytes.len() + 1;
    let (a, b) = (rng.below(end), rng.below(end));
    let (from, to) = (a.min(b), a.max(b));
    // Short stretches more often than long ones.
    let near = to.min(from + 1 + rng.below(16));
    match rng.below(12) {
        0..3 if from < bytes.len() => bytes[from] ^= 1 << rng.below(8),
        3 if from < bytes.len() => bytes[from] = rng.draw() as u8,
        4 => over(bytes, from, &number(rng)),
        5 => drop(bytes.splice(from..near, number(rng))),
        6 => bytes.truncate(to),
        7 => drop(bytes.drain(from..near)),
        8 => {
            let again = bytes[from..near].to_vec();
            drop(bytes.splice(near..near, again));
        }
        9 => {
            let other = rng.pick(pool);
            let (a, b) = (rng.below(other.len() + 1), rng.below(other.len() + 1));
            let part = other[a.min(b)..a.max(b)].to_vec();
            drop(bytes.splice(from..to, part));
        }
        10 => digits(rng, bytes, from),
        _ => {
            let noise: Vec<u8> = (0..1 + rng.below(8)).map(|_| rng.draw() as u8).collect();
            drop(bytes.splice(from..from, noise));
        }
    }
}

fn over(bytes: &mut [u8], at: usize, with: &[u8]) {
    let end = bytes.len().min(at + with.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
}

/// An odd number, or one near it, as formats write them: in some bytes, either end first, or seven bits a byte.
fn number(rng: &mut Rng) -> Vec<u8> {
    let number = rng.pick(&ODD).wrapping_add(rng.draw() % 5).wrapping_sub(2);
    match rng.below(4) {
        0 => {
            let mut out = Vec::new();
            let mut left = number;
            while left > 0x7f {
                out.push(left as u8 | 0x80);
                left >>= 7;
            }
            out.push(left as u8);
            out
        }
        1 => number.to_be_bytes()[8 - (1 << rng.below(4))..].to_vec(),
        _ => number.to_le_bytes()[..1 << rng.below(4)].to_vec(),
    }
}

/// Puts a number in the place of the first digits from `at` on.
fn digits(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let len = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = match rng.below(2) {
        0 => rng.pick(&ODD).to_string(),
        _ => rng.below(100).to_string(),
    };
    bytes.splice(start..start + len, number.into_bytes());
}
