//! A task that comes back to a node brings only what it has changed, and never misses a page by it: its
//! own checks, and those of the runtime (`MIGRT_CHECK_PAGES`), find every page as it was left.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const BACK: &str = env!("CARGO_BIN_EXE_back");
/// Of the walking task's heap; stack, thread-locals and records come on top.
const PAGES: u64 = 1024;

/// One trip, by the record of it.
#[derive(Debug)]
struct Trip {
    live: u64,
    sent: u64,
    same: u64,
}

fn walk(kind: &str, trips: u32, nodes: u16, env: &[(&str, &str)]) -> (Ended, Vec<Trip>) {
    let mut all = vec![("MIGRT_CHECK_PAGES", "1"), ("MIGRT_STRATEGY", "stop-copy")];
    all.extend(env);
    let args = [kind, &trips.to_string(), &nodes.to_string()];
    let ended = run(BACK, &args, &all, Duration::from_secs(60));
    ended.expect_good();
    let trip = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number of pages");
        Trip { live: number(2), sent: number(4), same: number(6) }
    };
    let trips = ended.lines_of("trip").into_iter().map(trip).collect();
    (ended, trips)
}

fn kept(ended: &Ended) -> Vec<u64> {
    let bytes = |line: &&str| line.split(' ').nth(1).and_then(|n| n.parse().ok());
    ended.lines_of("kept").iter().map(|line| bytes(line).expect("bytes")).collect()
}

/// From the second trip on all but `changed` pages, and some of stack and records, stay where they are.
fn check_returns(strategy: &str, kind: &str, changed: u64) {
    let (ended, trips) = walk(kind, 5, 2, &[("MIGRT_STRATEGY", strategy)]);
    assert!(trips.len() >= 5, "{}", ended.out);
    assert_eq!(trips[0].same, 0, "nobody had anything of it: {trips:?}");
    for trip in &trips[1..] {
        assert!(trip.sent <= changed + 60, "{strategy} {kind}: too much was sent: {trips:?}");
        assert!(trip.same + changed + 30 >= PAGES, "{strategy} {kind}: {trips:?}");
        assert!(trip.same <= trip.live, "{strategy} {kind}: {trips:?}");
    }
}

/// Checks at the same time: what they wait for is mostly that a collector comes round.
fn side_by_side(strategies: &[&str], check: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for strategy in strategies {
            scope.spawn(|| check(strategy));
        }
    });
}

#[test]
fn a_task_that_changed_nothing_brings_next_to_nothing() {
    side_by_side(&["stop-copy", "post-copy"], |strategy| check_returns(strategy, "rest", 0));
}

#[test]
fn a_task_that_changed_a_little_brings_a_little() {
    let all = ["stop-copy", "pre-copy", "post-copy"];
    side_by_side(&all, |strategy| check_returns(strategy, "some", PAGES / 100));
}

#[test]
fn a_task_that_changed_everything_brings_everything() {
    let (_, trips) = walk("all", 4, 2, &[]);
    assert!(trips.iter().all(|trip| trip.sent >= PAGES && trip.same < 30), "{trips:?}");
}

#[test]
fn a_task_that_is_back_before_anybody_has_looked_brings_what_it_changed() {
    for strategy in ["stop-copy", "pre-copy", "post-copy"] {
        let (_, trips) = walk("early", 30, 2, &[("MIGRT_STRATEGY", strategy)]);
        assert!(trips.iter().map(|trip| trip.same).sum::<u64>() > PAGES, "{strategy}: {trips:?}");
    }
}

/// What watches the pages of a task that has left by pre-copy goes on for a moment. Then the task may be back with pages
/// missing: what ends late must not take it for whole.
#[test]
fn what_still_watches_a_task_that_is_back_by_another_strategy_does_no_harm() {
    // The rate is so that pages are missing for longer than the rest of that moment.
    let env = [("MIGRT_FAIL", "source.lingers=dawdle"), ("MIGRT_MOVE_RATE", "4MB")];
    let (_, trips) = walk("turns", 4, 2, &env);
    assert!(trips.len() >= 4, "{trips:?}");
}

#[test]
fn pages_that_were_freed_and_made_anew_are_right() {
    side_by_side(&["stop-copy", "pre-copy", "post-copy"], |strategy| {
        walk("churn", 5, 2, &[("MIGRT_STRATEGY", strategy)]);
    });
}

