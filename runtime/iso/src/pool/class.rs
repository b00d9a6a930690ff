//! The free slots of one class: three stacks linked through the table, and granted ranges.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::promise::Counts;
use super::table::{State, Table, Word};
use super::{PAGE_LEN, SlotClass, SlotId};

/// A slot whose addresses look like a stale pointer's high half beside a small number: where one
/// `u32` of a word was overwritten, the audit would take the word for an address in this slot. The
/// nanoseconds of an `Instant`, up to 10^9 and with padding behind them, are such a number: with a
/// bound of 256 MiB, 7 of 200 runs of ten tasks that kept an `Instant` over their moves had one that
/// was pinned for good. Such slots, 1 in 4 of the shorter classes, are never handed out.
fn is_easily_mistaken(class: SlotClass, index: u32) -> bool {
    const SMALL: u64 = 1 << 30;
    let base = SlotId::new(class, index).map_or(0, SlotId::base) as u64;
    class.slot_len() as u64 <= SMALL && base & 0xffff_ffff < SMALL
}

/// Granted ranges that are kept as such; further ones are written down slot by slot.
const RANGE_COUNT: usize = 32;

/// Slots `next..end` were granted and, where their word is unset, never used.
#[derive(Clone, Copy, Debug)]
struct FreshRange {
    next: u32,
    end: u32,
}

#[derive(Debug)]
pub(super) struct ClassPool {
    fresh: [FreshRange; RANGE_COUNT],
    /// Tops of the clean, warm and furnished stacks: index plus one.
    tops: [u32; 3],
    pub(super) free_count: u32,
    pub(super) owned_count: u32,
    /// Free slots that will never be taken, found so far.
    passed_over: u32,
}

impl ClassPool {
    pub(super) const EMPTY: ClassPool = ClassPool {
        fresh: [FreshRange { next: 0, end: 0 }; RANGE_COUNT],
        tops: [0; 3],
        free_count: 0,
        owned_count: 0,
        passed_over: 0,
    };
}

/// A class's pool with its lock held and what its methods need.
pub(super) struct Locked<'a> {
    pub(super) pool: MutexGuard<'a, ClassPool>,
    pub(super) table: &'a Table,
    pub(super) class: SlotClass,
    pub(super) warm_len: &'a AtomicUsize,
    pub(super) counts: &'a Counts,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.counts.update(self.class, self.pool.free_count, self.pool.owned_count);
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = ClassPool;
    fn deref(&self) -> &ClassPool {
        &self.pool
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut ClassPool {
        &mut self.pool
    }
}

