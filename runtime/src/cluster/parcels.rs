//! Parcels on their way, as the cluster hears of them: tasks that do not run (`task/parcel`).

use migrt_proto::wire::Outcome;
use migrt_proto::{Core, Epoch, TaskId};

use super::Cluster;
use crate::exec::door;
use crate::task::parcel;
use crate::task::record::TaskRef;
use crate::task::state::Park;

impl Cluster {
    /// A parcel is sent off from here: names it and keeps the record that `make` makes for it, at rest. `None`: this
    /// node does not serve.
    pub(crate) fn parcel_begins(
        &'static self,
        make: impl FnOnce(TaskId) -> TaskRef,
    ) -> Option<TaskId> {
        let id = self.tell_only(Core::spawn_parcel)?;
        let record = make(id);
        record.state.begin_run();
        let rests = record.state.park() == Park::Asleep;
        self.residents.insert(id, record.clone());
        if !rests {
            door::push(record);
        }
        Some(id)
    }

    /// A parcel was taken here, by whoever has its arena: as a task it has ended.
    pub(crate) fn parcel_taken(&'static self, id: TaskId, record: &TaskRef) {
        self.residents.remove_this(id, record);
        self.tell(|core, now| core.ended(now, id, Outcome::Returned(Vec::new())));
    }

    /// Whether other nodes may not know yet that the task came here: its slots may not become another's.
    pub(crate) fn is_unsettled(&self, task: TaskId) -> bool {
        let unsettled = self.unsettled.lock().unwrap();
        unsettled.range((task, Epoch(0))..=(task, Epoch(u32::MAX))).next().is_some()
    }

    /// A result that nobody takes any more: what it names ends, unless it was taken.
    pub(super) fn not_taken(&'static self, message: &[u8]) {
        parcel::give_up(&parcel::named_in(message));
    }
}
