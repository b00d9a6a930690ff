//! A set of pages does what a set of numbers does.

use std::collections::BTreeSet;

use migrt_proto::transfer::{Page, PageSet, Run};
use proptest::prelude::*;

/// Runs that meet and overlap, on both sides of the edges of blocks, and far away.
fn run() -> impl Strategy<Value = Run> {
    let first = prop_oneof![0..300u64, 900..1200u64, 2040..2060u64, (1 << 40)..(1 << 40) + 50u64];
    let count = prop_oneof![4 => 0..5u64, 2 => 60..70u64, 1 => 1000..2100u64];
    (first, count).prop_map(|(first, count)| Run::new(Page(first), count))
}

fn set() -> impl Strategy<Value = PageSet> {
    proptest::collection::vec(run(), 0..12).prop_map(|runs| runs.into_iter().collect())
}

fn model(set: &PageSet) -> BTreeSet<u64> {
    set.pages().map(|page| page.0).collect()
}

fn check(set: &PageSet, expected: &BTreeSet<u64>) {
    assert_eq!(set.len(), expected.len() as u64);
    assert_eq!(set.is_empty(), expected.is_empty());
    assert!(set.pages().map(|page| page.0).eq(expected.iter().copied()));
    let mut end = None;
    for run in set.runs() {
        assert!(run.count > 0 && end.is_none_or(|end| end < run.first), "joined and ascending");
        end = Some(run.end());
    }
    let rebuilt: PageSet = expected.iter().map(|page| Page(*page)).collect();
    assert_eq!(*set, rebuilt, "equal sets are equal however they came about");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adding_and_removing_runs(steps in proptest::collection::vec((any::<bool>(), run()), 0..40)) {
        let (mut set, mut expected) = (PageSet::new(), BTreeSet::new());
        for (is_insert, run) in steps {
            let before = expected.len();
            let numbers = run.first.0..run.end().0;
            if is_insert {
                expected.extend(numbers);
                prop_assert_eq!(set.insert(run), (expected.len() - before) as u64);
            } else {
                expected.retain(|page| !numbers.contains(page));
                prop_assert_eq!(set.remove(run), (before - expected.len()) as u64);
            }
        }
        check(&set, &expected);
    }

    #[test]
    fn combining_two_sets(a in set(), b in set()) {
        let (x, y) = (model(&a), model(&b));
        check(&a.union(&b), &(&x | &y));
        check(&a.difference(&b), &(&x - &y));
        check(&a.intersection(&b), &(&x & &y));
        let mut rest = a.clone();
        rest.remove_all(&b);
        check(&rest, &(&x - &y));
    }

    #[test]
    fn finding_and_cutting(set in set(), at in run(), limit in 0..3000u64) {
        let expected = model(&set);
        let page = at.first;
        prop_assert_eq!(set.contains(page), expected.contains(&page.0));
        prop_assert_eq!(set.first_from(page).map(|page| page.0), expected.range(page.0..).next().copied());
        prop_assert_eq!(set.last_to(page).map(|page| page.0), expected.range(..=page.0).next_back().copied());
        let follow = (0..limit).take_while(|step| expected.contains(&(page.0 + step))).count() as u64;
        prop_assert_eq!(set.run_from(page, limit), follow);
        let inside = expected.range(page.0..at.end().0).copied().collect();
        check(&set.within(at), &inside);
    }

    #[test]
    fn taking_from_a_place(set in set(), at in run(), count in 0..1500u64) {
        let all = model(&set);
        let check_taken = |take: fn(&mut PageSet, Page, u64) -> PageSet, expected: BTreeSet<u64>| {
            let mut rest = set.clone();
            let taken = take(&mut rest, at.first, count);
            check(&taken, &expected);
            check(&rest, &(&all - &expected));
        };
        let count = count as usize;
        check_taken(|set, _, count| set.take_first(count), all.iter().take(count).copied().collect());
        check_taken(PageSet::take_up, all.range(at.first.0..).take(count).copied().collect());
        check_taken(PageSet::take_down, all.range(..=at.first.0).rev().take(count).copied().collect());
    }
}

#[test]
fn a_run_without_end_is_looked_up_and_removed_at_the_cost_of_what_is_there() {
    let mut set: PageSet = [Run::new(Page(5), 2), Run::new(Page(1 << 40), 3)].into_iter().collect();
    let all = Run::new(Page(6), u64::MAX);
    assert!(all.contains(Page(1 << 60)));
    assert_eq!(set.within(all).len(), 4);
    assert_eq!(set.first_from(Page(u64::MAX)), None);
    assert_eq!(set.last_to(Page(u64::MAX)), Some(Page((1 << 40) + 2)));
    assert_eq!(set.remove(all), 4);
    assert_eq!(set.len(), 1);
}

#[test]
#[should_panic(expected = "outside of any address space")]
fn a_run_outside_of_any_address_space_is_not_a_set() {
    PageSet::new().insert(Run::new(Page((1 << 52) - 1), 2));
}
