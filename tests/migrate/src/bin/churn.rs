//! Many there-and-back moves, and what the nodes have in use before and after: resident memory,
//! mappings, descriptors, slots.
//!
//! `churn ROUNDS`, two nodes. One line per node and thing: `NODE THING before B after A`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use migrt::NodeId;
use migrt_iso::{SlotClass, pool};
use migrt_test_migrate::trip::{self, Seeded, mix};
use serde::{Deserialize, Serialize};

const NODES: u16 = 2;
const TASKS: u64 = 4;
/// Buffers of the wire and the allocator's caches come and go by this much; a page that is lost in
/// each of 20,000 moves would be three times as much.
const RESIDENT_SLACK_KIB: u64 = 24 << 10;

/// What a process has in use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Usage {
    resident_kib: u64,
    mappings: u64,
    descriptors: u64,
    threads: u64,
    /// Pages of departed tasks, for their return.
    kept: u64,
}

#[migrt::migratable]
fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a known line");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    };
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    Usage {
        resident_kib: number("VmRSS:"),
        mappings: maps.lines().count() as u64,
        descriptors: std::fs::read_dir("/proc/self/fd").expect("procfs").count() as u64,
        threads: number("Threads:"),
        kept: migrt::metrics().bytes_kept,
    }
}

/// Slots that this node owns and that are free, over all classes. Slots walk with tasks, so only the
/// sum over the nodes stays.
#[migrt::migratable]
fn slots() -> (u64, u64) {
    let classes = (0..=18).filter_map(SlotClass::new);
    let pool = pool::global();
    classes.fold((0, 0), |(owned, free), class| {
        (owned + u64::from(pool.owned_count(class)), free + u64::from(pool.free_count(class)))
    })
}

/// Walks there and back with a little of everything: small blocks, a large one, frees on both sides.
#[migrt::migratable]
fn walk(seed: u64, rounds: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut sum = seed;
    for n in 0..rounds * 2 {
        held.push(vec![n as u8; random.below(3000) as usize + 1]);
        if n % 64 == 0 {
            held.push(vec![7; 300_000]);
        }
        let target = trip::next_node();
        for tries in 1.. {
            match migrt::migrate_to(target) {
                Ok(()) => break,
                Err(error) if tries > 200 => panic!("it cannot leave: {error}"),
                Err(_) => migrt::sleep(Duration::from_millis(1)),
            }
        }
        let gone = held.swap_remove(random.below(held.len() as u64) as usize);
        sum = mix(sum, gone.len() as u64 + u64::from(gone[gone.len() - 1]));
        if held.len() > 20 {
            held.clear();
        }
    }
    sum
}

fn walk_at_rest(seed: u64, rounds: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut held: Vec<(usize, u8)> = Vec::new();
    let mut sum = seed;
    for n in 0..rounds * 2 {
        held.push((random.below(3000) as usize + 1, n as u8));
        if n % 64 == 0 {
            held.push((300_000, 7));
        }
        let (len, byte) = held.swap_remove(random.below(held.len() as u64) as usize);
        sum = mix(sum, len as u64 + u64::from(byte));
        if held.len() > 20 {
            held.clear();
        }
    }
    sum
}

fn walk_all(rounds: u64) -> Result<(), String> {
    let tasks: Vec<_> = (0..TASKS).map(|seed| (seed, migrt::spawn(walk(seed, rounds)))).collect();
    for (seed, task) in tasks {
        let sum = task.join().map_err(|e| e.to_string())?;
        if sum != walk_at_rest(seed, rounds) {
            return Err(format!("walker {seed} has a wrong sum: {sum:#x}"));
        }
    }
    Ok(())
}

fn measure() -> Result<(Vec<Usage>, u64), String> {
    // Collectors look at what a departed task left after 0.8 s.
    migrt::sleep(Duration::from_millis(2_000));
    let mut all = Vec::new();
    let mut owned_sum = 0;
    let mut in_use = HashSet::new();
    for node in (0..NODES).map(NodeId) {
        all.push(migrt::spawn_on(node, usage()).join().map_err(|e| e.to_string())?);
        let (owned, free) = migrt::spawn_on(node, slots()).join().map_err(|e| e.to_string())?;
        owned_sum += owned;
        in_use.insert((node.0, owned - free));
    }
    println!("slots in use by node {in_use:?}");
    Ok((all, owned_sum))
}

fn tour(rounds: u64) -> Result<(), String> {
    trip::settle();
    // Caches and pools fill first: the base line is a node that has done all of this before.
    walk_all((rounds / TASKS / 10).max(500))?;
    let (before, owned_before) = measure()?;
    let moves = || migrt::cluster_metrics().iter().map(|(_, m)| m.moves_out).sum::<u64>();
    let refused = || migrt::cluster_metrics().iter().map(|(_, m)| m.moves_refused).sum::<u64>();
    let (moves_before, refused_before) = (moves(), refused());
    walk_all(rounds / TASKS)?;
    println!("moves {} refused {}", moves() - moves_before, refused() - refused_before);
    let (after, owned_after) = measure()?;
    for (node, (b, a)) in before.iter().zip(&after).enumerate() {
        println!("n{node} resident_kib before {} after {}", b.resident_kib, a.resident_kib);
        println!("n{node} mappings before {} after {}", b.mappings, a.mappings);
        println!("n{node} descriptors before {} after {}", b.descriptors, a.descriptors);
        println!("n{node} threads before {} after {}", b.threads, a.threads);
        println!("kept {} {}", b.kept, a.kept);
        let grown = |a: u64, b: u64, slack: u64| a > b + slack;
        if grown(a.resident_kib, b.resident_kib, RESIDENT_SLACK_KIB)
            || grown(a.mappings, b.mappings, 8)
        {
            return Err(format!("n{node} has grown: {b:?} before, {a:?} after"));
        }
        if a.descriptors != b.descriptors || a.threads != b.threads {
            return Err(format!("n{node} has more open: {b:?} before, {a:?} after"));
        }
    }
    println!("owned slots before {owned_before} after {owned_after}");
    if owned_before != owned_after {
        return Err(format!(
            "slots were lost or doubled: {owned_before} before, {owned_after} after"
        ));
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(rounds) = std::env::args().nth(1).and_then(|arg| arg.parse().ok()) else {
        eprintln!("churn ROUNDS");
        return ExitCode::FAILURE;
    };
    let run = migrt::Builder::new().workers(1).local_nodes(NODES).run(move || tour(rounds));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
