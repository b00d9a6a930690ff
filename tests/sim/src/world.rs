//! The loop: takes the earliest event and lets it happen (`event`), until the end.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use migrt_proto::{Fault, Incarnation, Micros, NodeId, Place, TaskId, wire::Outcome};

use crate::{
    check::{Checker, Violation},
    event::Event,
    net::{ConnId, Net},
    process::{Local, PAGES, Process},
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
    /// Of these, the ones whose first pages went in rounds.
    pub mixed: u64,
    /// Tasks that ended since their pages were gone.
    pub pages_lost: u64,
    /// Parcels that were taken by the task they were for.
    pub parcels: u64,
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
        let try_limit = self.rng.range(500_000, 3_000_000);
        let process = Process::new(place, self.processes.len() as u16, try_limit, self.fault);
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

    /// The process at `at` learns of a link, and first that the one before is gone.
    pub(crate) fn link_up(&mut self, at: Place, from: NodeId, conn: ConnId) {
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

    pub(crate) fn run_tasks(&mut self, at: Place) {
        let now = self.now;
        let delay = self.rng.range(2_000, 12_000);
        let mut rng = self.rng.clone();
        let Some(process) = self.process(at) else { return };
        if process.may_run(now) {
            let runnable: Vec<TaskId> = process
                .tasks
                .iter()
                // A task that touches a missing page waits for it.
                // A parcel runs to end only.
                .filter(|(_, local)| !local.is_parcel || local.cancel)
                .filter(|(_, local)| local.is_runnable() && (local.missing == 0 || rng.chance(60)))
                .map(|(task, _)| *task)
                .collect();
            for task in runnable.into_iter().filter(|_| rng.chance(70)) {
                self.want(at, task);
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
        if let Some(page) = local.wrong_page() {
            let text = format!("page {page} of {task} at {at} is not as it was left: {local:?}");
            self.checker.fail(now, "I4", text);
        }
        let process = self.process(at).expect("it was there");
        let outcome = if local.cancel {
            Outcome::Cancelled
        } else if local.steps >= local.goal && local.missing & Local::LAST_PAGE == 0 {
            Outcome::Returned(local.steps.to_le_bytes().to_vec())
        } else {
            let step = local.steps + 1;
            let page = (step % PAGES as u64) as usize;
            // One that touches a missing page waits for it.
            if !local.lacks(page) {
                let local = process.tasks.get_mut(&task).expect("it was there");
                (local.steps, local.pages[page]) = (step, step as u32);
            }
            return;
        };
        process.tasks.remove(&task);
        process.free_slot(task, &local);
        process.core.ended(Micros(now), task, outcome);
        self.stream_ends(task, local.plan);
        self.carry_out(at);
    }

    pub(crate) fn exited(&mut self, place: Place) {
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
