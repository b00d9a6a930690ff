//! Tasks that move between nodes at random and note each step in a file, whatever the network does.
//!
//! `nomads LOG TASKS HOPS HEAP_KIB MS [LATE_MS]`: each makes at least HOPS moves and goes on for MS
//! milliseconds, with so much heap. A move that is refused is told of and tried elsewhere. Printed:
//! what became of each task, what any node saw of the members, sums. After LATE_MS one task more begins on node 1, and
//! goes to node 2.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use migrt::NodeId;
use migrt_test_node::steps;

/// A task that has tried so many times for each of its hops cannot move.
const TRIES_PER_HOP: u32 = 50;

/// What a task tells at its end: the node, steps, moves, refused moves, its longest move in
/// milliseconds, and the least number of members that it has seen.
type Told = (NodeId, u32, u32, u32, u64, usize);

#[migrt::migratable]
fn wander(log: String, number: u32, hops: u32, heap_kib: u32, ms: u64) -> Told {
    let begin = Instant::now();
    let mut cargo: Vec<String> = (0..heap_kib * 4).map(|at| page(number, at)).collect();
    let (mut steps, mut moved, mut refused, mut longest) = (0, 0, 0, Duration::ZERO);
    let mut members = usize::MAX;
    while moved < hops || begin.elapsed() < Duration::from_millis(ms) {
        let here = migrt::here();
        steps::note(&log, number, steps, here.0);
        steps += 1;
        members = members.min(migrt::nodes().len());
        if members == 1 {
            // All others are gone: there is nowhere to go.
            break;
        }
        let at = (scatter(number, steps) as usize) % cargo.len();
        cargo[at] = page(number, at as u32);
        let target = NodeId((here.0 + 1 + (scatter(steps, number) % 2) as u16) % 3);
        let before = Instant::now();
        match migrt::migrate_to(target) {
            Ok(()) => moved += 1,
            Err(why) => {
                refused += 1;
                let stack = &raw const steps;
                eprintln!("task {number}, stack at {stack:p}, stays on {here}: {why}");
                migrt::sleep(Duration::from_millis(20));
            }
        }
        longest = longest.max(before.elapsed());
        assert!(steps < hops.max(100) * TRIES_PER_HOP, "task {number} cannot move: {moved} moves");
        migrt::sleep(Duration::from_millis(2));
    }
    let whole = cargo.iter().enumerate().all(|(at, text)| *text == page(number, at as u32));
    assert!(whole, "I4: the heap of task {number} is not what it was");
    (migrt::here(), steps, moved, refused, longest.as_millis() as u64, members)
}

/// 256 bytes that only this task has in this place.
fn page(number: u32, at: u32) -> String {
    let mut text = String::with_capacity(256);
    let mut word = u64::from(number) << 32 | u64::from(at);
    while text.len() < 256 {
        word = scatter(word as u32, (word >> 32) as u32);
        text.push_str(&format!("{word:016x}"));
    }
    text
}

fn scatter(a: u32, b: u32) -> u64 {
    let z = (u64::from(a) << 32 | u64::from(b)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What it hears of its one move, and where it is then.
#[migrt::migratable]
fn come_late() -> (NodeId, String) {
    let heard =
        migrt::migrate_to(NodeId(2)).map_or_else(|why| why.to_string(), |()| "went".to_owned());
    (migrt::here(), heard)
}

fn journey(log: &str, [tasks, hops, heap_kib, ms]: [u32; 4], late_ms: Option<u64>) -> bool {
    println!("begins");
    let late = late_ms.map(|ms| {
        migrt::spawn(move || {
            migrt::sleep(Duration::from_millis(ms));
            let begin = Instant::now();
            let heard = migrt::spawn_on(NodeId(1), come_late()).join();
            println!("late {heard:?} in {} ms", begin.elapsed().as_millis());
        })
    });
    let handles: Vec<_> = (0..tasks)
        .map(|n| {
            let call = wander(log.to_owned(), n, hops, heap_kib, u64::from(ms));
            migrt::spawn_on(NodeId((n % 3) as u16), call)
        })
        .collect();
    let (mut moves, mut refusals, mut longest, mut whole) = (0, 0, 0, true);
    for (n, handle) in handles.into_iter().enumerate() {
        match handle.join() {
            Ok((node, steps, moved, refused, longest_ms, members)) => {
                println!(
                    "task {n} ok on {node} after {steps} steps, {moved} moves, {refused} refused, at most {longest_ms} ms, {members} members"
                );
                moves += moved;
                refusals += refused;
                longest = longest.max(longest_ms);
            }
            Err(why) => {
                println!("task {n} failed: {why}");
                whole = false;
            }
        }
    }
    whole &= late.is_none_or(|late| late.join().is_ok());
    println!("members {}", migrt::nodes().len());
    println!("moves {moves} refused {refusals} longest_ms {longest}");
    whole
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let log = arguments[0].clone();
    let number = |at: usize| -> u32 { arguments[at].parse().expect("a number") };
    let numbers = [1, 2, 3, 4].map(number);
    let late_ms = arguments.get(5).map(|text| text.parse().expect("a number"));
    let tour = move || journey(&log, numbers, late_ms);
    match migrt::Builder::new().workers(2).local_nodes(3).run(tour) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}
