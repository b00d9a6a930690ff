//! How tasks end, and how that is told: results, panics, cancels, stacks that overflow, homes that
//! die.

use migrt_test_node::{Run, Scratch};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");

fn faulty(what: &str, nodes: &str) -> migrt_test_node::Ended {
    Run::start(FAULTY, &[what, nodes], &[]).end()
}

#[test]
fn tasks_find_each_other_wherever_they_are() {
    let log = Scratch::new("kin");
    let ended = Run::start(env!("CARGO_BIN_EXE_kin"), &[log.text()], &[]).end();
    ended.expect(0, &["ok calls", "ok handles", "ok joins", "ok moves", "ok cancels", "ok all"]);
}

#[test]
fn panics_are_carried_to_join_with_their_text() {
    for backtrace in ["0", "1"] {
        let variables = [("RUST_BACKTRACE", backtrace)];
        let ended = Run::start(FAULTY, &["panics", "2"], &variables).end();
        ended.expect(
            0,
            &[
                "burst here fails: the task panicked: of laughter",
                "burst far fails: the task panicked: of light",
                "burst oddly fails: the task panicked: a panic with a value that is not text",
                "burst long fails: the task panicked: xxxxxx",
                "burst local fails: the task panicked: of rage",
                "weigh after all gives 10",
            ],
        );
        assert_eq!(ended.text().contains("stack backtrace:"), backtrace == "1");
    }
}

#[test]
fn a_panic_of_main_ends_all_nodes_with_code_1() {
    let ended = faulty("panic-main", "3");
    ended.expect(1, &["Error: main: the task panicked: in the middle of main"]);
}

#[test]
fn a_stack_overflow_names_the_task_and_its_stack() {
    let mobile = "migrt: mobile task faulty::plunge (t0.1) has overflowed its stack of 748 KiB";
    faulty("plunge", "1").expect(134, &[mobile]);
    let far = faulty("plunge", "2");
    far.expect(
        0,
        &[mobile, "node n1 has ended (exit status: 134)", "the task is lost: it ran on node n1"],
    );
    let local = "migrt: a local task has overflowed its stack of 1008 KiB";
    faulty("plunge-local", "1").expect(134, &[local]);
    faulty("plunge-main", "2")
        .expect(134, &["a local task has overflowed its stack of 16368 KiB", "node n1 stops"]);
}

#[test]
fn tasks_of_a_dead_home_are_cancelled_and_their_waiters_told() {
    let log = Scratch::new("orphans");
    let ended = Run::start(env!("CARGO_BIN_EXE_orphans"), &[log.text()], &[]).end();
    ended.expect(0, &["ok lost", "ok cancelled", "ok next"]);
}
