//! Parcels keep their values whoever moves and dies, and nothing of them is left behind.

use std::time::Duration;

use migrt_test_migrate::program::{Ended, run};

/// What is kept for returns is meant to grow up to its budget: here one well within what may come and go.
const LITTLE_KEPT: &[(&str, &str)] = &[("MIGRT_KEEP", "8MiB")];

fn parcels(paragraph: &str, rounds: u32, env: &[(&str, &str)]) -> Ended {
    let program = env!("CARGO_BIN_EXE_parcels");
    let rounds = rounds.to_string();
    let ended = run(program, &[paragraph, &rounds], env, Duration::from_secs(120));
    ended.expect_good();
    assert_eq!(ended.lines_of("ok").last(), Some(&paragraph), "{}", ended.out);
    ended
}

#[test]
fn a_parcel_changes_hands_on_one_node_at_the_same_address() {
    parcels("local", 1, &[]);
}

#[test]
fn a_parcel_is_argument_and_result_between_nodes() {
    parcels("remote", 1, &[]);
}

#[test]
fn what_may_not_be_in_a_parcel_is_refused_and_named() {
    parcels("refused", 1, &[]);
}

#[test]
fn a_task_moves_with_the_parcels_that_it_holds() {
    parcels("holder", 1, &[]);
}

#[test]
fn a_task_that_moves_at_every_suspension_keeps_its_parcels() {
    parcels("holder", 1, &[("MIGRT_CHAOS", "1")]);
}

#[test]
fn parcels_of_messages_that_nobody_reads_are_dropped_and_leave_nothing() {
    parcels("unread", 60, LITTLE_KEPT);
}

#[test]
fn what_a_static_reaches_of_a_parcel_that_left_stays_valid() {
    parcels("statics", 60, &[]);
}

#[test]
fn a_thousand_hand_overs_leave_nothing() {
    parcels("rounds", 1_000, LITTLE_KEPT);
}

#[test]
fn lazy_parcels_are_used_sent_on_and_given_up_while_their_pages_come() {
    let ended = parcels("lazy", 6, LITTLE_KEPT);
    let sum = |word| ended.lines_of(word).iter().map(|n| n.parse::<u64>().expect("a number")).sum();
    let (lazy, faults): (u64, u64) = (sum("lazy"), sum("faults"));
    assert!(lazy >= 40 && faults >= 40, "{lazy} came lazily, with {faults} faults\n{}", ended.out);
}

#[test]
fn lazy_parcels_are_right_when_their_holders_move_at_every_suspension() {
    parcels("lazy", 2, &[("MIGRT_CHAOS", "1"), LITTLE_KEPT[0]]);
}

#[test]
fn who_holds_a_lazy_parcel_is_lost_with_the_node_that_has_its_pages() {
    let ended = parcels("lost", 1, &[("MIGRT_FAIL", "n1:source.pushed=kill@150")]);
    let heard = ended.lines_of("heard");
    let count = |line: &str| {
        let number = line.split("missing_pages: ").nth(1)?;
        number.trim_end_matches([' ', '}', ')']).parse::<u64>().ok()
    };
    let counts: Vec<u64> = heard.iter().filter_map(|line| count(line)).collect();
    assert!(counts.len() == 1 && counts[0] > 200, "{heard:?}");
}

#[test]
fn whoever_dies_around_a_hand_over_everybody_hears_of_it_and_no_slot_is_lost() {
    for (victim, points) in [
        (1, &["source.frozen", "source.committed", "source.shipped", "source.acked"][..]),
        (2, &["target.shipping", "target.installed", "target.commit", "target.thawed"]),
    ] {
        for point in points {
            let plan = format!("n{victim}:{point}=kill@2");
            let ended = parcels("deaths", 1, &[("MIGRT_FAIL", &plan)]);
            assert!(ended.err.contains("MIGRT_FAIL strikes"), "{plan}: {}", ended.err);
            assert!(!ended.lines_of("heard").is_empty(), "{plan}: {}", ended.out);
        }
    }
}
