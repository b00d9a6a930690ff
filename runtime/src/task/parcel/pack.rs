//! Parcels in messages: what of them is encoded, and what is made of it again.
//!
//! ```text
//! message   count (1 byte) | ids (8 bytes each) | what serde wrote, each parcel as its index among the ids
//! ```
//!
//! While the runtime encodes a message a *crate* for its parcels is open, in a thread-local of whoever encodes; a
//! parcel that serde comes to puts itself there. When all is encoded each is sent off: its arena becomes a task that
//! does not run. If something cannot be encoded nothing was sent off, and the parcels are dropped with the crate.
//!
//! To decode, all parcels are brought here first, which suspends; then serde takes one after the other out of an
//! open crate. Those that nobody takes are cancelled.

use std::cell::Cell;
use std::ptr;

use migrt_proto::TaskId;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keep::{Head, State};
use super::{Parcel, build, hold, is_here, lend, pull};
use crate::cluster::cluster;
use crate::exec::worker::Worker;
use crate::task::body::MobileBody;
use crate::task::current::{self, on_worker, to_callers_heap};
use crate::task::header::Header;
use crate::task::record::{Body, TaskRef};
use crate::task::{child, mobile};

/// So many parcels fit into one message.
const COUNT_MAX: usize = 127;
const ID_LEN: usize = 8;

/// Where parcels of the message under way come from or go to.
enum Crate {
    Packing { parcels: Vec<Loose>, why: Option<String> },
    Unpacking { ids: Vec<TaskId>, why: Option<String> },
}

thread_local! {
    /// The open crate and who opened it: tasks of one worker may share its thread-locals.
    static OPEN: Cell<(usize, *mut Crate)> = const { Cell::new((0, ptr::null_mut())) };
}

/// The task or thread that runs here.
fn who() -> usize {
    match current::mobile() {
        Some(header) => ptr::from_ref(header) as usize,
        None => match Worker::current().and_then(Worker::task) {
            Some(record) => ptr::from_ref(record) as usize,
            None => 1,
        },
    }
}

/// Runs `f` with a crate open.
fn with_open<R>(open: &mut Crate, f: impl FnOnce() -> R) -> R {
    struct Close((usize, *mut Crate));
    impl Drop for Close {
        fn drop(&mut self) {
            OPEN.set(self.0);
        }
    }
    let _close = Close(OPEN.replace((who(), ptr::from_mut(open))));
    f()
}

/// The crate that the caller has open.
fn with_crate<R>(f: impl FnOnce(&mut Crate) -> R) -> Option<R> {
    let (owner, open) = OPEN.get();
    if open.is_null() || owner != who() {
        return None;
    }
    // SAFETY: it lies in a frame of this very task, below which this runs, and is used here alone.
    Some(f(unsafe { &mut *open }))
}

/// Why a parcel made the encoding or decoding fail that has just failed: serde's errors may have no text.
pub(crate) fn failed_by() -> Option<String> {
    with_crate(|open| match open {
        Crate::Packing { why, .. } | Crate::Unpacking { why, .. } => why.take(),
    })?
}

/// A parcel that was taken out of its handle, to be sent off. Dropped, it drops the value.
struct Loose {
    keep: usize,
    arena: usize,
}

impl Loose {
    fn header(&self) -> &'static Header {
        // SAFETY: the handle's address.
        unsafe { &*((!self.arena) as *const Header) }
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        if self.keep != 0 {
            // SAFETY: the handle has given the block up.
            unsafe { Head::drop_value((!self.keep) as *mut Head) };
            hold::release(self.header());
        }
    }
}

/// Appends to `out` the message that `encode` writes, with its parcels. `fail` makes an error of a text.
pub(crate) fn pack<E>(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    fail: impl FnOnce(String) -> E,
) -> Result<(), E> {
    let at = out.len();
    out.push(0);
    let mut open = Crate::Packing { parcels: Vec::new(), why: None };
    with_open(&mut open, || encode(out))?;
    match open {
        Crate::Packing { parcels, .. } if !parcels.is_empty() => {
            let ids = send_off_all(parcels).map_err(fail)?;
            out[at] = ids.len() as u8;
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_raw().to_le_bytes()).collect();
            out.splice(at + 1..at + 1, bytes);
        }
        _ => {}
    }
    Ok(())
}

/// The parcels that a message names.
pub(crate) fn named_in(message: &[u8]) -> Vec<TaskId> {
    split(message).map_or_else(Vec::new, |(ids, _)| ids)
}

fn split(message: &[u8]) -> Option<(Vec<TaskId>, &[u8])> {
    let (&count, rest) = message.split_first()?;
    let (ids, rest) = rest.split_at_checked(usize::from(count) * ID_LEN)?;
    let id = |bytes: &[u8]| {
        TaskId::from_raw(u64::from_le_bytes(bytes.try_into().expect("chunks of this length")))
    };
    Some((ids.chunks(ID_LEN).map(id).collect::<Option<_>>()?, rest))
}

/// Decodes a message, after its parcels were brought here. `fail` makes an error of a text.
pub(crate) fn unpack<T, E>(
    message: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, E>,
    fail: impl FnOnce(String) -> E,
) -> Result<T, E> {
    if let [0, rest @ ..] = message {
        return decode(rest);
    }
    let Some((ids, rest)) = split(message) else {
        return Err(fail("the list of its parcels cannot be read".to_owned()));
    };
    let rights = Rights(ids.clone());
    if let Err(why) = pull::bring_all(&rights.0) {
        return Err(fail(why));
    }
    let mut open = Crate::Unpacking { ids, why: None };
    let decoded = with_open(&mut open, || decode(rest));
    drop(rights);
    decoded
}

