//! Runs the models: each explores all interleavings.

use migrt_test_loom::models;

#[test]
fn no_wake_is_lost() {
    models::no_wake_is_lost();
}

#[test]
fn one_of_two_wakers_queues_the_task() {
    models::one_of_two_wakers_queues_the_task();
}

#[test]
fn a_mover_and_a_waker_do_not_both_have_the_task() {
    models::a_mover_and_a_waker_do_not_both_have_the_task();
}

#[test]
fn no_push_is_missed_by_a_worker_that_goes_to_sleep() {
    models::no_push_is_missed_by_a_worker_that_goes_to_sleep();
}

#[test]
fn no_inbox_push_is_missed_either() {
    models::no_inbox_push_is_missed_either();
}

#[test]
fn the_last_searcher_looks_once_more() {
    models::the_last_searcher_looks_once_more();
}
