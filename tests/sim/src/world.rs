//! The loop: takes the earliest event, lets one process deal with it, carries out what its core decided.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use migrt_proto::{
    Action, EntryId, Epoch, Fault, Incarnation, Micros, NodeId, Place, TaskId,
    wire::{Outcome, Refusal, ShipHeader, TaskInfo, TaskState},
};

use crate::{
    chaos::Trouble,
    check::{Checker, Violation},
    net::{ConnId, Net},
    process::{Local, Process},
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
    is_traced: bool,
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
                    self.ship_arrives(at, from.node, &header, local);
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
            }
            Event::Up { from, conn, .. } => {
                if self.net.is_current(at.node, from, conn) {
                    self.link_up(at, from, conn);
                }
            }
            Event::Exited { .. } | Event::Trouble(_) => unreachable!("dealt with above"),
        }
        self.carry_out(at);
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
                .filter(|(_, local)| local.is_runnable())
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
        self.carry_out(at);
    }

    fn freeze(&mut self, at: Place, task: TaskId) {
        let now = Micros(self.now);
        let (fails, races) = (self.rng.chance(5), self.rng.chance(50));
        let process = self.process(at).expect("checked");
        let Some(local) = process.tasks.get_mut(&task).filter(|local| !local.frozen) else {
            return;
        };
        if local.freezing && fails {
            local.freezing = false;
            return process.core.freeze_failed(
                now,
                task,
                Refusal::Pinned { what: "a file".into() },
            );
        }
        if local.freezing || races {
            (local.freezing, local.frozen) = (false, true);
            process.core.frozen(now, task);
        }
    }

    fn ship_arrives(&mut self, at: Place, from: NodeId, header: &ShipHeader, local: Local) {
        let now = Micros(self.now);
        let Some(process) = self.process(at) else { return };
        if process.core.ship_arriving(now, from, header).is_err() {
            return;
        }
        self.carry_out(at);
        let delay = self.rng.range(100, 20_000);
        if let Some(process) = self.process(at) {
            process.arriving.insert(header.task, local);
            self.at(delay, Event::Install { at, task: header.task, epoch: header.epoch });
        }
    }

    fn install(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let now = Micros(self.now);
        let fails = self.rng.chance(4);
        let process = self.process(at).expect("checked");
        let Some(local) = process.arriving.get(&task).filter(|local| local.epoch == epoch) else {
            return;
        };
        if fails || process.is_slot_taken(task, local.slot) {
            process.arriving.remove(&task);
            process.core.install_failed(
                now,
                task,
                epoch,
                Refusal::Other { why: "slot in use".into() },
            );
        } else {
            process.core.installed(now, task, epoch);
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

    /// Does what the core at `at` wants done, and sees to it that it is woken in time.
    pub(crate) fn carry_out(&mut self, at: Place) {
        while let Some(process) = self.process(at) {
            let Some(action) = process.core.poll_action() else { break };
            self.act(at, action);
        }
        let now = self.now;
        let Some(process) = self.process(at) else { return };
        if let Some(Micros(deadline)) = process.core.next_deadline() {
            // A broken core may want to be woken at once, for ever.
            let deadline =
                if process.fault == Fault::None { deadline } else { deadline.max(now + 1_000) };
            if deadline < process.wake_at {
                process.wake_at = deadline;
                self.at(deadline.saturating_sub(now), Event::Wake { at });
            }
        }
    }

    fn act(&mut self, at: Place, action: Action) {
        let now = self.now;
        let slow = self.rng.range(50, 20_000);
        match &action {
            Action::Send { to, bytes } if self.is_traced => {
                eprintln!("{now:>9} {at} -> {to}: {}", migrt_proto::describe(bytes));
            }
            action if self.is_traced => eprintln!("{now:>9} {at}: {action:?}"),
            _ => {}
        }
        let process = self.process(at).expect("checked");
        match action {
            Action::Send { to, bytes } => self.send(at, to, bytes),
            Action::Fence { .. } | Action::Exit { .. } => self.end_process(at),
            Action::SlotsGranted { slots } => {
                process.grant(&slots);
                self.checker.granted(now, at, &slots);
            }
            Action::StartCall { task, args, .. } => {
                let goal = u64::from_le_bytes(args.try_into().expect("eight bytes"));
                self.begin(at, task, goal);
            }
            Action::CancelTask { task, .. } => {
                if let Some(local) = process.tasks.get_mut(&task) {
                    local.cancel = true;
                }
            }
            Action::Freeze { task, .. } => {
                // It may be that the call could not be started, a moment ago.
                if let Some(local) = process.tasks.get_mut(&task) {
                    local.freezing = true;
                    self.at(slow, Event::Freeze { at, task });
                }
            }
            Action::Ship { task, epoch, to } => self.ship(at, task, epoch, to),
            Action::ResumeHere { task, epoch, .. } => {
                let local = process.tasks.get_mut(&task).expect("I11: the task is here");
                local.settled |= local.epoch != epoch;
                let doubts = u64::from(local.epoch != epoch);
                (local.freezing, local.frozen, local.epoch) = (false, false, epoch);
                let slot = local.slot;
                self.report.doubts += doubts;
                self.report.failed += 1;
                self.runs(at, task, epoch, slot);
            }
            Action::ReleaseSource { task, .. } => {
                let local = process.tasks.remove(&task).expect("a frozen copy");
                assert!(local.frozen, "{task} was released while it ran");
            }
            Action::DropCopy { task, epoch } => {
                let local = process.arriving.remove(&task).expect("an arriving copy");
                assert_eq!(local.epoch, epoch);
            }
            Action::Thaw { task, epoch } => {
                let local = process.arriving.remove(&task).expect("an installed copy");
                assert_eq!(local.epoch, epoch);
                let slot = local.slot;
                process.tasks.insert(task, local);
                self.report.moves += 1;
                self.runs(at, task, epoch, slot);
            }
            Action::Settled { task, epoch } => process.settled(task, epoch),
            Action::JoinAnswered { task, token, outcome } => self.joined(at, task, token, outcome),
            Action::Answered { token, .. } => {
                process.waits.remove(&token).expect("an answer to a question");
            }
            Action::InfoWanted { task, asker } => {
                if process.tasks.contains_key(&task) {
                    let node = at.node;
                    let info = TaskInfo {
                        state: TaskState::Running,
                        node,
                        moves: 0,
                        cpu_us: 0,
                        pins: Vec::new(),
                    };
                    process.core.info(Micros(now), task, asker, info);
                }
            }
            Action::MemberUp { .. } | Action::NodeDead { .. } | Action::Custom { .. } => {}
            other => panic!("an action that the model does not know: {other:?}"),
        }
    }

    fn runs(&mut self, at: Place, task: TaskId, epoch: Epoch, slot: u32) {
        if self.process(at).is_some_and(|process| process.tasks.contains_key(&task)) {
            self.checker.runs(self.now, &self.processes, at, task, epoch);
            self.checker.slot_used(self.now, &self.processes, at, task, slot);
        }
    }

    pub(crate) fn begin(&mut self, at: Place, task: TaskId, goal: u64) {
        let now = Micros(self.now);
        let process = self.process(at).expect("checked");
        let Some(slot) = process.take_slot() else {
            return process.core.spawn_refused(
                now,
                task,
                Refusal::Other { why: "no slot is left".into() },
            );
        };
        let (epoch, settled) = (Epoch::FIRST, true);
        let local = Local {
            epoch,
            steps: 0,
            goal,
            slot,
            frozen: false,
            freezing: false,
            cancel: false,
            settled,
        };
        process.tasks.insert(task, local);
        self.runs(at, task, epoch, slot);
    }

    fn ship(&mut self, at: Place, task: TaskId, epoch: Epoch, to: NodeId) {
        let process = self.process(at).expect("checked");
        let local = process.tasks.get(&task).expect("a frozen task").clone();
        assert!(local.frozen, "rule 2");
        let header =
            ShipHeader { task, epoch, slots: Vec::new(), page_len: 4096, extra: Vec::new() };
        let copy = Local { epoch, frozen: false, freezing: false, settled: false, ..local };
        let delay = self.rng.range(100, 30_000);
        let end = self.net.conn(at.node, to).map(|link| {
            if link.ends.0 == at { (link.id, link.ends.1) } else { (link.id, link.ends.0) }
        });
        let is_lost = self.rng.chance(3);
        let Some((conn, to)) = end.filter(|_| !is_lost) else {
            return self.at(delay, Event::ShipFailed { at, task, epoch });
        };
        if self.rng.chance(4) {
            let soon = delay + self.rng.range(0, 30_000);
            self.at(soon, Event::Trouble(Trouble::Strike(at.node, to.node)));
        }
        if self.rng.chance(3) {
            let again = delay + self.rng.range(100, 500_000);
            self.at(
                again,
                Event::Ship { conn, from: at, to, header: header.clone(), local: copy.clone() },
            );
        }
        self.at(delay, Event::Ship { conn, from: at, to, header, local: copy });
    }

    fn send(&mut self, at: Place, to: NodeId, bytes: Vec<u8>) {
        let Some(&conn) = self.process(at).expect("checked").linked.get(&to) else { return };
        if !self.net.is_current(at.node, to, conn) {
            return;
        }
        let link = self.net.conn(at.node, to).expect("it is current");
        let peer = if link.ends.0 == at { link.ends.1 } else { link.ends.0 };
        let (now, twice) = (self.now, self.rng.chance(3));
        let Some((conn, arrival)) = self.net.arrival(&mut self.rng, now, at.node, to) else {
            return;
        };
        if twice {
            let later = arrival - now + self.rng.range(1, 400_000);
            self.at(later, Event::Control { conn, from: at, to: peer, bytes: bytes.clone() });
        }
        self.at(arrival - now, Event::Control { conn, from: at, to: peer, bytes });
    }

    fn joined(
        &mut self,
        at: Place,
        task: TaskId,
        token: migrt_proto::Token,
        outcome: Option<Outcome>,
    ) {
        let now = self.now;
        let process = self.process(at).expect("checked");
        process.waits.remove(&token).expect("an answer to a join");
        process.spawned.remove(&task);
        process.core.join_taken(Micros(now), task);
        let Some(outcome) = outcome else { return };
        if matches!(outcome, Outcome::Lost { .. }) {
            self.report.lost += 1;
        }
        self.checker.outcome(now, &self.processes, task, &outcome);
        self.carry_out(at);
    }

    pub(crate) fn entry() -> EntryId {
        EntryId(1)
    }
}
