//! Many moves of tasks of many sizes, by all strategies in turn, and what the nodes have in use before and after.
//!
//! `mixed MOVES`, two nodes. Each task writes, frees, allocates and checks its heap all the time. Now and then one ends
//! and another one begins: half of these while pages of them are still missing.

use std::process::ExitCode;
use std::time::Duration;

use migrt::{JoinHandle, NodeId, Strategy};
use migrt_test_migrate::trip::{self, Seeded};
use migrt_test_migrate::usage;
use serde::{Deserialize, Serialize};

/// Bytes of the tasks' heaps. Most moves are of tasks that fit into a pause.
const SIZES: [usize; 6] = [8 << 10, 8 << 10, 100 << 10, 400 << 10, 2 << 20, 6 << 20];
/// A task ends after so many moves.
const MOVES_EACH: u64 = 50;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Life {
    heap: usize,
    seed: u64,
    /// It ends by itself when it has moved so often.
    moves: u64,
}

fn block(seed: u64, len: usize) -> Vec<u64> {
    (0..len as u64).map(|at| (seed ^ at | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

fn is_whole(held: &[u64], seed: u64) -> bool {
    held.iter()
        .enumerate()
        .all(|(at, &word)| word == (seed ^ at as u64 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// How many blocks were not as they were written.
#[migrt::migratable]
fn live(life: Life) -> u64 {
    let mut random = Seeded::new(life.seed);
    let mut held: Vec<(u64, Vec<u64>)> = Vec::new();
    let (mut words, mut wrong) = (0, 0);
    while words < life.heap / 8 {
        let len = 64 + random.below(8_000.min(life.heap as u64 / 8)) as usize;
        let seed = random.draw();
        held.push((seed, block(seed, len)));
        words += len;
    }
    while u64::from(migrt::moves()) < life.moves {
        let at = random.below(held.len() as u64) as usize;
        wrong += u64::from(!is_whole(&held[at].1, held[at].0));
        if random.below(4) == 0 {
            // Another one in its place, of about its length.
            let len = held[at].1.len().saturating_sub(8) + random.below(17) as usize;
            let seed = random.draw();
            held[at] = (seed, block(seed, len));
        }
        migrt::sleep(Duration::from_micros(300));
    }
    // Odd ones drop everything at once, wherever their pages are.
    if life.seed.is_multiple_of(2) {
        wrong += held.iter().filter(|(seed, held)| !is_whole(held, *seed)).count() as u64;
    }
    wrong
}

fn strategy(number: u64) -> Strategy {
    let brief = Duration::from_micros(500);
    let rounds = |hold_back| Strategy::PreCopy { max_pause: brief, max_rounds: 5, hold_back };
    match number % 6 {
        0 => Strategy::StopCopy,
        1 => rounds(true),
        2 => Strategy::PostCopy,
        3 => Strategy::Auto { max_pause: brief },
        4 => rounds(false),
        _ => Strategy::default(),
    }
}

/// Has tasks of one size moved so often, one after the other. Moves made, and refused.
fn drive(kind: u64, moves: u64) -> Result<(u64, u64), String> {
    let heap = SIZES[kind as usize];
    let (mut made, mut refused) = (0, 0);
    for life in 0.. {
        if made >= moves {
            break;
        }
        let wanted = MOVES_EACH.min(moves - made);
        let seed = kind * 1_000 + life;
        let task = migrt::spawn(live(Life { heap, seed, moves: wanted }));
        let mut target = 1;
        // Not just so often: one that had not begun went as a call, and does not know of it.
        while !task.is_finished() {
            refused += order(&task, NodeId(target), strategy(made + kind))?;
            target = 1 - target;
            made += 1;
        }
        let wrong = task.join().map_err(|why| format!("task {seed} of {heap} bytes: {why}"))?;
        if wrong > 0 {
            return Err(format!("{wrong} blocks of task {seed} of {heap} bytes are wrong"));
        }
    }
    Ok((made, refused))
}

/// Moves the task there; how often that was refused first.
fn order(task: &JoinHandle<u64>, target: NodeId, strategy: Strategy) -> Result<u64, String> {
    for refused in 0.. {
        match task.migrate_by(target, strategy) {
            Ok(()) => return Ok(refused),
            // It was its last move, and the task was there and over before the answer came; or it failed, as its join
            // will tell.
            Err(_) if task.is_finished() => return Ok(refused),
            Err(why) if refused > 500 => return Err(format!("{strategy:?} to {target}: {why}")),
            Err(_) => migrt::sleep(Duration::from_millis(1)),
        }
    }
    unreachable!("counts without end")
}

fn drive_all(moves: u64) -> Result<(u64, u64), String> {
    let kinds = SIZES.len() as u64;
    let drivers: Vec<_> =
        (0..kinds).map(|kind| migrt::spawn(move || drive(kind, moves / kinds))).collect();
    let (mut made, mut refused) = (0, 0);
    for driver in drivers {
        let (m, r) = driver.join().map_err(|why| why.to_string())??;
        (made, refused) = (made + m, refused + r);
    }
    Ok((made, refused))
}

fn tour(moves: u64) -> Result<(), String> {
    trip::settle();
    // Caches, pools and threads come first.
    drive_all(600)?;
    let before = usage::measure()?;
    let (made, refused) = drive_all(moves)?;
    println!("moves {made} refused {refused}");
    let mut methods = [0u64; 4];
    for (_, metrics) in migrt::cluster_metrics() {
        metrics.moves.iter().for_each(|record| methods[record.method as usize] += 1);
    }
    println!(
        "of the last: stop-copy {} pre-copy {} post-copy {}",
        methods[1], methods[2], methods[3]
    );
    usage::compare(&before, &usage::measure()?)
}

fn main() -> ExitCode {
    let Some(moves) = std::env::args().nth(1).and_then(|arg| arg.parse().ok()) else {
        eprintln!("mixed MOVES");
        return ExitCode::FAILURE;
    };
    let run = migrt::Builder::new().workers(1).local_nodes(2).run(move || tour(moves));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
