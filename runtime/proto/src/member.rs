//! Who is alive: admission, heartbeats, leases, deaths.
//!
//! 1. Each node heartbeats to the starting node; the answer renews its lease, until [`LEASE`] after the answered
//!    heartbeat was *sent*. A node whose lease has ended stops its mobile tasks and exits.
//! 2. The starting node declares a node dead when it has heard nothing for [`DEAD_AFTER`], so strictly after that
//!    node's lease has ended: it had last answered no later than it last heard. It has no lease itself.
//! 3. A process is admitted once; a node id gets a new process only after the old one was declared dead; a dead
//!    process is refused for ever. Only the starting node admits and declares, and everybody hears it in one order.
//! 4. Before its first lease a node takes no task.

use std::collections::BTreeMap;

use crate::{
    id::{Generation, NodeId, Place, TaskId},
    time::Micros,
    wire::MemberInfo,
};

/// How often a node heartbeats.
pub const HEARTBEAT_EVERY: Micros = Micros::from_millis(200);
/// How long a node may run its mobile tasks after it sent a heartbeat that was answered.
pub const LEASE: Micros = Micros::from_millis(1_200);
/// How long a node waits for its first lease after its first link to the starting node.
pub(crate) const JOIN_LIMIT: Micros = Micros::from_millis(5_000);
/// The silence after which the starting node declares a node dead.
pub const DEAD_AFTER: Micros = Micros::from_millis(1_600);

#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) me: Place,
    /// `None` until admitted.
    pub(crate) generation: Option<Generation>,
    pub(crate) lease_until: Option<Micros>,
    pub(crate) beat_due: Option<Micros>,
    /// When this node gives up waiting for its first lease.
    pub(crate) join_until: Option<Micros>,
    peers: BTreeMap<NodeId, Peer>,
    dead: BTreeMap<Place, Generation>,
    dead_generation: BTreeMap<NodeId, Generation>,
    admitted: BTreeMap<NodeId, u8>,
}

#[derive(Debug)]
struct Peer {
    place: Place,
    /// Unknown while only the link, and not yet the starting node, has told of it.
    generation: Option<Generation>,
    addr: String,
    heard: Micros,
}

impl Members {
    pub(crate) fn new(me: Place) -> Members {
        Members {
            me,
            generation: (me.node == NodeId::STARTING).then_some(Generation(0)),
            lease_until: None,
            beat_due: None,
            join_until: None,
            peers: BTreeMap::new(),
            dead: BTreeMap::new(),
            dead_generation: BTreeMap::new(),
            admitted: BTreeMap::new(),
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.me.node == NodeId::STARTING
    }

    /// Whether this node may hold tasks (rule 4).
    pub(crate) fn is_serving(&self) -> bool {
        self.is_starting() || (self.generation.is_some() && self.lease_until.is_some())
    }

    /// The live process of `node`; this one included.
    pub(crate) fn place(&self, node: NodeId) -> Option<Place> {
        if node == self.me.node {
            Some(self.me)
        } else {
            self.peers.get(&node).map(|peer| peer.place)
        }
    }

    pub(crate) fn is_dead(&self, place: Place) -> bool {
        self.dead.contains_key(&place)
    }

    /// Whether the process that spawned `task` has died.
    pub(crate) fn is_home_dead(&self, task: TaskId) -> bool {
        if task.home() == self.me.node {
            return self.generation != Some(task.generation());
        }
        self.dead_generation.get(&task.home()).is_some_and(|dead| *dead >= task.generation())
    }

    /// Whether this process spawned `task`.
    pub(crate) fn is_home(&self, task: TaskId) -> bool {
        task.home() == self.me.node && self.generation == Some(task.generation())
    }

    /// Whether the process that spawned `task` is known to live.
    pub(crate) fn is_home_known(&self, task: TaskId) -> bool {
        self.is_home(task)
            || self
                .peers
                .get(&task.home())
                .is_some_and(|peer| peer.generation == Some(task.generation()))
    }

    /// Whether some process of `node` has died.
    pub(crate) fn has_died(&self, node: NodeId) -> bool {
        self.dead_generation.contains_key(&node)
    }

    /// The other live nodes.
    pub(crate) fn others(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// The other live nodes that the starting node has told of: all who may hold something of a node whose death it
    /// tells of now. Who is only known by a link was admitted after that death.
    pub(crate) fn announced(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.generation.is_some()).map(|(node, _)| *node)
    }

    /// The other live members as the starting node describes them.
    pub(crate) fn infos(&self) -> impl Iterator<Item = MemberInfo> {
        self.peers.values().filter_map(|peer| {
            Some(MemberInfo {
                place: peer.place,
                generation: peer.generation?,
                addr: peer.addr.clone(),
            })
        })
    }

    pub(crate) fn dead_list(&self) -> Vec<(Place, Generation)> {
        self.dead.iter().map(|(place, generation)| (*place, *generation)).collect()
    }

    /// The starting node admits a new process (rule 3). `None`: its id has been admitted 256 times.
    pub(crate) fn admit(&mut self, now: Micros, place: Place, addr: String) -> Option<MemberInfo> {
        let count = self.admitted.entry(place.node).or_default();
        let generation = Generation(*count);
        *count = count.checked_add(1)?;
        self.peers.insert(
            place.node,
            Peer { place, generation: Some(generation), addr: addr.clone(), heard: now },
        );
        Some(MemberInfo { place, generation, addr })
    }

    /// A link to a process is up that nobody has told of yet.
    pub(crate) fn meet(&mut self, now: Micros, place: Place, addr: String) {
        // The starting node is never admitted by another, so its generation is known.
        let generation = (place.node == NodeId::STARTING).then_some(Generation(0));
        self.peers.entry(place.node).or_insert(Peer { place, generation, addr, heard: now });
    }

    /// The starting node has told of `member`. Whether it is news.
    pub(crate) fn join(&mut self, now: Micros, member: &MemberInfo) -> bool {
        let MemberInfo { place, generation, addr } = member.clone();
        if place == self.me || self.is_dead(place) {
            return false;
        }
        let peer = self.peers.entry(place.node).or_insert(Peer {
            place,
            generation: None,
            addr,
            heard: now,
        });
        let news = peer.generation.is_none() && peer.place == place;
        if news {
            peer.generation = Some(generation);
        }
        news
    }

    /// Whether it was alive until now.
    pub(crate) fn bury(&mut self, place: Place) -> bool {
        let generation = match self.peers.get(&place.node) {
            Some(peer) if peer.place == place => peer.generation,
            _ => return false,
        };
        self.peers.remove(&place.node);
        self.remember_dead(place, generation.unwrap_or(Generation(0)));
        true
    }

    pub(crate) fn remember_dead(&mut self, place: Place, generation: Generation) {
        self.dead.insert(place, generation);
        let newest = self.dead_generation.entry(place.node).or_insert(generation);
        *newest = generation.max(*newest);
    }

    pub(crate) fn heard(&mut self, now: Micros, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard = now;
        }
    }

