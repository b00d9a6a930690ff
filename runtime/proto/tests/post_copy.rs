//! Pages that follow the task after the commit, step by step: in success, and in every way to fail.

mod trio;

use migrt_proto::{
    Action, EntryId, Epoch, NodeId, TaskId, Token, TryJoin,
    wire::{Answer, Ask, Outcome, Refusal, ShipHeader, Strategy},
};
use trio::{A, B, C, PRE_COPY, Trio, arrive, at_b, order};

/// Runs at C, which lacks pages that B has.
fn lazily(trio: &mut Trio, task: TaskId) -> Epoch {
    let epoch = order(trio, task, B, C, Strategy::PostCopy);
    trio.act(B, |core, now| core.frozen_lazily(now, task));
    assert_eq!(trio.take(B), [Action::Ship { task, epoch, to: C }]);
    arrive(trio, task, epoch, B, C).unwrap();
    trio.commit(task, B, epoch);
    trio.act(C, |core, now| core.installed(now, task, epoch, true));
    assert!(trio.take(C).contains(&Action::Thaw { task, epoch }));
    assert_eq!(trio.take(B), [Action::Serve { task, epoch, to: C }]);
    assert_eq!((trio.on(C).lacking(task), trio.on(B).serving_count()), (Some(B), 1));
    epoch
}

#[test]
fn the_source_serves_until_the_target_is_whole_and_is_not_asked_about_the_task() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = lazily(&mut trio, task);
    trio.act(A, |core, now| core.ask(now, task, Token(1), Ask::Info));
    let wanted = trio.take(C);
    assert!(matches!(wanted.last(), Some(Action::InfoWanted { .. })), "{wanted:?}");
    assert!(trio.take(B).is_empty());
    assert_eq!(
        trio.act(B, |core, now| core.order(now, task, A, PRE_COPY)),
        Err(Refusal::UnknownTask)
    );
    // It may be ordered on, and waits.
    let next = order(&mut trio, task, C, A, Strategy::StopCopy);
    trio.act(C, |core, now| core.whole(now, task, epoch));
    assert_eq!(trio.take(B), [Action::ReleaseSource { task, epoch, to: C }]);
    trio.act(C, |core, now| core.whole(now, task, epoch));
    assert!(trio.take(B).is_empty());
    trio.act(C, |core, now| core.frozen(now, task));
    assert_eq!(trio.take(C), [Action::Ship { task, epoch: next, to: A }]);
    assert_eq!(trio.on(B).backlog().0, 0);
}

#[test]
fn a_question_that_was_on_its_way_to_a_source_that_serves_finds_the_task() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let now = trio.now;
    trio.on(A).ask(now, task, Token(1), Ask::Info);
    let question = sends(&mut trio, A);
    lazily(&mut trio, task);
    for (to, bytes) in question {
        trio.on(to).receive(now, A, &bytes).unwrap();
    }
    trio.drive();
    assert!(matches!(trio.take(C)[..], [.., Action::InfoWanted { .. }]));
    assert!(trio.take(B).is_empty());
}

#[test]
fn an_asker_hears_of_a_lazy_move_when_the_task_runs_there() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let ask = Ask::Move { target: C, strategy: Strategy::PostCopy };
    trio.act(A, |core, now| core.ask(now, task, Token(1), ask));
    let epoch = Epoch(2);
    trio.act(B, |core, now| core.frozen_lazily(now, task));
    arrive(&mut trio, task, epoch, B, C).unwrap();
    trio.commit(task, B, epoch);
    trio.act(C, |core, now| core.installed(now, task, epoch, true));
    let answer = Answer::Move(Ok(C));
    assert!(trio.take(A).contains(&Action::Answered { task, token: Token(1), answer }));
    assert_eq!(trio.on(B).serving_count(), 1);
}

#[test]
fn a_task_that_lacks_nothing_may_say_so_at_once() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = order(&mut trio, task, B, C, Strategy::PostCopy);
    trio.act(B, |core, now| core.frozen_lazily(now, task));
    trio.take(B);
    arrive(&mut trio, task, epoch, B, C).unwrap();
    trio.commit(task, B, epoch);
    let now = trio.now;
    trio.on(C).installed(now, task, epoch, true);
    trio.act(C, |core, now| core.whole(now, task, epoch));
    let released = Action::ReleaseSource { task, epoch, to: C };
    assert_eq!(trio.take(B), [Action::Serve { task, epoch, to: C }, released]);
}

#[test]
fn a_task_that_ends_while_it_lacks_pages_needs_none() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = lazily(&mut trio, task);
    trio.returned(C, task);
    assert_eq!(trio.take(B), [Action::ReleaseSource { task, epoch, to: C }]);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn a_source_that_dies_with_pages_of_the_task_is_the_end_of_it() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = lazily(&mut trio, task);
    order(&mut trio, task, C, A, PRE_COPY);
    trio.kill(B);
    let told = trio.take(C);
    let why = Refusal::SourceDied { node: B };
    assert!(told.contains(&Action::CallOff { task, epoch, why }), "the order is off: {told:?}");
    assert!(told.contains(&Action::SourceLost { task, epoch, source: B }));
    assert_eq!(trio.on(A).try_join(task), TryJoin::Pending);
    trio.act(C, |core, now| core.lost(now, task, B, 7));
    let lost = Outcome::Lost { node: B, missing_pages: 7 };
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(lost));
    assert_eq!(trio.on(C).backlog().0, 0);
}

