//! Many there-and-back moves, and what the nodes have in use before and after: resident memory,
//! mappings, descriptors, slots (`usage`).
//!
//! `churn ROUNDS`, two nodes. One line per node and thing: `NODE THING before B after A`.

use std::process::ExitCode;
use std::time::Duration;

use migrt_test_migrate::trip::{self, Seeded, mix};
use migrt_test_migrate::usage;

const NODES: u16 = 2;
const TASKS: u64 = 4;

/// Bytes of departed tasks' pages, for their return.
#[migrt::migratable]
fn kept() -> u64 {
    migrt::metrics().bytes_kept
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

fn tour(rounds: u64) -> Result<(), String> {
    trip::settle();
    // Caches and pools fill first: the base line is a node that has done all of this before.
    walk_all((rounds / TASKS / 10).max(500))?;
    let before = usage::measure()?;
    let moves = || migrt::cluster_metrics().iter().map(|(_, m)| m.moves_out).sum::<u64>();
    let refused = || migrt::cluster_metrics().iter().map(|(_, m)| m.moves_refused).sum::<u64>();
    let (moves_before, refused_before) = (moves(), refused());
    walk_all(rounds / TASKS)?;
    println!("moves {} refused {}", moves() - moves_before, refused() - refused_before);
    let compared = usage::compare(&before, &usage::measure()?);
    for node in migrt::nodes() {
        let bytes = migrt::spawn_on(node, kept()).join().map_err(|e| e.to_string())?;
        println!("kept {bytes}");
    }
    compared
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
