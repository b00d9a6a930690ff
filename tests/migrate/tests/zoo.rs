//! The zoo in each mode of travelling, by each strategy. A crash takes all specimens of a mode down together, so then
//! each is run alone, to name the ones at fault.
//!
//! `MIGRT_ZOO_ALL=1` runs the whole matrix of strategies and trips in one go; by default no cell of it is run twice.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const ZOO: &str = env!("CARGO_BIN_EXE_zoo");

fn travel(strategy: &str, mode: &str, names: &[&str], limit: Duration) -> Ended {
    let chaos = if mode == "chaos" { "1" } else { "0" };
    let args: Vec<&str> = [mode].into_iter().chain(names.iter().copied()).collect();
    run(
        ZOO,
        &args,
        &[("MIGRT_CHAOS", chaos), ("RUST_BACKTRACE", "0"), ("MIGRT_STRATEGY", strategy)],
        limit,
    )
}

/// Every specimen comes home from `mode` with the checksum that it has at rest, and hardly any
/// move is refused.
fn check(mode: &str) {
    check_by("auto", mode);
}

fn check_by(strategy: &str, mode: &str) {
    let all = travel(strategy, mode, &[], Duration::from_secs(100));
    let failures = all.lines_of("FAILED");
    let total = all.lines_of("total").last().map(|line| {
        let number = |at: usize| line.split(' ').nth(at).and_then(|n| n.parse::<u32>().ok());
        (number(1).expect("hops"), number(3).expect("threads"), number(5).expect("refused"))
    });
    let Some((hops, threads, refused)) = total else {
        // It crashed or hangs.
        let mut culprits = Vec::new();
        for name in run(ZOO, &["list"], &[], Duration::from_secs(10)).out.lines() {
            let alone = travel(strategy, mode, &[name], Duration::from_secs(10));
            if !alone.good {
                let said = alone.err.lines().last().unwrap_or_default().to_owned();
                culprits.push(format!(
                    "{name} alone: {} {:?} {said}",
                    alone.how,
                    alone.lines_of("FAILED")
                ));
            }
        }
        panic!("{mode}: {}\nalone fail: {culprits:#?}\n{failures:#?}\n{}", all.how, all.err);
    };
    assert!(all.good, "{mode}: {}\n{failures:#?}\n{}", all.how, all.err);
    let refusals = all.lines_of("refused");
    // Over all modes fewer than one in a hundred; in a single one with few moves a specimen whose
    // numbers look like an address makes more.
    assert!(refused * 50 <= hops, "{mode}: {refused} refused, {hops} done: {refusals:#?}");
    let unmoved = all.lines_of("unmoved");
    assert!(unmoved.len() <= 1, "{mode}: moves were refused all the time: {unmoved:#?}");
    match mode {
        "workers" => assert!(threads > 300, "too seldom on another worker: {threads}"),
        "ordered" => {
            let orders = all.lines_of("orders");
            let number =
                |at: usize| orders[0].split(' ').nth(at).and_then(|n| n.parse::<u32>().ok());
            let (done, meanwhile) = (number(1).expect("done"), number(3).expect("meanwhile"));
            assert!(hops > 100 && done > 100, "{mode}: hardly ever moved: {hops} hops, {orders:?}");
            assert!(meanwhile > 20, "{mode}: hardly ever ordered during a move: {orders:?}");
        }
        _ => assert!(hops > 100, "hardly ever on another node: {hops}"),
    }
    let visited: std::collections::HashSet<_> = all
        .lines_of("ok")
        .iter()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    assert!(visited.len() >= 30, "{mode}: only {} specimens", visited.len());
}

#[test]
fn specimens_are_right_when_resumed_on_other_workers() {
    check("workers");
}

#[test]
fn specimens_are_right_when_copied_while_they_run() {
    for mode in ["once", "back", "five"] {
        check_by("pre-copy", mode);
    }
}

#[test]
fn specimens_are_right_when_their_pages_follow_them() {
    for mode in ["once", "back", "five", "chaos"] {
        check_by("post-copy", mode);
    }
}

/// There and back, five hops, on again while pages are missing, and with other moves ordered meanwhile.
const TRIPS: [&str; 4] = ["back", "five", "faults", "ordered"];
const STRATEGIES: [&str; 4] = ["stop-copy", "pre-copy", "post-copy", "auto"];
/// The other tests here have each strategy there and back and over five hops already (a task that moves itself by auto
/// is stopped and copied).
const SHARE: [&str; 2] = ["faults", "ordered"];

#[test]
fn specimens_are_right_on_every_trip_by_every_strategy() {
    let all = std::env::var("MIGRT_ZOO_ALL").is_ok_and(|v| v == "1");
    for strategy in STRATEGIES {
        for trip in TRIPS {
            if all || SHARE.contains(&trip) {
                let since = std::time::Instant::now();
                check_by(strategy, trip);
                println!("{strategy} {trip}: {:.1} s", since.elapsed().as_secs_f64());
            }
        }
    }
}

/// No pause is short enough, so whatever rounds leave follows, where the task has no remains.
#[test]
fn specimens_are_right_when_rounds_turn_into_post_copy() {
    for mode in ["once", "back", "five"] {
        check_by("auto:0us", mode);
    }
}

#[test]
fn specimens_are_right_when_moved_once() {
    check("once");
}

#[test]
fn specimens_are_right_when_moved_there_and_back() {
    check("back");
}

#[test]
fn specimens_are_right_over_five_hops() {
    check("five");
}

#[test]
fn specimens_are_right_when_moved_at_every_suspension() {
    check("chaos");
}
