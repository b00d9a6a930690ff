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
}

/// Turns before those that count.
const WARM: u32 = 2;

pub fn run(options: Options) -> Outcome {
    migrt::Builder::new().workers(1).local_nodes(2).run(move || measure(&options))?
}

fn measure(options: &Options) -> Outcome {
    let payload = random_bytes(options.bytes as usize);
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
    let (ours, theirs) = (Sample::new(ours), Sample::new(theirs));
    let mut report =
        Report::new(format!("{} MiB of random bytes at a time, one way", options.bytes >> 20));
    report.add("wire.bulk_mb_per_s", ours.median(), "MB/s", ours.spread());
    report.add("wire.quic_mb_per_s", theirs.median(), "MB/s", theirs.spread());
    report.add("wire.bulk_over_quic", ours.median() / theirs.median(), "x", "of the medians");
    Ok(report)
}
