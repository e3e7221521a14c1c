//! How fast bytes may go: a rate as people write it, and who holds them back.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes a second, at least one: `50MB/s`, `500kB/s`, `1.5MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

/// Units, the longest names first.
const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Reads a number of bytes: `50MB`, `1.5GiB`, `200`.
///
/// # Errors
/// A sentence that says what is wanted, if it is no such number or is above 2^53.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let unit = UNITS.iter().find(|(name, _)| text.ends_with(name));
    let (digits, factor) = unit.map_or((text, 1), |(name, factor)| {
        (&text[..text.len() - name.len()], *factor)
    });
    let is_plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: Option<f64> = digits.parse().ok().filter(|_| is_plain);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number below 2^53"
    )]
    match number.map(|n| (n * factor as f64).round()) {
        Some(bytes) if bytes <= (1u64 << 53) as f64 => Ok(bytes as u64),
        _ => Err("write a number of bytes with its unit, such as 50MB or 1.5GiB".to_owned()),
    }
}

impl Rate {
    /// Bytes a second.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_bytes(text.strip_suffix("/s").unwrap_or(text)) {
            Ok(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err("write how many bytes a second, such as 50MB/s or 500kB/s".to_owned()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B/s", self.0)
    }
}

/// Most bytes that go at once: small enough that a slow line stays usable for others.
pub(super) const PORTION_BYTES: usize = 32 << 10;

/// How long a line that was idle may be made up for.
const SLACK: Duration = Duration::from_millis(50);

/// Holds bytes back, of all requests together, in both directions.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: Rate,
    /// When the bytes that were let go will have gone.
    busy_until: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            busy_until: Mutex::new(None),
        }
    }

    /// How long `bytes` take by themselves.
    pub(super) fn duration(&self, bytes: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let seconds = bytes as f64 / self.rate.0 as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Books `bytes`; says how long to wait before they may go.
    pub(super) fn book(&self, bytes: usize, now: Instant) -> Duration {
        let mut busy_until = self.busy_until.lock();
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let start = busy_until.map_or(earliest, |at| at.max(earliest));
        let end = start.checked_add(self.duration(bytes as u64)).unwrap_or(start);
        *busy_until = Some(end);
        end.saturating_duration_since(now)
    }

    /// Waits until `bytes` may go.
    pub(super) fn wait(&self, bytes: usize) {
        std::thread::sleep(self.book(bytes, Instant::now()));
    }

    /// The same for tasks.
    pub(super) async fn pass(&self, bytes: usize) {
        let wait = self.book(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what people write is read as they mean it, and nothing else is.
    #[test]
    fn rates() {
        for (text, bytes) in [
            ("50MB/s", 50_000_000),
            ("50MB", 50_000_000),
            ("1.5MiB/s", 1_572_864),
            ("500kB/s", 500_000),
            ("7", 7),
            ("2GiB/s", 2 << 30),
            ("12B/s", 12),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().bytes_per_second(), bytes, "{text}");
        }
        for bad in [
            "",
            "0",
            "0MB/s",
            "MB/s",
            "-5MB/s",
            "1e9",
            "nan",
            "5 apples",
            "99999999GiB",
            "1..5MB",
            "5Mb",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("0"), Ok(0));
    }

    /// Promise: over any time no more goes than the rate allows, but for a little slack; an idle line saves nothing up.
    #[test]
    fn bytes_are_held_back() {
        let limiter = Limiter::new("1MB/s".parse().unwrap());
        let start = Instant::now();
        let mut waited = Duration::ZERO;
        for _ in 0..10 {
            waited = limiter.book(100_000, start);
        }
        assert_eq!(waited + SLACK, Duration::from_secs(1));
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.book(100_000, later) + SLACK, Duration::from_millis(100));
    }
}
