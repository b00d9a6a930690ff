//! `commuter LEGS`: a task goes to the other node and back by each strategy in turn, reading and writing its heap all
//! the while. Says each leg, and at the end whether every word is as it was written.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrt::{JoinHandle, NodeId, Strategy};

const WORDS: usize = 1 << 19;
/// A move that fails, since the wire is cut, is tried again so often.
const TRIES: u32 = 400;

static END: AtomicBool = AtomicBool::new(false);

fn word(at: usize, round: u64) -> u64 {
    (at as u64 ^ round << 32 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes until it is told to end; words written, and words that were not as they should be.
#[migrt::migratable]
fn commute() -> (u64, u64) {
    let mut rounds = vec![0u64; WORDS];
    let mut held: Vec<u64> = (0..WORDS).map(|at| word(at, 0)).collect();
    let (mut at, mut written, mut wrong) = (1usize, 0, 0);
    while !END.load(Ordering::Relaxed) {
        for _ in 0..64 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let here = (at >> 20) % WORDS;
            wrong += u64::from(held[here] != word(here, rounds[here]));
            rounds[here] += 1;
            held[here] = word(here, rounds[here]);
            written += 1;
        }
        migrt::sleep(Duration::from_micros(200));
    }
    let last = held.iter().zip(&rounds).enumerate();
    wrong += last.filter(|(at, (word_is, round))| **word_is != word(*at, **round)).count() as u64;
    (written, wrong)
}

#[migrt::migratable]
fn end_here() {
    END.store(true, Ordering::Relaxed);
}

fn leg(task: &JoinHandle<(u64, u64)>, number: u32) -> Result<u32, String> {
    let quick = Duration::from_millis(1);
    let strategy = match number / 2 % 4 {
        0 => Strategy::StopCopy,
        1 => Strategy::PreCopy { max_pause: quick, max_rounds: 6, hold_back: true },
        2 => Strategy::PostCopy,
        _ => Strategy::Auto { max_pause: quick },
    };
    let mut refused = 0;
    while let Err(why) = task.migrate_by(NodeId(1 - (number % 2) as u16), strategy) {
        refused += 1;
        if refused > TRIES {
            return Err(format!("leg {number}: {why}"));
        }
        migrt::sleep(Duration::from_millis(20));
    }
    println!("leg {number} {strategy:?}");
    Ok(refused)
}

fn journey(legs: u32) -> Result<(), String> {
    let task = migrt::spawn(commute());
    let mut refused = 0;
    for number in 0..legs {
        refused += leg(&task, number)?;
        migrt::sleep(Duration::from_millis(20));
    }
    for node in migrt::nodes() {
        migrt::spawn_on(node, end_here()).join().map_err(|why| why.to_string())?;
    }
    let (written, wrong) = task.join().map_err(|why| why.to_string())?;
    let moved: u64 = migrt::cluster_metrics().iter().map(|(_, m)| m.moves_out).sum();
    println!("sum written {written} wrong {wrong} moves {moved} refused {refused}");
    Ok(())
}

fn main() -> ExitCode {
    let legs = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("a number of legs");
    match migrt::Builder::new().workers(1).local_nodes(2).run(move || journey(legs)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            println!("failed: {why}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}
