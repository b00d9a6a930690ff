//! The model of a driver's pre-copy: rounds sent while the task runs, each of which may be the last.
//!
//! A stream of rounds belongs to one link. It carries the first round, later ones (which change nothing here, except
//! that time passes in which things break), and the rest after the freeze. A driver whose try was called off may end
//! the stream in a way that the other side sees, or forget to: the protocol must not need it.

use migrt_proto::{
    Epoch, Fault, Micros, NodeId, Place, TaskId,
    wire::{Refusal, Strategy},
};

use crate::{
    chaos::Trouble,
    event::Event,
    net::ConnId,
    process::{Arrival, GONE, Local, PAGES, Plan},
    world::World,
};

impl World {
    /// What the driver makes of a wish: how many rounds, and whether the pages follow later.
    pub(crate) fn pick(&mut self, strategy: Strategy) -> (u32, bool) {
        match strategy {
            Strategy::StopCopy => (0, false),
            Strategy::PreCopy { max_rounds, .. } => {
                (self.rng.range(0, u64::from(max_rounds) + 1) as u32, false)
            }
            Strategy::PostCopy => (0, true),
            Strategy::Auto { .. } | Strategy::Usual => match self.rng.range(0, 4) {
                0 => (0, false),
                1 => (self.rng.range(1, 4) as u32, false),
                2 => (self.rng.range(1, 4) as u32, true),
                _ => (0, true),
            },
        }
    }

    /// The task as it will be at the target.
    pub(crate) fn copy_of(&mut self, at: Place, local: &Local, epoch: Epoch) -> Local {
        let lazy = local.plan.is_some_and(|plan| plan.lazy);
        let missing = if lazy { self.rng.range(0, 64) as u8 } else { 0 };
        let mut pages = local.pages;
        for page in (0..PAGES).filter(|page| missing & 1 << page != 0) {
            pages[page] = GONE;
        }
        Local {
            epoch,
            frozen: false,
            freezing: false,
            settled: false,
            plan: None,
            missing,
            source: lazy.then_some(at),
            pages,
            ..local.clone()
        }
    }

    pub(crate) fn round(&mut self, at: Place, task: TaskId, epoch: Epoch, left: u32) {
        let now = Micros(self.now);
        let luck = self.rng.range(0, 100);
        let process = self.process(at).expect("checked");
        let is_it = |local: &&mut Local| {
            local.freezing && local.plan.is_some_and(|plan| plan.epoch == epoch)
        };
        let Some(local) = process.tasks.get_mut(&task).filter(is_it) else { return };
        let plan = local.plan.expect("just seen");
        if left == 0 {
            return self.freeze(at, task);
        }
        if luck < 3 {
            let (why, plan) = (Refusal::Pinned { what: "a socket".into() }, local.plan.take());
            local.freezing = false;
            process.core.freeze_failed(now, task, why);
            return self.stream_ends(task, plan);
        }
        if luck < 6 {
            return process.core.ship_failed(now, task, epoch, "the stream broke");
        }
        if local.source.is_some() {
            return self.at(5_000, Event::Round { at, task, epoch, left });
        }
        if luck < 10 {
            self.at(0, Event::Trouble(Trouble::Strike(at.node, plan.to)));
        }
        let is_sent = match plan.stream {
            Some((conn, to, _)) => self.net.is_current(at.node, to.node, conn),
            None => self.first_round(at, task, plan),
        };
        if is_sent {
            self.report.rounds += 1;
        } else if self.rng.chance(50) {
            let process = self.process(at).expect("checked");
            return process.core.ship_failed(now, task, epoch, "no link");
        }
        // Sometimes longer than any target may take to become ready.
        let slow = if self.rng.chance(3) { 4_000_000 } else { 30_000 };
        let delay = self.rng.range(100, slow);
        self.at(delay, Event::Round { at, task, epoch, left: left - 1 });
    }

    /// Whether there is a link, and the try is on still.
    fn first_round(&mut self, at: Place, task: TaskId, plan: Plan) -> bool {
        let (now, epoch) = (self.now, plan.epoch);
        let Some(link) = self.net.conn(at.node, plan.to) else { return false };
        let ends = link.ends;
        let (conn, to) = (link.id, if ends.0 == at { ends.1 } else { ends.0 });
        let delay = self.rng.range(100, 60_000);
        let process = self.process(at).expect("checked");
        if !process.core.copying(Micros(now), task, epoch) {
            return false;
        }
        let local = process.tasks.get_mut(&task).expect("checked");
        local.plan = Some(Plan { stream: Some((conn, to, now + delay)), ..plan });
        let local = Local { plan: None, ..local.clone() };
        let copy = self.copy_of(at, &local, epoch);
        self.at(delay, Event::Rounds { conn, from: at, to, task, epoch, local: copy });
        true
    }

