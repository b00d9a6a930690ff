//! A second move of a task, ordered in each phase of the first: it is refused, or waits, and the first is none the worse.

mod trio;

use migrt_proto::{
    Action, TaskId, TryJoin,
    wire::{Outcome, Refusal, Strategy},
};
use trio::{A, B, C, PRE_COPY, Trio, arrive, at_b, order};

/// The order of a second move at the source: refused, and nothing else happens anywhere.
fn refused(trio: &mut Trio, task: TaskId, phase: &str) {
    for target in [A, C] {
        let second = trio.act(B, |core, now| core.order(now, task, target, Strategy::StopCopy));
        assert_eq!(second, Err(Refusal::Busy), "{phase}");
    }
    for node in [A, B, C] {
        let wanted = trio.take(node);
        assert!(wanted.is_empty(), "{phase}: {wanted:?}");
    }
}

/// Moves a task from B to C with second orders all the way, then on to A with the last of them.
fn check(how: Strategy) {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let is_lazy = how == Strategy::PostCopy;
    let epoch = order(&mut trio, task, B, C, how);
    refused(&mut trio, task, "ordered");
    if how == PRE_COPY {
        assert!(trio.act(B, |core, now| core.copying(now, task, epoch)));
        refused(&mut trio, task, "copying");
        trio.act(C, |core, now| core.rounds_arriving(now, B, task, epoch)).unwrap();
        refused(&mut trio, task, "rounds arriving");
    }
    trio.act(B, |core, now| match is_lazy {
        true => core.frozen_lazily(now, task),
        false => core.frozen(now, task),
    });
    assert_eq!(trio.take(B), [Action::Ship { task, epoch, to: C }]);
    refused(&mut trio, task, "frozen");
    if how != PRE_COPY {
        arrive(&mut trio, task, epoch, B, C).unwrap();
        refused(&mut trio, task, "shipping");
    }
    trio.commit(task, B, epoch);
    refused(&mut trio, task, "committed");
    // Thaw and acknowledgement follow at once over these links.
    trio.act(C, |core, now| core.installed(now, task, epoch, is_lazy));
    assert!(trio.take(C).contains(&Action::Thaw { task, epoch }));
    let left = if is_lazy {
        Action::Serve { task, epoch, to: C }
    } else {
        Action::ReleaseSource { task, epoch, to: C }
    };
    assert_eq!(trio.take(B), [left]);
    // The source has it no more; where it is it may be ordered on, once.
    let late = trio.act(B, |core, now| core.order(now, task, A, how));
    assert_eq!(late, Err(Refusal::UnknownTask));
    let next = order(&mut trio, task, C, A, Strategy::StopCopy);
    let third = trio.act(C, |core, now| core.order(now, task, B, Strategy::StopCopy));
    assert_eq!(third, Err(Refusal::Busy));
    if is_lazy {
        trio.act(C, |core, now| core.whole(now, task, epoch));
        assert_eq!(trio.take(B), [Action::ReleaseSource { task, epoch, to: C }]);
    }
    trio.act(C, |core, now| core.frozen(now, task));
    assert_eq!(trio.take(C), [Action::Ship { task, epoch: next, to: A }]);
    arrive(&mut trio, task, next, C, A).unwrap();
    trio.commit(task, C, next);
    trio.act(A, |core, now| core.installed(now, task, next, false));
    assert!(trio.take(A).contains(&Action::Thaw { task, epoch: next }));
    trio.returned(A, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn orders_during_a_stop_copy_are_refused() {
    check(Strategy::StopCopy);
}

#[test]
fn orders_during_rounds_are_refused() {
    check(PRE_COPY);
}

#[test]
fn orders_while_pages_follow_wait_for_the_last_one() {
    check(Strategy::PostCopy);
}
