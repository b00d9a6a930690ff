//! `return`: a task goes, writes a share of its pages there, and comes back.
//!
//! The node that it comes back to had all of it before. The second trip's bytes and time stand over
//! those of the first. Each round is a fresh task, at rest while it moves; its contents are checked
//! after each trip. After each first trip the bare wire carries as many bytes: unlike `hop`, whose
//! nodes have remains of the task, this is what a move to a node that knows nothing of it takes.

use std::time::Duration;

use clap::Args;

use crate::load::{Load, PAGE_LEN, Wish};
use crate::method::Method;
use crate::mover::{Hop, Mover};
use crate::pattern::Pattern;
use crate::quic::Wire;
use crate::random::random_bytes;
use crate::report::Report;
use crate::size::{parse_share, parse_size, parse_time};
use crate::stats::Sample;
use crate::{Fault, Outcome};

#[derive(Args, Clone, Debug)]
pub struct Options {
    #[arg(long, default_value = "64MiB", value_parser = parse_size)]
    pub heap: u64,
    /// The share of its pages that it writes away from home.
    #[arg(long, default_value = "1%", value_parser = parse_share)]
    pub changed: f64,
    #[arg(long, default_value = "stop-copy")]
    pub strategy: Method,
    #[arg(long, default_value = "3ms", value_parser = parse_time)]
    pub max_pause: Duration,
    /// Tasks, one after the other.
    #[arg(long, default_value_t = 7)]
    pub rounds: u32,
}

/// The figures of one task.
struct Round {
    there: Hop,
    back: Hop,
    /// The bare wire's time for the bytes of the way there.
    quic_us: f64,
}

/// A figure of a round.
type Value<'a> = &'a dyn Fn(&Round) -> f64;

pub fn run(options: Options) -> Outcome {
    let wanted = options.clone();
    let rounds = migrt::Builder::new().workers(2).local_nodes(2).run(move || {
        let mut wire = Wire::open()?;
        // The first warms both nodes.
        let mut round = |_| round(&options, &mut wire);
        round(0)?;
        (0..options.rounds).map(round).collect::<Result<Vec<_>, Fault>>()
    })??;
    let of = |value: &dyn Fn(&Round) -> f64| Sample::new(rounds.iter().map(value).collect());
    let mut report = Report::new(format!(
        "a task of {} MiB that comes back by {} with {} % of its pages changed, {} rounds",
        wanted.heap >> 20,
        wanted.strategy.name(),
        wanted.changed * 100.0,
        rounds.len()
    ));
    let bytes = |hop: &Hop| hop.byte_count as f64;
    let figures: [(&str, &str, Value); 13] = [
        ("first_us_median", "us", &|r| r.there.total_us()),
        ("second_us_median", "us", &|r| r.back.total_us()),
        ("time_over_first", "x", &|r| r.back.total_us() / r.there.total_us()),
        ("first_bytes", "B", &|r| bytes(&r.there)),
        ("second_bytes", "B", &|r| bytes(&r.back)),
        ("bytes_over_first", "x", &|r| bytes(&r.back) / bytes(&r.there)),
        ("second_same_pages", "pages", &|r| r.back.record.same_pages as f64),
        ("first_pause_us", "us", &|r| r.there.record.pause_us as f64),
        ("second_pause_us", "us", &|r| r.back.record.pause_us as f64),
        ("first_cpu_us", "us", &|r| r.there.cpu_us as f64),
        ("second_cpu_us", "us", &|r| r.back.cpu_us as f64),
        ("quic_us_median", "us", &|r| r.quic_us),
        ("first_over_quic", "x", &|r| r.there.total_us() / r.quic_us),
    ];
    for (name, unit, value) in figures {
        let sample = of(value);
        report.add(format!("return.{name}"), sample.median(), unit, sample.spread());
    }
    Ok(report)
}

fn round(options: &Options, wire: &mut Wire) -> Result<Round, Fault> {
    let strategy = options.strategy.strategy(options.max_pause);
    let pages = (options.heap as usize).div_ceil(PAGE_LEN).max(1);
    let load = Load { pages, read: 0, write: 0, pattern: Pattern::Seq, seed: 1, since: 0 };
    let mut mover = Mover::start(load)?;
    let trip = |mover: &mut Mover| -> Result<Hop, Fault> {
        let hop = mover.hop(strategy, Duration::from_millis(20))?;
        mover.ask(Wish::Check)?;
        Ok(hop)
    };
    let there = trip(&mut mover)?;
    let payload = random_bytes(there.byte_count as usize);
    wire.exchange(&payload)?;
    let quic_us = wire.exchange(&payload)?.as_nanos() as f64 / 1e3;
    mover.ask(Wish::Write((pages as f64 * options.changed).round() as u32))?;
    let back = trip(&mut mover)?;
    mover.finish()?;
    Ok(Round { there, back, quic_us })
}
