//! Many tasks at once that move between three processes, by themselves and by others: none is lost,
//! none runs twice, every checksum is right.
//!
//! `swarm TASKS HOPS`: each task makes HOPS moves of its own; main takes random ones elsewhere
//! meanwhile.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use migrt::NodeId;
use migrt_test_migrate::trip::{self, Seeded, mix};

const NODES: u16 = 3;
const TASKS_MAX: usize = 4096;
/// Moves that are asked for from outside.
const ASKED: u64 = 400;

/// How often each task has begun, and has come to its end, on this node.
static BEGUN: [AtomicU32; TASKS_MAX] = [const { AtomicU32::new(0) }; TASKS_MAX];
static ENDED: [AtomicU32; TASKS_MAX] = [const { AtomicU32::new(0) }; TASKS_MAX];
/// Steps that were made on this node, by all tasks.
static STEPS: AtomicU64 = AtomicU64::new(0);

#[migrt::migratable]
fn wander(number: u64, hops: u64) -> (u64, u64) {
    BEGUN[number as usize].fetch_add(1, Ordering::SeqCst);
    let mut random = Seeded::new(number);
    let mut list: Vec<String> = Vec::new();
    let (mut sum, mut moved, mut steps) = (number, 0, 0u64);
    while moved < hops {
        let target = NodeId(random.below(u64::from(NODES)) as u16);
        if target != migrt::here() && migrt::migrate_to(target).is_ok() {
            moved += 1;
        }
        list.push(format!("{number}:{steps}"));
        if list.len() > 30 {
            sum = list.drain(..20).fold(sum, |sum, text| trip::mix_bytes(sum, text.as_bytes()));
        }
        steps += 1;
        STEPS.fetch_add(1, Ordering::SeqCst);
        if steps.is_multiple_of(7) {
            migrt::sleep(Duration::from_micros(100));
        }
    }
    ENDED[number as usize].fetch_add(1, Ordering::SeqCst);
    (list.into_iter().fold(sum, |sum, text| trip::mix_bytes(sum, text.as_bytes())), steps)
}

/// What `wander` gives after so many steps.
fn expected(number: u64, steps: u64) -> u64 {
    let mut list: Vec<String> = Vec::new();
    let mut sum = number;
    for step in 0..steps {
        list.push(format!("{number}:{step}"));
        if list.len() > 30 {
            sum = list.drain(..20).fold(sum, |sum, text| trip::mix_bytes(sum, text.as_bytes()));
        }
    }
    list.into_iter().fold(sum, |sum, text| trip::mix_bytes(sum, text.as_bytes()))
}

#[migrt::migratable]
fn tally(tasks: u64) -> (Vec<(u32, u32)>, u64) {
    let read = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
    let counts = (0..tasks as usize).map(|n| (read(&BEGUN[n]), read(&ENDED[n]))).collect();
    (counts, STEPS.load(Ordering::SeqCst))
}

fn tour(tasks: u64, hops: u64) -> Result<(), String> {
    trip::settle();
    let handles: Vec<_> = (0..tasks)
        .map(|n| migrt::spawn_on(NodeId((n % u64::from(NODES)) as u16), wander(n, hops)))
        .collect();
    let (mut random, mut done) = (Seeded::new(9), 0u64);
    for _ in 0..ASKED {
        let handle = &handles[random.below(tasks) as usize];
        done += u64::from(handle.migrate(NodeId(random.below(u64::from(NODES)) as u16)).is_ok());
    }
    let mut steps_sum = 0;
    let mut failed = Vec::new();
    for (n, handle) in handles.into_iter().enumerate() {
        match handle.join() {
            Ok((sum, steps)) => {
                steps_sum += steps;
                if sum != expected(n as u64, steps) {
                    failed.push(format!("task {n}: wrong sum {sum:#x} after {steps} steps"));
                }
            }
            Err(error) => failed.push(format!("task {n}: {error}")),
        }
    }
    let mut begun_ended = vec![(0, 0); tasks as usize];
    let mut steps_seen = 0;
    for node in (0..NODES).map(NodeId) {
        let (counts, steps) = migrt::spawn_on(node, tally(tasks))
            .join()
            .map_err(|e| format!("tally of {node}: {e}"))?;
        steps_seen += steps;
        for (all, one) in begun_ended.iter_mut().zip(counts) {
            *all = (all.0 + one.0, all.1 + one.1);
        }
    }
    for (n, (begun, ended)) in begun_ended.into_iter().enumerate() {
        if (begun, ended) != (1, 1) {
            failed.push(format!("task {n} began {begun} times and ended {ended} times"));
        }
    }
    if steps_seen != steps_sum {
        failed.push(format!("{steps_seen} steps were made, but tasks know of {steps_sum}"));
    }
    let metrics = migrt::cluster_metrics();
    let moves: u64 = metrics.iter().map(|(_, m)| m.moves_out).sum();
    let refused: u64 = metrics.iter().map(|(_, m)| m.moves_refused).sum();
    println!(
        "total moves {moves} refused {refused} asked {ASKED} done {done} sum {:#x}",
        mix(moves, steps_sum)
    );
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<u64>().ok());
    let (Some(tasks), Some(hops)) = (args.next(), args.next()) else {
        eprintln!("swarm TASKS HOPS, at most {TASKS_MAX} tasks");
        return ExitCode::FAILURE;
    };
    let run = migrt::Builder::new().workers(2).local_nodes(NODES).run(move || tour(tasks, hops));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
