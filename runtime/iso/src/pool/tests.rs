//! The pool against a model that knows each slot's state by heart.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::region::Region;

fn slot(class: u8, index: u32) -> SlotId {
    SlotId::new(SlotClass::new(class).unwrap(), index).unwrap()
}

fn write(slot: SlotId, byte: u8) {
    // SAFETY: the region is reserved and the slot is the test's.
    unsafe { (slot.base() as *mut u8).write_volatile(byte) };
}

fn read(slot: SlotId) -> u8 {
    // SAFETY: as in `write`.
    unsafe { (slot.base() as *const u8).read_volatile() }
}

fn check_refused(what: &str, slot: SlotId, act: impl FnOnce()) {
    let refused = catch_unwind(AssertUnwindSafe(act)).expect_err(what);
    let message = refused.downcast_ref::<String>().expect("a message");
    assert!(message.contains(&slot.to_string()), "{what}: {message}");
}

// Each test uses its own part of a class: the region is one for all of them.
const PART: u32 = 1 << 10;

#[test]
fn a_given_slot_is_taken_first_and_still_warm() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    pool.grant(SlotClass::TASK, 9 * PART + 64, 8);
    let first = pool.take(SlotClass::TASK).unwrap();
    let second = pool.take(SlotClass::TASK).unwrap();
    assert_ne!(first, second);
    write(first, 7);
    pool.give(first);
    assert_eq!(pool.take(SlotClass::TASK), Some(first));
    assert_eq!(read(first), 7);
    pool.give_clean(first);
    assert_eq!(pool.take(SlotClass::TASK), Some(first));
    assert_eq!(read(first), 0);
}

#[test]
fn no_more_than_the_bound_stays_warm_and_long_slots_never() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    pool.grant(SlotClass::TASK, 10 * PART + 64, 272);
    let slots: Vec<_> = (0..200).map(|_| pool.take(SlotClass::TASK).unwrap()).collect();
    for &slot in &slots {
        write(slot, 1);
        pool.give(slot);
    }
    assert_eq!(pool.warm_len(), WARM_LEN_MAX);
    let still =
        slots.iter().filter(|slot| page::present_count(slot.base(), slot.len()) > 0).count();
    assert_eq!(still, WARM_LEN_MAX / SlotClass::TASK.slot_len());
    let long = slot(5, 64);
    pool.grant(long.class(), 64, 1);
    assert_eq!(pool.take(long.class()), Some(long));
    write(long, 1);
    pool.give(long);
    assert_eq!(pool.take(long.class()), Some(long));
    assert_eq!(read(long), 0);
}

/// An `Instant` is 8 bytes of seconds, 4 of nanoseconds and 4 of padding. Where the padding holds the
/// high half of a stale pointer, the nanoseconds are its low half.
#[test]
fn nanoseconds_beside_a_stale_half_name_no_slot() {
    let pool = SlotPool::new();
    for class in [0, 4, 6, 10].map(|class| SlotClass::new(class).unwrap()) {
        pool.grant(class, 0, class.slot_count().min(70_000));
        let mut count = 0;
        while let Some(slot) = pool.take(class) {
            assert!(slot.base() & 0xffff_ffff >= 1_000_000_000, "{slot} at {:#x}", slot.base());
            count += 1;
        }
        assert!(count > 2_000, "{count} slots of {class:?}");
    }
}

#[test]
fn guards_stay_for_tasks_and_never_reach_a_heap() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    pool.grant(SlotClass::TASK, 11 * PART + 64, 1);
    let taken = pool.take_furnished(SlotClass::TASK).unwrap();
    assert!(!taken.furnished);
    let slot = taken.slot;
    // SAFETY: I3: the slot was taken.
    unsafe { guard::install(slot.base(), PAGE_LEN) }.unwrap();
    pool.give_furnished(slot, 5 * PAGE_LEN);
    assert_eq!(pool.warm_len(), 5 * PAGE_LEN);
    assert_eq!(pool.take_furnished(SlotClass::TASK), Some(TakenSlot { slot, furnished: true }));
    pool.give_furnished(slot, 5 * PAGE_LEN);
    assert_eq!(pool.take(SlotClass::TASK), Some(slot));
    write(slot, 1);
    assert_eq!(pool.warm_len(), 0);
}

