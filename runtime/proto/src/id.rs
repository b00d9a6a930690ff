//! Names of things, as they appear in frames, logs and errors: nodes, tasks, epochs, entries.
//!
//! All are small plain numbers of different types, so that one cannot be taken for another. Nothing here is an
//! address: an address is never taken from the wire.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A process of the cluster, by the number in its certificate. Shown as `n2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The node that runs `main` and coordinates membership.
    pub const STARTING: NodeId = NodeId(0);
}

/// Which start of a node's process this is. Two processes under one [`NodeId`] differ here, whatever is delayed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// One process for all time: a node and its incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Which of its processes.
    pub incarnation: Incarnation,
}

impl Place {
    /// The process `incarnation` of `node`.
    pub const fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Place { node, incarnation }
    }
}

/// How often the starting node has admitted this node id before (0 for its first process). Part of every
/// [`TaskId`], so that a restarted home never names two tasks alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Generation(pub u8);

/// A mobile task: `home node (16 bits) | generation of the home (8) | sequence (40)`. Never 0. Shown as `t0.17`.
///
/// The home is where the task was spawned; it can always be asked where the task is now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(u64);

impl TaskId {
    /// Highest sequence number that a task can have.
    pub const SEQUENCE_MAX: u64 = (1 << 40) - 1;

    /// The task number `sequence` (from 1) of the process `generation` of node `home`.
    ///
    /// # Panics
    /// If `sequence` is 0 or above [`TaskId::SEQUENCE_MAX`].
    pub fn new(home: NodeId, generation: Generation, sequence: u64) -> Self {
        assert!(
            (1..=Self::SEQUENCE_MAX).contains(&sequence),
            "task sequence {sequence} out of range"
        );
        TaskId(u64::from(home.0) << 48 | u64::from(generation.0) << 40 | sequence)
    }

    /// The number as the runtime stores it in a task's header.
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// The task with this raw number, if it is one.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw & Self::SEQUENCE_MAX == 0 { None } else { Some(TaskId(raw)) }
    }

    /// The node that spawned it.
    pub const fn home(self) -> NodeId {
        NodeId((self.0 >> 48) as u16)
    }

    /// Which process of the home spawned it.
    pub const fn generation(self) -> Generation {
        Generation((self.0 >> 40) as u8)
    }

    /// Its number among the tasks of that process, from 1.
    pub const fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }
}

/// Ordering number of a task's residence: it starts at 1 and grows with every hand-off that is ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Where every task begins.
    pub const FIRST: Epoch = Epoch(1);

    /// The following epoch.
    ///
    /// # Panics
    /// After 2^32 hand-offs of one task.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("a task was moved 2^32 times"))
    }
}

/// How far a doubt moves the epoch on: more than a task that nobody hears of takes before it is found dead.
const DOUBT_STRIDE: u32 = 1 << 18;

impl Epoch {
    /// The highest epoch that a try may take: room is left for one doubt.
    pub(crate) const LAST_TRY: Epoch = Epoch(u32::MAX - DOUBT_STRIDE);

    /// Where a task goes on whose try in this epoch is in doubt. The dead target may have run it, and moved it on
    /// (each order takes an epoch), without anybody hearing of that: also those epochs must be behind (I1).
    pub(crate) fn after_doubt(self) -> Epoch {
        Epoch(self.0.checked_add(DOUBT_STRIDE).expect("no try is above the last"))
    }
}

/// An entry function, by the hash of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

/// A slot as the wire names it: a number that the region checks, never an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotRef(pub u32);

/// The asker's own name for a request that it waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Token(pub u64);

/// Who waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Asker {
    /// The node that asked.
    pub node: NodeId,
    /// Its name for the request.
    pub token: Token,
}

macro_rules! shown {
    ($($type:ty => |$value:ident, $out:ident| $write:expr;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, $out: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $value = self;
                $write
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }
    )*};
}

shown! {
    NodeId => |id, out| write!(out, "n{}", id.0);
    Place => |place, out| write!(out, "n{}#{:x}", place.node.0, place.incarnation.0);
    TaskId => |id, out| match id.generation().0 {
        0 => write!(out, "t{}.{}", id.home().0, id.sequence()),
        generation => write!(out, "t{}+{generation}.{}", id.home().0, id.sequence()),
    };
    Epoch => |epoch, out| write!(out, "e{}", epoch.0);
    EntryId => |entry, out| write!(out, "entry {:016x}", entry.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_keeps_its_parts_and_shows_them() {
        let id = TaskId::new(NodeId(513), Generation(2), TaskId::SEQUENCE_MAX);
        assert_eq!(
            (id.home(), id.generation(), id.sequence()),
            (NodeId(513), Generation(2), TaskId::SEQUENCE_MAX)
        );
        assert_eq!(TaskId::from_raw(id.to_raw()), Some(id));
        assert_eq!(TaskId::new(NodeId(0), Generation(0), 17).to_string(), "t0.17");
        assert_eq!(TaskId::new(NodeId(3), Generation(1), 5).to_string(), "t3+1.5");
        assert_eq!(NodeId(2).to_string(), "n2");
    }

    #[test]
    fn zero_is_no_task() {
        assert_eq!(TaskId::from_raw(0), None);
        assert_eq!(TaskId::from_raw(7 << 48), None);
    }
}
