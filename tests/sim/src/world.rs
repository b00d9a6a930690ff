//! The loop: takes the earliest event, lets one process deal with it, carries out what its core decided.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use migrt_proto::{
    Epoch, Fault, Incarnation, Micros, NodeId, Place, TaskId,
    wire::{Outcome, Refusal, ShipHeader},
};

use crate::{
    chaos::Trouble,
    check::{Checker, Violation},
    net::{ConnId, Net},
    process::{Arrival, Local, Plan, Process},
    rng::Rng,
};

/// What a seed's play amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tasks spawned.
    pub tasks: u64,
    /// Moves that were committed and thawed.
    pub moves: u64,
    /// Moves that failed and left the task at its source.
    pub failed: u64,
    /// Doubts that a home decided for the source.
    pub doubts: u64,
    /// Tasks reported lost.
    pub lost: u64,
    /// Processes that crashed or were fenced.
    pub deaths: u64,
    /// Rounds of pre-copies that were sent.
    pub rounds: u64,
    /// Moves that failed when rounds had been sent.
    pub called_off: u64,
    /// Lazy moves that were committed and served.
    pub lazy: u64,
    /// Tasks that ended since their pages were gone.
    pub pages_lost: u64,
    /// Events played.
    pub events: u64,
}

/// Plays `seed` with one rule of the protocol switched off, or none.
///
/// # Errors
/// The first violation.
pub fn run(seed: u64, fault: Fault) -> Result<Report, Violation> {
    let mut world = World::new(seed, fault);
    world.play();
    match world.checker.found {
        Some(violation) => Err(violation),
        None => Ok(world.report),
    }
}

#[derive(Debug)]
pub(crate) enum Event {
    Control { conn: ConnId, from: Place, to: Place, bytes: Vec<u8> },
    Ship { conn: ConnId, from: Place, to: Place, header: ShipHeader, local: Local },
    ShipFailed { at: Place, task: TaskId, epoch: Epoch },
    /// The driver of a pre-copy sends a round, or freezes when none is left.
    Round { at: Place, task: TaskId, epoch: Epoch, left: u32 },
    /// The first round arrives.
    Rounds { conn: ConnId, from: Place, to: Place, task: TaskId, epoch: Epoch, local: Local },
    /// What was left after the rounds arrives.
    Rest { conn: ConnId, from: Place, to: Place, task: TaskId, epoch: Epoch, local: Local },
    /// A stream of rounds ends before its time.
    Broken { at: Place, task: TaskId, epoch: Epoch },
    /// The target of a lazy move asks for a page, or has all.
    Fetch { at: Place, task: TaskId, epoch: Epoch },
    Request { conn: ConnId, from: Place, to: Place, task: TaskId, epoch: Epoch, page: u8 },
    Page { conn: ConnId, from: Place, to: Place, task: TaskId, epoch: Epoch, page: u8 },
    /// The source of a lazy move sends a page that nobody asked for.
    Push { at: Place, task: TaskId, epoch: Epoch },
    /// The driver has found that pages are gone.
    Lost { at: Place, task: TaskId, epoch: Epoch },
    Wake { at: Place },
    Run { at: Place },
    Freeze { at: Place, task: TaskId },
    Install { at: Place, task: TaskId, epoch: Epoch },
    Down { at: Place, from: NodeId, conn: ConnId },
    Up { at: Place, from: NodeId, conn: ConnId },
    Exited { place: Place },
    Trouble(Trouble),
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) net: Net,
    pub(crate) processes: Vec<Option<Process>>,
    pub(crate) checker: Checker,
    pub(crate) report: Report,
    pub(crate) fault: Fault,
    pub(crate) peace_at: u64,
    pub(crate) tasks: Vec<TaskId>,
    pub(crate) detached: BTreeSet<TaskId>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: std::collections::HashMap<u64, Event>,
    count: u64,
    incarnations: u64,
    /// `MIGRT_TRACE` is set: every action is printed.
    pub(crate) is_traced: bool,
}

