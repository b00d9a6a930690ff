//! Tasks among tasks: children, handles, timers, moves by others, calls that travel un-started.

use std::time::{Duration, Instant};

use migrt::{JoinHandle, NodeId};

use super::Run;
use crate::trip::{Plan, begin, mix, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("timers_while_moving", timers_while_moving),
    ("handles_passed_around", handles_passed_around),
    ("handle_as_result", handle_as_result),
    ("unstarted_calls_sent_over", unstarted_calls_sent_over),
    ("moved_by_another_task", moved_by_another_task),
    ("joined_while_both_move", joined_while_both_move),
    ("fork_join", fork_join),
    ("rich_arguments", rich_arguments),
    ("pinned_part", pinned_part),
];

fn child_plan(n: u64) -> Plan {
    Plan::Hops { first: (n % 3) as u32, hops: (n % 4) as u32 }
}

fn timers_while_moving(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..10u64 {
        let (begun, wait) = (Instant::now(), Duration::from_micros(100 * n));
        migrt::sleep(wait);
        assert!(begun.elapsed() >= wait);
        step();
        sum = mix(sum, n);
    }
    sum
}

#[migrt::migratable]
fn leaf(plan: Plan, n: u64) -> u64 {
    begin(plan);
    let mut sum = n;
    for k in 0..5 {
        step();
        sum = mix(sum, k);
    }
    sum
}

fn leaf_result(n: u64) -> u64 {
    (0..5).fold(n, mix)
}

#[migrt::migratable]
fn join_for_another(handle: JoinHandle<u64>, plan: Plan) -> u64 {
    begin(plan);
    step();
    let value = handle.join().expect("the leaf ends well");
    step();
    value
}

fn handles_passed_around(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..4 {
        let handle = migrt::spawn(leaf(child_plan(n), n + seed));
        step();
        let outer = migrt::spawn(join_for_another(handle, child_plan(n + 1)));
        step();
        let value = outer.join().expect("it joins");
        assert_eq!(value, leaf_result(n + seed));
        sum = mix(sum, value);
    }
    sum
}

#[migrt::migratable]
fn start_and_hand_over(plan: Plan, n: u64) -> Vec<JoinHandle<u64>> {
    begin(plan);
    let handles = (0..3).map(|k| migrt::spawn(leaf(child_plan(n + k), n + k))).collect();
    step();
    step();
    handles
}

fn handle_as_result(seed: u64) -> u64 {
    let starter = migrt::spawn(start_and_hand_over(Plan::Hops { first: 0, hops: 2 }, seed));
    step();
    let handles = starter.join().expect("it starts three");
    step();
    let mut sum = 0;
    for (k, handle) in handles.into_iter().enumerate() {
        let value = handle.join().expect("a leaf ends well");
        assert_eq!(value, leaf_result(seed + k as u64));
        sum = mix(sum, value);
        step();
    }
    sum
}

#[migrt::migratable]
fn whereabouts(n: u64) -> (NodeId, u64) {
    (migrt::here(), n * n)
}

fn unstarted_calls_sent_over(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..3u64 {
        for node in migrt::nodes() {
            let call = migrt::spawn_on(node, whereabouts(n));
            step();
            let (there, square) = call.join().expect("a plain call");
            // Chaos moves only what suspends; this one does not.
            assert_eq!(there, node, "a call runs where it was sent");
            sum = mix(sum, square);
        }
        // The same from every mode: sums must not depend on the number of nodes.
        sum = mix(seed, n);
    }
    sum
}

#[migrt::migratable]
fn long_walk(rounds: u64) -> u64 {
    let mut sum = 0;
    let text: Vec<String> = (0..20).map(|n| format!("{n}")).collect();
    for n in 0..rounds {
        sum = mix(sum, n + text[(n % 20) as usize].len() as u64);
        if n % 16 == 0 {
            migrt::yield_now();
        }
    }
    sum
}

fn moved_by_another_task(seed: u64) -> u64 {
    const ROUNDS: u64 = 200_000;
    let walker = migrt::spawn(long_walk(ROUNDS));
    let nodes = migrt::nodes();
    for n in 0..6usize {
        step();
        // It may have ended, or be on its way by chaos; both are refusals with a reason.
        if let Err(error) = walker.migrate(nodes[n % nodes.len()]) {
            assert!(!error.to_string().is_empty());
        }
        if let Ok(info) = walker.info() {
            assert!(nodes.contains(&info.node));
        }
    }
    let walked = walker.join().expect("the walker ends well");
    assert_eq!(
        walked,
        (0..ROUNDS).fold(0, |sum, n| mix(sum, n + (n % 20).to_string().len() as u64))
    );
    mix(seed, walked)
}

#[migrt::migratable]
fn sleeper(plan: Plan, wait_us: u64, n: u64) -> u64 {
    begin(plan);
    step();
    migrt::sleep(Duration::from_micros(wait_us));
    step();
    n + 1
}

fn joined_while_both_move(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..6 {
        let child = migrt::spawn(sleeper(Plan::Hops { first: 0, hops: 2 }, 400 * (n % 3), n));
        step();
        let value = child.join().expect("the sleeper ends well");
        step();
        sum = mix(sum, value);
    }
    sum
}

#[migrt::migratable]
fn sum_of(plan: Plan, from: u64, to: u64) -> u64 {
    begin(plan);
    step();
    if to - from <= 8 {
        return (from..to).sum();
    }
    let middle = from.midpoint(to);
    let left = migrt::spawn(sum_of(plan, from, middle));
    let right = migrt::spawn(sum_of(plan, middle, to));
    step();
    left.join().expect("the left half") + right.join().expect("the right half")
}

fn fork_join(seed: u64) -> u64 {
    let plan = Plan::Hops { first: 1, hops: 1 };
    let whole = migrt::spawn(sum_of(plan, seed, seed + 64));
    for _ in 0..6 {
        step();
    }
    let sum = whole.join().expect("the sum");
    assert_eq!(sum, (seed..seed + 64).sum());
    mix(seed, sum)
}

type Rich = (Vec<String>, std::collections::BTreeMap<u32, Option<Box<[u8]>>>, (f64, char, i128));

#[migrt::migratable]
fn echo(plan: Plan, rich: Rich) -> Rich {
    begin(plan);
    step();
    step();
    rich
}

fn rich_arguments(seed: u64) -> u64 {
    let rich: Rich = (
        (0..40).map(|n| format!("{n} of {seed}")).collect(),
        (0..20).map(|n| (n, (n % 3 > 0).then(|| vec![n as u8; n as usize].into()))).collect(),
        (seed as f64 / 3.0, 'ß', -(i128::from(seed) << 70)),
    );
    for n in 0..4 {
        let back = migrt::spawn(echo(child_plan(n), rich.clone())).join().expect("an echo");
        assert_eq!(back, rich);
        step();
    }
    mix(seed, rich.0.concat().len() as u64)
}

/// While a pin is held the task stays, and says why; afterwards it walks on.
fn pinned_part(seed: u64) -> u64 {
    for _ in 0..3 {
        step();
        let here = migrt::here();
        let guard = migrt::pin_here();
        migrt::yield_now();
        let elsewhere = migrt::nodes().into_iter().find(|&node| node != here);
        if let Some(node) = elsewhere
            && let Err(error) = migrt::migrate_to(node)
        {
            assert!(!error.to_string().is_empty());
        }
        assert_eq!(migrt::here(), here, "a pinned task stays");
        drop(guard);
        step();
    }
    seed
}
