//! A commit that may not have arrived: the source asks, and one of the two has the task.

mod trio;

use migrt_proto::{
    Action, Epoch, Micros, NodeId, TaskId, TryJoin,
    wire::{Outcome, Refusal},
};
use trio::{A, B, C, TRY_LIMIT, Trio, arrive, at_b, pass};

/// Committed from B to C. `has_begun`: its stream has begun to arrive.
fn committed(trio: &mut Trio, task: TaskId, has_begun: bool) -> Epoch {
    let epoch = match has_begun {
        true => trio.ship(task, B, C),
        false => {
            let epoch = trio::order(trio, task, B, C, trio::PRE_COPY);
            trio.act(B, |core, now| core.frozen(now, task));
            trio.take(B);
            epoch
        }
    };
    trio.commit(task, B, epoch);
    epoch
}

fn broken(trio: &mut Trio, task: TaskId, epoch: Epoch) {
    trio.act(B, |core, now| core.ship_failed(now, task, epoch, "cable"));
}

fn resumed(task: TaskId) -> Action {
    let why = Refusal::ShipFailed { why: "cable".into() };
    Action::ResumeHere { task, epoch: Epoch::FIRST, why }
}

fn ends_at(trio: &mut Trio, task: TaskId, node: NodeId) {
    trio.returned(node, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
    assert_eq!((trio.on(B).backlog().0, trio.on(C).backlog().0), (0, 0));
}

#[test]
fn a_stream_that_breaks_on_its_way_leaves_the_task_at_its_source() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    broken(&mut trio, task, epoch);
    assert_eq!(trio.take(C), [Action::DropCopy { task, epoch }]);
    assert_eq!(trio.take(B), [resumed(task)]);
    // The target's driver is late.
    trio.act(C, |core, now| core.installed(now, task, epoch, false));
    assert!(trio.take(C).is_empty());
    ends_at(&mut trio, task, B);
}

#[test]
fn a_stream_that_comes_after_it_was_retracted_is_thrown_away_and_the_next_is_taken() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, false);
    broken(&mut trio, task, epoch);
    assert_eq!(trio.take(B), [resumed(task)]);
    assert_eq!(arrive(&mut trio, task, epoch, B, C), Err(Refusal::Stale));
    assert!(trio.take(B).is_empty() && trio.take(C).is_empty());
    trio.trip(task, B, C);
    ends_at(&mut trio, task, C);
}

#[test]
fn a_stream_of_rounds_that_comes_after_it_was_retracted_is_thrown_away_too() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, false);
    broken(&mut trio, task, epoch);
    assert_eq!(trio.take(B), [resumed(task)]);
    let rounds = trio.act(C, |core, now| core.rounds_arriving(now, B, task, epoch));
    assert_eq!(rounds, Err(Refusal::Stale));
    assert!(trio.take(B).is_empty() && trio.take(C).is_empty());
    trio.trip(task, B, C);
    ends_at(&mut trio, task, C);
}

#[test]
fn a_commit_that_was_obeyed_cannot_be_taken_back() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    // The acknowledgement is on its way while the source takes the stream for broken.
    let now = trio.now;
    trio.on(C).installed(now, task, epoch, false);
    trio.on(B).ship_failed(now, task, epoch, "cable");
    trio.drive();
    assert_eq!(trio.take(B), [Action::ReleaseSource { task, epoch, to: C }]);
    assert!(trio.take(C).contains(&Action::Thaw { task, epoch }));
    ends_at(&mut trio, task, C);
}

#[test]
fn a_commit_that_was_obeyed_and_moved_on_cannot_be_taken_back_either() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    let now = trio.now;
    trio.on(B).ship_failed(now, task, epoch, "cable");
    // Before B's question comes, the task runs at C and goes on to A.
    let question: Vec<Action> = std::iter::from_fn(|| trio.on(B).poll_action()).collect();
    trio.act(C, |core, now| core.installed(now, task, epoch, false));
    let released = Action::ReleaseSource { task, epoch, to: C };
    assert_eq!(trio.take(B), [released]);
    trio.take(C);
    trio.trip(task, C, A);
    for action in question {
        if let Action::Send { to, bytes } = action {
            let now = trio.now;
            trio.on(to).receive(now, B, &bytes).unwrap();
        }
    }
    trio.drive();
    assert!(trio.take(B).is_empty());
    // And it may come back to where it was asked for.
    trio.trip(task, A, C);
    ends_at(&mut trio, task, C);
}

#[test]
fn a_target_that_cannot_install_what_was_committed_says_so_and_the_task_goes_on() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    let why = Refusal::Other { why: "a static reaches it".into() };
    trio.act(C, |core, now| core.install_failed(now, task, epoch, why.clone()));
    assert_eq!(trio.take(B), [Action::ResumeHere { task, epoch: Epoch::FIRST, why }]);
    assert!(trio.take(C).is_empty());
    ends_at(&mut trio, task, B);
}

#[test]
fn a_target_that_says_nothing_is_asked_when_its_time_is_over() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    pass(&mut trio, Micros(TRY_LIMIT.0 - 1));
    assert!(trio.take(B).is_empty());
    pass(&mut trio, Micros(1));
    assert_eq!(trio.take(C), [Action::DropCopy { task, epoch }]);
    let why = Refusal::Timeout;
    assert_eq!(trio.take(B), [Action::ResumeHere { task, epoch: Epoch::FIRST, why }]);
    ends_at(&mut trio, task, B);
}

#[test]
fn a_cancelled_task_ends_wherever_the_commit_leaves_it() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    trio.act(A, |core, now| core.cancel(now, task));
    assert!(trio.take(B).is_empty());
    broken(&mut trio, task, epoch);
    assert_eq!(trio.take(B), [resumed(task), Action::CancelTask { task, why: None }]);

    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, true);
    trio.act(A, |core, now| core.cancel(now, task));
    trio.act(C, |core, now| core.installed(now, task, epoch, false));
    let told = trio.take(C);
    assert!(told.contains(&Action::CancelTask { task, why: None }), "{told:?}");
}

#[test]
fn a_target_that_dies_with_the_question_leaves_it_to_the_home() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = committed(&mut trio, task, false);
    trio.dead.push(C);
    broken(&mut trio, task, epoch);
    assert!(trio.take(B).is_empty());
    trio.kill(C);
    let why = Refusal::TargetDied { node: C };
    let goes_on = |action: &Action| matches!(action, Action::ResumeHere { epoch: on, why: told, .. } if *on > epoch && *told == why);
    assert!(trio.take(B).iter().any(goes_on));
    trio.returned(B, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}
