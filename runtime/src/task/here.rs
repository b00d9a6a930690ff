//! Where a task is, and how it moves itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use migrt_proto::NodeId;
use migrt_proto::wire::Refusal;

use super::again::Again;
use super::coro::Suspend;
use super::current::{self, on_worker, to_callers_heap};
use super::header::Header;
use super::{scrub, wish};
use crate::cluster::cluster;
use crate::error::{Error, Kind, Result};

/// So long a move is tried again that what another task has left is in the way of.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The node the caller runs on now. A mobile task may be elsewhere after its next suspension.
#[must_use]
pub fn here() -> NodeId {
    // A static of the node that the task is on: in the program's image, not in node memory.
    cluster().me()
}

/// How often the calling mobile task has moved; 0 for any other caller.
///
/// # Examples
/// ```no_run
/// let before = migrt::moves();
/// // … work that may be moved in its middle …
/// println!("moved {} times meanwhile", migrt::moves() - before);
/// ```
#[must_use]
#[inline(never)]
pub fn moves() -> u32 {
    current::mobile().map_or(0, |header| header.moves.load(Ordering::Relaxed))
}

/// The live nodes of the cluster, this one included, ascending.
#[must_use]
pub fn nodes() -> Vec<NodeId> {
    on_worker(|_| to_callers_heap(&cluster().members()))
}

/// Moves the calling mobile task to `target`; returns there.
///
/// # Errors
/// The task goes on where it is and the error says why: it is pinned, or the target is no live node
/// or has no room, or the caller is no mobile task. What another task has left there, and is about to be
/// collected, is waited for, up to a second.
#[inline(always)]
pub fn migrate_to(target: NodeId) -> Result<()> {
    scrub::below::<{ scrub::DEEP }>();
    move_to(target)
}

#[inline(never)]
fn move_to(target: NodeId) -> Result<()> {
    let Some(header) = current::mobile() else {
        return Err(Error::new(
            Kind::Move,
            "only a mobile task can move: spawn a call of a #[migratable] function",
        ));
    };
    if header.is_child() {
        return Err(Error::new(
            Kind::Move,
            "a local task (a closure) does not move; the mobile task that started it may, when it \
             has ended",
        ));
    }
    if std::thread::panicking() {
        return Err(Error::new(Kind::Move, "a task that is unwinding does not move"));
    }
    let mut again = Again::for_at_most(PATIENCE);
    loop {
        if here() == target || goes_to(header, target) {
            return Ok(());
        }
        if !is_told(|why| matches!(why, Refusal::InTheWay { .. })) || !again.waits() {
            break;
        }
    }
    let (id, why) = (header.id, refusal());
    Err(Error::new(
        Kind::Move,
        format!("task {id} was not moved to node {target}: {why}; it goes on on node {}", here()),
    ))
}

/// Orders the move and waits for its end; whether the calling task is there.
#[inline(never)]
fn goes_to(header: &Header, target: NodeId) -> bool {
    let id = header.id;
    let moves = header.moves.load(Ordering::Relaxed);
    // Only plain words come back from the worker's side over a suspension: of a `Result` or `Option`
    // with a text in it, the unused part is copied along, and that may be an address of the node.
    let is_ordered = on_worker(|worker| {
        let body = worker.and_then(|w| w.task()).and_then(|r| r.mobile());
        // That of an earlier move, before this one can have another.
        body.and_then(|body| body.take_refusal());
        let ordered =
            cluster().tell(|core, now| core.order(now, id, target, wish::of_oneself(header)));
        if let (Some(body), Err(why)) = (body, &ordered) {
            body.set_refusal(why.clone());
        }
        ordered.is_ok()
    });
    if is_ordered {
        loop {
            // Moved, or told that it will not be: the order is on its way either way.
            header.suspend(Suspend::Park);
            if here() == target {
                return true;
            }
            // Counted: others may have moved it on, even back to where it was, before it ran.
            if is_told(|_| true) || header.moves.load(Ordering::Relaxed) != moves {
                break;
            }
        }
    }
    false
}

/// Whether the calling mobile task was told why it does not move, and that is such a reason.
#[inline(never)]
fn is_told(is_such: fn(&Refusal) -> bool) -> bool {
    on_worker(|worker| {
        let body = worker.and_then(|w| w.task()).and_then(|r| r.mobile());
        body.is_some_and(|body| match body.take_refusal() {
            Some(why) => {
                let is_such = is_such(&why);
                body.set_refusal(why);
                is_such
            }
            None => false,
        })
    })
}

/// Why the calling mobile task did not move.
#[inline(never)]
fn refusal() -> String {
    on_worker(|worker| {
        let body = worker.and_then(|w| w.task()).and_then(|r| r.mobile());
        let why = body.and_then(|body| body.take_refusal());
        to_callers_heap(&match why {
            Some(why) => why.to_string(),
            None => "it was moved elsewhere meanwhile".to_owned(),
        })
    })
}
