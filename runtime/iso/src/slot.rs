//! Slots: the unit of ownership. Pure arithmetic on addresses; who owns a slot is the pool's matter.
//!
//! Each size class has a TiB of the region to itself and every slot is aligned to its own length, so
//! the slot of any address is found by shifts and masks, in every process alike.

use std::fmt;

use crate::region::{CLASS_COUNT, CLASS_SPAN_LEN, REGION_BASE, in_region};

const CLASS_SPAN_SHIFT: u32 = CLASS_SPAN_LEN.trailing_zeros();
const SLOT_SHIFT_MIN: u32 = 16;
const INDEX_BITS: u32 = 24;

/// How many of the lowest bits of a slot's place in its class are the highest of its index.
///
/// Task slots and those a little longer are laid out so that slots of neighbouring indices are
/// 16 MiB apart. Data that was written over the low three bytes of a stale pointer (the padding of a
/// struct, the odd tail of a block) then names no other slot until 65,536 of the class are in use:
/// the audit would take it for an address in there. Shorter slots stay dense: there are many, and
/// each that is far from others costs a page of page tables.
const fn spread_bits(class: u32) -> u32 {
    if class >= SlotClass::TASK.0 as u32 { 8u32.saturating_sub(class) } else { 0 }
}

/// Size class of a slot: class `k` (0 to 18) holds slots of 64 KiB << `k`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotClass(u8);

impl SlotClass {
    /// 1 MiB: the slot that a mobile task lives in unless told otherwise.
    pub const TASK: SlotClass = SlotClass(4);
    /// The class of the longest slots, 16 GiB.
    pub const MAX: SlotClass = SlotClass(CLASS_COUNT as u8 - 1);

    /// Class number `class`, if there is one.
    #[must_use]
    pub const fn new(class: u8) -> Option<SlotClass> {
        if (class as usize) < CLASS_COUNT { Some(SlotClass(class)) } else { None }
    }

    /// The smallest class whose slots hold `len` bytes; `None` above 16 GiB.
    #[must_use]
    pub const fn for_len(len: usize) -> Option<SlotClass> {
        if len > SlotClass::MAX.slot_len() {
            return None;
        }
        let shift = len.next_power_of_two().trailing_zeros();
        Some(SlotClass(shift.saturating_sub(SLOT_SHIFT_MIN) as u8))
    }

    /// All classes, from the shortest slots to the longest.
    pub fn all() -> impl DoubleEndedIterator<Item = SlotClass> {
        (0..CLASS_COUNT as u8).map(SlotClass)
    }

    /// The class's number, 0 to 18.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Length of a slot in bytes.
    #[must_use]
    pub const fn slot_len(self) -> usize {
        1 << (SLOT_SHIFT_MIN + self.0 as u32)
    }

    /// How many slots of this class the region has.
    #[must_use]
    pub const fn slot_count(self) -> u32 {
        (CLASS_SPAN_LEN >> (SLOT_SHIFT_MIN + self.0 as u32)) as u32
    }
}

impl fmt::Debug for SlotClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class {}", self.0)
    }
}

/// Names one slot of the region, in all processes of the cluster alike: class and index in a word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u32);

impl SlotId {
    /// Slot `index` of `class`, if the class has so many.
    #[must_use]
    pub const fn new(class: SlotClass, index: u32) -> Option<SlotId> {
        if index < class.slot_count() {
            Some(SlotId((class.0 as u32) << INDEX_BITS | index))
        } else {
            None
        }
    }

