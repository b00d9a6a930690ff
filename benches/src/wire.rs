//! `wire`: what the wire that tasks take carries in bulk, beside one bare quinn stream.
//!
//! As many random bytes in turns over both: ours as a shipment that the other node throws away, theirs as
//! in `hop` (see `quic`). Same socket buffers, path MTU, windows and cipher; ours has a stream of its own for each,
//! a net thread per process, and the turns and blocks of bulk.

use clap::Args;
use migrt::NodeId;

use crate::Outcome;
use crate::quic::Wire;
use crate::random::random_bytes;
use crate::report::Report;
use crate::size::parse_size;
use crate::stats::Sample;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Bytes of one transfer.
    #[arg(long, default_value = "64MiB", value_parser = parse_size)]
    pub bytes: u64,
    #[arg(long, default_value_t = 20)]
    pub turns: u32,
    /// Bytes that pack well instead of random ones: see what a slow link makes of them (`MIGRT_MOVE_RATE`).
    #[arg(long)]
    pub text: bool,
}

/// Turns before those that count.
const WARM: u32 = 2;

pub fn run(options: Options) -> Outcome {
    migrt::Builder::new().workers(1).local_nodes(2).run(move || measure(&options))?
}

fn measure(options: &Options) -> Outcome {
    let payload = match options.text {
        true => text(options.bytes as usize),
        false => random_bytes(options.bytes as usize),
    };
    let mut wire = Wire::open()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let rate = |took: std::time::Duration| options.bytes as f64 / took.as_secs_f64() / 1e6;
    for turn in 0..options.turns + WARM {
        let took = migrt::__private::wire_blank(NodeId(1), payload.clone())?;
        let exchange = wire.exchange(&payload)?;
        if turn >= WARM {
            ours.push(rate(took));
            theirs.push(rate(exchange));
        }
    }
    let counts = migrt::metrics();
    let (ours, theirs) = (Sample::new(ours), Sample::new(theirs));
    let what = if options.text { "text" } else { "random bytes" };
    let mut report =
        Report::new(format!("{} MiB of {what} at a time, one way", options.bytes >> 20));
    report.add("wire.bulk_mb_per_s", ours.median(), "MB/s", ours.spread());
    report.add("wire.quic_mb_per_s", theirs.median(), "MB/s", theirs.spread());
    report.add("wire.bulk_over_quic", ours.median() / theirs.median(), "x", "of the medians");
    let sent = options.bytes as f64 * f64::from(options.turns + WARM);
    let packed = 100.0 * counts.packed_from_bytes as f64 / sent;
    report.add("wire.packed", packed, "%", "of the bytes");
    if counts.packed_from_bytes > 0 {
        let left = 100.0 * counts.packed_to_bytes as f64 / counts.packed_from_bytes as f64;
        report.add("wire.packed_to", left, "%", "of those");
    }
    Ok(report)
}

/// Lines with numbers in them.
fn text(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 64);
    for line in 0u64.. {
        if text.len() >= len {
            break;
        }
        let number = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        text.extend_from_slice(format!("{line:08} the value of it is {number}\n").as_bytes());
    }
    text.truncate(len);
    text
}