    pub(crate) fn rounds_arrive(
        &mut self,
        at: Place,
        from: NodeId,
        conn: ConnId,
        (task, epoch): (TaskId, Epoch),
        local: Local,
    ) {
        let now = Micros(self.now);
        let Some(process) = self.process(at) else { return };
        if process.core.rounds_arriving(now, from, task, epoch).is_err() {
            return;
        }
        self.carry_out(at);
        let Some(process) = self.process(at) else { return };
        if process.is_slot_taken(task, local.slot) {
            let why = Refusal::Other { why: "slot in use".into() };
            return process.core.install_failed(now, task, epoch, why);
        }
        let arrival = Arrival { local, conn, is_written: true, is_whole: false, is_ready: false };
        process.arriving.insert(task, arrival);
    }

    /// The task is frozen: what is left goes the way of its rounds.
    pub(crate) fn ship_rest(
        &mut self,
        at: Place,
        task: TaskId,
        (conn, to, last): (ConnId, Place, u64),
        local: Local,
    ) {
        let (now, epoch) = (self.now, local.epoch);
        let delay = self.rng.range(100, 30_000).max((last + 1).saturating_sub(now));
        let process = self.process(at).expect("checked");
        if !process.core.commit(task, epoch) {
            return;
        }
        if self.rng.chance(4) {
            let soon = self.rng.range(0, 2 * delay);
            self.at(soon, Event::Trouble(Trouble::Strike(at.node, to.node)));
        }
        self.at(delay, Event::Rest { conn, from: at, to, task, epoch, local });
    }

    pub(crate) fn rest_arrives(&mut self, at: Place, task: TaskId, epoch: Epoch, local: Local) {
        let process = self.process(at).expect("checked");
        let keeps_old = process.fault == Fault::KeepOldPages;
        let arrival = process.arriving.get_mut(&task);
        if let Some(arrival) = arrival.filter(|arrival| arrival.local.epoch == epoch) {
            let rounds = std::mem::replace(&mut arrival.local, local);
            if keeps_old {
                let local = &mut arrival.local;
                for page in (0..PAGES).filter(|&page| local.missing & 1 << page != 0) {
                    local.pages[page] = rounds.pages[page];
                }
                local.missing = 0;
            }
            self.last_arrives(at, task, epoch);
        }
    }

    /// A try is over at its source. The driver may let the target's driver know by way of the stream.
    pub(crate) fn stream_ends(&mut self, task: TaskId, plan: Option<Plan>) {
        let Some(Plan { epoch, stream: Some((_, to, _)), .. }) = plan else { return };
        self.report.called_off += 1;
        if self.rng.chance(40) {
            let delay = self.rng.range(100, 300_000);
            self.at(delay, Event::Broken { at: to, task, epoch });
        }
    }

    pub(crate) fn arrival_breaks(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let now = Micros(self.now);
        // It may just have ended by what another stream's break led to.
        let Some(process) = self.process(at) else { return };
        let is_it = |arrival: &&Arrival| arrival.local.epoch == epoch && !arrival.is_whole;
        if process.arriving.get(&task).filter(is_it).is_some() {
            process.arriving.remove(&task);
            let why = Refusal::ShipFailed { why: "the stream broke".into() };
            process.core.install_failed(now, task, epoch, why);
        }
    }

    /// A link is gone, and with it the streams on it: those of rounds, if the driver looks.
    pub(crate) fn streams_break(&mut self, at: Place, conn: ConnId) {
        let process = self.process(at).expect("checked");
        let hit: Vec<(TaskId, Epoch, bool)> = process
            .arriving
            .iter()
            .filter(|(_, arrival)| arrival.conn == conn && !arrival.is_whole)
            .map(|(task, arrival)| (*task, arrival.local.epoch, arrival.is_written))
            .collect();
        for (task, epoch, has_rounds) in hit {
            if !has_rounds || self.rng.chance(40) {
                self.arrival_breaks(at, task, epoch);
                self.carry_out(at);
            }
        }
    }
}
