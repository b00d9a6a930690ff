//! The checkers can fail: a protocol with one rule switched off is caught by the invariant that the rule is for.

use migrt_proto::Fault;
use migrt_test_sim::run;

fn check(fault: Fault, rules: &[&str]) {
    let caught = (0..4_000).find_map(|seed| {
        // A broken protocol may also trip over its own assertions.
        let played = std::panic::catch_unwind(|| run(seed, fault));
        let rule = match played {
            Ok(Ok(_)) => return None,
            Ok(Err(violation)) => violation.rule,
            Err(_) => "assertion",
        };
        rules.contains(&rule).then_some((seed, rule))
    });
    assert!(caught.is_some(), "{fault:?} was not caught by {rules:?} in 4,000 seeds");
    println!("{fault:?}: {caught:?}");
}

#[test]
fn a_source_that_goes_on_in_doubt_is_caught() {
    check(Fault::ResumeInDoubt, &["I1", "I2"]);
}

#[test]
fn a_source_that_takes_a_broken_link_for_a_refusal_is_caught() {
    check(Fault::ResumeAfterCommit, &["I1", "I2"]);
}

#[test]
fn a_target_that_takes_what_it_was_asked_for_before_is_caught() {
    check(Fault::ForgetRetract, &["I1", "I2"]);
}

#[test]
fn a_home_that_does_not_hear_the_others_is_caught() {
    check(Fault::LoseAtOnce, &["I1", "I2"]);
}

#[test]
fn a_node_that_outlives_its_lease_is_caught() {
    check(Fault::NeverFence, &["I1", "I2"]);
}

#[test]
fn a_failed_move_that_leaves_the_task_frozen_is_caught() {
    check(Fault::ForgetResume, &["I11"]);
}

#[test]
fn a_source_that_forgets_the_pages_of_a_lazy_move_is_caught() {
    check(Fault::ReleaseWhileServing, &["I4"]);
}

#[test]
fn a_target_that_takes_old_pages_for_those_of_the_freeze_is_caught() {
    check(Fault::KeepOldPages, &["I4"]);
}

#[test]
fn a_target_that_keeps_half_a_copy_of_a_called_off_move_is_caught() {
    check(Fault::KeepCopyOnAbort, &["I10"]);
}

#[test]
fn a_home_that_forgets_who_carries_a_parcel_is_caught() {
    check(Fault::ForgetTies, &["I10"]);
}
