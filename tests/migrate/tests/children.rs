//! What closures of mobile tasks leave moves with the task, and nothing of it is left behind.

use std::time::Duration;

use migrt_test_migrate::program::run;

fn check(rounds: u64, chaos: &str) {
    check_by("auto", rounds, chaos);
}

fn check_by(strategy: &str, rounds: u64, chaos: &str) {
    let program = env!("CARGO_BIN_EXE_children");
    let limit = Duration::from_secs(120);
    let env = [("MIGRT_CHAOS", chaos), ("RUST_BACKTRACE", "0"), ("MIGRT_STRATEGY", strategy)];
    let ended = run(program, &[&rounds.to_string()], &env, limit);
    ended.expect_good();
    let done = ended.lines_of("ok").len();
    assert_eq!(done, 2 * 11, "{}", ended.out);
    let refused: u64 = ended.lines_of("total refused")[0].parse().expect("a number");
    // A number that looks like an address refuses now and then.
    assert!(refused * 100 <= rounds * 2, "{refused} refused: {:#?}", ended.lines_of("refused"));
}

#[test]
fn results_of_children_move_with_their_parent_a_thousand_times() {
    check(1000, "0");
}

#[test]
fn results_of_children_follow_a_parent_whose_pages_do() {
    for strategy in ["post-copy", "auto:0us"] {
        check_by(strategy, 100, "0");
    }
}

#[test]
fn children_are_right_when_their_parents_move_at_every_suspension() {
    check(200, "1");
}
