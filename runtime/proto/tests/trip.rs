//! One task's trips between three nodes over perfect links, step by step, in success and in death.

mod trio;

use migrt_proto::{
    Action, DEAD_AFTER, EntryId, Epoch, Incarnation, Micros, Place, TaskId, Token, TryJoin,
    wire::{Answer, Ask, Outcome, Refusal, Strategy},
};
use trio::{A, B, C, Trio, place};

#[test]
fn a_task_that_never_leaves_is_spawned_ended_and_joined_on_its_node() {
    let mut trio = Trio::new();
    let task = trio.on(A).spawn_here().unwrap();
    assert_eq!(trio.on(A).try_join(task), TryJoin::Pending);
    trio.returned(A, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
    assert_eq!(trio.on(A).try_join(task), TryJoin::Unknown);
    assert_eq!(trio.on(B).try_join(task), TryJoin::Elsewhere);
}

#[test]
fn a_task_hops_round_the_cluster_and_its_end_is_told_to_whoever_asks() {
    let mut trio = Trio::new();
    let task = trio.on(B).spawn_here().unwrap();
    for (hop, (source, target)) in [(B, C), (C, A), (A, B), (B, A)].into_iter().enumerate() {
        assert_eq!(trio.trip(task, source, target), Epoch(hop as u32 + 2));
    }
    trio.act(C, |core, now| core.join(now, task, Token(5)));
    trio.returned(A, task);
    let outcome = Some(Outcome::Returned(vec![42]));
    assert!(trio.take(C).contains(&Action::JoinAnswered { task, token: Token(5), outcome }));
    trio.act(C, |core, now| core.join_taken(now, task));
    trio.act(C, |core, now| core.join(now, task, Token(6)));
    assert_eq!(trio.take(C), [Action::JoinAnswered { task, token: Token(6), outcome: None }]);
    trio.now += Micros::from_millis(100);
    for node in [A, B, C] {
        trio.act(node, |core, now| core.tick(now));
    }
    for node in [A, B, C] {
        assert_eq!(trio.on(node).backlog(), (0, 0, 0));
    }
}

#[test]
fn a_question_finds_the_task_wherever_it_is() {
    let mut trio = Trio::new();
    let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), vec![1])).unwrap();
    assert_eq!(trio.take(B), [Action::StartCall { task, entry: EntryId(1), args: vec![1] }]);
    trio.act(C, |core, now| {
        core.ask(now, task, Token(1), Ask::Move { target: C, strategy: Strategy::PostCopy })
    });
    let freeze = Action::Freeze { task, target: C, epoch: Epoch(2), strategy: Strategy::PostCopy };
    assert_eq!(trio.take(B), [freeze]);
    trio.act(C, |core, now| {
        core.ask(now, task, Token(2), Ask::Move { target: A, strategy: Strategy::StopCopy })
    });
    let busy = Answer::Move(Err(Refusal::Busy));
    assert_eq!(trio.take(C), [Action::Answered { task, token: Token(2), answer: busy }]);
    let pinned = Refusal::Pinned { what: "open file".into() };
    trio.act(B, |core, now| core.freeze_failed(now, task, pinned.clone()));
    let answer = Answer::Move(Err(pinned));
    assert_eq!(trio.take(C), [Action::Answered { task, token: Token(1), answer }]);
    assert_eq!(
        trio.on(B).order(Micros(1), TaskId::new(C, task.generation(), 77), A, Strategy::default()),
        Err(Refusal::UnknownTask)
    );
}

#[test]
fn a_try_that_fails_before_the_commit_leaves_the_task_at_its_source_and_the_next_takes_a_new_epoch()
{
    let mut trio = Trio::new();
    let task = trio.on(A).spawn_here().unwrap();
    let first = trio.ship(task, A, B);
    trio.act(A, |core, now| core.ship_failed(now, task, first, "cable"));
    let why = Refusal::ShipFailed { why: "cable".into() };
    assert_eq!(trio.take(A), [Action::ResumeHere { task, epoch: Epoch::FIRST, why }]);
    assert_eq!(trio.take(B), [Action::DropCopy { task, epoch: first }]);
    // The word of the first try comes too late.
    trio.act(B, |core, now| core.installed(now, task, first, false));
    assert!(trio.ship(task, A, B) > first);
}

