//! Pre-copy rounds stop, leave nothing behind, and hold back what is written all the time.

use migrt_proto::{
    Micros,
    transfer::{FreezeWhy, Limits, LinkRate, Page, PageSet, Rounds, Run, Step},
};
use proptest::prelude::*;

const PAGE_LEN: u64 = 4096;
/// 100,000 pages per second: 10 us a page.
const LINK: LinkRate = LinkRate { bytes_per_s: 100_000 * PAGE_LEN, fixed: Micros(200) };
const LIMITS: Limits = Limits {
    max_pause: Micros(3_000),
    goal: Micros(3_000),
    max_rounds: 12,
    hold_back: true,
    page_len: 4096,
};

fn pages(first: u64, count: u64) -> PageSet {
    [Run::new(Page(first), count)].into_iter().collect()
}

/// Runs `rounds` for a task with `live` pages that writes as `write` says, given the number of the round and the time
/// it takes. Gives the rounds and the freeze.
fn drive(
    limits: Limits,
    live: u64,
    mut write: impl FnMut(u64, Micros) -> PageSet,
) -> (Rounds, FreezeWhy, u64, Micros) {
    let mut rounds = Rounds::new(limits, LINK);
    let mut dirty = pages(0, live);
    for number in 1.. {
        match rounds.next(&dirty) {
            Step::Send(send) => {
                assert!(number <= u64::from(limits.max_rounds) && !send.is_empty());
                let took = LINK.pause(send.len(), 4096);
                rounds.sent(send.len() * PAGE_LEN, took);
                dirty = write(number, took);
            }
            Step::Freeze { why, outstanding, expected_pause } => {
                assert_eq!(rounds.outstanding().len(), outstanding);
                return (rounds, why, outstanding, expected_pause);
            }
        }
    }
    unreachable!()
}

#[test]
fn a_small_task_is_frozen_at_once() {
    let (rounds, why, outstanding, pause) = drive(LIMITS, 256, |_, _| PageSet::new());
    assert_eq!((why, outstanding, pause), (FreezeWhy::Converged, 256, Micros(2_760)));
    assert!(rounds.record().rounds.is_empty());
}

#[test]
fn a_modest_writer_converges_with_the_pause_in_the_limit() {
    // 256 MiB, 2,500 pages (10 MB) a second, here and there.
    let mut at = 0;
    let (rounds, why, _, pause) = drive(LIMITS, 65_536, |_, took| {
        (0..took.0 * 2_500 / 1_000_000)
            .map(|_| {
                at = (at + 7919) % 65_536;
                Page(at)
            })
            .collect()
    });
    let record = rounds.record();
    assert_eq!(why, FreezeWhy::Converged);
    assert!(pause <= LIMITS.max_pause && record.rounds.len() <= 3, "{record:?}");
    let rate = record.dirty_pages_per_s.expect("measured");
    assert!((2_000..=2_500).contains(&rate), "{rate}");
    assert!((LINK.bytes_per_s * 9 / 10..=LINK.bytes_per_s).contains(&record.bytes_per_s));
}

#[test]
fn where_it_costs_little_the_rounds_go_on_to_a_shorter_pause() {
    let modest =
        |number: u64, took: Micros| pages((number * 7919) % 60_000, took.0 * 2_500 / 1_000_000);
    let (rounds, why, _, pause) = drive(Limits { goal: Micros(400), ..LIMITS }, 65_536, modest);
    assert_eq!(why, FreezeWhy::Converged);
    assert!(pause <= Micros(400) && rounds.record().rounds.len() <= 3, "{:?}", rounds.record());
    // The same pages again and again: they fit, and a second try would leave no less.
    let steady = |number: u64, _| pages(1_000 * number, 100);
    let (rounds, why, outstanding, _) =
        drive(Limits { goal: Micros(400), ..LIMITS }, 65_536, steady);
    assert_eq!((why, outstanding), (FreezeWhy::Converged, 100));
    assert_eq!(rounds.record().rounds.len(), 2);
}

#[test]
fn what_is_written_all_the_time_is_held_back_and_the_rest_is_sent() {
    // 100 hot pages, which fit into the pause, among others that are written once.
    let hot = |number: u64, _| pages(0, 100).union(&pages(1_000 + number * 400, 400));
    let (rounds, why, ..) = drive(Limits { max_rounds: 30, ..LIMITS }, 65_536, hot);
    let held = rounds.record();
    assert!(why != FreezeWhy::RoundLimit);
    assert_eq!(held.working_set_pages, 100);
    assert!(held.rounds[2..].iter().all(|round| round.held_back_pages == 100), "{held:?}");
    assert!(held.rounds[2..].iter().all(|round| round.sent_pages == 400), "{held:?}");
    let (rounds, ..) = drive(Limits { hold_back: false, ..LIMITS }, 65_536, hot);
    let sent = rounds.record();
    assert!(sent.rounds[1..].iter().all(|round| round.sent_pages == 500), "{sent:?}");
}

#[test]
fn a_working_set_that_fits_converges_and_without_holding_back_sends_in_vain() {
    let small = |_, _| pages(0, 200);
    let (rounds, why, outstanding, _) = drive(LIMITS, 65_536, small);
    assert_eq!((why, outstanding), (FreezeWhy::Converged, 200));
    assert_eq!(rounds.record().rounds.len(), 1);
}

