//! Tasks that go on writing, allocating and freeing while their pages are copied.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const WRITER: &str = env!("CARGO_BIN_EXE_writer");

fn check(strategy: &str, heap_mib: &str, write_mb_s: &str, moves: &str) -> Ended {
    check_seed(strategy, heap_mib, write_mb_s, moves, "7")
}

fn check_seed(strategy: &str, heap_mib: &str, write_mb_s: &str, moves: &str, seed: &str) -> Ended {
    let args = [strategy, heap_mib, write_mb_s, moves, seed];
    let ended = run(WRITER, &args, &[], Duration::from_secs(100));
    let said = ended.lines_of("writer");
    assert!(ended.good && said.len() == 1, "{args:?}: {}\n{}\n{}", ended.how, ended.out, ended.err);
    ended
}

#[test]
fn a_modest_writer_is_right_after_every_move() {
    check("auto", "1", "10", "40");
    check("pre", "16", "10", "30");
    check("pre-all", "16", "10", "20");
    check("stop", "16", "10", "10");
}

/// All fits into the pause, so there is no round before the last shipment.
#[test]
fn a_task_without_a_round_is_right_after_every_move() {
    check("pre-patient", "1", "10", "20");
}

/// Rounds send most of it, and what was written since follows the task: nothing old is read there.
#[test]
fn a_task_whose_rounds_turn_into_post_copy_is_right_after_every_move() {
    for (rate, seed) in [("10", "1"), ("10", "2"), ("100000", "3"), ("100000", "4")] {
        // One move: on its way back it would meet its remains, and come whole.
        let ended = check_seed("mixed", "16", rate, "1", seed);
        assert_eq!(ended.lines_of("mixed"), ["1"], "{}", ended.out);
    }
}

#[test]
fn a_writer_as_fast_as_memory_allows_is_right_after_every_move() {
    check("pre", "8", "100000", "15");
    check("pre-all", "8", "100000", "10");
    check("auto", "8", "100000", "10");
}
