//! What a program asks of the runtime that cannot be: refused by name, and everything else goes on.

use migrt_test_node::{Ended, Run};

fn faulty(what: &str, nodes: &str) -> Ended {
    let ended = Run::start(env!("CARGO_BIN_EXE_faulty"), &[what, nodes], &[]).end();
    assert_eq!(ended.code(), 0, "{}", ended.text());
    ended
}

#[test]
fn a_move_that_cannot_be_leaves_the_task_running_and_says_why() {
    let ended = faulty("moves", "2");
    let gone = "n77 is not a live member of the cluster; it goes on where it is";
    ended.expect(
        0,
        &[
            gone,
            "pin to n1 refused: task t0.1 was not moved to node n1: the task is pinned: 1 guard(s) of pin_here",
            "pin gives \"held pin on n0\"",
            "file to n1 refused: task t0.2 was not moved to node n1: the task is pinned: 1 open file(s) or socket(s)",
            "file gives \"held file on n0\"",
            "nothing to n1 moved",
            "nothing gives \"held nothing on n1\"",
            "ended: Err(\"task t0.4 was not moved to node n1: the task has ended\")",
            "nowhere fails: the task never began: n77 is not a live member of the cluster",
        ],
    );
}

#[test]
fn what_will_not_encode_is_named() {
    let ended = faulty("encoding", "2");
    let argument = "argument `_stubborn` of `faulty::take` could not be encoded";
    let result = "the result of `faulty::give` could not be encoded";
    for place in ["here", "far"] {
        ended.expect(0, &[&format!("take {place} fails: the task never began: {argument}")]);
        let line = format!("give {place} fails:");
        assert!(ended.value(&line).contains(result), "{}", ended.text());
    }
}

#[test]
fn what_is_too_long_for_the_wire_is_refused_and_nothing_hangs() {
    let ended = faulty("sizes", "2");
    ended.expect(
        0,
        &[
            "weigh here gives 68157440",
            "weigh far fails: the task never began: its arguments came to 68157445 bytes",
            "swell here gives 68157440",
            "swell far fails: the task panicked: its result came to 68157445 bytes",
            "swell a bit gives 8388608",
        ],
    );
}

#[test]
fn a_task_too_big_for_the_slots_that_are_left_gets_an_error() {
    let ended = faulty("fill", "1");
    assert!(
        ended.value("fill gives").contains("then memory allocation failed"),
        "{}",
        ended.text()
    );
}

#[test]
fn running_out_of_slots_is_an_error_at_spawn_and_over_when_tasks_end() {
    for (slots, nodes) in [("64", "1"), ("100", "2"), ("1000", "1")] {
        let ended =
            Run::start(env!("CARGO_BIN_EXE_crowd"), &[nodes], &[("MIGRT_SLOTS", slots)]).end();
        ended.expect(
            0,
            &["mobile: the task was not spawned: this node has no free slot", "crowd ok"],
        );
    }
}

#[test]
fn an_entry_that_the_peer_lacks_is_refused() {
    faulty("unlisted", "2")
        .expect(0, &["unlisted fails: the task never began: node n1 has no entry 0x"]);
    let alone = faulty("unlisted", "1");
    alone.expect(0, &["unlisted fails: ", "has no entry 0x"]);
}

#[test]
fn two_entries_of_one_name_end_the_start() {
    let ended = Run::start(env!("CARGO_BIN_EXE_twins"), &[], &[]).end();
    let parts = [
        "Error: two migratable functions are called `twins::other::inner`",
        "twins.rs:10 and ",
        "twins.rs:15",
        "rename one",
    ];
    ended.expect(1, &parts);
    assert_eq!(ended.lines.len(), 1, "{}", ended.text());
}

#[test]
fn a_global_allocator_keeps_local_tasks_and_refuses_mobile_ones() {
    for nodes in ["1", "2"] {
        let ended = Run::start(env!("CARGO_BIN_EXE_allocator"), &[nodes], &[]).end();
        let refused = "mobile refused: the task never began: this program has a #[global_allocator] of its own";
        ended.expect(0, &["local Ok([\"word 0\"", refused, "remove it"]);
        assert_eq!(ended.text().contains("far refused: "), nodes == "2", "{}", ended.text());
    }
}