#[test]
fn a_target_that_dies_before_the_commit_leaves_the_task_at_its_source() {
    let mut trio = Trio::new();
    let task = trio.on(A).spawn_here().unwrap();
    trio.ship(task, A, B);
    trio.kill(B);
    let why = Refusal::TargetDied { node: B };
    assert!(trio.take(A).contains(&Action::ResumeHere { task, epoch: Epoch::FIRST, why }));
    trio.returned(A, task);
}

#[test]
fn a_source_that_dies_before_the_commit_takes_the_task_along_and_the_copy_is_dropped() {
    let mut trio = Trio::new();
    let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    let epoch = trio.ship(task, B, C);
    trio.kill(B);
    assert!(trio.take(C).contains(&Action::DropCopy { task, epoch }));
    assert_eq!(
        trio.on(A).try_join(task),
        TryJoin::Done(Outcome::Lost { node: B, missing_pages: 0 })
    );
}

#[test]
fn a_source_that_dies_after_the_commit_arrived_does_not_matter() {
    let mut trio = Trio::new();
    let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    trio.trip(task, B, C);
    trio.kill(B);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Pending);
    trio.returned(C, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn a_commit_that_the_dead_target_never_received_lets_the_source_go_on() {
    let mut trio = Trio::new();
    let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    let epoch = trio.ship(task, B, C);
    // C dies while the last byte is on its way.
    trio.commit(task, B, epoch);
    trio.kill(C);
    let why = Refusal::TargetDied { node: C };
    let resumed = trio.take(B).into_iter().find_map(|action| match action {
        Action::ResumeHere { epoch: above, why: told, .. } if told == why => Some(above),
        _ => None,
    });
    // Far above: the dead might have moved it on.
    assert!(resumed.expect("it goes on") > Epoch(epoch.0 + 1_000));
    trio.returned(B, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn the_tasks_of_a_dead_home_are_cancelled_where_they_are() {
    let mut trio = Trio::new();
    let task = trio.act(B, |core, now| core.spawn_at(now, C, EntryId(1), Vec::new())).unwrap();
    trio.take(C);
    trio.act(A, |core, now| core.join(now, task, Token(1)));
    trio.kill(B);
    let why = Some(Refusal::HomeDied { node: B });
    assert!(trio.take(C).contains(&Action::CancelTask { task, why }));
    let outcome = Some(Outcome::Lost { node: B, missing_pages: 0 });
    assert!(trio.take(A).contains(&Action::JoinAnswered { task, token: Token(1), outcome }));
    trio.act(C, |core, now| core.ended(now, task, Outcome::Cancelled));
    assert_eq!(trio.on(C).backlog().0, 0);
}

#[test]
fn a_node_without_answers_fences_itself_before_it_is_declared_dead() {
    let mut trio = Trio::new();
    let end = trio.on(B).lease_until().unwrap();
    trio.dead = vec![B];
    trio.on(B).tick(end);
    assert!(
        std::iter::from_fn(|| trio.on(B).poll_action())
            .any(|action| matches!(action, Action::Fence { .. }))
    );
    trio.now = end;
    trio.act(A, |core, now| core.tick(now));
    assert!(trio.on(A).is_member(B));
    trio.now = Micros(1) + DEAD_AFTER;
    trio.act(A, |core, now| core.tick(now));
    assert!(trio.take(A).contains(&Action::NodeDead { place: place(B) }));
    assert!(
        trio.on(A).admits(place(B)).is_err()
            && trio.on(A).admits(Place::new(B, Incarnation(2))).is_ok()
    );
}
