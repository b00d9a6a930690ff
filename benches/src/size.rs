//! Sizes, rates, times and shares as people write them on a command line.

use std::time::Duration;

/// Bytes per second; [`Rate::MAX`] is as fast as the machine can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Rate {
    pub const NONE: Rate = Rate(0);
    pub const MAX: Rate = Rate(u64::MAX);
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Rate::MAX => f.write_str("max"),
            Rate(bytes) => write!(f, "{} MB/s", bytes as f64 / 1e6),
        }
    }
}

pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text} is no size: write 64KiB or 1MiB"))?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(format!("{text} has no unit that is known: KiB, MiB or GiB")),
    };
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too much"))
}

pub fn parse_fraction(text: &str) -> Result<f64, String> {
    let wrong = |_| format!("{text} is no fraction: write 1, 0.5 or 1/64");
    let value: f64 = match text.split_once('/') {
        Some((over, under)) => {
            over.parse::<f64>().map_err(wrong)? / under.parse::<f64>().map_err(wrong)?
        }
        None => text.parse().map_err(wrong)?,
    };
    if value > 0.0 && value <= 1.0 {
        Ok(value)
    } else {
        Err(format!("{text} is not above 0 and at most 1"))
    }
}

/// `10MB/s`, `4MiB/s`, `max`, or 0.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::MAX);
    }
    let size = text.strip_suffix("/s").unwrap_or(text);
    let decimal = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    for (unit, factor) in decimal {
        if let Some(number) = size.strip_suffix(unit) {
            let number: u64 = number
                .trim()
                .parse()
                .map_err(|_| format!("{text} is no rate: write 10MB/s, 4MiB/s or max"))?;
            return number.checked_mul(factor).map(Rate).ok_or_else(|| format!("{text}: too much"));
        }
    }
    parse_size(size).map(Rate)
}

/// `500us`, `3ms` or `1s`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text} is no time: write 500us or 3ms"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("{text} has no unit that is known: us, ms or s")),
    }
}

/// `1%`, or as [`parse_fraction`].
pub fn parse_share(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%') {
        Some(percent) => parse_fraction(&format!("{percent}/100")),
        None => parse_fraction(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_fractions_are_read_as_people_write_them() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1m"), Ok(1 << 20));
        assert!(parse_size("MiB").is_err() && parse_size("3 apples").is_err());
        assert_eq!(parse_fraction("1/64"), Ok(1.0 / 64.0));
        assert!(parse_fraction("0").is_err() && parse_fraction("2").is_err());
        assert_eq!(parse_share("1%"), Ok(0.01));
    }

    #[test]
    fn rates_and_times_keep_their_units() {
        assert_eq!(parse_rate("10MB/s"), Ok(Rate(10_000_000)));
        assert_eq!(parse_rate("4MiB/s"), Ok(Rate(4 << 20)));
        assert_eq!(parse_rate("max"), Ok(Rate::MAX));
        assert_eq!(parse_rate("0"), Ok(Rate::NONE));
        assert!(parse_rate("fast").is_err());
        assert_eq!(parse_time("500us"), Ok(Duration::from_micros(500)));
        assert!(parse_time("3").is_err());
    }
}
