//! There-and-back moves leave nothing behind: memory, mappings, descriptors, threads, slots.

use std::time::Duration;

use migrt_test_migrate::program::run;

/// 10,000 round trips; `MIGRT_TEST_ROUNDS=100000` for the long form.
#[test]
fn round_trips_leave_resources_where_they_were() {
    let rounds = std::env::var("MIGRT_TEST_ROUNDS").unwrap_or_else(|_| "10000".to_owned());
    let limit = Duration::from_secs(60 + rounds.parse::<u64>().expect("a number") / 400);
    let ended = run(env!("CARGO_BIN_EXE_churn"), &[&rounds], &[], limit);
    ended.expect_good();
    let moves: u64 = ended.lines_of("moves")[0].parse().expect("a number");
    assert_eq!(moves, 2 * (rounds.parse::<u64>().expect("a number") / 4 * 4));
}
