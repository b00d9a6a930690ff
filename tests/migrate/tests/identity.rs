//! A task is a thread to Rust: facts T1, T2 and T7, at opt-level 3.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const IDENTITY: &str = env!("CARGO_BIN_EXE_identity");

fn check(nodes: &str, rounds: &str, env: &[(&str, &str)]) -> (u32, u32) {
    let ended: Ended = run(IDENTITY, &[nodes, rounds], env, Duration::from_secs(60));
    ended.expect_good();
    let total = ended.lines_of("total");
    let words: Vec<&str> = total.last().expect("a line of totals").split(' ').collect();
    let number = |at: usize| words[at].parse::<u32>().expect("a number");
    let (hops, threads, refused) = (number(1), number(3), number(5));
    // Every round asked for a move; one in a hundred may be refused by a word that looks like an address.
    assert!(refused * 100 <= hops, "{:#?}", ended.lines_of("refused"));
    (hops + refused, threads)
}

#[test]
fn thread_locals_are_right_on_other_workers() {
    let (_, threads) = check("1", "20000", &[]);
    assert!(threads > 1000, "{threads} resumes on another worker");
}

#[test]
fn thread_locals_and_ids_are_right_in_other_processes() {
    let (hops, _) = check("3", "100", &[("MIGRT_WORKERS", "1")]);
    assert_eq!(hops, 24 * 100);
}

#[test]
fn thread_locals_and_ids_are_right_on_other_workers_of_other_processes() {
    let (hops, _) = check("2", "100", &[("MIGRT_WORKERS", "2")]);
    assert_eq!(hops, 16 * 100);
}