    /// An answer to the heartbeat sent at `sent`.
    pub(crate) fn renew(&mut self, sent: Micros) {
        self.lease_until = self.lease_until.max(Some(sent + LEASE));
    }

    /// Rule 1; a node that never got a lease may have been declared dead meanwhile, and gives up as well.
    pub(crate) fn is_lease_over(&self, now: Micros) -> bool {
        self.lease_until.or(self.join_until).is_some_and(|until| until <= now)
    }

    /// The starting node's silent peers (rule 2).
    pub(crate) fn silent(&self, now: Micros) -> Vec<Place> {
        if !self.is_starting() {
            return Vec::new();
        }
        self.peers
            .values()
            .filter(|peer| peer.heard + DEAD_AFTER <= now)
            .map(|peer| peer.place)
            .collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        if self.is_starting() {
            return self.peers.values().map(|peer| peer.heard + DEAD_AFTER).min();
        }
        self.beat_due.into_iter().chain(self.lease_until.or(self.join_until)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    fn place(node: u16, incarnation: u64) -> Place {
        Place::new(NodeId(node), Incarnation(incarnation))
    }

    #[test]
    fn a_node_is_declared_dead_strictly_after_its_lease_has_ended() {
        let mut starting = Members::new(place(0, 0));
        let mut other = Members::new(place(1, 0));
        let (sent, heard) = (Micros(5_000), Micros(5_000));
        starting.admit(Micros::ZERO, place(1, 0), String::new());
        starting.heard(heard, NodeId(1));
        other.renew(sent);
        let end = other.lease_until.unwrap();
        assert!(other.is_lease_over(end) && starting.silent(end).is_empty());
        assert_eq!(starting.silent(heard + DEAD_AFTER), [place(1, 0)]);
        const { assert!(DEAD_AFTER.0 > LEASE.0) };
    }

    #[test]
    fn an_old_answer_does_not_shorten_the_lease() {
        let mut members = Members::new(place(1, 0));
        members.renew(Micros(900));
        members.renew(Micros(100));
        assert_eq!(members.lease_until, Some(Micros(900) + LEASE));
    }

    #[test]
    fn tasks_of_a_dead_process_are_orphans_and_those_of_its_successor_are_not() {
        let mut members = Members::new(place(0, 0));
        let old = members.admit(Micros::ZERO, place(1, 7), String::new()).unwrap();
        assert!(members.bury(place(1, 7)) && !members.bury(place(1, 7)));
        let new = members.admit(Micros::ZERO, place(1, 8), String::new()).unwrap();
        assert!(members.is_home_dead(TaskId::new(NodeId(1), old.generation, 1)));
        assert!(!members.is_home_dead(TaskId::new(NodeId(1), new.generation, 1)));
        assert!(members.is_dead(place(1, 7)) && !members.is_dead(place(1, 8)));
    }
}