#[test]
fn every_broken_rule_is_refused_by_name() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    pool.grant(SlotClass::TASK, 12 * PART + 64, 4);
    let ours = pool.take(SlotClass::TASK).unwrap();
    pool.give(ours);
    let theirs = slot(4, 13 * PART);
    check_refused("a double give", ours, || pool.give(ours));
    check_refused("a double clean give", ours, || pool.give_clean(ours));
    check_refused("a foreign give", theirs, || pool.give(theirs));
    check_refused("a foreign release", theirs, || pool.release(theirs));
    check_refused("release of a free slot", ours, || pool.release(ours));
    check_refused("unkeep without remains", ours, || pool.unkeep(ours));
    assert!(
        catch_unwind(AssertUnwindSafe(|| pool.grant(SlotClass::TASK, 12 * PART + 66, 4))).is_err()
    );
    assert_eq!(pool.adopt(ours), Err(Conflict::Owned(ours)));
    pool.adopt(theirs).unwrap();
    assert_eq!(pool.adopt(theirs), Err(Conflict::InUse(theirs)));
    pool.keep(theirs);
    assert_eq!(pool.adopt(theirs), Err(Conflict::Remains(theirs)));
    pool.adopt_over_remains(theirs).unwrap();
    pool.release(theirs);
    assert_eq!((pool.free_count(SlotClass::TASK), pool.owned_count(SlotClass::TASK)), (4, 4));
}

#[test]
fn remains_stay_until_they_are_dropped_or_their_task_is_back() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    let (back, dropped) = (slot(4, 14 * PART), slot(4, 14 * PART + 1));
    for slot in [back, dropped] {
        pool.adopt(slot).unwrap();
        write(slot, 7);
        pool.keep(slot);
        assert_eq!((read(slot), pool.owned_count(slot.class())), (7, 0));
    }
    pool.adopt_over_remains(back).unwrap();
    assert_eq!(read(back), 7);
    pool.release(back);
    assert_eq!(read(back), 0);
    // Dealt to this node while the remains are still there: ours, but not to be used.
    pool.grant(dropped.class(), dropped.index(), 1);
    assert_eq!((pool.owned_count(dropped.class()), pool.take(dropped.class())), (1, None));
    pool.unkeep(dropped);
    assert_eq!(pool.take(dropped.class()), Some(dropped));
    assert_eq!(read(dropped), 0);
}

#[test]
fn no_slot_is_handed_to_two_threads() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    pool.grant(SlotClass::TASK, 15 * PART + 64, 20);
    std::thread::scope(|scope| {
        for mark in 1..=4 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..20_000 {
                    let Some(slot) = pool.take(SlotClass::TASK) else { continue };
                    write(slot, mark);
                    std::hint::black_box(round);
                    assert_eq!(read(slot), mark, "{slot} is in two hands");
                    if round % 64 == 0 { pool.give_clean(slot) } else { pool.give(slot) }
                }
            });
        }
    });
    assert_eq!(pool.free_count(SlotClass::TASK), 20);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Grant(u32, u32),
    Take,
    TakeFurnished,
    Give(usize),
    GiveFurnished(usize),
    GiveClean(usize),
    Adopt(u32),
    AdoptOverRemains(u32),
    Release(usize),
    Keep(usize),
    Unkeep(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let index = 0..SPAN;
    prop_oneof![
        (0..SPAN, 1..12u32).prop_map(|(first, count)| Op::Grant(first, count)),
        Just(Op::Take),
        Just(Op::Take),
        Just(Op::TakeFurnished),
        any::<usize>().prop_map(Op::Give),
        any::<usize>().prop_map(Op::GiveFurnished),
        any::<usize>().prop_map(Op::GiveClean),
        index.clone().prop_map(Op::Adopt),
        index.clone().prop_map(Op::AdoptOverRemains),
        any::<usize>().prop_map(Op::Release),
        any::<usize>().prop_map(Op::Keep),
        index.prop_map(Op::Unkeep),
    ]
}

const SPAN: u32 = 64;
const BASE: u32 = 20 * PART;

#[derive(Default)]
struct Model {
    free: BTreeSet<u32>,
    used: BTreeSet<u32>,
    /// Whether the slot with remains is owned too.
    kept: BTreeMap<u32, bool>,
}

impl Model {
    fn owns(&self, index: u32) -> bool {
        self.free.contains(&index)
            || self.used.contains(&index)
            || self.kept.get(&index) == Some(&true)
    }
}

