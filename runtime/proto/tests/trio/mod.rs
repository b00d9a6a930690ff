//! Three nodes over perfect links, for tests that go step by step.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;

use migrt_proto::{
    Action, Config, Core, EntryId, Epoch, Incarnation, Micros, NodeId, Place, TaskId,
    wire::{Outcome, Refusal, ShipHeader, Strategy},
};

const STRATEGY: Strategy = Strategy::StopCopy;
/// How long a target may take: less than a lease, so that tests need no heartbeats to pass it.
pub const TRY_LIMIT: Micros = Micros::from_millis(300);

/// Nodes whose control messages arrive at once; everything else a core wants is kept for the test to look at.
pub struct Trio {
    pub cores: Vec<Core>,
    pub now: Micros,
    pub dead: Vec<NodeId>,
    wanted: BTreeMap<NodeId, Vec<Action>>,
}

pub const A: NodeId = NodeId(0);
pub const B: NodeId = NodeId(1);
pub const C: NodeId = NodeId(2);

pub fn place(node: NodeId) -> Place {
    Place::new(node, Incarnation(1))
}

impl Trio {
    pub fn new() -> Trio {
        let cores = [A, B, C].map(|node| {
            let mut config = Config::new(place(node), 3);
            config.try_limit = TRY_LIMIT;
            Core::new(config)
        });
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

    pub fn on(&mut self, node: NodeId) -> &mut Core {
        &mut self.cores[usize::from(node.0)]
    }

    /// Delivers until nobody has anything to say.
    pub fn drive(&mut self) {
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
    pub fn act<R>(&mut self, node: NodeId, act: impl FnOnce(&mut Core, Micros) -> R) -> R {
        let now = self.now;
        let result = act(self.on(node), now);
        self.drive();
        result
    }

    /// The process of `node` is gone, and the starting node is told.
    pub fn kill(&mut self, node: NodeId) {
        self.dead.push(node);
        self.act(A, |core, now| core.process_exited(now, place(node)));
    }

    pub fn take(&mut self, node: NodeId) -> Vec<Action> {
        self.wanted.remove(&node).unwrap_or_default()
    }

    /// Orders, freezes and begins to ship: not committed yet, and nothing is installed.
    pub fn ship(&mut self, task: TaskId, source: NodeId, target: NodeId) -> Epoch {
        self.act(source, |core, now| core.order(now, task, target, STRATEGY)).unwrap();
        let freeze = self.take(source);
        let [Action::Freeze { epoch: ordered, .. }] = freeze[..] else {
            panic!("no order to freeze")
        };
        self.act(source, |core, now| core.frozen(now, task));
        let [Action::Ship { epoch, .. }] = self.take(source)[..] else {
            panic!("no order to ship")
        };
        assert_eq!(epoch, ordered);
        let header =
            ShipHeader { task, epoch, slots: Vec::new(), page_len: 4096, extra: Vec::new() };
        self.act(target, |core, now| core.ship_arriving(now, source, &header)).unwrap();
        epoch
    }

    /// The last byte is given to the wire.
    pub fn commit(&mut self, task: TaskId, source: NodeId, epoch: Epoch) {
        assert!(self.on(source).commit(task, epoch));
        assert!(!self.on(source).commit(task, epoch), "once");
    }

    pub fn trip(&mut self, task: TaskId, source: NodeId, target: NodeId) -> Epoch {
        let epoch = self.ship(task, source, target);
        self.commit(task, source, epoch);
        self.act(target, |core, now| core.installed(now, task, epoch, false));
        assert!(self.take(target).contains(&Action::Thaw { task, epoch }));
        assert!(self.take(source).contains(&Action::ReleaseSource { task, epoch, to: target }));
        epoch
    }

    pub fn returned(&mut self, node: NodeId, task: TaskId) {
        self.act(node, |core, now| core.ended(now, task, Outcome::Returned(vec![42])));
    }
}

pub const PRE_COPY: Strategy =
    Strategy::PreCopy { max_pause: Micros(3_000), max_rounds: 9, hold_back: true };

/// A task of home A that runs at B.
pub fn at_b(trio: &mut Trio) -> TaskId {
    let task = trio.act(A, |core, now| core.spawn_at(now, B, EntryId(1), Vec::new())).unwrap();
    trio.take(B);
    task
}

pub fn order(
    trio: &mut Trio,
    task: TaskId,
    source: NodeId,
    target: NodeId,
    how: Strategy,
) -> Epoch {
    trio.act(source, |core, now| core.order(now, task, target, how)).unwrap();
    match trio.take(source)[..] {
        [Action::Freeze { epoch, strategy, .. }] if strategy == how => epoch,
        ref other => panic!("{other:?}"),
    }
}

pub fn arrive(
    trio: &mut Trio,
    task: TaskId,
    epoch: Epoch,
    source: NodeId,
    target: NodeId,
) -> Result<(), Refusal> {
    let header = ShipHeader { task, epoch, slots: Vec::new(), page_len: 4096, extra: Vec::new() };
    trio.act(target, |core, now| core.ship_arriving(now, source, &header))
}

pub fn pass(trio: &mut Trio, span: Micros) {
    trio.now += span;
    for node in [A, B, C] {
        trio.act(node, |core, now| core.tick(now));
    }
}