impl World {
    fn new(seed: u64, fault: Fault) -> World {
        let mut rng = Rng::new(seed);
        let nodes = rng.range(3, 6);
        let mut world = World {
            peace_at: rng.range(4_000_000, 10_000_000),
            rng,
            now: 0,
            net: Net::default(),
            processes: (0..nodes).map(|_| None).collect(),
            checker: Checker::default(),
            report: Report::default(),
            fault,
            tasks: Vec::new(),
            detached: BTreeSet::new(),
            events: BinaryHeap::new(),
            bodies: std::collections::HashMap::new(),
            count: 0,
            incarnations: 0,
            is_traced: std::env::var_os("MIGRT_TRACE").is_some(),
        };
        for node in 0..nodes {
            world.start(NodeId(node as u16));
        }
        world.begin_trouble();
        world
    }

    fn play(&mut self) {
        // After peace the slowest chains: a death by silence, the ready limit, and a task's remaining steps.
        let end = self.peace_at + 25_000_000;
        while let Some(Reverse((at, number))) = self.events.pop() {
            if self.checker.found.is_some() || at > end {
                break;
            }
            self.now = self.now.max(at);
            self.report.events += 1;
            let event = self.bodies.remove(&number).expect("each event has a body");
            self.event(event);
        }
        for index in 0..self.processes.len() {
            if let Some(process) = self.processes[index].take() {
                self.checker.rest(self.now, &process);
            }
        }
    }

    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.bodies.insert(self.count, event);
        self.events.push(Reverse((self.now + delay, self.count)));
    }

    pub(crate) fn start(&mut self, node: NodeId) {
        self.incarnations += 1;
        let place = Place::new(node, Incarnation(self.incarnations));
        let ready_limit = self.rng.range(500_000, 3_000_000);
        let process = Process::new(place, self.processes.len() as u16, ready_limit, self.fault);
        self.processes[usize::from(node.0)] = Some(process);
        self.carry_out(place);
        self.at(1_000, Event::Run { at: place });
    }

    /// The process at `place`, if that is (still) the one there.
    pub(crate) fn process(&mut self, place: Place) -> Option<&mut Process> {
        self.processes[usize::from(place.node.0)]
            .as_mut()
            .filter(|process| process.place() == place)
    }

    pub(crate) fn end_process(&mut self, place: Place) {
        if self.is_traced {
            eprintln!("{:>9} {place}: ends", self.now);
        }
        self.report.deaths += 1;
        self.checker.dead.push(place);
        self.processes[usize::from(place.node.0)] = None;
        for node in 0..self.processes.len() as u16 {
            self.cut(place.node, NodeId(node));
        }
        if self.rng.chance(50) {
            let delay = self.rng.range(1_000, 200_000);
            self.at(delay, Event::Exited { place });
        }
        self.after_death(place);
    }

    /// Breaks the link between two nodes; each end hears of it in its own time.
    pub(crate) fn cut(&mut self, a: NodeId, b: NodeId) {
        let Some(conn) = self.net.cut(a, b) else { return };
        for (at, from) in [(conn.ends.0, conn.ends.1.node), (conn.ends.1, conn.ends.0.node)] {
            let delay = self.rng.range(100, 60_000);
            self.at(delay, Event::Down { at, from, conn: conn.id });
        }
    }

    fn event(&mut self, event: Event) {
        let at = match &event {
            Event::Control { to, .. } | Event::Ship { to, .. } => *to,
            Event::Rounds { to, .. } | Event::Rest { to, .. } => *to,
            Event::Request { to, .. } | Event::Page { to, .. } => *to,
            Event::Round { at, .. } | Event::Broken { at, .. } | Event::Fetch { at, .. } => *at,
            Event::Push { at, .. } | Event::Lost { at, .. } => *at,
            Event::ShipFailed { at, .. } | Event::Wake { at } | Event::Run { at } => *at,
            Event::Freeze { at, .. } | Event::Install { at, .. } => *at,
            Event::Down { at, .. } | Event::Up { at, .. } => *at,
            Event::Exited { place } => return self.exited(*place),
            Event::Trouble(trouble) => return self.trouble(*trouble),
        };
        let now = self.now;
        let Some(process) = self.process(at) else { return };
        if process.paused_until > now {
            let delay = process.paused_until - now;
            return self.at(delay, event);
        }
        let time = Micros(now);
        match event {
            Event::Control { conn, from, to, bytes } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    if let Some(process) = self.process(at) {
                        process.core.receive(time, from.node, &bytes).expect("a sound frame");
                    }
                }
            }
            Event::Ship { conn, from, to, header, local } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    self.ship_arrives(at, from.node, conn, &header, local);
                } else if self.rng.chance(50) {
                    self.at(
                        1_000,
                        Event::ShipFailed { at: from, task: header.task, epoch: header.epoch },
                    );
                }
            }
            Event::ShipFailed { task, epoch, .. } => {
                process.core.ship_failed(time, task, epoch, "broken link")
            }
            Event::Round { task, epoch, left, .. } => self.round(at, task, epoch, left),
            Event::Rounds { conn, from, to, task, epoch, local } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    self.rounds_arrive(at, from.node, conn, (task, epoch), local);
                }
            }
            Event::Rest { conn, from, to, task, epoch, local } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.rest_arrives(at, task, epoch, local);
                } else if self.rng.chance(50) {
                    self.at(1_000, Event::ShipFailed { at: from, task, epoch });
                }
            }
            Event::Broken { task, epoch, .. } => self.arrival_breaks(at, task, epoch),
            Event::Fetch { task, epoch, .. } => self.fetch(at, task, epoch),
            Event::Request { conn, from, to, task, epoch, page } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.page_wanted(at, from, conn, (task, epoch), page);
                }
            }
            Event::Page { conn, from, to, task, epoch, page } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.page_arrives(at, task, epoch, page);
                }
            }
            Event::Push { task, epoch, .. } => self.push(at, task, epoch),
            Event::Lost { task, epoch, .. } => self.pages_lost(at, task, epoch),
            Event::Wake { .. } => {
                process.wake_at = u64::MAX;
                process.core.tick(time);
            }
            Event::Run { .. } => self.run_tasks(at),
            Event::Freeze { task, .. } => self.freeze(at, task),
            Event::Install { task, epoch, .. } => self.install(at, task, epoch),
            Event::Down { from, conn, .. } => {
                if process.linked.get(&from) == Some(&conn) {
                    process.linked.remove(&from);
                    process.core.peer_down(time, from);
                }
                self.streams_break(at, conn);
            }
            Event::Up { from, conn, .. } => {
                if self.net.is_current(at.node, from, conn) {
                    self.link_up(at, from, conn);
                }
            }
            Event::Exited { .. } | Event::Trouble(_) => unreachable!("dealt with above"),
        }
        self.carry_out(at);
        self.checker.steady(now, &self.processes, at);
    }

    /// The process at `at` learns of a link, and first that the one before is gone.
    fn link_up(&mut self, at: Place, from: NodeId, conn: ConnId) {
        let now = Micros(self.now);
        let Some(link) = self.net.conn(at.node, from) else { return };
        let peer = if link.ends.0.node == from { link.ends.0 } else { link.ends.1 };
        let Some(process) = self.process(at) else { return };
        if process.linked.get(&from) == Some(&conn) {
            return;
        }
        if process.linked.remove(&from).is_some() {
            process.core.peer_down(now, from);
        }
        if process.core.peer_up(now, peer, &format!("sim:{from}")).is_ok() {
            process.linked.insert(from, conn);
        } else {
            self.cut(at.node, from);
        }
    }

    fn run_tasks(&mut self, at: Place) {
        let now = self.now;
        let delay = self.rng.range(2_000, 12_000);
        let mut rng = self.rng.clone();
        let Some(process) = self.process(at) else { return };
        if process.may_run(now) {
            let runnable: Vec<TaskId> = process
                .tasks
                .iter()
                // A task that touches a missing page waits for it.
                .filter(|(_, local)| {
                    local.is_runnable() && (local.missing == 0 || rng.chance(60))
                })
                .map(|(task, _)| *task)
                .collect();
            for task in runnable.into_iter().filter(|_| rng.chance(70)) {
                self.step(at, task);
            }
        }
        self.rng = rng;
        self.at(delay, Event::Run { at });
    }

    /// A task does one step of its work, or ends.
    fn step(&mut self, at: Place, task: TaskId) {
        let now = self.now;
        let local = self
            .process(at)
            .and_then(|process| process.tasks.get(&task))
            .expect("it was there")
            .clone();
        self.checker.runs(now, &self.processes, at, task, local.epoch);
        self.checker.slot_used(now, &self.processes, at, task, local.slot);
        let process = self.process(at).expect("it was there");
        let outcome = if local.cancel {
            Outcome::Cancelled
        } else if local.steps >= local.goal {
            Outcome::Returned(local.steps.to_le_bytes().to_vec())
        } else {
            process.tasks.get_mut(&task).expect("it was there").steps += 1;
            return;
        };
        process.tasks.remove(&task);
        process.free_slot(task, &local);
        process.core.ended(Micros(now), task, outcome);
        self.stream_ends(task, local.plan);
        self.carry_out(at);
    }

    pub(crate) fn freeze(&mut self, at: Place, task: TaskId) {
        let now = Micros(self.now);
        let (fails, races) = (self.rng.chance(5), self.rng.chance(50));
        let process = self.process(at).expect("checked");
        let Some(local) = process.tasks.get_mut(&task).filter(|local| !local.frozen) else {
            return;
        };
        if local.freezing && fails {
            local.freezing = false;
            let plan = local.plan.take();
            let why = Refusal::Pinned { what: "a file".into() };
            process.core.freeze_failed(now, task, why);
            return self.stream_ends(task, plan);
        }
        if local.source.is_some() {
            // Rule 13: not before it is whole.
            if local.freezing {
                self.at(5_000, Event::Freeze { at, task });
            }
            return;
        }
        if local.freezing || races {
            (local.freezing, local.frozen) = (false, true);
            match local.plan {
                Some(Plan { lazy: true, .. }) => process.core.frozen_lazily(now, task),
                _ => process.core.frozen(now, task),
            }
        }
    }

    fn ship_arrives(
        &mut self,
        at: Place,
        from: NodeId,
        conn: ConnId,
        header: &ShipHeader,
        local: Local,
    ) {
        let now = Micros(self.now);
        let Some(process) = self.process(at) else { return };
        if process.core.ship_arriving(now, from, header).is_err() {
            return;
        }
        self.carry_out(at);
        let delay = self.rng.range(100, 20_000);
        if let Some(process) = self.process(at) {
            let arrival = Arrival { local, conn, is_written: false, is_ready: false };
            process.arriving.insert(header.task, arrival);
            self.at(delay, Event::Install { at, task: header.task, epoch: header.epoch });
        }
    }

    fn install(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let now = Micros(self.now);
        let (fails, early) = (self.rng.chance(4), self.rng.chance(30));
        let process = self.process(at).expect("checked");
        let is_it = |arrival: &&Arrival| arrival.local.epoch == epoch && !arrival.is_ready;
        let Some(arrival) = process.arriving.get(&task).filter(is_it) else { return };
        let (slot, lacks) = (arrival.local.slot, arrival.local.missing != 0);
        let lazy = arrival.local.source.is_some();
        if fails || (!arrival.is_written && process.is_slot_taken(task, slot)) {
            process.arriving.remove(&task);
            process.core.install_failed(
                now,
                task,
                epoch,
                Refusal::Other { why: "slot in use".into() },
            );
        } else {
            let arrival = process.arriving.get_mut(&task).expect("just seen");
            (arrival.is_written, arrival.is_ready) = (true, true);
            process.core.installed(now, task, epoch);
            if lazy && !lacks && early {
                arrival.local.source = None;
                process.core.whole(now, task, epoch);
            }
        }
    }

    fn exited(&mut self, place: Place) {
        let now = Micros(self.now);
        if let Some(starting) = self.processes[0].as_mut() {
            let at = starting.place();
            if starting.paused_until <= self.now {
                starting.core.process_exited(now, place);
                self.carry_out(at);
            }
        }
    }
}