#[test]
fn zero_and_free_pages_never_travel() {
    let (_, trips) = walk("zero", 5, 2, &[("MIGRT_KEEP", "0")]);
    // Of as many pages as at the first trip two in three hold zeros, and as many were freed meanwhile.
    assert!(trips[0].sent >= PAGES, "{trips:?}");
    assert!(trips[1..].iter().all(|trip| trip.sent < PAGES * 3 / 4), "{trips:?}");
    walk("zero", 5, 2, &[("MIGRT_STRATEGY", "pre-copy")]);
}

/// A page of zeros is there where it was left, and nobody keeps it: what comes for it later must not be taken for
/// there by that.
#[test]
fn pages_that_were_zero_when_they_were_left_are_right() {
    side_by_side(&["stop-copy", "pre-copy", "post-copy"], |strategy| {
        let (_, trips) = walk("blank", 5, 2, &[("MIGRT_STRATEGY", strategy)]);
        // There and back: what is kept holds, and every second page comes.
        let is_right = |trip: &Trip| trip.same >= PAGES / 3 && trip.sent >= PAGES / 3;
        assert!(trips[1..].iter().step_by(2).all(is_right), "{strategy}: {trips:?}");
    });
}

#[test]
fn three_nodes_in_a_ring_keep_it_each() {
    let (_, trips) = walk("some", 8, 3, &[]);
    assert!(trips[..2].iter().all(|trip| trip.same == 0), "{trips:?}");
    // Three stays' changes, each one page in a hundred.
    assert!(trips[3..].iter().all(|trip| trip.same + 100 >= PAGES), "{trips:?}");
}

#[test]
fn statics_may_write_into_what_is_kept() {
    // The mode that hashes pages takes such a write at the wrong moment for an error.
    side_by_side(&["stop-copy", "pre-copy", "post-copy"], |strategy| {
        let env = [("MIGRT_STRATEGY", strategy), ("MIGRT_CHECK_PAGES", "0")];
        walk("static", 6, 2, &env);
    });
}

#[test]
fn pages_that_were_dropped_after_they_were_told_of_are_sent_after_all() {
    side_by_side(&["stop-copy", "pre-copy", "post-copy"], |strategy| {
        let env = [("MIGRT_STRATEGY", strategy), ("MIGRT_FAIL", "target.told=forget")];
        let (_, trips) = walk("some", 4, 2, &env);
        assert!(trips.iter().all(|trip| trip.same == 0 && trip.sent >= PAGES), "{trips:?}");
    });
}

#[test]
fn no_more_is_kept_than_the_budget_allows() {
    let (ended, trips) = walk("some", 4, 2, &[("MIGRT_KEEP", "0")]);
    assert_eq!(kept(&ended), [0, 0]);
    assert!(trips.iter().all(|trip| trip.same == 0), "{trips:?}");
    let (ended, _) = walk("some", 4, 2, &[("MIGRT_KEEP", "1MiB")]);
    assert!(kept(&ended).iter().all(|&bytes| bytes <= 1 << 20), "{}", ended.out);
    // Six tasks of 4 MiB; few task slots, so that one comes where another was.
    let (ended, trips) = walk("many", 6, 2, &[("MIGRT_KEEP", "9MiB")]);
    assert!(kept(&ended).iter().all(|&bytes| bytes <= 9 << 20), "{}", ended.out);
    assert!(trips.iter().any(|trip| trip.same > PAGES / 2), "nothing was kept: {trips:?}");
}

/// Statics and the zoo with pages of the smallest tasks kept.
fn check_small(program: &str, args: &[&str], strategy: &str, check: &str, chaos: &str) {
    let env = [
        ("MIGRT_KEEP_FROM", "1"),
        ("MIGRT_CHECK_PAGES", check),
        ("MIGRT_STRATEGY", strategy),
        ("MIGRT_CHAOS", chaos),
        ("RUST_BACKTRACE", "0"),
    ];
    run(program, args, &env, Duration::from_secs(100)).expect_good();
}

#[test]
fn specimens_are_right_with_all_their_pages_kept() {
    let zoo = env!("CARGO_BIN_EXE_zoo");
    for strategy in ["stop-copy", "pre-copy", "post-copy"] {
        check_small(zoo, &["five"], strategy, "1", "0");
    }
    check_small(zoo, &["chaos"], "auto", "1", "1");
}

#[test]
fn statics_of_small_tasks_are_right_with_all_their_pages_kept() {
    let statics = env!("CARGO_BIN_EXE_statics");
    for scenario in ["regex", "mutex_vec", "mutex_arc", "println"] {
        check_small(statics, &[scenario, "20", "3"], "auto", "0", "0");
    }
}
