//! What goes wrong, and what the users of the cluster want meanwhile.
//!
//! Until peace comes: links break and heal, nodes are cut off, stopped for a while, killed and started anew; tasks are
//! spawned here and there, moved, asked about, joined and cancelled. Then everybody waits for what is theirs.

use migrt_proto::{
    Micros, NodeId, Place, TaskId,
    wire::{Ask, Strategy},
};

use crate::{event::Event, world::World};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Unlinked nodes try to link.
    Dial,
    /// A user at some node wants something.
    User,
    /// Something breaks.
    Break,
    /// One of these two nodes dies, or their link breaks: in the middle of a move.
    Strike(NodeId, NodeId),
    /// This process dies.
    Kill(Place),
    /// A node is started anew.
    Restart(NodeId),
    /// Nothing breaks from now on.
    Peace,
    /// Everybody joins what is left.
    Collect,
}

impl World {
    pub(crate) fn begin_trouble(&mut self) {
        self.at(1, Event::Trouble(Trouble::Dial));
        self.at(100_000, Event::Trouble(Trouble::User));
        self.at(500_000, Event::Trouble(Trouble::Break));
        self.at(self.peace_at, Event::Trouble(Trouble::Peace));
        self.at(self.peace_at + 6_000_000, Event::Trouble(Trouble::Collect));
    }

    fn is_peace(&self) -> bool {
        self.now >= self.peace_at
    }

    pub(crate) fn after_death(&mut self, place: Place) {
        // The starting node does not come back: its death ends the cluster.
        if place.node != NodeId::STARTING && !self.is_peace() && self.rng.chance(60) {
            let delay = self.rng.range(50_000, 3_000_000);
            self.at(delay, Event::Trouble(Trouble::Restart(place.node)));
        }
    }

