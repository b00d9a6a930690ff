//! Rounds before the freeze, step by step: in success, and in every way to fail.

mod trio;

use migrt_proto::{
    Action, EntryId, Epoch, Micros, TaskId, TryJoin,
    wire::{Outcome, Refusal, Strategy},
};
use trio::{A, B, C, PRE_COPY, TRY_LIMIT, Trio, at_b, order, pass};

/// Ordered from B to C, and the first round has arrived.
fn copying(trio: &mut Trio, task: TaskId) -> Epoch {
    let epoch = order(trio, task, B, C, PRE_COPY);
    assert!(trio.act(B, |core, now| core.copying(now, task, epoch)));
    trio.act(C, |core, now| core.rounds_arriving(now, B, task, epoch)).unwrap();
    assert!(trio.take(B).is_empty() && trio.take(C).is_empty());
    epoch
}

#[test]
fn rounds_take_their_time_and_the_rest_goes_in_the_epoch_of_the_order() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = copying(&mut trio, task);
    for _ in 0..20 {
        pass(&mut trio, Micros(TRY_LIMIT.0 / 2));
    }
    assert!(trio.take(B).is_empty() && trio.take(C).is_empty());
    trio.act(B, |core, now| core.frozen(now, task));
    assert_eq!(trio.take(B), [Action::Ship { task, epoch, to: C }]);
    trio.commit(task, B, epoch);
    trio.act(C, |core, now| core.installed(now, task, epoch, false));
    assert!(trio.take(C).contains(&Action::Thaw { task, epoch }));
    assert_eq!(trio.take(B), [Action::ReleaseSource { task, epoch, to: C }]);
    trio.returned(C, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn the_limit_of_a_try_counts_from_the_freeze() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = copying(&mut trio, task);
    trio.act(B, |core, now| core.frozen(now, task));
    trio.take(B);
    pass(&mut trio, Micros(TRY_LIMIT.0 - 1));
    assert!(trio.take(B).is_empty());
    pass(&mut trio, Micros(1));
    let why = Refusal::Timeout;
    assert_eq!(trio.take(B), [Action::ResumeHere { task, epoch: Epoch::FIRST, why }]);
    assert_eq!(trio.take(C), [Action::DropCopy { task, epoch }]);
}

/// What ends the rounds, and what the source is told then: the target keeps nothing, and the next order is obeyed.
fn called_off(end: impl FnOnce(&mut Trio, TaskId, Epoch), told: &[Refusal]) {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = copying(&mut trio, task);
    end(&mut trio, task, epoch);
    assert_eq!(trio.take(C), [Action::DropCopy { task, epoch }]);
    let resumed = trio.take(B).into_iter().filter_map(|action| match action {
        Action::CallOff { epoch: Epoch::FIRST, why, .. } => Some(why),
        _ => None,
    });
    assert_eq!(resumed.collect::<Vec<_>>(), told);
    assert!(!trio.act(B, |core, now| core.copying(now, task, epoch)), "that try is over");
    // Its stream was slower than the word that it is over.
    trio.act(C, |core, now| core.rounds_arriving(now, B, task, epoch)).unwrap();
    assert_eq!(trio.take(C), [Action::DropCopy { task, epoch }]);
    if trio.act(B, |core, now| core.order(now, task, C, PRE_COPY)).is_ok() {
        let again = trio.take(B);
        assert!(matches!(again[..], [Action::Freeze { epoch: next, .. }] if next > epoch));
        trio.returned(B, task);
    }
    assert_eq!((trio.on(B).backlog().0, trio.on(C).backlog().0), (0, 0));
}

#[test]
fn whatever_ends_the_rounds_leaves_the_task_running_and_nothing_at_the_target() {
    called_off(|trio, task, _| trio.returned(B, task), &[]);
    let pinned = Refusal::Pinned { what: "a file".into() };
    called_off(|trio, task, _| trio.act(B, |core, now| core.freeze_failed(now, task, pinned)), &[]);
    called_off(
        |trio, task, epoch| trio.act(B, |core, now| core.ship_failed(now, task, epoch, "cable")),
        &[Refusal::ShipFailed { why: "cable".into() }],
    );
    called_off(
        |trio, task, _| {
            trio.act(A, |core, now| core.cancel(now, task));
            trio.act(B, |core, now| core.ended(now, task, Outcome::Cancelled));
        },
        &[Refusal::Cancelled],
    );
}

#[test]
fn a_target_that_cannot_keep_the_rounds_says_so_and_the_task_runs_on() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = copying(&mut trio, task);
    let why = Refusal::Other { why: "no slot".into() };
    trio.act(C, |core, now| core.install_failed(now, task, epoch, why.clone()));
    assert_eq!(trio.take(B), [Action::CallOff { task, epoch: Epoch::FIRST, why }]);
    assert!(trio.take(C).is_empty());
}

#[test]
fn a_death_at_either_end_of_the_rounds_leaves_no_copy_and_no_doubt() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    copying(&mut trio, task);
    trio.kill(C);
    let why = Refusal::TargetDied { node: C };
    assert!(trio.take(B).contains(&Action::CallOff { task, epoch: Epoch::FIRST, why }));

    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = copying(&mut trio, task);
    trio.kill(B);
    assert!(trio.take(C).contains(&Action::DropCopy { task, epoch }));
    let lost = Outcome::Lost { node: B, missing_pages: 0 };
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(lost));
}

#[test]
fn the_rounds_of_a_task_whose_home_dies_end_and_it_is_cancelled() {
    let mut trio = Trio::new();
    let task = trio.act(C, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    let epoch = order(&mut trio, task, B, A, PRE_COPY);
    assert!(trio.act(B, |core, now| core.copying(now, task, epoch)));
    trio.act(A, |core, now| core.rounds_arriving(now, B, task, epoch)).unwrap();
    trio.kill(C);
    assert!(trio.take(A).contains(&Action::DropCopy { task, epoch }));
    let told = trio.take(B);
    let why = Refusal::HomeDied { node: C };
    assert!(told.contains(&Action::CallOff { task, epoch: Epoch::FIRST, why: why.clone() }));
    assert!(told.contains(&Action::CancelTask { task, why: Some(why) }));
}

#[test]
fn each_order_takes_an_epoch_of_its_own() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let first = order(&mut trio, task, B, C, Strategy::default());
    trio.act(B, |core, now| core.freeze_failed(now, task, Refusal::Busy));
    assert_eq!(order(&mut trio, task, B, C, Strategy::default()), first.next());
    // The driver's word about the first try is nobody's.
    trio.act(B, |core, now| core.ship_failed(now, task, first, "late"));
    assert!(trio.take(B).is_empty());
    assert!(!trio.act(B, |core, now| core.copying(now, task, first)));
}
