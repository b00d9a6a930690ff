//! Rounds, push, requests and what is missing, over bad links: every page is what the task wrote last, and comes.

use migrt_test_sim::{Broken, Moved, move_one};

fn play(seeds: std::ops::Range<u64>) -> Moved {
    let mut total = Moved::default();
    for seed in seeds {
        let moved = move_one(seed, Broken::Nothing).unwrap_or_else(|violation| {
            panic!("move {seed} breaks {}: {}", violation.rule, violation.text)
        });
        total.rounds += moved.rounds;
        total.called_off += moved.called_off;
        total.followed += moved.followed;
        total.faults += moved.faults;
        total.doubled += moved.doubled;
        total.breaks += moved.breaks;
        total.repeated += moved.repeated;
        total.lost_chunks += moved.lost_chunks;
        total.sources_lost += moved.sources_lost;
    }
    total
}

/// The duty left out is noticed as what it is for.
fn check(broken: Broken, rules: &[&str]) {
    let caught = (0..2_000).find_map(|seed| match move_one(seed, broken) {
        Ok(_) => None,
        Err(violation) => Some((seed, violation)),
    });
    let (seed, violation) = caught.unwrap_or_else(|| panic!("{broken:?} was not caught"));
    assert!(rules.contains(&violation.rule), "{broken:?}, move {seed}: {violation:?}");
    println!("{broken:?}: move {seed}, {}: {}", violation.rule, violation.text);
}

#[test]
fn every_page_comes_and_is_what_was_written_last() {
    // More, for a long night: MIGRT_SEEDS=100000.
    let count = std::env::var("MIGRT_SEEDS")
        .map_or(4_000, |count| count.parse().expect("MIGRT_SEEDS is a number"));
    let total = play(0..count);
    println!("{total:?}");
    // What breaks has to bite, or the seeds show nothing.
    assert!(total.rounds > count && total.called_off > count / 50, "{total:?}");
    assert!(total.followed > count * 10 && total.faults > count, "{total:?}");
    assert!(total.doubled > count / 4 && total.breaks > count / 10, "{total:?}");
    assert!(total.repeated > count / 50 && total.lost_chunks > count / 10, "{total:?}");
    assert!(total.sources_lost > count / 200, "{total:?}");
}

#[test]
fn equal_seeds_move_equally() {
    assert_eq!(move_one(11, Broken::Nothing), move_one(11, Broken::Nothing));
}

#[test]
fn a_scan_after_the_copy_is_caught() {
    check(Broken::ScanLate, &["I4"]);
}

#[test]
fn bytes_of_freed_pages_are_caught() {
    check(Broken::KeepFreed, &["I4"]);
}

#[test]
fn a_chunk_installed_over_what_the_task_wrote_is_caught() {
    check(Broken::InstallAll, &["I4"]);
}

#[test]
fn an_acknowledgement_of_what_was_dropped_is_caught() {
    check(Broken::AckUnread, &["I10"]);
}

#[test]
fn a_broken_chunk_that_is_not_sent_again_is_caught() {
    check(Broken::ForgetChunk, &["I10"]);
}

#[test]
fn a_source_that_does_not_hear_of_a_break_is_caught() {
    check(Broken::ForgetBreak, &["I10"]);
}

#[test]
fn a_waiter_who_is_not_told_of_its_sources_death_is_caught() {
    check(Broken::WakeNobody, &["I2"]);
}
