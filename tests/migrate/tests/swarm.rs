//! I1 and I2 over real processes: many tasks, many moves, nothing lost, nothing twice.

use std::time::Duration;

use migrt_test_migrate::program::run;

#[test]
fn ten_thousand_moves_lose_nothing_and_double_nothing() {
    let ended = run(env!("CARGO_BIN_EXE_swarm"), &["100", "100"], &[], Duration::from_secs(60));
    ended.expect_good();
    let total = ended.lines_of("total");
    let words: Vec<&str> = total.last().expect("a line of totals").split(' ').collect();
    assert!(words[1].parse::<u64>().expect("moves") >= 10_000, "{total:?}");
}
