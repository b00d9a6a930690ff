//! Taking parcels that are on their way: brought to this node, then held by whoever decodes the message.
//!
//! ```text
//! bring   resident here, at rest, and settled ─► here.  Elsewhere ─► the home is asked to move it here
//! take    frozen by the taker, ended for the cluster, its arena listed
//! ```
//!
//! A parcel is not taken before the home knows that it has come (`Settled`): a source in doubt might yet go on with its
//! copy, and its slots would have two owners (I3).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use migrt_proto::TaskId;
use migrt_proto::wire::{Answer, Ask, Refusal, Strategy};

use super::{Parcel, hold};
use crate::cluster::{ask, cluster};
use crate::exec::door;
use crate::exec::worker::Worker;
use crate::task::again::Again;
use crate::task::current::{self, on_worker, to_callers_heap, wait_until};
use crate::task::here::here;
use crate::task::join::Waker;
use crate::task::record::TaskRef;
use crate::task::state::{Park, Phase};
use crate::task::{child, header::Header};

/// What is in the way of a parcel mostly goes within a second (remains of a task that left), or at once (another step of
/// a move). After so long it is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who waits for which parcel to come to rest here, and how many they are.
static WAITING: Mutex<Vec<(TaskId, Waker)>> = Mutex::new(Vec::new());
static WAITING_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A worker was given a parcel to run, which is not to be dropped: it comes to rest.
pub(in crate::task) fn rest(worker: &Worker, task: TaskRef) {
    let id = task.mobile().expect("a parcel is built as a mobile task").id;
    match task.state.park() {
        Park::Asleep => news(id),
        Park::Push => worker.push_shared(task),
    }
}

/// Something has changed about a parcel: who waits for it looks again.
pub(crate) fn news(id: TaskId) {
    // SeqCst: pairs with the count in `look`, which is raised before the second look.
    if WAITING_COUNT.load(Ordering::SeqCst) == 0 {
        return;
    }
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let woken: Vec<_> = waiting.extract_if(.., |entry| entry.0 == id).collect();
    WAITING_COUNT.fetch_sub(woken.len(), Ordering::SeqCst);
    drop(waiting);
    woken.into_iter().for_each(|(_, waker)| waker.wake());
}

/// Nobody will take these parcels; those that were taken are not touched by it.
pub(crate) fn give_up(ids: &[TaskId]) {
    for &id in ids {
        cluster().tell(|core, now| core.cancel(now, id));
    }
}

/// Where a parcel stands, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Here,
    /// It is here and on the move, or not settled yet.
    Moving,
    Elsewhere,
    /// It was given up.
    Over,
}

/// Whether the caller may use a parcel before all of it is here.
fn takes_lazily() -> bool {
    current::mobile().is_some_and(|header| !header.is_child())
}

fn sight(id: TaskId, takes_lazily: bool) -> Sight {
    let Some(record) = cluster().resident(id) else { return Sight::Elsewhere };
    let body = record.mobile().expect("a parcel is built as a mobile task");
    if body.is_cancelled() {
        return Sight::Over;
    }
    match record.state.phase() {
        Phase::Waiting if cluster().is_unsettled(id) => Sight::Moving,
        Phase::Waiting if body.is_lacking() && !takes_lazily => Sight::Moving,
        Phase::Waiting => Sight::Here,
        Phase::Queued | Phase::Running | Phase::Frozen => Sight::Moving,
        Phase::Done => Sight::Over,
        Phase::Gone => Sight::Elsewhere,
    }
}

/// Waits until a parcel is at rest here, or elsewhere.
fn wait_for_sight(id: TaskId, takes_lazily: bool) -> Sight {
    let mut has_waited = false;
    wait_until(|waker| {
        let seen = sight(id, takes_lazily);
        if seen != Sight::Moving {
            if has_waited {
                forget(waker);
            }
            return Some(seen);
        }
        note(id, waker);
        has_waited = true;
        // It may have come to rest before this one was noted.
        match sight(id, takes_lazily) {
            Sight::Moving => None,
            seen => {
                forget(waker);
                Some(seen)
            }
        }
    })
}

/// Whoever has this waker wants news of the parcel.
pub(super) fn note(id: TaskId, waker: &Waker) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.push((id, waker.clone()));
    WAITING_COUNT.fetch_add(1, Ordering::SeqCst);
}

