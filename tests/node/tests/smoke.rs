//! The smallest whole runs: local and mobile tasks on one node, and a task that walks over three.

use migrt_test_node::Run;

#[test]
fn tasks_of_both_kinds_run_on_one_node() {
    let ended = Run::start(env!("CARGO_BIN_EXE_smoke"), &[], &[]).end();
    ended.expect(0, &["local 499500", "mobile x0,x1,x2,x3,x4"]);
}

#[test]
fn a_task_walks_over_the_nodes() {
    for nodes in ["2", "3"] {
        let ended = Run::start(env!("CARGO_BIN_EXE_smoke2"), &[nodes, "300"], &[]).end();
        ended.expect(0, &["n1,"]);
        assert!(!ended.text().contains("not moved"), "{}", ended.text());
    }
}
