//! There-and-back moves leave nothing behind: memory, mappings, descriptors, threads, slots.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

/// 10,000 round trips; `MIGRT_TEST_ROUNDS=100000` for the long form.
#[test]
fn round_trips_leave_resources_where_they_were() {
    let rounds = std::env::var("MIGRT_TEST_ROUNDS").unwrap_or_else(|_| "10000".to_owned());
    let limit = Duration::from_secs(60 + rounds.parse::<u64>().expect("a number") / 400);
    check(&rounds, limit, &[]);
}

/// With a budget that is small beside what the tasks would leave, and every page worth keeping.
#[test]
fn what_is_kept_for_returns_stays_within_its_budget() {
    let env = [("MIGRT_KEEP", "512KiB"), ("MIGRT_KEEP_FROM", "1")];
    let ended = check("2000", Duration::from_secs(60), &env);
    let kept: Vec<u64> = ended
        .lines_of("kept")
        .iter()
        .flat_map(|line| line.split(' ').map(|n| n.parse::<u64>().expect("bytes")))
        .collect();
    assert!(kept.len() == 2 && kept.iter().all(|&bytes| bytes <= 512 << 10), "{kept:?}");
    assert!(kept.iter().any(|&bytes| bytes > 0), "nothing was kept at all: {kept:?}");
}

fn check(rounds: &str, limit: Duration, env: &[(&str, &str)]) -> Ended {
    let ended = run(env!("CARGO_BIN_EXE_churn"), &[rounds], env, limit);
    ended.expect_good();
    let words: Vec<&str> = ended.lines_of("moves")[0].split(' ').collect();
    let (moves, refused): (u64, u64) =
        (words[0].parse().expect("moves"), words[2].parse().expect("refused"));
    assert_eq!(moves, 2 * (rounds.parse::<u64>().expect("a number") / 4 * 4));
    assert!(refused * 100 <= moves, "{refused} refused, {moves} done");
    ended
}

/// Sizes mixed and strategies in turn; `MIGRT_MIXED_ROUNDS=10000` for the long form.
#[test]
fn mixed_moves_leave_resources_where_they_were() {
    let moves = std::env::var("MIGRT_MIXED_ROUNDS").unwrap_or_else(|_| "900".to_owned());
    let limit = Duration::from_secs(90 + moves.parse::<u64>().expect("a number") / 20);
    let ended = run(env!("CARGO_BIN_EXE_mixed"), &[&moves], &[], limit);
    ended.expect_good();
    println!("{}", ended.out);
    let made = ended.lines_of("moves")[0].split(' ').next().and_then(|n| n.parse::<u64>().ok());
    assert!(made >= moves.parse::<u64>().ok().map(|n| n / 6 * 6), "{}", ended.out);
    // Each method has its share.
    let words: Vec<&str> = ended.lines_of("of the last:")[0].split(' ').collect();
    assert!(
        [1, 3, 5].iter().all(|&at| words[at].parse::<u64>().is_ok_and(|n| n > 50)),
        "{words:?}"
    );
}
