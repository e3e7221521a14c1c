//! Numbers as people read them: three digits that matter, and a unit.

use std::time::Duration;

/// A size in decimal units: `512 B`, `9.27 MB`.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        // 999.5 would be printed as 1000.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{} {unit}", three_digits(value))
}

/// How many bytes one stored byte stands for: `1.60x`, or `-` if nothing was stored.
pub(crate) fn ratio(raw_bytes: u64, stored_bytes: u64) -> String {
    match ratio_of(raw_bytes, stored_bytes) {
        Some(ratio) => format!("{}x", three_digits(ratio)),
        None => "-".to_owned(),
    }
}

/// The same as a number.
pub(crate) fn ratio_of(raw_bytes: u64, stored_bytes: u64) -> Option<f64> {
    (stored_bytes > 0).then(|| raw_bytes as f64 / stored_bytes as f64)
}

/// A share from 0 to 1 in per cent. Nothing that differs is printed as 0, or as 100 when it is less.
pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if share <= 0.0 {
        "0 %".to_owned()
    } else if percent < 0.01 {
        "<0.01 %".to_owned()
    } else if share >= 1.0 {
        "100 %".to_owned()
    } else if percent >= 99.95 {
        ">99.9 %".to_owned()
    } else {
        format!("{} %", three_digits(percent))
    }
}

/// A count with its thousands apart: `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of things: `1 file`, `2 files`.
pub(crate) fn counted(n: u64, one: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {one}{plural}", count(n))
}

/// A small quotient: `1.2e-4`, or `0`.
pub(crate) fn scientific(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value.is_finite() {
        format!("{value:.1e}")
    } else {
        "inf".to_owned()
    }
}

/// How long something took: `0.42 s`, `3 min 20 s`.
pub(crate) fn duration(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0 if took < Duration::from_millis(10) => "<0.01 s".to_owned(),
        0..60 => format!("{} s", three_digits(took.as_secs_f64())),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Milliseconds since 1970 as a date and a time of day, UTC: `2025-11-23 21:55`.
pub(crate) fn utc(unix_ms: u64) -> String {
    let minutes = unix_ms / 60_000;
    let (year, month, day) = civil(minutes / (24 * 60));
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        minutes / 60 % 24,
        minutes % 60
    )
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March, so the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        v if v < 999.5 => 0,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float's `as` saturates"
        )]
        v => return count(v.round() as u64),
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: three digits, also where rounding carries into the next unit.
    #[test]
    fn sizes_and_ratios() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_995, "10.0 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (9_270_000, "9.27 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(ratio(927, 580), "1.60x");
        assert_eq!(ratio(12_345, 1), "12,345x");
        assert_eq!(ratio(5, 0), "-");
        assert_eq!(ratio(0, 5), "0.00x");
    }

    /// Promise: a change is never printed as none, and less than everything never as everything.
    #[test]
    fn shares() {
        for (share, text) in [
            (0.0, "0 %"),
            (1e-9, "<0.01 %"),
            (0.0081, "0.81 %"),
            (0.123, "12.3 %"),
            (0.9999, ">99.9 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(percent(share), text);
        }
        assert_eq!(scientific(0.000_12), "1.2e-4");
        assert_eq!(scientific(f64::INFINITY), "inf");
    }

    /// Promise: dates are right across leap years and centuries.
    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_800, "2000-03-01 00:00"),
            (1_763_934_900, "2025-11-23 21:55"),
            (4_107_542_399, "2100-02-28 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(utc(seconds * 1000), text);
        }
    }

    /// Promise: counts and durations read as a sentence does.
    #[test]
    fn counts_and_durations() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(1000, "file"), "1,000 files");
        assert_eq!(duration(Duration::from_millis(4)), "<0.01 s");
        assert_eq!(duration(Duration::from_millis(420)), "0.42 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(7_300)), "2 h 1 min");
    }
}
