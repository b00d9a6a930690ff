//! One task's trips between three nodes over perfect links, step by step, in success and in death.

use std::collections::BTreeMap;

use migrt_proto::{
    Action, Config, Core, DEAD_AFTER, EntryId, Epoch, Incarnation, Micros, NodeId, Place, TaskId,
    Token, TryJoin,
    wire::{Answer, Ask, Outcome, Refusal, ShipHeader},
};

/// Nodes whose control messages arrive at once; everything else a core wants is kept for the test to look at.
struct Trio {
    cores: Vec<Core>,
    now: Micros,
    dead: Vec<NodeId>,
    wanted: BTreeMap<NodeId, Vec<Action>>,
}

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

fn place(node: NodeId) -> Place {
    Place::new(node, Incarnation(1))
}

impl Trio {
    fn new() -> Trio {
        let cores = [A, B, C].map(|node| Core::new(Config::new(place(node), 3)));
        let mut trio =
            Trio { cores: cores.into(), now: Micros(1), dead: Vec::new(), wanted: BTreeMap::new() };
        for (a, b) in [(A, B), (A, C), (B, C)] {
            let now = trio.now;
            trio.on(a).peer_up(now, place(b), "there").unwrap();
            trio.on(b).peer_up(now, place(a), "here").unwrap();
            trio.drive();
        }
        assert!([A, B, C].iter().all(|node| trio.on(*node).is_serving()));
        trio.wanted.clear();
        trio
    }

    fn on(&mut self, node: NodeId) -> &mut Core {
        &mut self.cores[usize::from(node.0)]
    }

    /// Delivers until nobody has anything to say.
    fn drive(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for from in [A, B, C] {
                while let Some(action) = self.on(from).poll_action() {
                    is_quiet = false;
                    match action {
                        _ if self.dead.contains(&from) => {}
                        Action::Send { to, .. } if self.dead.contains(&to) => {}
                        Action::Send { to, bytes } => {
                            let now = self.now;
                            self.on(to).receive(now, from, &bytes).unwrap();
                        }
                        action => self.wanted.entry(from).or_default().push(action),
                    }
                }
            }
        }
    }

    /// Does something on a node and delivers what follows.
    fn act<R>(&mut self, node: NodeId, act: impl FnOnce(&mut Core, Micros) -> R) -> R {
        let now = self.now;
        let result = act(self.on(node), now);
        self.drive();
        result
    }

    /// The process of `node` is gone, and the starting node is told.
    fn kill(&mut self, node: NodeId) {
        self.dead.push(node);
        self.act(A, |core, now| core.process_exited(now, place(node)));
    }

    fn take(&mut self, node: NodeId) -> Vec<Action> {
        self.wanted.remove(&node).unwrap_or_default()
    }

    /// Orders, freezes and ships; the target has not installed yet.
    fn ship(&mut self, task: TaskId, source: NodeId, target: NodeId) -> Epoch {
        self.act(source, |core, now| core.order(now, task, target)).unwrap();
        assert_eq!(self.take(source), [Action::Freeze { task, target }]);
        self.act(source, |core, now| core.frozen(now, task));
        let [Action::Ship { epoch, .. }] = self.take(source)[..] else {
            panic!("no order to ship")
        };
        let header =
            ShipHeader { task, epoch, slots: Vec::new(), page_len: 4096, extra: Vec::new() };
        self.act(target, |core, now| core.ship_arriving(now, source, &header)).unwrap();
        epoch
    }

    fn trip(&mut self, task: TaskId, source: NodeId, target: NodeId) -> Epoch {
        let epoch = self.ship(task, source, target);
        self.act(target, |core, now| core.installed(now, task, epoch));
        assert!(self.take(target).contains(&Action::Thaw { task, epoch }));
        assert!(self.take(source).contains(&Action::ReleaseSource { task, epoch, to: target }));
        epoch
    }

    fn returned(&mut self, node: NodeId, task: TaskId) {
        self.act(node, |core, now| core.ended(now, task, Outcome::Returned(vec![42])));
    }
}

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
    trio.act(C, |core, now| core.ask(now, task, Token(1), Ask::Move { target: C }));
    assert_eq!(trio.take(B), [Action::Freeze { task, target: C }]);
    trio.act(C, |core, now| core.ask(now, task, Token(2), Ask::Move { target: A }));
    let busy = Answer::Move(Err(Refusal::Busy));
    assert_eq!(trio.take(C), [Action::Answered { task, token: Token(2), answer: busy }]);
    let pinned = Refusal::Pinned { what: "open file".into() };
    trio.act(B, |core, now| core.freeze_failed(now, task, pinned.clone()));
    let answer = Answer::Move(Err(pinned));
    assert_eq!(trio.take(C), [Action::Answered { task, token: Token(1), answer }]);
    assert_eq!(
        trio.on(B).order(Micros(1), TaskId::new(C, task.generation(), 77), A),
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
    trio.act(B, |core, now| core.installed(now, task, first));
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
    assert_eq!(trio.on(A).try_join(task), TryJoin::Done(Outcome::Lost { node: B }));
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
    // C says it is ready, and dies before anything else reaches it.
    let now = trio.now;
    trio.on(C).installed(now, task, epoch);
    while let Some(action) = trio.on(C).poll_action() {
        if let Action::Send { to, bytes } = action {
            trio.on(to).receive(now, C, &bytes).unwrap();
        }
    }
    trio.kill(C);
    let why = Refusal::TargetDied { node: C };
    assert!(trio.take(B).contains(&Action::ResumeHere { task, epoch: epoch.next(), why }));
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
    let outcome = Some(Outcome::Lost { node: B });
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
