//! Births and deaths of mobile tasks, as the cluster hears of them.

use std::borrow::Cow;
use std::sync::OnceLock;

use migrt_proto::wire::{BYTES_LEN_MAX, Outcome, Refusal};
use migrt_proto::{Core, EntryId, NodeId, TaskId};

use super::{Cluster, cluster};
use crate::error::JoinError;
use crate::exec::door;
use crate::exec::worker::Worker;
use crate::task::body::{self, Call, Doom, MobileBody};
use crate::task::header::TASK_CLASS;
use crate::task::promise::SlotPromise;
use crate::task::router_probe::probe_router;
use crate::task::tls::TlsLayout;

impl Cluster {
    /// Starts a call on this node.
    pub(crate) fn spawn_here(
        &'static self,
        worker: Option<&Worker>,
        entry: EntryId,
        args: Vec<u8>,
    ) -> Result<TaskId, Refusal> {
        if let Some(reason) = unfit() {
            return Err(reason);
        }
        let call = Call { entry, args, _promise: promise_slot()? };
        let id = self.tell_only(Core::spawn_here).expect("this node serves");
        let record = body::new_task(worker, id, call);
        self.residents.insert(id, record.clone());
        door::push(record);
        Ok(id)
    }

    /// Starts a call on another node; what that node refuses is the task's outcome.
    pub(crate) fn spawn_at(
        &'static self,
        node: NodeId,
        entry: EntryId,
        args: Vec<u8>,
    ) -> Result<TaskId, Refusal> {
        check_len("its arguments", args.len())?;
        self.tell(|core, now| core.spawn_at(now, node, entry, args))
    }

    /// A task that ends before it begins: its handle tells why.
    pub(crate) fn stillborn(&'static self, reason: Refusal) -> TaskId {
        let id = self.tell(|core, _| core.spawn_here()).expect("this node serves");
        self.tell(|core, now| core.ended(now, id, Outcome::NotStarted { reason }));
        id
    }
}

/// A slot for a mobile task that is about to be spawned here.
pub(crate) fn promise_slot() -> Result<SlotPromise, Refusal> {
    let none = Refusal::OutOfSlots { slot_len: TASK_CLASS.slot_len() as u64 };
    door::promise_slot(TASK_CLASS).ok_or(none)
}

/// Whether so many bytes go to another node.
pub(crate) fn check_len(what: &str, len: usize) -> Result<(), Refusal> {
    if len > BYTES_LEN_MAX { Err(too_long(what, len)) } else { Ok(()) }
}

/// What cannot go to another node because of its length.
fn too_long(what: &str, len: usize) -> Refusal {
    let why = format!(
        "{what} came to {len} bytes, and no more than {BYTES_LEN_MAX} go to another node; hand them \
         over in parts or as a parcel, or let the task read and write the data itself"
    );
    Refusal::Other { why }
}

/// Why this program cannot have mobile tasks, if so.
pub(crate) fn unfit() -> Option<Refusal> {
    static ROUTED: OnceLock<bool> = OnceLock::new();
    let routed = match ROUTED.get() {
        Some(&routed) => routed,
        None if let Err(why) = TlsLayout::probe() => {
            return Some(Refusal::Other { why: why.to_string() });
        }
        // Without a free slot nobody knows yet; the task will end for want of one.
        None => probe_router().is_none_or(|routed| *ROUTED.get_or_init(|| routed)),
    };
    (!routed).then(|| Refusal::Other {
        why: "this program has a #[global_allocator] of its own, and what a task allocates there \
              cannot move with it: remove it (the runtime brings an allocator), or use closures, \
              which stay on their node"
            .to_owned(),
    })
}

/// A task has ended here: the home hears of it.
pub(crate) fn ended(body: &MobileBody, outcome: Result<Vec<u8>, JoinError>) {
    if let Ok(bytes) = &outcome
        && bytes.len() > BYTES_LEN_MAX
        && body.id.home() != cluster().me()
    {
        cluster().not_taken(bytes);
    }
    let outcome = match outcome {
        Ok(bytes) if bytes.len() > BYTES_LEN_MAX && body.id.home() != cluster().me() => {
            let why = too_long("its result", bytes.len());
            Outcome::Panicked { message: format!("{why}; it had come to its end") }
        }
        Ok(bytes) => Outcome::Returned(bytes),
        Err(JoinError::Panicked { message }) => Outcome::Panicked { message: clip(message) },
        Err(JoinError::Cancelled) => Outcome::Cancelled,
        Err(JoinError::OutOfSlots { slot_len }) => {
            Outcome::NotStarted { reason: Refusal::OutOfSlots { slot_len: slot_len as u64 } }
        }
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

/// A task of this node is not run any more.
pub(crate) fn doomed(body: &MobileBody, doom: Doom) {
    let cluster = cluster();
    let record = cluster.residents.remove(body.id);
    cluster.metrics.task_ended();
    let panicked = |message| Outcome::Panicked { message: clip(message) };
    match doom {
        Doom::SourceLost { node, missing_pages } => {
            cluster.tell(|core, now| core.lost(now, body.id, node, missing_pages));
        }
        Doom::LeadsOut(what) => {
            let outcome = panicked(format!(
                "it had left by post-copy, and could not go on: {what}; move it by another strategy, \
                 which refuses such a move, or have it let go of that memory before"
            ));
            cluster.tell(|core, now| core.ended(now, body.id, outcome));
        }
        Doom::NotInstalled(why) => {
            let outcome = panicked(format!(
                "it had come to node {} by post-copy, and could not go on: its pages came and could \
                 not be put in their places: {why}; look whether that node has memory left",
                cluster.me()
            ));
            cluster.tell(|core, now| core.ended(now, body.id, outcome));
        }
    }
    if let Some(record) = record {
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
