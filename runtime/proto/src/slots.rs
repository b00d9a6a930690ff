//! Dealing out the region: who may cut which slots without asking anybody.
//!
//! The starting node begins with everything (I3: a slot has one owner). Three quarters of each size class are dealt in
//! equal contiguous shares to the nodes that are expected at start; the last quarter is a reserve, of which each later
//! joiner gets half of what is left. What was dealt is never dealt again, not even after its owner's death: tasks
//! may have taken slots of it elsewhere. Absent: stealing between nodes.

use crate::wire::SlotGrant;

/// Size classes: class k holds slots of 64 KiB << k.
pub const CLASS_COUNT: u8 = 19;
/// log2 of the bytes of address space of one class.
const CLASS_LEN_LOG2: u32 = 40;
/// log2 of the bytes of a slot of class 0.
const SLOT_LEN_LOG2: u32 = 16;

/// Slots of `class` in the region.
///
/// # Panics
/// If there is no such class.
pub const fn slot_count(class: u8) -> u32 {
    assert!(class < CLASS_COUNT, "no such size class");
    1 << (CLASS_LEN_LOG2 - SLOT_LEN_LOG2 - class as u32)
}

/// The starting node's record of what it has dealt.
#[derive(Clone, Debug)]
pub struct Dealer {
    expected: u32,
    dealt: u32,
    /// First slot of each class that is in the reserve still.
    reserve: [u32; CLASS_COUNT as usize],
}

impl Dealer {
    /// A dealer with the whole region in hand, for a cluster of `expected_nodes` (itself included) at start.
    pub fn new(expected_nodes: u16) -> Dealer {
        let expected = u32::from(expected_nodes.max(1));
        let reserve = core::array::from_fn(|class| share(class as u8, expected) * expected);
        Dealer { expected, dealt: 0, reserve }
    }

    /// The next node's slots: a share of the part for expected nodes, or half of the reserve. Large classes may be
    /// missing when many share them.
    pub fn deal(&mut self) -> Vec<SlotGrant> {
        let turn = self.dealt;
        self.dealt = self.dealt.saturating_add(1);
        let grants = (0..CLASS_COUNT).map(|class| {
            if turn < self.expected {
                let count = share(class, self.expected);
                return SlotGrant { class, first: turn * count, count };
            }
            let first = self.reserve[class as usize];
            let count = (slot_count(class) - first).div_ceil(2);
            self.reserve[class as usize] += count;
            SlotGrant { class, first, count }
        });
        grants.filter(|grant| grant.count > 0).collect()
    }
}

fn share(class: u8, expected: u32) -> u32 {
    slot_count(class) / 4 * 3 / expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: u16, nodes: usize) {
        let mut dealer = Dealer::new(expected);
        let mut all: Vec<SlotGrant> = (0..nodes).flat_map(|_| dealer.deal()).collect();
        all.sort_by_key(|grant| (grant.class, grant.first));
        for pair in all.windows(2) {
            assert!(
                pair[0].class < pair[1].class || pair[0].first + pair[0].count <= pair[1].first,
                "{pair:?}"
            );
        }
        for grant in all {
            assert!(
                grant.count > 0 && grant.first + grant.count <= slot_count(grant.class),
                "{grant:?}"
            );
        }
    }

    #[test]
    fn no_slot_is_dealt_twice_or_beyond_the_region() {
        for (expected, nodes) in [(1, 1), (1, 40), (3, 3), (3, 50), (64, 70), (1000, 1100)] {
            check(expected, nodes);
        }
    }

    #[test]
    fn expected_nodes_get_equal_shares_of_every_class_and_a_later_one_gets_some() {
        let mut dealer = Dealer::new(3);
        let shares: Vec<Vec<u32>> =
            (0..3).map(|_| dealer.deal().iter().map(|grant| grant.count).collect()).collect();
        assert_eq!(shares[0].len(), usize::from(CLASS_COUNT));
        assert!(shares.iter().all(|share| *share == shares[0]));
        assert_eq!(dealer.deal().len(), usize::from(CLASS_COUNT));
    }
}
