//! What the process shares, changed by tasks that do not stay (facts H3).

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

fn ended() -> Ended {
    let ended = run(env!("CARGO_BIN_EXE_environment"), &[], &[], Duration::from_secs(60));
    ended.expect_good();
    ended
}

#[test]
fn the_environment_outlives_the_tasks_that_changed_it() {
    let ended = ended();
    // 12 tasks: there, back and there.
    assert_eq!(ended.lines_of("total"), ["moves 36 reads 12000"]);
}

#[test]
fn a_task_gets_no_shared_library_and_is_told_why() {
    let ended = ended();
    let said = ended.lines_of("dlopen");
    assert!(said.len() == 1 && said[0].contains("in a mobile migrt task"), "{said:?}");
}
