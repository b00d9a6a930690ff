//! `lacker PAGES MS`: a task leaves node 1 for node 2 by post-copy, and touches its pages there for a
//! while, here and there; then all of them. Says when it has arrived, and the longest touch.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use migrt::{NodeId, Strategy};

const PAGE_WORDS: usize = 512;

fn word(at: usize) -> u64 {
    (at as u64 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[migrt::migratable]
fn lack(pages: usize, ms: u64) -> (u64, u32) {
    let held: Vec<u64> = (0..pages * PAGE_WORDS).map(word).collect();
    println!("made");
    while migrt::moves() == 0 {
        migrt::yield_now();
    }
    println!("arrived");
    let since = Instant::now();
    let (mut longest, mut touches, mut at) = (Duration::ZERO, 0, 1usize);
    while since.elapsed() < Duration::from_millis(ms) {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let touched = (at >> 20) % held.len();
        let before = Instant::now();
        assert_eq!(held[touched], word(touched), "word {touched}");
        longest = longest.max(before.elapsed());
        touches += 1;
        migrt::sleep(Duration::from_micros(500));
    }
    let whole = held.iter().enumerate().all(|(at, &found)| found == word(at));
    assert!(whole, "I4: the heap is not what it was");
    (longest.as_millis() as u64, touches)
}

fn journey(pages: usize, ms: u64) -> Result<(), String> {
    let task = migrt::spawn_on(NodeId(1), lack(pages, ms));
    migrt::sleep(Duration::from_millis(800));
    task.migrate_by(NodeId(2), Strategy::PostCopy).map_err(|why| why.to_string())?;
    let (longest_ms, touches) = task.join().map_err(|why| why.to_string())?;
    let faults: u64 = migrt::cluster_metrics().iter().map(|(_, m)| m.demand_faults).sum();
    println!("longest_ms {longest_ms} touches {touches} faults {faults}");
    Ok(())
}

fn main() -> ExitCode {
    let number =
        |at: usize| std::env::args().nth(at).and_then(|n| n.parse().ok()).expect("a number");
    let (pages, ms) = (number(1), number(2) as u64);
    match migrt::Builder::new().workers(1).local_nodes(3).run(move || journey(pages, ms)) {
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