fn check_against_model(ops: &[Op]) {
    Region::reserve().unwrap();
    let class = SlotClass::new(0).unwrap();
    let pool = SlotPool::new();
    let mut model = Model::default();
    let pick = |set: &BTreeSet<u32>, n: usize| set.iter().nth(n.checked_rem(set.len())?).copied();
    let at = |index: u32| SlotId::new(class, BASE + index).unwrap();
    for &op in ops {
        match op {
            Op::Grant(first, count) => {
                let count = count.min(SPAN - first);
                if (first..first + count).any(|index| model.owns(index)) {
                    continue;
                }
                pool.grant(class, BASE + first, count);
                for index in first..first + count {
                    match model.kept.get_mut(&index) {
                        Some(owned) => *owned = true,
                        None => _ = model.free.insert(index),
                    }
                }
            }
            Op::Take | Op::TakeFurnished => {
                let taken = match op {
                    Op::Take => pool.take(class),
                    _ => pool.take_furnished(class).map(|taken| taken.slot),
                };
                match taken {
                    Some(slot) => {
                        assert!(model.free.remove(&(slot.index() - BASE)), "{slot} was not free");
                        model.used.insert(slot.index() - BASE);
                    }
                    None => assert!(model.free.is_empty()),
                }
            }
            Op::Give(n) | Op::GiveFurnished(n) | Op::GiveClean(n) => {
                let Some(index) = pick(&model.used, n) else {
                    continue;
                };
                match op {
                    Op::Give(_) => pool.give(at(index)),
                    Op::GiveFurnished(_) => pool.give_furnished(at(index), 100),
                    _ => pool.give_clean(at(index)),
                }
                model.used.remove(&index);
                model.free.insert(index);
            }
            Op::Adopt(index) | Op::AdoptOverRemains(index) => {
                let slot = at(index);
                let over = matches!(op, Op::AdoptOverRemains(_));
                let expected = match model.kept.get(&index) {
                    Some(false) if over => Ok(()),
                    Some(_) => Err(Conflict::Remains(slot)),
                    None if model.used.contains(&index) => Err(Conflict::InUse(slot)),
                    None if model.free.contains(&index) => Err(Conflict::Owned(slot)),
                    None => Ok(()),
                };
                let got = if over { pool.adopt_over_remains(slot) } else { pool.adopt(slot) };
                assert_eq!(got, expected);
                if expected.is_ok() {
                    model.kept.remove(&index);
                    model.used.insert(index);
                }
            }
            Op::Release(n) | Op::Keep(n) => {
                let Some(index) = pick(&model.used, n) else {
                    continue;
                };
                model.used.remove(&index);
                if matches!(op, Op::Keep(_)) {
                    pool.keep(at(index));
                    model.kept.insert(index, false);
                } else {
                    pool.release(at(index));
                }
            }
            Op::Unkeep(index) => {
                if let Some(owned) = model.kept.remove(&index) {
                    pool.unkeep(at(index));
                    if owned {
                        model.free.insert(index);
                    }
                }
            }
        }
        assert_eq!(pool.free_count(class) as usize, model.free.len(), "after {op:?}");
        let owned = (0..SPAN).filter(|&index| model.owns(index)).count();
        assert_eq!(pool.owned_count(class) as usize, owned, "after {op:?}");
        for index in 0..SPAN {
            assert_eq!(
                pool.is_used(at(index)),
                model.used.contains(&index),
                "slot {index} after {op:?}"
            );
            assert_eq!(
                pool.is_kept(at(index)),
                model.kept.contains_key(&index),
                "slot {index} after {op:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_pool_agrees_with_its_model(ops in prop::collection::vec(op(), 1..200)) {
        check_against_model(&ops);
    }
}

#[test]
fn as_many_slots_are_promised_as_can_be_taken() {
    Region::reserve().unwrap();
    let pool = SlotPool::new();
    // Some of these are never handed out.
    pool.grant(SlotClass::TASK, 14 * PART, 300);
    let promised = (0..400).filter(|_| pool.promise(SlotClass::TASK)).count();
    assert!(pool.is_scarce(SlotClass::TASK));
    let taken = (0..promised).filter(|_| pool.take(SlotClass::TASK).is_some()).count();
    assert_eq!(taken, promised);
    assert_eq!(pool.take(SlotClass::TASK), None, "the last one was promised too");
    (0..promised).for_each(|_| pool.redeem(SlotClass::TASK));
    assert!(!pool.promise(SlotClass::TASK));
}

#[test]
fn two_who_ask_for_the_last_slot_do_not_both_get_it_nor_neither() {
    Region::reserve().unwrap();
    for round in 0..200 {
        let pool = SlotPool::new();
        pool.grant(SlotClass::TASK, 15 * PART + 64 + round % 64, 1);
        let start = std::sync::Barrier::new(2);
        let ask = || {
            start.wait();
            u32::from(pool.promise(SlotClass::TASK))
        };
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(ask);
            ask() + other.join().unwrap()
        });
        assert_eq!(both, 1);
    }
}
