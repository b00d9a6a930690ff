//! The model of a driver's freeze, and of the arrival of a task that comes as one shipment.

use migrt_proto::{
    Epoch, Micros, NodeId, Place, TaskId,
    wire::{Refusal, ShipHeader},
};

use crate::{
    event::Event,
    net::ConnId,
    process::{Arrival, Local, Plan},
    world::World,
};

impl World {
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

    pub(crate) fn ship_arrives(
        &mut self,
        at: Place,
        from: NodeId,
        conn: ConnId,
        header: &ShipHeader,
        local: Local,
        is_whole: bool,
    ) {
        let now = Micros(self.now);
        let Some(process) = self.process(at) else { return };
        if process.core.ship_arriving(now, from, header).is_err() {
            return;
        }
        self.carry_out(at);
        if let Some(process) = self.process(at) {
            let arrival =
                Arrival { local, conn, is_written: false, is_whole: false, is_ready: false };
            process.arriving.insert(header.task, arrival);
            if is_whole {
                self.last_arrives(at, header.task, header.epoch);
            }
        }
    }

    pub(crate) fn last_arrives(&mut self, at: Place, task: TaskId, epoch: Epoch) {
        let delay = self.rng.range(100, 20_000);
        let Some(process) = self.process(at) else { return };
        let arrival = process.arriving.get_mut(&task);
        if let Some(arrival) = arrival.filter(|arrival| arrival.local.epoch == epoch) {
            arrival.is_whole = true;
            self.at(delay, Event::Install { at, task, epoch });
        }
    }

    pub(crate) fn install(&mut self, at: Place, task: TaskId, epoch: Epoch) {
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
            process.core.installed(now, task, epoch, lazy);
            if lazy && !lacks && early {
                arrival.local.source = None;
                process.core.whole(now, task, epoch);
            }
        }
    }
}
