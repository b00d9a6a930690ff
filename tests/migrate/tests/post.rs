//! Post-copy: tasks go on before their pages have come, and each page comes when it is needed.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

const LIMIT: Duration = Duration::from_secs(60);

fn post(case: &str, env: &[(&str, &str)]) -> Ended {
    let ended = run(env!("CARGO_BIN_EXE_post"), &[case], env, LIMIT);
    ended.expect_good();
    ended
}

/// Every word is right at the end of the case, and at least so many pages had to be asked for: most
/// cases touch pages at once, so the push cannot have been everywhere before.
fn check(case: &str, least_faults: u64) {
    let ended = post(case, &[]);
    let faults = ended.lines_of(&format!("ok {case}"))[0].parse::<u64>().expect("a number");
    assert!(faults >= least_faults, "{case}: only {faults} faults\n{}", ended.out);
}

#[test]
fn a_page_that_is_awaited_holds_up_nobody_but_its_task() {
    check("crowd", 64);
}

#[test]
fn a_task_that_is_ordered_on_goes_when_it_is_whole() {
    check("onward", 20);
}

#[test]
fn what_earlier_tasks_of_an_entry_waited_for_goes_with_the_next() {
    let ended = post("habit", &[]);
    let trips: Vec<u64> =
        ended.lines_of("trip").iter().map(|line| line.parse().expect("a number")).collect();
    // Two moves have to agree before a page counts.
    assert!(trips[0] >= 8 && trips[1] >= 8, "{trips:?}");
    assert!(trips[3..].iter().all(|&faults| faults <= 4), "{trips:?}");
}

#[test]
fn a_task_may_end_before_its_pages_have_come() {
    check("short", 5);
}

#[test]
fn what_an_ended_task_leaves_in_a_static_is_whole() {
    check("leave", 0);
}

#[test]
fn others_may_free_and_read_blocks_that_are_not_here_yet() {
    check("lend", 1);
}

#[test]
fn malloc_and_free_meet_missing_pages() {
    check("churn", 5);
}

#[test]
fn huge_and_over_aligned_blocks_follow() {
    check("big", 20);
}

#[test]
fn a_stack_in_a_block_that_is_not_here_yet() {
    check("stack", 1);
}

#[test]
fn a_lock_that_is_held_over_a_fault_holds_up_no_node() {
    check("lock", 1);
}

#[test]
fn the_kernel_reads_and_writes_buffers_that_are_not_here_yet() {
    check("calls", 1);
}

#[test]
fn a_word_of_the_node_it_left_ends_the_task_and_is_named() {
    let ended = post("along", &[]);
    let told = ended.lines_of("told")[0];
    for part in ["a word in its heap, at 0x", "in a block of 96 bytes", "of this node's heap"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let ended = post("along", &[("MIGRT_AUDIT", "off")]);
    assert!(ended.lines_of("told")[0].starts_with("Ok("), "{}", ended.out);
}

#[test]
fn a_task_whose_source_dies_is_lost_with_the_pages_that_were_missing() {
    let ended = post("lost", &[("MIGRT_FAIL", "n1:source.serving=kill")]);
    let told = ended.lines_of("told");
    assert_eq!(told.len(), 4, "{}", ended.out);
    // One had left; most of its 8,192 pages had not.
    let counts: Vec<u64> = told
        .iter()
        .map(|line| {
            let count = line.split("missing_pages: ").nth(1).expect("lost");
            count.trim_end_matches([' ', '}', ')']).parse().expect("a number")
        })
        .collect();
    let lacking: Vec<u64> = counts.iter().copied().filter(|&count| count > 0).collect();
    assert!(lacking.len() == 1 && (1_000..=8_300).contains(&lacking[0]), "{counts:?}");
}

#[test]
fn a_task_whose_pages_cannot_be_put_in_their_places_ends_and_says_so() {
    let ended = post("lost", &[("MIGRT_FAIL", "n2:target.arrived=refuse")]);
    let told = ended.lines_of("told");
    assert_eq!(told.len(), 4, "{}", ended.out);
    let said = told.iter().filter(|line| line.contains("could not be put in their places"));
    assert_eq!(said.count(), 4, "{told:?}");
}

/// A task that writes and checks its heap all the time, there and back.
#[test]
fn a_writer_is_right_after_each_move() {
    for (heap, seed) in [("1", "1"), ("16", "2"), ("48", "3")] {
        let ended = run(env!("CARGO_BIN_EXE_writer"), &["post", heap, "40", "8", seed], &[], LIMIT);
        ended.expect_good();
        assert!(!ended.lines_of("writer ok").is_empty(), "{}", ended.out);
    }
}
