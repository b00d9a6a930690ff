//! Parcels at their homes: named, tied to what carries their message, and ended with it (rules 6 and 7 of the home).

mod trio;

use migrt_proto::{Action, EntryId, Micros, TaskId, TryJoin, wire::Outcome};
use trio::{A, B, C, Trio};

/// A parcel of B, cancelled where it is now.
fn is_cancelled(trio: &mut Trio, parcel: TaskId) -> bool {
    trio.take(B).contains(&Action::CancelTask { task: parcel, why: None })
}

/// The parcel ends, taken or dropped, and nobody remembers anything.
fn ends(trio: &mut Trio, parcel: TaskId) {
    trio.act(B, |core, now| core.ended(now, parcel, Outcome::Returned(Vec::new())));
    trio.now += Micros::from_millis(100);
    for node in [A, B, C] {
        if !trio.dead.contains(&node) {
            trio.act(node, |core, now| core.tick(now));
        }
    }
    assert_eq!(trio.on(B).backlog(), (0, 0, 0));
}

#[test]
fn a_parcel_that_is_taken_is_forgotten_and_its_carrier_ends_without_it() {
    let mut trio = Trio::new();
    let parcel = trio.on(B).spawn_parcel().unwrap();
    let carrier = trio.act(B, |core, now| core.spawn_at(now, C, EntryId(1), vec![1])).unwrap();
    trio.act(B, |core, now| core.tie_to_task(now, parcel, carrier));
    trio.trip(parcel, B, C);
    trio.act(C, |core, now| core.ended(now, parcel, Outcome::Returned(Vec::new())));
    assert_eq!(trio.on(B).try_join(parcel), TryJoin::Unknown);
    trio.act(C, |core, now| core.ended(now, carrier, Outcome::Cancelled));
    assert!(!is_cancelled(&mut trio, parcel));
    assert_eq!(trio.on(B).try_join(carrier), TryJoin::Done(Outcome::Cancelled));
}

#[test]
fn a_parcel_ends_with_the_call_that_it_was_an_argument_of() {
    let mut trio = Trio::new();
    let parcel = trio.on(B).spawn_parcel().unwrap();
    let carrier = trio.on(B).spawn_here().unwrap();
    trio.act(B, |core, now| core.tie_to_task(now, parcel, carrier));
    assert!(!is_cancelled(&mut trio, parcel));
    trio.act(B, |core, now| core.ended(now, carrier, Outcome::Cancelled));
    assert!(is_cancelled(&mut trio, parcel));
    trio.act(B, |core, now| core.detach(now, carrier));
    ends(&mut trio, parcel);
}

#[test]
fn a_parcel_ends_with_the_node_of_its_call() {
    let mut trio = Trio::new();
    let parcel = trio.on(B).spawn_parcel().unwrap();
    let carrier = trio.act(B, |core, now| core.spawn_at(now, C, EntryId(1), vec![1])).unwrap();
    trio.act(B, |core, now| core.tie_to_task(now, parcel, carrier));
    trio.kill(C);
    assert!(is_cancelled(&mut trio, parcel));
    trio.act(B, |core, now| core.detach(now, carrier));
    ends(&mut trio, parcel);
}

#[test]
fn a_parcel_that_is_tied_to_a_call_that_has_ended_ends_at_once() {
    let mut trio = Trio::new();
    let parcel = trio.on(B).spawn_parcel().unwrap();
    let carrier = trio.on(B).spawn_here().unwrap();
    trio.act(B, |core, now| core.ended(now, carrier, Outcome::Cancelled));
    trio.act(B, |core, now| core.tie_to_task(now, parcel, carrier));
    assert!(is_cancelled(&mut trio, parcel));
}

#[test]
fn a_result_that_nobody_takes_is_given_back() {
    for is_late in [false, true] {
        let mut trio = Trio::new();
        let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), vec![1])).unwrap();
        if !is_late {
            trio.act(A, |core, now| core.detach(now, task));
        }
        trio.returned(B, task);
        if is_late {
            trio.act(A, |core, now| core.detach(now, task));
        }
        assert_eq!(trio.take(A), [Action::NotTaken { bytes: vec![42] }]);
    }
}

#[test]
fn a_parcel_in_a_result_ends_with_the_node_that_keeps_the_result() {
    let mut trio = Trio::new();
    let parcel = trio.on(B).spawn_parcel().unwrap();
    let task = trio.act(C, |core, now| core.spawn_at(now, B, EntryId(1), vec![1])).unwrap();
    trio.act(B, |core, now| core.tie_to_node(now, parcel, task.home()));
    trio.returned(B, task);
    trio.take(B);
    trio.kill(C);
    assert!(is_cancelled(&mut trio, parcel));
    ends(&mut trio, parcel);
}

#[test]
fn a_result_for_a_home_that_has_died_is_given_back_where_it_was_made() {
    let mut trio = Trio::new();
    let task = trio.act(C, |core, now| core.spawn_at(now, B, EntryId(1), vec![1])).unwrap();
    trio.kill(C);
    trio.take(B);
    trio.returned(B, task);
    assert_eq!(trio.take(B), [Action::NotTaken { bytes: vec![42] }]);
    let parcel = trio.on(B).spawn_parcel().unwrap();
    trio.act(B, |core, now| core.tie_to_node(now, parcel, C));
    assert!(is_cancelled(&mut trio, parcel));
}
