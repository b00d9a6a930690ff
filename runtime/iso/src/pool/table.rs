//! One word per slot of the region: its state, its link in a free list, its assumed memory.
//!
//! The words lie in a mapping of 256 MiB of addresses; only pages of slots that were used at some
//! time are touched. A word belongs to whoever holds the lock of its class.

use super::{PAGE_LEN, SlotClass, page, sys};

/// What the pool knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Never seen: free if in a granted range, else another node's.
    Unset = 0,
    /// Another node's.
    Foreign,
    /// Ours, free, reads as zeros, no guards.
    Clean,
    /// Ours, free, old contents, no guards.
    Warm,
    /// Ours, free, old contents and guards.
    Furnished,
    /// Ours and in use.
    Used,
    /// Another node's; remains of a task lie in it.
    Kept,
    /// Ours, but remains of a task lie in it.
    KeptOwned,
}

/// A slot's word, unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    pub(super) state: State,
    /// Index of the next slot of the free list, plus one; 0 ends it.
    pub(super) next: u32,
    /// Pages that the free slot is assumed to keep.
    pub(super) warm_pages: u32,
}

impl Word {
    pub(super) const fn bare(state: State) -> Word {
        Word { state, next: 0, warm_pages: 0 }
    }

    fn pack(self) -> u64 {
        self.state as u64 | u64::from(self.next) << 4 | u64::from(self.warm_pages) << 32
    }

    fn unpack(word: u64) -> Word {
        let state = match word & 15 {
            0 => State::Unset,
            1 => State::Foreign,
            2 => State::Clean,
            3 => State::Warm,
            4 => State::Furnished,
            5 => State::Used,
            6 => State::Kept,
            7 => State::KeptOwned,
            other => unreachable!("a slot's word says {other}"),
        };
        Word { state, next: (word >> 4) as u32 & 0xfff_ffff, warm_pages: (word >> 32) as u32 }
    }
}

/// Address of the words.
#[derive(Debug)]
pub(super) struct Table(usize);

impl Table {
    const WORD_COUNT: usize = first_word(SlotClass::MAX) + SlotClass::MAX.slot_count() as usize;

    /// # Panics
    ///
    /// If the kernel has no addresses left.
    pub(super) fn new() -> Table {
        let len = (Table::WORD_COUNT * size_of::<u64>()).next_multiple_of(PAGE_LEN);
        match sys::map_private(len) {
            Ok(base) => Table(base),
            Err(errno) => {
                panic!("no memory for the slot table: mmap of {len:#x} bytes failed: error {errno}")
            }
        }
    }

    fn at(&self, class: SlotClass, index: u32) -> *mut u64 {
        assert!(index < class.slot_count(), "{class:?} has no slot {index}");
        (self.0 as *mut u64).wrapping_add(first_word(class) + index as usize)
    }

    pub(super) fn load(&self, class: SlotClass, index: u32) -> Word {
        // SAFETY: inside the mapping; the caller holds the lock of the class.
        Word::unpack(unsafe { self.at(class, index).read() })
    }

    pub(super) fn store(&self, class: SlotClass, index: u32, word: Word) {
        // SAFETY: as in `load`.
        unsafe { self.at(class, index).write(word.pack()) };
    }

    /// Calls `seen` with the index ranges within `first..end` where a word may be set.
    pub(super) fn touched(
        &self,
        class: SlotClass,
        first: u32,
        end: u32,
        seen: &mut dyn FnMut(u32, u32),
    ) {
        let base = self.at(class, 0) as usize;
        let low = (base + first as usize * 8) & !(PAGE_LEN - 1);
        let high = (base + end as usize * 8).next_multiple_of(PAGE_LEN);
        page::present_runs(low, high - low, &mut |run| {
            let index = |addr: usize| ((addr.saturating_sub(base) / 8) as u32).clamp(first, end);
            seen(index(run.addr), index(run.end()));
        });
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let len = (Table::WORD_COUNT * size_of::<u64>()).next_multiple_of(PAGE_LEN);
        // SAFETY: the pool that owned the table is gone, nobody else knows the mapping.
        unsafe { sys::unmap(self.0, len) };
    }
}

/// Index of the first word of `class`: class 0 has 2^24 words, each next class half as many.
const fn first_word(class: SlotClass) -> usize {
    (1 << 25) - (1 << (25 - class.number() as usize))
}

const _: () = {
    let two = SlotClass::new(2).unwrap();
    let one = SlotClass::new(1).unwrap();
    assert!(first_word(SlotClass::new(0).unwrap()) == 0);
    assert!(first_word(two) == first_word(one) + one.slot_count() as usize);
};
