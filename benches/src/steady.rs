//! `hop --strategy …`: what a move costs a task that goes on reading and writing.
//!
//! Two nodes with two workers each. The task works (`load`); in turns it is watched at rest, moved,
//! checked, and then rests while the bare wire carries as many bytes as the move sent (`quic`).
//!
//! Sketch of what to expect: total = bytes over the wire's rate; pause = what is left after the last
//! round over that rate, and the hand-off of `hop`. `slowdown` counts the pause in, `slowdown_rounds`
//! ends at the freeze, `work_slowdown` is the time spent on one page.

use std::sync::Arc;
use std::time::Duration;

use crate::hop::Options;
use crate::load::{Load, PAGE_LEN, Wish};
use crate::log::Progress;
use crate::method::Method;
use crate::mover::{Hop, Mover};
use crate::quic::Wire;
use crate::random::random_bytes;
use crate::report::Report;
use crate::stats::Sample;
use crate::{Fault, Outcome};

const HOPS: u32 = 20;
/// Hops before those that count.
const WARM_HOPS: u32 = 2;
const REST_MIN: Duration = Duration::from_millis(20);
/// Single pages over the bare wire, after each hop.
const PAGE_EXCHANGES: usize = 10;
/// Rounds shorter than this say nothing about progress.
const ROUNDS_MIN_NS: u64 = 2_000_000;

pub fn run(options: Options, method: Method) -> Outcome {
    let strategy = method.strategy(options.max_pause);
    let load = Load {
        pages: (options.heap as usize).div_ceil(PAGE_LEN).max(1),
        read: options.read_rate.0,
        write: options.write_rate.0,
        pattern: options.pattern,
        seed: 1,
        since: 0,
    };
    let hops = options.hops.unwrap_or(HOPS).next_multiple_of(2);
    let fresh = options.fresh;
    let mut measured = Measured::default();
    let measured =
        migrt::Builder::new().workers(2).local_nodes(2).run(move || -> Result<_, Fault> {
            let mut wire = Wire::open()?;
            let (tasks, hops) = if fresh { (hops + WARM_HOPS, 1) } else { (1, hops + WARM_HOPS) };
            for _ in 0..tasks {
                one_task(load, (hops, strategy), &mut wire, &mut measured)?;
            }
            let nodes = migrt::cluster_metrics();
            measured.faults = nodes.into_iter().flat_map(|node| node.1.faults_us).collect();
            Ok(measured)
        })??;
    let title = format!(
        "{} of {} with {} MiB: reads {}, writes {}, {:?}; contents right after every hop",
        method.name(),
        if fresh { "tasks that are new to the target," } else { "a task" },
        options.heap >> 20,
        options.read_rate,
        options.write_rate,
        options.pattern
    );
    Ok(report(title, measured))
}

/// What all hops came to.
#[derive(Default)]
struct Measured {
    hops: Vec<(Hop, Arc<Progress>)>,
    exchanges: Vec<f64>,
    /// The bare wire with one page.
    pages: Vec<f64>,
    faults: Vec<u32>,
}

/// The hops of one task.
fn one_task(
    load: Load,
    (count, strategy): (u32, migrt::Strategy),
    wire: &mut Wire,
    all: &mut Measured,
) -> Result<(), Fault> {
    let mut mover = Mover::start(load)?;
    match hops(&mut mover, (count, strategy), wire, all) {
        Ok(hops) => {
            let progress = Arc::new(mover.finish()?.1);
            all.hops.extend(hops.into_iter().map(|hop| (hop, progress.clone())));
            Ok(())
        }
        // The task's own word says more than that it could not be moved.
        Err(why) => Err(mover.finish().err().unwrap_or(why)),
    }
}

fn hops(
    mover: &mut Mover,
    (count, strategy): (u32, migrt::Strategy),
    wire: &mut Wire,
    all: &mut Measured,
) -> Result<Vec<Hop>, Fault> {
    let mut hops = Vec::new();
    let mut rest = REST_MIN;
    for _ in 0..count {
        let hop = mover.hop(strategy, rest)?;
        rest = Duration::from_nanos(hop.over - hop.ordered).max(REST_MIN);
        mover.ask(Wish::Check)?;
        mover.ask(Wish::Rest)?;
        let payload = random_bytes(hop.byte_count as usize);
        wire.exchange(&payload)?;
        let took = wire.exchange(&payload)?;
        for _ in 0..PAGE_EXCHANGES {
            let took = wire.exchange(&payload[..PAGE_LEN.min(payload.len())])?;
            all.pages.push(took.as_nanos() as f64 / 1_000.0);
        }
        mover.ask(Wish::GoOn)?;
        hops.push(hop);
        all.exchanges.push(took.as_nanos() as f64 / 1_000.0);
    }
    Ok(hops)
}

/// The share of its progress that a task lost, in percent.
pub fn loss(progress: &Progress, rest: (u64, u64), moving: (u64, u64)) -> Option<f64> {
    let (at_rest, _) = progress.pace(rest.0, rest.1);
    let (moved, _) = progress.pace(moving.0, moving.1);
    (at_rest > 0.0).then_some(100.0 * (1.0 - moved / at_rest))
}

/// How much longer a task took over each page, in percent.
pub fn work_loss(progress: &Progress, rest: (u64, u64), moving: (u64, u64)) -> Option<f64> {
    let (_, at_rest) = progress.pace(rest.0, rest.1);
    let (_, moved) = progress.pace(moving.0, moving.1);
    let loss = 100.0 * (moved / at_rest - 1.0);
    loss.is_finite().then_some(loss)
}

