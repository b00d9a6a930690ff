//! The command line, read alike by every node of the run.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::format::Format;

/// Sorts a file of records or lines on a cluster, while its tasks move from node to node.
#[derive(Clone, Debug, Parser)]
#[command(name = "sort", version)]
pub struct Args {
    /// Nodes to start on this machine, this process included
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// Worker threads of each node [default: the cores shared out over the nodes, at least 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub workers: Option<u16>,
    /// File to sort; without it one is made
    #[arg(long, value_name = "FILE", requires = "output")]
    pub input: Option<PathBuf>,
    /// Where the sorted file goes; without it nothing is left behind
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Sort lines of text, byte for byte as `LC_ALL=C sort` does
    #[arg(long, conflicts_with_all = ["records", "key"])]
    pub lines: bool,
    /// Bytes of a record
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub records: u32,
    /// Bytes at the front of a record that order it [default: 10, or a shorter record whole]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub key: Option<u32>,
    /// Size of the file that is made
    #[arg(long, default_value = "256MiB", value_parser = parse_size)]
    pub size: u64,
    /// Seed of the file that is made and of the moves
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Move a random running task to a random node this often
    #[arg(long, value_name = "DURATION", default_value = "3ms", value_parser = parse_duration)]
    pub move_every: Duration,
    /// At most this many moves; 0: none
    #[arg(long, value_name = "COUNT")]
    pub moves: Option<u64>,
    /// Bytes that a task sorts at a time [default: by the size of the input, at least 512 KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub bucket_size: Option<u64>,
    /// Keep the file that was made and its sorted copy
    #[arg(long)]
    pub keep: bool,
    /// Print one line per figure: name, value, unit
    #[arg(long)]
    pub plain: bool,
}

impl Args {
    /// What the file is cut into.
    ///
    /// # Errors
    /// The key is longer than the record.
    pub fn format(&self) -> Result<Format, String> {
        if self.lines {
            if self.input.is_none() {
                return Err("--lines sorts a file of yours: name it with --input FILE and say \
                            where the result goes with --output FILE"
                    .into());
            }
            return Ok(Format::Lines);
        }
        let key = self.key.unwrap_or(10.min(self.records));
        if key > self.records {
            return Err(format!(
                "a key of {key} bytes does not fit into records of {} bytes: make --key smaller \
                 or --records larger",
                self.records
            ));
        }
        Ok(Format::Records { len: self.records, key: u64::from(key) })
    }

    /// Worker threads of each node.
    pub fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or((cores / usize::from(self.nodes)).max(1), usize::from)
    }
}

/// A number of bytes: `100`, `64KiB`, `256MiB`, `1GiB`; `K`, `M` and `G` mean the same, `kB`, `MB`
/// and `GB` are powers of ten.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text.trim()[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => return Err(format!("{other:?} is no unit: use KiB, MiB or GiB")),
    };
    let count: u64 = digits.trim().parse().map_err(|_| "write it as in 256MiB".to_owned())?;
    count.checked_mul(unit).ok_or_else(|| "that is too many bytes".into())
}

/// A time: `5ms`, `500us`, `1s`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.trim().parse().map_err(|_| "write it as in 5ms".to_owned())?;
    let duration = match &text.trim()[digits.len()..] {
        "us" => Duration::from_micros(count),
        "ms" => Duration::from_millis(count),
        "s" => Duration::from_secs(count),
        other => return Err(format!("{other:?} is no unit of time: use us, ms or s")),
    };
    if duration.is_zero() {
        return Err(
            "there must be some time between two moves; for none at all say --moves 0".into()
        );
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        for (text, expected) in
            [("0", 0), ("100", 100), ("64KiB", 65_536), ("2M", 2 << 20), ("1MB", 1_000_000)]
        {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "3 apples", "-1", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        for text in ["5", "0ms", "ms", "5 min"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let parse = |args: &[&str]| Args::try_parse_from([&["sort"], args].concat());
        assert!(parse(&["--input", "f"]).is_err(), "an output is missing");
        assert!(parse(&["--lines", "--records", "5", "--input", "f", "--output", "g"]).is_err());
        assert!(parse(&["--nodes", "0"]).is_err());
        assert!(parse(&["--lines"]).unwrap().format().is_err(), "nothing to sort");
        assert!(parse(&["--key", "101"]).unwrap().format().unwrap_err().contains("101"));
        let short = parse(&["--records", "4"]).unwrap().format();
        assert_eq!(short, Ok(Format::Records { len: 4, key: 4 }));
    }
}
