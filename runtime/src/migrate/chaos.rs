//! Chaos mode: `MIGRT_CHAOS=1` moves every mobile task at every suspension, to the next node round.
//!
//! It shows a user whether code is movable, and is the daily bread of this project's own tests. A
//! task that waits is moved once per wait: it is woken by its arrival, and sleeps on there.

use std::sync::OnceLock;

use migrt_proto::NodeId;

use crate::cluster::cluster;
use crate::task::body::MobileBody;
use crate::task::coro::Suspend;
use crate::task::wish;

/// Whether the mode is on.
#[inline]
pub(crate) fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var("MIGRT_CHAOS").is_ok_and(|v| v == "1"))
}

/// The task has just given its worker back: orders a move. Gives how the task is to wait: one that
/// only lets others run waits for its move, which another thread may be about to carry out, and is
/// queued by the move's end, good or bad.
#[cold]
pub(crate) fn suspended(body: &MobileBody, why: Suspend) -> Suspend {
    let Some(header) = body.header().filter(|header| !header.is_child()) else { return why };
    if why == Suspend::Park && !header.chaos.replace(true) {
        // The first park of a wait moves; the one after the arrival sleeps.
    } else if why == Suspend::Park {
        header.chaos.set(false);
        return why;
    }
    if body.move_asked().is_some() {
        return why;
    }
    let cluster = cluster();
    if let Some(next) = next_node(&cluster.members(), cluster.me()) {
        // Refused while another move is under way, which is as good.
        if cluster
            .tell(|core, now| core.order(now, body.id, next, wish::of_oneself(header)))
            .is_ok()
        {
            return Suspend::Park;
        }
    }
    why
}

fn next_node(members: &[NodeId], me: NodeId) -> Option<NodeId> {
    let at = members.iter().position(|&node| node == me)?;
    let next = members[(at + 1) % members.len()];
    (next != me).then_some(next)
}
