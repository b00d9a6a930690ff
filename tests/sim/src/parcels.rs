//! Parcels: tasks that do not run, each tied to another task that wants it. That one has it brought to where it is, and
//! ends it there; wherever the two are, whoever dies, and if it never comes to that, nothing is left of the parcel (I10).

use migrt_proto::{
    Micros, Place, TaskId,
    wire::{Ask, Outcome, Strategy},
};

use crate::world::World;

impl World {
    /// The task, which begins at `at`, its home, has a parcel of that node among its arguments.
    pub(crate) fn give_parcel(&mut self, at: Place, carrier: TaskId) {
        let now = Micros(self.now);
        let Some(process) = self.process(at) else { return };
        if !process.tasks.contains_key(&carrier) {
            return;
        }
        let Some(parcel) = process.core.spawn_parcel() else { return };
        self.checker.homes.insert(parcel, at);
        self.begin(at, parcel, u64::MAX);
        let process = self.process(at).expect("it was there");
        if let Some(local) = process.tasks.get_mut(&parcel) {
            local.is_parcel = true;
            process.tasks.get_mut(&carrier).expect("seen above").wants = Some(parcel);
            process.core.tie_to_task(now, parcel, carrier);
        }
        self.carry_out(at);
    }

    /// A task that is about to make a step takes its parcel if that is here, or asks for it now and then.
    pub(crate) fn want(&mut self, at: Place, task: TaskId) {
        let now = Micros(self.now);
        let is_asking = self.rng.chance(20);
        let Some(process) = self.process(at) else { return };
        let Some(parcel) = process.tasks.get(&task).and_then(|local| local.wants) else { return };
        match process.tasks.get(&parcel) {
            Some(local) if local.frozen || local.cancel || !local.settled => {}
            Some(local) => {
                let local = local.clone();
                process.tasks.remove(&parcel);
                process.free_slot(parcel, &local);
                process.core.ended(now, parcel, Outcome::Returned(Vec::new()));
                process.tasks.get_mut(&task).expect("it runs").wants = None;
                self.report.parcels += 1;
                self.stream_ends(parcel, local.plan);
            }
            None if is_asking => {
                let token = process.token(parcel, "parcel");
                let (target, strategy) = (at.node, Strategy::StopCopy);
                process.core.ask(now, parcel, token, Ask::Move { target, strategy });
            }
            None => {}
        }
        self.carry_out(at);
    }
}