    /// A slot from a number that came over the wire; `None` if no slot has it.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<SlotId> {
        match SlotClass::new((raw >> INDEX_BITS) as u8) {
            Some(class) => SlotId::new(class, raw & ((1 << INDEX_BITS) - 1)),
            None => None,
        }
    }

    /// The number that stands for this slot on the wire.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The slot that `addr` lies in; `None` outside of the region.
    #[must_use]
    pub const fn of_addr(addr: usize) -> Option<SlotId> {
        if !in_region(addr) {
            return None;
        }
        let offset = addr - REGION_BASE;
        let class = (offset >> CLASS_SPAN_SHIFT) as u32;
        let place = ((offset & (CLASS_SPAN_LEN - 1)) >> (SLOT_SHIFT_MIN + class)) as u32;
        let spread = spread_bits(class);
        let index =
            place >> spread | (place & ((1 << spread) - 1)) << (INDEX_BITS - class - spread);
        Some(SlotId(class << INDEX_BITS | index))
    }

    /// Address of the slot's first byte, a multiple of its length.
    #[must_use]
    pub const fn base(self) -> usize {
        let class = self.0 >> INDEX_BITS;
        let (index, bits, spread) = (self.index(), INDEX_BITS - class, spread_bits(class));
        let place = (index << spread | index >> (bits - spread)) & ((1 << bits) - 1);
        REGION_BASE
            + ((class as usize) << CLASS_SPAN_SHIFT)
            + ((place as usize) << (SLOT_SHIFT_MIN + class))
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a slot is never empty")]
    pub const fn len(self) -> usize {
        self.class().slot_len()
    }

    /// Address one past the slot's last byte.
    #[must_use]
    pub const fn end(self) -> usize {
        self.base() + self.len()
    }

    /// Size class.
    #[must_use]
    pub const fn class(self) -> SlotClass {
        SlotClass((self.0 >> INDEX_BITS) as u8)
    }

    /// Index among the slots of its class.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// Whether `addr` lies in this slot.
    #[must_use]
    pub const fn contains(self, addr: usize) -> bool {
        addr.wrapping_sub(self.base()) < self.len()
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}.{} at {:#x}", self.class().0, self.index(), self.base())
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::region::REGION_LEN;

    proptest! {
        #[test]
        fn a_mask_finds_the_slot_of_any_address(offset in 0..REGION_LEN) {
            let addr = REGION_BASE + offset;
            let slot = SlotId::of_addr(addr).unwrap();
            prop_assert!(slot.contains(addr));
            prop_assert_eq!(slot.base() % slot.len(), 0);
            prop_assert_eq!(SlotId::from_raw(slot.raw()), Some(slot));
            prop_assert_eq!(SlotId::new(slot.class(), slot.index()), Some(slot));
        }

        #[test]
        fn a_raw_number_is_a_slot_of_the_region_or_refused(raw: u32) {
            if let Some(slot) = SlotId::from_raw(raw) {
                prop_assert!(in_region(slot.base()) && in_region(slot.end() - 1));
                prop_assert_eq!(SlotId::of_addr(slot.base()), Some(slot));
                prop_assert_eq!(SlotId::of_addr(slot.end() - 1), Some(slot));
            } else {
                let class = raw >> INDEX_BITS;
                let past_end = || raw & 0xff_ffff >= SlotClass(class as u8).slot_count();
                prop_assert!(class >= CLASS_COUNT as u32 || past_end());
            }
        }

        #[test]
        fn neighbouring_task_slots_share_no_upper_five_bytes(index in 0u32..65_535) {
            let at = |index| SlotId::new(SlotClass::TASK, index).unwrap().base() >> 24;
            prop_assert_ne!(at(index), at(index + 1));
        }

        #[test]
        fn for_len_is_the_smallest_class_that_holds_it(len in 0usize..=1 << 34) {
            let class = SlotClass::for_len(len).unwrap();
            prop_assert!(class.slot_len() >= len);
            prop_assert!(class.number() == 0 || class.slot_len() / 2 < len);
        }
    }

    #[test]
    fn the_ends_of_the_region_are_exact() {
        assert_eq!(SlotId::of_addr(REGION_BASE - 1), None);
        assert_eq!(SlotId::of_addr(REGION_BASE + REGION_LEN), None);
        assert_eq!(SlotId::of_addr(usize::MAX), None);
        assert_eq!(SlotClass::for_len((1 << 34) + 1), None);
        assert_eq!(SlotClass::TASK.slot_len(), 1 << 20);
        assert_eq!(SlotClass::MAX.slot_len(), 16 << 30);
    }
}