#[test]
fn a_page_that_cools_down_is_sent() {
    let mut rounds = Rounds::new(Limits { max_rounds: 30, ..LIMITS }, LINK);
    let fresh = |number: u64| pages(30_000 + number * 5_000, 2_000 - number * 200);
    assert!(matches!(rounds.next(&pages(0, 20_000)), Step::Send(_)));
    for number in 0..2 {
        rounds.sent(0, Micros(1));
        assert!(matches!(rounds.next(&pages(0, 50).union(&fresh(number))), Step::Send(_)));
    }
    assert!(rounds.outstanding().contains(Page(7)), "written twice: held back");
    let mut sent_after = None;
    for number in 2..6 {
        let Step::Send(send) = rounds.next(&fresh(number)) else { break };
        if send.contains(Page(7)) {
            sent_after = Some(number);
            break;
        }
    }
    assert_eq!(sent_after, Some(3), "it was in two of the last three rounds once more, then not");
}

#[test]
fn a_writer_as_fast_as_memory_does_not_shrink() {
    let (rounds, why, outstanding, pause) = drive(LIMITS, 65_536, |_, _| pages(0, 65_536));
    assert_eq!((why, outstanding), (FreezeWhy::NotShrinking, 65_536));
    assert!(pause > Micros(500_000));
    assert!(rounds.record().rounds.len() <= 2, "{:?}", rounds.record());
}

#[test]
fn freed_pages_are_not_owed_and_what_was_sent_of_them_is_retracted() {
    let mut rounds = Rounds::new(LIMITS, LINK);
    let Step::Send(all) = rounds.next(&pages(0, 10_000)) else { panic!("too many for the pause") };
    assert_eq!(all.len(), 10_000);
    rounds.sent(10_000 * PAGE_LEN, Micros(100_000));
    rounds.dead(&pages(100, 10));
    let step = rounds.next(&pages(105, 3));
    assert!(matches!(step, Step::Freeze { why: FreezeWhy::Converged, outstanding: 3, .. }));
    assert_eq!(*rounds.retracted(), pages(100, 5).union(&pages(108, 2)), "written again: alive");
    // What the task wrote until it stood still.
    rounds.dead(&pages(105, 1));
    let step = rounds.next(&pages(500, 2));
    assert!(matches!(step, Step::Freeze { why: FreezeWhy::Converged, outstanding: 4, .. }));
}

#[test]
fn without_rounds_the_task_is_frozen_with_everything() {
    let none = Limits { max_rounds: 0, ..LIMITS };
    let (_, why, outstanding, _) = drive(none, 5_000, |_, _| PageSet::new());
    assert_eq!((why, outstanding), (FreezeWhy::RoundLimit, 5_000));
}

#[derive(Clone, Debug)]
struct Round {
    writes: Vec<(u64, u64)>,
    frees: Vec<(u64, u64)>,
    took: u64,
}

fn round() -> impl Strategy<Value = Round> {
    let runs = || proptest::collection::vec((0..3_000u64, 1..600u64), 0..5);
    (runs(), runs(), 0..50_000u64).prop_map(|(writes, frees, took)| Round { writes, frees, took })
}

fn set(runs: &[(u64, u64)]) -> PageSet {
    runs.iter().map(|(first, count)| Run::new(Page(*first), *count)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The target's copy, with the outstanding pages and without the retracted ones, is the task's memory.
    #[test]
    fn what_the_target_has_in_the_end_is_what_the_task_has(
        live in 0..3_000u64, hold_back in any::<bool>(), max_rounds in 0..8u32, max_pause in 0..10_000u64,
        goal in 0..10_000u64,
        script in proptest::collection::vec(round(), 12),
    ) {
        let max_pause = Micros(max_pause);
        let limits = Limits { max_pause, goal: Micros(goal), max_rounds, hold_back, page_len: 4096 };
        let mut rounds = Rounds::new(limits, LINK);
        // A page's value is the round of its last write; the target has what was sent.
        let mut task: std::collections::BTreeMap<u64, usize> = (0..live).map(|page| (page, 0)).collect();
        let mut target = std::collections::BTreeMap::new();
        let mut dirty = pages(0, live);
        let mut stopped = false;
        for (number, round) in script.iter().enumerate() {
            match rounds.next(&dirty) {
                Step::Send(send) => {
                    prop_assert!(number < max_rounds as usize);
                    for page in send.pages() {
                        target.insert(page.0, task[&page.0]);
                    }
                    rounds.sent(send.len() * PAGE_LEN, Micros(round.took));
                }
                Step::Freeze { .. } => stopped = true,
            }
            if stopped {
                break;
            }
            let (writes, frees) = (set(&round.writes), set(&round.frees));
            let writes = writes.difference(&frees);
            for page in writes.pages() {
                task.insert(page.0, number + 1);
            }
            task.retain(|page, _| !frees.contains(Page(*page)));
            rounds.dead(&frees);
            dirty = writes;
        }
        prop_assert!(stopped, "rounds always stop");
        for page in rounds.outstanding().pages() {
            target.insert(page.0, task[&page.0]);
        }
        for page in rounds.retracted().pages() {
            target.remove(&page.0);
        }
        prop_assert_eq!(task, target);
    }
}