/// It does not any more.
pub(super) fn forget(waker: &Waker) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = waiting.len();
    waiting.retain(|entry| !entry.1.is_same(waker));
    WAITING_COUNT.fetch_sub(before - waiting.len(), Ordering::SeqCst);
}

/// Brings all these parcels to the node that the caller is on when this returns.
///
/// # Errors
/// Why one of them cannot be had.
pub(super) fn bring_all(ids: &[TaskId]) -> Result<(), String> {
    let takes_lazily = takes_lazily();
    loop {
        for &id in ids {
            bring(id, takes_lazily)?;
        }
        // The caller may have moved while it waited for one of them.
        if ids.iter().all(|&id| on_worker(|_| sight(id, takes_lazily)) == Sight::Here) {
            return Ok(());
        }
    }
}

fn bring(id: TaskId, takes_lazily: bool) -> Result<(), String> {
    let mut again = Again::for_at_most(PATIENCE);
    loop {
        match wait_for_sight(id, takes_lazily) {
            Sight::Here => return Ok(()),
            Sight::Over => return Err(format!("a parcel ({id}) was given up by its sender")),
            Sight::Moving => unreachable!("waited for"),
            Sight::Elsewhere => {}
        }
        // Its own: it knows whether its pages are to follow it.
        let strategy = Strategy::Usual;
        match ask::ask(id, Ask::Move { target: here(), strategy }) {
            Answer::Move(Ok(_)) => {}
            Answer::Move(Err(why)) if may_pass(&why) && again.waits() => {}
            Answer::Move(Err(why)) => return Err(format!("a parcel ({id}) cannot be had: {why}")),
            Answer::Info(_) => unreachable!("a move was asked for"),
        }
    }
}

/// Whether the reason may be gone in a moment.
fn may_pass(why: &Refusal) -> bool {
    !matches!(
        why,
        Refusal::Pinned { .. }
            | Refusal::HomeDied { .. }
            | Refusal::SourceDied { .. }
            | Refusal::UnknownTask
            | Refusal::Ended
            | Refusal::Cancelled
            | Refusal::NotAMember { .. }
    )
}

/// Takes a parcel that is at rest here: the caller holds it from now on.
///
/// # Errors
/// It is not here, or of another type.
pub(super) fn take<T: Send + 'static>(id: TaskId) -> Result<Parcel<T>, String> {
    let takes_lazily = takes_lazily();
    let found = on_worker(|worker| {
        take_arena(worker, (id, takes_lazily), &|head| head.is_of::<T>())
            .map_err(|why| to_callers_heap(&why))
    });
    let header = found?;
    let keep = header.parcel.keep().expect("looked at above");
    Ok(Parcel::from_parts(keep, header))
}

/// On the worker's side.
fn take_arena(
    worker: Option<&Worker>,
    (id, takes_lazily): (TaskId, bool),
    is_right: &dyn Fn(&super::Head) -> bool,
) -> Result<&'static Header, String> {
    let gone = || format!("a parcel ({id}) is not here any more");
    let record = cluster().resident(id).ok_or_else(gone)?;
    let body = record.mobile().expect("a parcel is built as a mobile task");
    let header = body.header().filter(|header| header.is_parcel()).ok_or_else(gone)?;
    // SAFETY: headers stay mapped; from here on it is the parcel's for as long as it is resident.
    let header: &'static Header = unsafe { &*std::ptr::from_ref(header) };
    let head = header.parcel.keep().ok_or_else(gone)?;
    if !is_right(head) {
        return Err(format!("a parcel holds a `{}`, not what the message wants", head.type_name()));
    }
    if sight(id, takes_lazily) != Sight::Here || !record.state.freeze_waiting() {
        return Err(gone());
    }
    let family = hold::family(worker);
    let owner = family.as_ref().and_then(|task| task.mobile());
    let lent = match (body.lacking(), &family) {
        (Some(lacking), Some(holder)) => lacking.lend(holder),
        _ => Ok(false),
    };
    let Ok(is_lent) = lent.map_err(|count| tracing::debug!(%id, count, "pages are lost")) else {
        // It ends as any task does whose pages are lost.
        record.state.thaw();
        door::push(record);
        return Err(format!("a parcel ({id}) was lost with the node that had pages of it"));
    };
    child::registry::insert(header.slot);
    body.clear_header();
    if !is_lent {
        record.state.release();
        cluster().parcel_taken(id, &record);
    }
    child::strip(header);
    hold::list(owner, header);
    child::registry::remove(header.slot);
    Ok(header)
}