#[test]
fn a_source_that_dies_when_the_last_page_has_come_does_not_matter() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = lazily(&mut trio, task);
    trio.kill(B);
    assert!(trio.take(C).contains(&Action::SourceLost { task, epoch, source: B }));
    trio.act(C, |core, now| core.whole(now, task, epoch));
    assert_eq!(trio.on(C).lacking(task), None);
    trio.returned(C, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

#[test]
fn a_target_that_dies_while_it_lacks_pages_takes_the_task_along_and_the_source_stops_serving() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = lazily(&mut trio, task);
    trio.kill(C);
    assert!(trio.take(B).contains(&Action::ReleaseSource { task, epoch, to: C }));
    let lost = Outcome::Lost { node: C, missing_pages: 0 };
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(lost));
    assert_eq!(trio.on(B).backlog().0, 0);
}

#[test]
fn a_task_that_comes_back_by_a_faster_stream_proves_that_it_was_whole() {
    for rounds in [false, true] {
        let mut trio = Trio::new();
        let task = at_b(&mut trio);
        let epoch = lazily(&mut trio, task);
        let stale = trio.act(B, |core, now| core.rounds_arriving(now, C, task, epoch));
        assert_eq!(stale, Err(Refusal::Stale));
        // C becomes whole and orders the task back; its frame is on its way still.
        let (now, next) = (trio.now, epoch.next());
        if rounds {
            trio.on(B).rounds_arriving(now, C, task, next).unwrap();
        } else {
            let header =
                ShipHeader { task, epoch: next, slots: vec![], page_len: 4096, extra: vec![] };
            trio.on(B).ship_arriving(now, C, &header).unwrap();
        }
        // First of all, before anything is installed.
        let released = Some(Action::ReleaseSource { task, epoch, to: C });
        assert_eq!(trio.on(B).poll_action(), released);
        trio.on(B).peer_down(now, C);
        trio.act(C, |core, now| core.whole(now, task, epoch));
        assert!(!trio.take(B).iter().any(|act| matches!(act, Action::ReleaseSource { .. })));
    }
}

#[test]
fn a_lazy_commit_that_the_dead_target_never_received_lets_the_source_go_on_with_all_pages() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    let epoch = order(&mut trio, task, B, C, Strategy::PostCopy);
    trio.act(B, |core, now| core.frozen_lazily(now, task));
    trio.take(B);
    arrive(&mut trio, task, epoch, B, C).unwrap();
    trio.commit(task, B, epoch);
    trio.kill(C);
    let told = trio.take(B);
    let is_resumed =
        |act: &Action| matches!(act, Action::ResumeHere { epoch: on, .. } if *on > epoch);
    assert!(told.iter().any(is_resumed), "{told:?}");
    assert!(!told.iter().any(|act| matches!(act, Action::Serve { .. })));
    trio.returned(B, task);
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Returned(vec![42])));
}

/// What `from` wants to send, instead of sending it.
fn sends(trio: &mut Trio, from: NodeId) -> Vec<(NodeId, Vec<u8>)> {
    let actions = std::iter::from_fn(|| trio.on(from).poll_action());
    let sends = actions.filter_map(|action| match action {
        Action::Send { to, bytes } => Some((to, bytes)),
        _ => None,
    });
    sends.collect()
}

#[test]
fn a_copy_that_went_with_its_home_leaves_nobody_serving() {
    // Home C, source B, target A. C dies while the last of the head is on its way.
    let mut trio = Trio::new();
    let task = trio.act(C, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    let epoch = order(&mut trio, task, B, A, Strategy::PostCopy);
    trio.act(B, |core, now| core.frozen_lazily(now, task));
    arrive(&mut trio, task, epoch, B, A).unwrap();
    trio.commit(task, B, epoch);
    trio.take(B);
    trio.kill(C);
    assert!(trio.take(A).contains(&Action::DropCopy { task, epoch }));
    let told = trio.take(B);
    let why = Refusal::HomeDied { node: C };
    assert!(told.contains(&Action::ResumeHere { task, epoch: Epoch::FIRST, why }), "{told:?}");
    assert!(told.contains(&Action::CancelTask { task, why: None }), "{told:?}");
    trio.act(B, |core, now| core.ended(now, task, Outcome::Cancelled));
    assert_eq!((trio.on(A).backlog().0, trio.on(B).backlog().0), (0, 0));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "I4 (rule 13)")]
fn a_task_that_lacks_pages_must_not_be_frozen() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    lazily(&mut trio, task);
    order(&mut trio, task, C, A, Strategy::StopCopy);
    trio.act(C, |core, now| core.frozen(now, task));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "I4 (rule 13)")]
fn a_task_that_lacks_pages_must_not_be_copied() {
    let mut trio = Trio::new();
    let task = at_b(&mut trio);
    lazily(&mut trio, task);
    let epoch = order(&mut trio, task, C, A, PRE_COPY);
    let _ = trio.act(C, |core, now| core.copying(now, task, epoch));
}
