//! Births and deaths of mobile tasks, as the cluster hears of them.

use std::borrow::Cow;

use migrt_proto::wire::{Outcome, Refusal};
use migrt_proto::{Core, EntryId, NodeId, TaskId};

use super::{Cluster, cluster};
use crate::error::JoinError;
use crate::exec::door;
use crate::exec::worker::Worker;
use crate::task::mobile::{self, Call, MobileBody};

impl Cluster {
    /// Starts a call on this node.
    pub(crate) fn spawn_here(&'static self, worker: Option<&Worker>, entry: EntryId, args: Vec<u8>) -> TaskId {
        let id = self.tell_only(Core::spawn_here).expect("this node serves");
        let record = mobile::new_task(worker, id, Call { entry, args });
        self.residents.insert(id, record.clone());
        door::push(record);
        id
    }

    /// Starts a call on another node; a refusal is the task's outcome.
    pub(crate) fn spawn_at(&'static self, node: NodeId, entry: EntryId, args: Vec<u8>) -> TaskId {
        match self.tell(|core, now| core.spawn_at(now, node, entry, args)) {
            Ok(id) => id,
            Err(reason) => self.stillborn(reason),
        }
    }

    /// A task that ends before it begins: its handle tells why.
    pub(crate) fn stillborn(&'static self, reason: Refusal) -> TaskId {
        let id = self.tell(|core, _| core.spawn_here()).expect("this node serves");
        self.tell(|core, now| core.ended(now, id, Outcome::NotStarted { reason }));
        id
    }
}

/// A task has ended here: the home hears of it.
pub(crate) fn ended(body: &MobileBody, outcome: Result<Vec<u8>, JoinError>) {
    let outcome = match outcome {
        Ok(bytes) => Outcome::Returned(bytes),
        Err(JoinError::Panicked { message }) => Outcome::Panicked { message: clip(message) },
        Err(JoinError::Cancelled) => Outcome::Cancelled,
        Err(other) => Outcome::NotStarted { reason: Refusal::Other { why: other.to_string() } },
    };
    let cluster = cluster();
    let record = cluster.residents.remove(body.id);
    cluster.metrics.task_ended();
    cluster.tell(|core, now| core.ended(now, body.id, outcome));
    if let Some(record) = record {
        // After the home knows the outcome: who is woken looks for it there.
        record.join.finish();
    }
}

/// A panic's text may be of any length; the wire's texts are not.
fn clip(text: String) -> String {
    const TEXT_LEN_MAX: usize = 3_000;
    match text.char_indices().nth(TEXT_LEN_MAX) {
        None => text,
        Some((at, _)) => Cow::from(&text[..at]).into_owned() + " …",
    }
}