/// Whoever may take these parcels. Those that were not taken are cancelled in the end.
struct Rights(Vec<TaskId>);

impl Drop for Rights {
    fn drop(&mut self) {
        on_worker(|_| pull::give_up(&self.0));
    }
}

/// Sends off all parcels of a message, or none.
fn send_off_all(parcels: Vec<Loose>) -> Result<Vec<TaskId>, String> {
    if parcels.len() > COUNT_MAX {
        return Err(format!(
            "it has {} parcels, and at most {COUNT_MAX} go in one message",
            parcels.len()
        ));
    }
    let mut sent = Rights(Vec::with_capacity(parcels.len()));
    for mut parcel in parcels {
        let header = parcel.header();
        lend::wait_until_whole(header);
        // Only plain words come back, or a text in the caller's heap.
        let id = on_worker(|worker| send_off(worker, header).map_err(|why| to_callers_heap(&why)))?;
        parcel.keep = 0;
        sent.0.push(id);
    }
    Ok(std::mem::take(&mut sent.0))
}

/// Makes a task of a held parcel: its name. On the worker's side.
fn send_off(worker: Option<&Worker>, header: &'static Header) -> Result<TaskId, String> {
    let family = hold::family(worker);
    let body = family.as_ref().and_then(|task| task.mobile());
    child::registry::insert(header.slot);
    let sent = unlist_clean(body, header)
        .and_then(|()| begin(worker, header).inspect_err(|_| hold::list(body, header)));
    child::registry::remove(header.slot);
    sent
}

/// Takes the parcel off its list, if it may be sent.
fn unlist_clean(body: Option<&MobileBody>, header: &'static Header) -> Result<(), String> {
    if !hold::unlist(body, header) {
        return Err("a parcel is held by another task, and is not this one's to send".to_owned());
    }
    crate::task::adopted::drain(&header.prefix);
    let is_changed = header.parcel.keep().is_some_and(|head| head.state() == State::Changed);
    if is_changed && let Some(what) = build::look(header) {
        hold::list(body, header);
        return Err(format!("a parcel cannot be sent: {what}"));
    }
    Ok(())
}

/// The parcel, which is on no list, becomes a task.
fn begin(worker: Option<&Worker>, header: &'static Header) -> Result<TaskId, String> {
    if header.prefix.has_travelled() && !mobile::install_guard(header.slot) {
        return Err("the guard of a parcel's arena cannot be installed".to_owned());
    }
    let id = cluster().parcel_begins(|id| {
        mobile::refurnish(header, id, &super::PARCEL);
        header.strategy.set(Some(header.parcel.strategy()));
        header.parcel.set_on_its_way();
        header.parcel.set_lineage(id);
        TaskRef::new(worker, Body::Mobile(MobileBody::of_parcel(id, header)))
    });
    id.ok_or_else(|| "this node is no member of a cluster".to_owned())
}

/// The message is the result of the running task, which its home will keep (rule 7 there).
pub(crate) fn tie_result(message: &[u8]) {
    if message.first().is_some_and(|&count| count > 0)
        && let Some(header) = current::mobile()
    {
        let (ids, home) = (named_in(message), header.id.home());
        on_worker(|_| {
            for &id in &ids {
                cluster().tell(|core, now| core.tie_to_node(now, id, home));
            }
        });
    }
}

/// The message is the arguments of `call`, which was spawned, or was not. On the worker's side.
pub(in crate::task) fn tie_arguments(parcels: &[TaskId], call: Option<TaskId>) {
    match call {
        Some(call) => {
            for &id in parcels {
                cluster().tell(|core, now| core.tie_to_task(now, id, call));
            }
        }
        None => pull::give_up(parcels),
    }
}

impl<T: Send + 'static> Serialize for Parcel<T> {
    /// For messages of the runtime; the parcel is sent with the message.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = with_crate(|open| match open {
            Crate::Packing { parcels, why } => {
                if self.keep.get() == 0 || !is_here(self.header()) {
                    *why = Some("a parcel is not here: it was sent before".to_owned());
                    return None;
                }
                parcels.push(Loose { keep: self.keep.replace(0), arena: self.arena.get() });
                Some(parcels.len() as u32 - 1)
            }
            Crate::Unpacking { .. } => None,
        });
        match index.flatten() {
            Some(index) => serializer.serialize_u32(index),
            None => Err(S::Error::custom(ELSEWHERE)),
        }
    }
}

impl<'de, T: Send + 'static> Deserialize<'de> for Parcel<T> {
    /// From messages of the runtime.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parcel<T>, D::Error> {
        let index = u32::deserialize(deserializer)? as usize;
        let taken = with_crate(|open| match open {
            Crate::Unpacking { ids, why } => {
                let taken = match ids.get(index) {
                    Some(&id) => pull::take::<T>(id),
                    None => Err("a parcel that the message does not name".to_owned()),
                };
                taken.map_err(|text| *why = Some(text)).ok()
            }
            Crate::Packing { .. } => None,
        });
        taken.flatten().ok_or_else(|| D::Error::custom(ELSEWHERE))
    }
}

const ELSEWHERE: &str = "a parcel is encoded and decoded by the migrt runtime only, as an argument, a result or a message, \
                         and once";