impl Locked<'_> {
    /// State of a slot; `Unset` means free and never used, a foreign one is `Foreign`.
    pub(super) fn state(&self, slot: SlotId) -> State {
        self.state_at(slot.index())
    }

    fn state_at(&self, index: u32) -> State {
        match self.table.load(self.class, index).state {
            State::Unset if !self.pool.fresh.iter().any(|r| (r.next..r.end).contains(&index)) => {
                State::Foreign
            }
            state => state,
        }
    }

    pub(super) fn set(&mut self, slot: SlotId, state: State) {
        self.table.store(self.class, slot.index(), Word::bare(state));
    }

    pub(super) fn expect(&self, slot: SlotId, wanted: State, verb: &str) {
        let state = self.state(slot);
        assert!(state == wanted, "I3: {verb} of {slot}, which is {state:?} and not {wanted:?}");
    }

    /// A used slot becomes free in `state`.
    pub(super) fn give(&mut self, slot: SlotId, state: State, warm_pages: usize) {
        self.expect(slot, State::Used, "give");
        self.push(slot, state, warm_pages);
    }

    /// Puts a slot on the free stack of its state.
    pub(super) fn push(&mut self, slot: SlotId, state: State, warm_pages: usize) {
        let top = stack(state);
        let word = Word { state, next: self.tops[top], warm_pages: warm_pages as u32 };
        self.table.store(self.class, slot.index(), word);
        self.tops[top] = slot.index() + 1;
        self.free_count += 1;
    }

    /// Takes a slot from the first of the stacks that has one; after `Clean` come the fresh ranges.
    pub(super) fn take(&mut self, from: &[State]) -> Option<SlotId> {
        let index = from.iter().find_map(|&state| {
            let stacked = self.pop(state);
            if state == State::Clean { stacked.or_else(|| self.take_fresh()) } else { stacked }
        })?;
        self.table.store(self.class, index, Word::bare(State::Used));
        self.free_count -= 1;
        SlotId::new(self.class, index)
    }

    fn pop(&mut self, state: State) -> Option<u32> {
        let index = self.tops[stack(state)].checked_sub(1)?;
        let word = self.table.load(self.class, index);
        assert!(
            word.state == state,
            "I3: slot {index} of {:?} is {:?} on the stack of {state:?}",
            self.class,
            word.state
        );
        self.tops[stack(state)] = word.next;
        // Relaxed: see `reserve_warm`.
        self.warm_len.fetch_sub(word.warm_pages as usize * PAGE_LEN, Ordering::Relaxed);
        Some(index)
    }

    /// Free slots that [`take`](Self::take) will give, none of those that it passes over. Walks the
    /// granted ranges, so only to be asked when they are short: at most a few thousand are counted.
    pub(super) fn usable_count(&self) -> u32 {
        const ENOUGH: u32 = 4096;
        let (table, class) = (self.table, self.class);
        let mut passed_over = self.pool.passed_over;
        for range in &self.pool.fresh {
            if range.end - range.next > ENOUGH {
                // A quarter is passed over.
                passed_over += (range.end - range.next).div_ceil(3);
                continue;
            }
            let unusable = |&index: &u32| {
                table.load(class, index).state == State::Unset && is_easily_mistaken(class, index)
            };
            passed_over += (range.next..range.end).filter(unusable).count() as u32;
        }
        self.free_count.saturating_sub(passed_over)
    }

    fn take_fresh(&mut self) -> Option<u32> {
        let (table, class) = (self.table, self.class);
        let ClassPool { fresh, passed_over, .. } = &mut *self.pool;
        for range in fresh {
            while range.next < range.end {
                let index = range.next;
                range.next += 1;
                // A slot that held remains when it was granted is on its own way.
                if table.load(class, index).state != State::Unset {
                    continue;
                }
                if !is_easily_mistaken(class, index) {
                    return Some(index);
                }
                *passed_over += 1;
            }
        }
        None
    }

    /// Slots that lie within a granted range whose end is still fresh: they were kept when it was
    /// granted, used since, and have left.
    fn grant_one_by_one(&mut self, first: u32, end: u32, range: FreshRange) {
        for index in first..end {
            let state = self.state_at(index);
            assert!(
                matches!(state, State::Foreign | State::Kept),
                "I3: grant of slots {first}..{end} of {:?}, of which {range:?} is owned",
                self.class
            );
        }
        for index in first..end {
            let slot = SlotId::new(self.class, index).expect("grant checked the range");
            self.owned_count += 1;
            match self.state_at(index) {
                State::Kept => self.set(slot, State::KeptOwned),
                _ => self.push(slot, State::Clean, 0),
            }
        }
    }

    pub(super) fn grant(&mut self, first: u32, end: u32) {
        if first == end {
            return;
        }
        let (table, class) = (self.table, self.class);
        let overlap =
            self.pool.fresh.iter().copied().find(|r| r.next < r.end && r.next < end && first < r.end);
        if let Some(range) = overlap {
            return self.grant_one_by_one(first, end, range);
        }
        // Words that say who owned a slot before are brought up to date; first look, then change.
        table.touched(class, first, end, &mut |from, to| {
            for index in from..to {
                let state = table.load(class, index).state;
                assert!(
                    matches!(state, State::Unset | State::Foreign | State::Kept),
                    "I3: grant of slot {index} of {class:?}, which is {state:?}"
                );
            }
        });
        let mut kept = 0;
        table.touched(class, first, end, &mut |from, to| {
            for index in from..to {
                match table.load(class, index).state {
                    State::Foreign => table.store(class, index, Word::bare(State::Unset)),
                    State::Kept => {
                        table.store(class, index, Word::bare(State::KeptOwned));
                        kept += 1;
                    }
                    _ => {}
                }
            }
        });
        self.owned_count += end - first;
        let fresh = &mut self.pool.fresh;
        let spent = |range: &FreshRange| range.next == range.end;
        if let Some(range) = fresh.iter_mut().find(|range| !spent(range) && range.end == first) {
            range.end = end;
        } else if let Some(range) = fresh.iter_mut().find(|range| spent(range)) {
            *range = FreshRange { next: first, end };
        } else {
            for index in (first..end).rev() {
                if table.load(class, index).state == State::Unset {
                    self.push(
                        SlotId::new(class, index).expect("grant checked the range"),
                        State::Clean,
                        0,
                    );
                }
            }
            return;
        }
        self.free_count += end - first - kept;
    }
}

fn stack(state: State) -> usize {
    match state {
        State::Clean => 0,
        State::Warm => 1,
        State::Furnished => 2,
        other => unreachable!("{other:?} slots are on no stack"),
    }
}
