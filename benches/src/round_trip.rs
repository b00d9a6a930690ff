//! `return`: a task goes, writes a share of its pages there, and comes back.
//!
//! The node that it comes back to had all of it before. The second trip's bytes and time stand over
//! those of the first. Each round is a fresh task, at rest while it moves; its contents are checked
//! after each trip.

use std::time::Duration;

use clap::Args;

use crate::load::{Load, PAGE_LEN, Wish};
use crate::method::Method;
use crate::mover::Mover;
use crate::pattern::Pattern;
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

/// Bytes and microseconds of a trip, and its pause.
type Trip = (f64, f64, f64);

pub fn run(options: Options) -> Outcome {
    let wanted = options.clone();
    let trips = migrt::Builder::new().workers(2).local_nodes(2).run(move || {
        // The first warms both nodes.
        (0..=options.rounds).map(|_| round(&options)).skip(1).collect::<Result<Vec<_>, Fault>>()
    })??;
    let of = |value: &dyn Fn(&(Trip, Trip)) -> f64| Sample::new(trips.iter().map(value).collect());
    let mut report = Report::new(format!(
        "a task of {} MiB that comes back by {} with {} % of its pages changed, {} rounds",
        wanted.heap >> 20,
        wanted.strategy.name(),
        wanted.changed * 100.0,
        trips.len()
    ));
    let first = of(&|(first, _)| first.1);
    let second = of(&|(_, second)| second.1);
    report.add("return.first_us_median", first.median(), "us", first.spread());
    report.add("return.second_us_median", second.median(), "us", second.spread());
    report.add("return.time_over_first", of(&|(a, b)| b.1 / a.1).median(), "x", "of each round");
    report.add("return.first_bytes", of(&|(first, _)| first.0).median(), "B", "");
    report.add("return.second_bytes", of(&|(_, second)| second.0).median(), "B", "");
    report.add("return.bytes_over_first", of(&|(a, b)| b.0 / a.0).median(), "x", "of each round");
    report.add("return.first_pause_us", of(&|(first, _)| first.2).median(), "us", "");
    report.add("return.second_pause_us", of(&|(_, second)| second.2).median(), "us", "");
    Ok(report)
}

fn round(options: &Options) -> Result<(Trip, Trip), Fault> {
    let strategy = options.strategy.strategy(options.max_pause)?;
    let pages = (options.heap as usize).div_ceil(PAGE_LEN).max(1);
    let load = Load { pages, read: 0, write: 0, pattern: Pattern::Seq, seed: 1, since: 0 };
    let mut mover = Mover::start(load)?;
    let trip = |mover: &mut Mover| -> Result<Trip, Fault> {
        let hop = mover.hop(strategy, Duration::from_millis(20))?;
        mover.ask(Wish::Check)?;
        let record = hop.record;
        Ok((hop.byte_count as f64, record.total_us as f64, record.pause_us as f64))
    };
    let first = trip(&mut mover)?;
    mover.ask(Wish::Write((pages as f64 * options.changed).round() as u32))?;
    let second = trip(&mut mover)?;
    mover.finish()?;
    Ok((first, second))
}