fn report(title: String, measured: Measured) -> Report {
    let Measured { hops, exchanges, pages: page_trips, faults } = measured;
    let warm = WARM_HOPS as usize;
    let (hops, exchanges) = (&hops[warm..], exchanges[warm..].to_vec());
    let of =
        |value: &dyn Fn(&Hop) -> f64| Sample::new(hops.iter().map(|(hop, _)| value(hop)).collect());
    let some = |value: &dyn Fn(&Hop, &Progress) -> Option<f64>| -> Option<Sample> {
        let values: Vec<f64> =
            hops.iter().filter_map(|(hop, progress)| value(hop, progress)).collect();
        (!values.is_empty()).then(|| Sample::new(values))
    };
    let rounds_of = |hop: &Hop, progress: &Progress| {
        let freeze = hop.pause(progress)?.0;
        (freeze >= hop.ordered + ROUNDS_MIN_NS).then_some((hop.ordered, freeze))
    };
    let mut report = Report::new(title);
    let pause = of(&|hop| hop.record.pause_us as f64);
    report.add("hop.pause_us_median", pause.median(), "us", pause.spread());
    report.add("hop.pause_us_p99", pause.quantile(0.99), "us", "");
    let gap = some(&|hop, progress| Some(progress.arrival(hop.moves)?.gap as f64 / 1e3));
    if let Some(gap) = gap {
        report.add("hop.gap_us_median", gap.median(), "us", "the same, as the task itself saw it");
        report.add("hop.gap_us_p99", gap.quantile(0.99), "us", "");
    }
    let stood = some(&|hop, progress| Some(hop.stood_us(progress)));
    if let Some(stood) = stood {
        report.add("hop.stood_us_median", stood.median(), "us", "the longer of both");
        report.add("hop.stood_us_p99", stood.quantile(0.99), "us", "");
    }
    let stall = some(&|hop, progress| {
        let (from, to) = rounds_of(hop, progress)?;
        Some(progress.longest_stall(from, to) as f64 / 1e3)
    });
    let stall_at_rest =
        some(&|hop, progress| Some(progress.longest_stall(hop.rest.0, hop.rest.1) as f64 / 1e3));
    if let (Some(stall), Some(stall_at_rest)) = (stall, stall_at_rest) {
        let at_rest =
            format!("without progress before the freeze; at rest {:.0}", stall_at_rest.median());
        report.add("hop.stall_us_median", stall.median(), "us", at_rest);
    }
    let total = of(&Hop::total_us);
    report.add("hop.total_us_median", total.median(), "us", total.spread());
    report.add("hop.rounds", of(&|hop| hop.record.rounds.into()).median(), "1", "median");
    let sent_over_live =
        of(&|hop| hop.record.sent_pages as f64 / hop.record.live_pages.max(1) as f64);
    report.add("hop.sent_over_live", sent_over_live.median(), "x", sent_over_live.spread());
    let pages = |name: &str, value: &dyn Fn(&Hop) -> f64, remark: &str, report: &mut Report| {
        report.add(name, of(value).median(), "pages", remark);
    };
    pages("hop.live_pages", &|hop| hop.record.live_pages as f64, "", &mut report);
    pages("hop.rest_pages", &|hop| hop.record.rest_pages as f64, "while it stood", &mut report);
    pages("hop.held_back_pages", &|hop| hop.record.held_back_pages as f64, "", &mut report);
    pages("hop.same_pages", &|hop| hop.record.same_pages as f64, "known there", &mut report);
    report.add("hop.faults", of(&|hop| hop.record.faults as f64).median(), "1", "");
    let slow = [
        ("hop.slowdown", some(&|h, p| loss(p, h.rest, (h.ordered, h.over)))),
        ("hop.slowdown_rounds", some(&|h, p| loss(p, h.rest, rounds_of(h, p)?))),
        ("hop.work_slowdown", some(&|h, p| work_loss(p, h.rest, rounds_of(h, p)?))),
    ];
    for (name, sample) in slow {
        if let Some(sample) = sample {
            report.add(name, sample.median(), "%", sample.spread());
        }
    }
    let met = hops.iter().filter(|(hop, _)| hop.record.met_max_pause()).count();
    report.add("hop.met_max_pause", 100.0 * met as f64 / hops.len() as f64, "%", "of the hops");
    let bytes = of(&|hop| hop.byte_count as f64);
    report.add("hop.bytes_shipped", bytes.median(), "B", "");
    let cpu = of(&|hop| hop.cpu_us as f64);
    report.add("hop.cpu_us_median", cpu.median(), "us", "both nodes, the task's work too");
    let exchanges = Sample::new(exchanges);
    report.add("hop.quic_us_median", exchanges.median(), "us", exchanges.spread());
    report.add("hop.move_over_quic", total.median() / exchanges.median(), "x", "of the medians");
    report.add("hop.pause_over_quic", pause.median() / exchanges.median(), "x", "of the medians");
    if !faults.is_empty() {
        let faults = Sample::new(faults.into_iter().map(f64::from).collect());
        let page = Sample::new(page_trips).median();
        report.add("hop.fault_us_median", faults.median(), "us", faults.spread());
        report.add("hop.page_quic_us_median", page, "us", "one page over the bare stream");
        let over = (faults.median() - 20.0) / page;
        report.add("hop.fault_over_quic", over, "x", "less 20 us");
    }
    if let Some((hop, _)) = hops.last() {
        report.note(format!("{:?}, {}", hop.record.method, hop.record.why));
    }
    report
}
