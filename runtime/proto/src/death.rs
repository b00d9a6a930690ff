//! When may a home believe that nobody else will turn up with a dead node's task?
//!
//! When every process that lived at that death has said [`Frame::DeadSeen`](crate::wire::Frame::DeadSeen): it takes
//! nothing from the dead process any more, and what it took before it has told the homes *before* this frame (the
//! courier keeps the order). A process that dies meanwhile is not waited for. Deaths are announced by the starting
//! node only, in order with its admissions, so the list is exact: nobody who could hold such a task is missing, and
//! nobody is on it who was admitted after that death and will never speak of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{NodeId, Place};

#[derive(Debug, Default)]
pub(crate) struct Deaths {
    waiting: BTreeMap<Place, BTreeSet<NodeId>>,
    /// Words that came before our own news of the death.
    early: BTreeSet<(Place, NodeId)>,
}

impl Deaths {
    /// `dead` has died while `live` live. The deaths that are settled now: perhaps this one, perhaps others that only
    /// waited for it.
    pub(crate) fn begin(&mut self, dead: Place, live: impl Iterator<Item = NodeId>) -> Vec<Place> {
        let live = live.filter(|node| !self.early.contains(&(dead, *node))).collect();
        self.early.retain(|(place, _)| *place != dead);
        self.waiting.insert(dead, live);
        for waiting in self.waiting.values_mut() {
            waiting.remove(&dead.node);
        }
        self.take_settled()
    }

    /// `from` has dealt with the death of `dead`; `known`: so have we.
    pub(crate) fn seen(&mut self, dead: Place, from: NodeId, known: bool) -> Vec<Place> {
        if let Some(waiting) = self.waiting.get_mut(&dead) {
            waiting.remove(&from);
        } else if !known {
            self.early.insert((dead, from));
        }
        self.take_settled()
    }

    /// Whether somebody's word about this death is still missing.
    pub(crate) fn is_open(&self, dead: Place) -> bool {
        self.waiting.contains_key(&dead)
    }

    fn take_settled(&mut self) -> Vec<Place> {
        let settled: Vec<Place> =
            self.waiting.iter().filter(|(_, w)| w.is_empty()).map(|(place, _)| *place).collect();
        for place in &settled {
            self.waiting.remove(place);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    fn dead(node: u16) -> Place {
        Place::new(NodeId(node), Incarnation(0))
    }

    #[test]
    fn a_death_is_settled_when_all_who_live_have_spoken() {
        let mut deaths = Deaths::default();
        assert!(deaths.begin(dead(1), [NodeId(2), NodeId(3)].into_iter()).is_empty());
        assert!(deaths.seen(dead(1), NodeId(2), true).is_empty());
        assert!(deaths.is_open(dead(1)));
        assert_eq!(deaths.seen(dead(1), NodeId(3), true), [dead(1)]);
    }

    #[test]
    fn an_early_word_counts_and_the_dead_are_not_waited_for() {
        let mut deaths = Deaths::default();
        assert!(deaths.seen(dead(1), NodeId(2), false).is_empty());
        assert!(deaths.begin(dead(1), [NodeId(2), NodeId(3)].into_iter()).is_empty());
        assert_eq!(deaths.begin(dead(3), [NodeId(2)].into_iter()), [dead(1)]);
        assert_eq!(deaths.seen(dead(3), NodeId(2), true), [dead(3)]);
    }
}
