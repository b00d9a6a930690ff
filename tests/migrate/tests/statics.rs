//! Statics that a task has filled before it walked on (facts S1): no node and no task ever sees
//! them broken, and the everyday ones never keep a task from moving.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const STATICS: &str = env!("CARGO_BIN_EXE_statics");
const NODES: u64 = 3;

/// There-and-back rounds of each traveller; `MIGRT_TEST_ROUNDS` for more.
fn rounds() -> u64 {
    std::env::var("MIGRT_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn travel(scenario: &str) -> (Ended, u64, u64) {
    let args = [scenario, &rounds().to_string(), &NODES.to_string()];
    let limit = Duration::from_secs(rounds().div_ceil(10).max(60));
    let ended = run(STATICS, &args, &[("RUST_BACKTRACE", "1")], limit);
    assert!(ended.good, "{scenario}: {}\n{}\n{}", ended.how, tail(&ended.out), tail(&ended.err));
    let total = ended.lines_of("total");
    let words: Vec<&str> = total.last().expect("a line of totals").split(' ').collect();
    let (moves, refused) = (words[1].parse().expect("moves"), words[3].parse().expect("refused"));
    (ended, moves, refused)
}

fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(3000);
    &text[text.ceil_char_boundary(from)..]
}

/// Every move happens, there and back, while others use the static.
fn check_always_moves(scenario: &str) -> Ended {
    let (ended, moves, refused) = travel(scenario);
    assert_eq!(refused, 0, "{scenario}: {:#?}", ended.lines_of("refused"));
    assert_eq!(moves, NODES * (rounds() * NODES + 1));
    ended
}

/// A return may be refused if the same word was changed on both sides, by the static's name.
fn check_moves_or_names(scenario: &str, symbol: &str) {
    let (ended, moves, _) = travel(scenario);
    for why in ended.lines_of("refused") {
        assert!(why.contains(symbol), "{scenario}: a refusal that does not name the static: {why}");
    }
    assert!(moves > rounds(), "{scenario}: only {moves} moves: {:#?}", ended.lines_of("refused"));
}

#[test]
fn a_lazy_regex_always_moves_and_comes_back() {
    check_always_moves("regex");
}

#[test]
fn a_once_lock_map_always_moves_and_comes_back() {
    check_always_moves("once_map");
}

#[test]
fn a_mutex_vec_of_strings_is_never_broken() {
    check_moves_or_names("mutex_vec", "LOG");
}

#[test]
fn a_mutex_option_arc_is_never_broken() {
    check_moves_or_names("mutex_arc", "SHARED");
}

#[test]
fn println_always_moves_and_every_line_is_whole() {
    let ended = check_always_moves("println");
    let broken: Vec<_> =
        ended.lines_of("line").into_iter().filter(|line| !line.ends_with("is whole")).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let travellers = ended.lines_of("line traveller").len() as u64;
    assert_eq!(travellers, NODES * (rounds() * NODES + 2), "lines of travellers");
}

#[test]
fn a_backtrace_always_moves_and_comes_back() {
    check_always_moves("backtrace");
}

#[test]
fn a_panic_always_moves_and_comes_back() {
    check_always_moves("panic");
}