    pub(crate) fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Dial => {
                self.dial();
                let delay = self.rng.range(20_000, 120_000);
                self.at(delay, Event::Trouble(trouble));
            }
            Trouble::User if !self.is_peace() => {
                let node = self.some_node();
                if let Some(place) = self.place(node) {
                    self.user(place);
                    self.carry_out(place);
                }
                let delay = self.rng.range(1_000, 15_000);
                self.at(delay, Event::Trouble(trouble));
            }
            Trouble::Break if !self.is_peace() => {
                self.something_breaks();
                let delay = self.rng.range(20_000, 900_000);
                self.at(delay, Event::Trouble(trouble));
            }
            Trouble::Restart(node) if !self.is_peace() => {
                if self.place(node).is_none() {
                    self.start(node);
                }
            }
            Trouble::Strike(source, target) if !self.is_peace() => {
                self.cut(source, target);
                let until = self.now + self.rng.range(0, 2_000_000);
                self.net.block(source, target, until);
                if self.rng.chance(40) {
                    // What the target has to tell takes its time.
                    let third = self.some_node();
                    self.cut(target, third);
                    self.net.block(target, third, self.now + 400_000);
                }
                let victim = if self.rng.chance(75) { target } else { source };
                match self.place(victim).filter(|_| victim != NodeId::STARTING) {
                    Some(place) if self.rng.chance(60) => self.end_process(place),
                    Some(place) if self.rng.chance(50) => {
                        // It lives on for a while, cut off from its partner only.
                        let delay = self.rng.range(10_000, 900_000);
                        self.at(delay, Event::Trouble(Trouble::Kill(place)));
                    }
                    _ => {}
                }
            }
            Trouble::Kill(place) => {
                if self.process(place).is_some() && !self.is_peace() {
                    self.end_process(place);
                }
            }
            Trouble::Peace => self.net.heal(),
            Trouble::Collect => self.collect(),
            Trouble::User | Trouble::Break | Trouble::Strike(..) | Trouble::Restart(_) => {}
        }
    }

    fn some_node(&mut self) -> NodeId {
        NodeId(self.rng.range(0, self.processes.len() as u64) as u16)
    }

    fn some_strategy(&mut self) -> Strategy {
        let max_pause = Micros(self.rng.range(0, 5_000));
        match self.rng.range(0, 4) {
            0 => Strategy::StopCopy,
            1 => {
                let (max_rounds, hold_back) = (self.rng.range(0, 7) as u32, self.rng.chance(50));
                Strategy::PreCopy { max_pause, max_rounds, hold_back }
            }
            2 => Strategy::PostCopy,
            _ => Strategy::Auto { max_pause },
        }
    }

    fn place(&self, node: NodeId) -> Option<Place> {
        self.processes[usize::from(node.0)].as_ref().map(|process| process.place())
    }

    /// Every node links to the starting node, and to whomever either of the two has heard of.
    fn dial(&mut self) {
        let now = self.now;
        let places: Vec<Place> =
            self.processes.iter().flatten().map(|process| process.place()).collect();
        for (index, a) in places.iter().enumerate() {
            for b in &places[index + 1..] {
                let is_open = self.net.conn(a.node, b.node).is_none()
                    && !self.net.is_blocked(now, a.node, b.node);
                let awake = |world: &World, place: &Place| {
                    world.processes[usize::from(place.node.0)]
                        .as_ref()
                        .is_some_and(|p| p.paused_until <= now)
                };
                if !is_open || !awake(self, a) || !awake(self, b) || self.rng.chance(30) {
                    continue;
                }
                let [one, two] = [a, b]
                    .map(|p| &self.processes[usize::from(p.node.0)].as_ref().expect("awake").core);
                let known =
                    a.node == NodeId::STARTING || one.is_member(b.node) || two.is_member(a.node);
                if known && one.admits(*b).is_ok() && two.admits(*a).is_ok() {
                    let conn = self.net.connect(*a, *b);
                    for (at, from) in [(*a, b.node), (*b, a.node)] {
                        let delay = self.rng.range(100, 30_000);
                        self.at(delay, Event::Up { at, from, conn });
                    }
                }
            }
        }
    }

    fn user(&mut self, at: Place) {
        let now = Micros(self.now);
        let what = self.rng.range(0, 100);
        let goal = self.rng.range(1, 400);
        let (target, strategy) = (self.some_node(), self.some_strategy());
        let some_task = self.rng.pick(&self.tasks.clone());
        let paused = self
            .process(at)
            .is_none_or(|process| process.paused_until > now.0 || !process.core.is_serving());
        if paused {
            return;
        }
        if what < 25 && self.tasks.len() < 60 {
            if let Some(task) = self.process(at).expect("checked").core.spawn_here() {
                self.spawned(at, task);
                self.begin(at, task, goal);
                if self.rng.chance(40) {
                    self.give_parcel(at, task);
                }
            }
            return;
        }
        let process = self.process(at).expect("checked");
        if what < 40 && process.core.is_member(target) {
            let call =
                process.core.spawn_at(now, target, World::entry(), goal.to_le_bytes().to_vec());
            return self.spawned(at, call.expect("the target is a member"));
        }
        let here = process.tasks.iter().filter(|(_, local)| !local.is_parcel);
        let here: Vec<TaskId> = here.map(|(task, _)| *task).collect();
        if what < 70 {
            if let Some(task) = self.rng.pick(&here) {
                // Whatever the answer, the task goes on.
                let _ = self.process(at).expect("checked").core.order(now, task, target, strategy);
            }
            return;
        }
        let Some(task) = some_task else { return };
        let process = self.process(at).expect("checked");
        match what {
            70..85 => {
                let token = process.token(task, "move");
                process.core.ask(now, task, token, Ask::Move { target, strategy });
            }
            85..90 => {
                let token = process.token(task, "info");
                process.core.ask(now, task, token, Ask::Info);
            }
            90..97 => {
                let token = process.token(task, "join");
                process.core.join(now, task, token);
            }
            97 => process.core.cancel(now, task),
            _ => {
                if process.spawned.remove(&task) {
                    process.core.detach(now, task);
                    self.detached.insert(task);
                }
            }
        }
    }

    fn spawned(&mut self, at: Place, task: TaskId) {
        self.report.tasks += 1;
        self.tasks.push(task);
        self.checker.homes.insert(task, at);
        self.process(at).expect("checked").spawned.insert(task);
    }

    fn something_breaks(&mut self) {
        let now = self.now;
        let (one, two) = (self.some_node(), self.some_node());
        let long = self.rng.range(10_000, 3_000_000);
        // Without the starting node for a lease's time all others end: short, mostly.
        let long = if one == NodeId::STARTING && self.rng.chance(95) { long / 4 } else { long };
        let until = (now + long).min(self.peace_at);
        match self.rng.range(0, 100) {
            0..45 => self.cut(one, two),
            45..65 => {
                self.net.block(one, two, until);
                self.cut(one, two);
            }
            65..72 => {
                for other in 0..self.processes.len() as u16 {
                    self.net.block(one, NodeId(other), until);
                    self.cut(one, NodeId(other));
                }
            }
            72..85 => {
                if let Some(process) = self.place(one).and_then(|place| self.process(place)) {
                    process.paused_until = until.max(process.paused_until);
                }
            }
            // Rarely the starting node: nothing much happens afterwards.
            85..100 if one != NodeId::STARTING || self.rng.chance(3) => {
                if let Some(place) = self.place(one) {
                    self.end_process(place);
                }
            }
            _ => {}
        }
    }

    fn collect(&mut self) {
        let now = Micros(self.now);
        let places: Vec<Place> =
            self.processes.iter().flatten().map(|process| process.place()).collect();
        for at in places {
            let process = self.process(at).expect("listed");
            for task in process.spawned.clone() {
                let token = process.token(task, "the last join");
                process.core.join(now, task, token);
            }
            self.carry_out(at);
        }
    }
}
