//! The figures of a sort, as a table or one per line.

use std::fmt::Write as _;
use std::time::Duration;

use crate::format::Format;
use crate::mover::Moves;

/// What one node did during the sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node's number.
    pub node: u16,
    /// Tasks that ended there.
    pub tasks: u64,
    /// CPU time of its process.
    pub cpu: Duration,
}

/// Everything worth telling.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was sorted.
    pub format: Format,
    /// How many.
    pub count: u64,
    /// Bytes.
    pub len: u64,
    /// From the first look at the input until all of the output was written.
    pub time: Duration,
    /// Until the output was on the disk.
    pub sync_time: Duration,
    /// Reading both files again for order and checksum.
    pub check_time: Duration,
    /// By node.
    pub nodes: Vec<NodeReport>,
    /// What became of the moves that were asked for.
    pub moves: Moves,
    /// Moves in the middle of sieving a part or sorting a bucket: those frames lay on the stack.
    pub moves_in_sort: u32,
    /// Bytes that moves sent.
    pub bytes_shipped: u64,
    /// Microseconds from suspension until running again, of each move; any order.
    pub pauses_us: Vec<u32>,
}

impl Report {
    /// Items sorted in a second.
    fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Percent of the CPU time.
    fn share(&self, node: &NodeReport) -> f64 {
        let total: f64 = self.nodes.iter().map(|n| n.cpu.as_secs_f64()).sum();
        100.0 * node.cpu.as_secs_f64() / total.max(1e-9)
    }

    /// Median, 99th percentile and maximum; `None` if nothing moved.
    fn pauses(&self) -> Option<[u32; 3]> {
        let mut sorted = self.pauses_us.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some([sorted[last / 2], sorted[last * 99 / 100], sorted[last]])
    }

    fn noun(&self) -> &'static str {
        if self.format == Format::Lines { "lines" } else { "records" }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text).expect("a string takes everything");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{} {} ({}) in {}: {:.2} million {1}/s",
            group(self.count),
            self.noun(),
            size(self.len),
            time(self.time),
            self.rate() / 1e6,
        )?;
        writeln!(out, "\n  node   tasks      CPU   share")?;
        for node in &self.nodes {
            let name = format!("n{}", node.node);
            let cpu = time(node.cpu);
            let share = self.share(node);
            writeln!(out, "  {name:<5}{:>7}{cpu:>9}{share:>6.0} %", node.tasks)?;
        }
        let Moves { asked, done, late, refused } = self.moves;
        writeln!(
            out,
            "\n  moves  {done} of {asked} asked for ({refused} refused, {late} too late: ended), {} \
             sent",
            size(self.bytes_shipped)
        )?;
        writeln!(
            out,
            "         {} of them in the middle of sieving or sorting, those frames on the stack",
            self.moves_in_sort
        )?;
        if let Some(pauses) = self.pauses() {
            let [median, p99, max] = pauses.map(|us| time(Duration::from_micros(u64::from(us))));
            writeln!(out, "  pause  median {median}, p99 {p99}, max {max}")?;
        }
        writeln!(
            out,
            "  then   {} to sync, {} to check: order and checksum are right",
            time(self.sync_time),
            time(self.check_time)
        )
    }

    /// For programs: `name value unit`.
    pub fn plain(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String, unit: &str| {
            writeln!(text, "sort.{name} {value} {unit}").expect("a string takes everything");
        };
        let seconds = |time: Duration| format!("{:.6}", time.as_secs_f64());
        line("records", self.count.to_string(), self.noun());
        line("bytes", self.len.to_string(), "B");
        line("seconds", seconds(self.time), "s");
        line("records_per_s", format!("{:.0}", self.rate()), "1/s");
        line("sync_seconds", seconds(self.sync_time), "s");
        line("check_seconds", seconds(self.check_time), "s");
        for node in &self.nodes {
            let name = |figure: &str| format!("n{}.{figure}", node.node);
            line(&name("tasks"), node.tasks.to_string(), "tasks");
            line(&name("cpu_seconds"), seconds(node.cpu), "s");
            line(&name("cpu_share"), format!("{:.1}", self.share(node)), "%");
        }
        line("moves_asked", self.moves.asked.to_string(), "moves");
        line("moves", self.moves.done.to_string(), "moves");
        line("moves_refused", self.moves.refused.to_string(), "moves");
        line("moves_in_sort", self.moves_in_sort.to_string(), "moves");
        line("bytes_shipped", self.bytes_shipped.to_string(), "B");
        if let Some([median, p99, max]) = self.pauses() {
            line("pause_us_median", median.to_string(), "us");
            line("pause_us_p99", p99.to_string(), "us");
            line("pause_us_max", max.to_string(), "us");
        }
        text
    }
}

/// `1.23 s`, `45.6 ms` or `789 us`.
fn time(time: Duration) -> String {
    match time.as_micros() {
        us @ ..1_000 => format!("{us} us"),
        us @ ..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        us => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// `256.0 MiB`.
fn size(len: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| len >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", len as f64 / *unit as f64),
        None => format!("{len} B"),
    }
}

/// `2,684,354`.
fn group(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            format: Format::Records { len: 100, key: 10 },
            count: 2_684_354,
            len: 268_435_400,
            time: Duration::from_millis(1500),
            sync_time: Duration::from_millis(300),
            check_time: Duration::from_millis(200),
            nodes: (0..2)
                .map(|node| NodeReport { node, tasks: 128, cpu: Duration::from_millis(600) })
                .collect(),
            moves: Moves { asked: 120, done: 110, late: 8, refused: 2 },
            moves_in_sort: 71,
            bytes_shipped: 300 << 20,
            pauses_us: (1..=1000).rev().collect(),
        }
    }

    #[test]
    fn every_plain_line_is_name_value_unit() {
        let plain = report().plain();
        for line in plain.lines() {
            let words: Vec<_> = line.split(' ').collect();
            assert!(words.len() == 3 && words[1].parse::<f64>().is_ok(), "{line}");
        }
        for line in [
            "sort.records_per_s 1789569 1/s",
            "sort.moves 110 moves",
            "sort.pause_us_p99 990 us",
            "sort.n1.cpu_share 50.0 %",
        ] {
            assert!(plain.lines().any(|found| found == line), "{line} is missing in\n{plain}");
        }
    }

    #[test]
    fn the_table_tells_the_same() {
        let table = report().table();
        for text in [
            "2,684,354 records (256.0 MiB) in 1.50 s",
            "50 %",
            "110 of 120",
            "median 500 us",
            "max 1.0 ms",
        ] {
            assert!(table.contains(text), "{text} is missing in\n{table}");
        }
        let still = Report { pauses_us: Vec::new(), ..report() };
        assert!(!still.table().contains("pause"), "nothing moved, so nothing paused");
    }
}
