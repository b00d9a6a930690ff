//! The links: reliable and ordered while they last. When one breaks, what is on its way is gone.
//!
//! Each link is one connection between two processes. Both ends hear of its beginning and end at times of their own;
//! control messages of one direction keep their order, shipments travel apart and may overtake or be overtaken.

use std::collections::BTreeMap;

use migrt_proto::{NodeId, Place};

use crate::rng::Rng;

/// One connection of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) ends: (Place, Place),
    /// When the last message of each direction arrives.
    last: [u64; 2],
}

/// All links, by pair of nodes (lower first).
#[derive(Debug, Default)]
pub(crate) struct Net {
    conns: BTreeMap<(NodeId, NodeId), Conn>,
    blocked: BTreeMap<(NodeId, NodeId), u64>,
    next: u64,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

impl Net {
    pub(crate) fn conn(&self, a: NodeId, b: NodeId) -> Option<&Conn> {
        self.conns.get(&pair(a, b))
    }

    pub(crate) fn is_current(&self, a: NodeId, b: NodeId, id: ConnId) -> bool {
        self.conn(a, b).is_some_and(|conn| conn.id == id)
    }

    pub(crate) fn connect(&mut self, a: Place, b: Place) -> ConnId {
        self.next += 1;
        let id = ConnId(self.next);
        self.conns.insert(pair(a.node, b.node), Conn { id, ends: (a, b), last: [0; 2] });
        id
    }

    /// Ends the link; what was on its way is gone.
    pub(crate) fn cut(&mut self, a: NodeId, b: NodeId) -> Option<Conn> {
        self.conns.remove(&pair(a, b))
    }

    /// Nothing gets through between the two until `until`.
    pub(crate) fn block(&mut self, a: NodeId, b: NodeId, until: u64) {
        let end = self.blocked.entry(pair(a, b)).or_default();
        *end = until.max(*end);
    }

    pub(crate) fn is_blocked(&self, now: u64, a: NodeId, b: NodeId) -> bool {
        self.blocked.get(&pair(a, b)).is_some_and(|until| now < *until)
    }

    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
    }

    /// When a control message sent now arrives: after all that were sent before it.
    pub(crate) fn arrival(
        &mut self,
        rng: &mut Rng,
        now: u64,
        from: NodeId,
        to: NodeId,
    ) -> Option<(ConnId, u64)> {
        let conn = self.conns.get_mut(&pair(from, to))?;
        let last = &mut conn.last[usize::from(from > to)];
        let slow = if rng.chance(2) { rng.range(0, 300_000) } else { 0 };
        *last = (now + rng.range(50, 2_000) + slow).max(*last + 1);
        Some((conn.id, *last))
    }
}
