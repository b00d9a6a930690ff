//! The audit finds an address of the node wherever a task keeps one, says where it is, and finds
//! nothing once it is gone.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

/// The places, and what a refusal says of each.
const PLACES: [(&str, &str); 5] = [
    ("Stack", "a word on its stack, in the frame of `planted::keeps_an_address_on_its_stack`"),
    ("Arc", "a word on its stack, in the frame of `planted::keeps_a_shared_array`"),
    ("ThreadLocal", "a thread-local ("),
    ("Heap", "a word in its heap, at 0x"),
    ("LongHeap", "a word in its heap, at 0x"),
];
const TARGET: &str = "of this node's heap";

fn planted(audit: &str) -> Ended {
    let program = env!("CARGO_BIN_EXE_planted");
    let ended = run(program, &[], &[("MIGRT_AUDIT", audit)], Duration::from_secs(60));
    ended.expect_good();
    ended
}

/// What came of the one try of this name.
fn tried<'a>(ended: &'a Ended, name: &str) -> &'a str {
    let lines = ended.lines_of(name);
    assert_eq!(lines.len(), 1, "{name}\n{}", ended.out);
    lines[0]
}

#[test]
fn a_planted_address_refuses_the_move_and_its_place_is_named() {
    let ended = planted("strict");
    for (place, expected) in PLACES {
        let why = tried(&ended, &format!("{place} with:"));
        assert!(why.contains(expected) && why.contains(TARGET), "{place}: {why}");
    }
}

#[test]
fn without_the_planted_address_the_same_tasks_move() {
    let ended = planted("strict");
    assert_eq!(tried(&ended, "Nowhere with:"), "moved");
    for place in PLACES.map(|(place, _)| place).into_iter().chain(["Nowhere"]) {
        assert_eq!(tried(&ended, &format!("{place} without:")), "moved", "{place}");
    }
}

#[test]
fn an_audit_that_warns_lets_the_task_move_and_says_what_it_found() {
    let ended = planted("warn");
    for (place, expected) in PLACES {
        assert_eq!(tried(&ended, &format!("{place} with:")), "moved");
        let told = |line: &&str| line.starts_with("migrt: audit: task ") && line.contains(expected);
        assert!(ended.err.lines().any(|line| told(&line)), "{place}\n{}", ended.err);
    }
}

#[test]
fn an_audit_that_is_off_looks_at_nothing() {
    let ended = planted("off");
    for (place, _) in PLACES {
        assert_eq!(tried(&ended, &format!("{place} with:")), "moved");
    }
    assert!(!ended.err.contains("migrt: audit"), "{}", ended.err);
}
