//! Page frames and hot-set profiles survive the wire, and nothing that arrives can do harm.

use migrt_proto::{
    EntryId, Epoch, Generation, NodeId, SlotRef, TaskId,
    transfer::{
        ASK_RUN_PAGES_MAX, ChunkId, Hot, HotPage, LIST_RUNS_MAX, PAGE_FRAME_LEN_MAX,
        PROFILE_ENCODED_LEN_MAX, PROFILE_PAGES_MAX, PROFILES_MAX, Page, PageAck, PageAsk,
        PageFrame, PageHave, PageWant, Run, Section, SectionKind, fuzz_frames,
    },
    wire::{PageRun, ShipSlot, WireError},
};
use proptest::prelude::*;

fn task() -> TaskId {
    TaskId::new(NodeId(3), Generation(1), 99)
}

fn section(kind: SectionKind, runs: &[(u32, u32)]) -> Section {
    let slot = |slot| ShipSlot {
        slot: SlotRef(slot),
        runs: runs.iter().map(|&(first, count)| PageRun { first, count }).collect(),
    };
    let (slots, zero) = (vec![slot(5), slot(u32::MAX)], vec![slot(7)]);
    Section { task: task(), epoch: Epoch(7), kind, slots, zero, page_len: 4096, extra: vec![1, 0] }
}

fn ask(runs: &[(u64, u64)]) -> PageFrame {
    let asks = runs.iter().map(|&(first, count)| Run::new(Page(first), count)).collect();
    PageFrame::Ask(PageAsk { task: task(), epoch: Epoch(7), asks })
}

fn frames() -> Vec<PageFrame> {
    let chunk = ChunkId(1 << 40);
    let kinds = [
        SectionKind::Round { n: 3 },
        SectionKind::Head,
        SectionKind::Rest,
        SectionKind::Push { chunk },
        SectionKind::Demand { chunk },
        SectionKind::Found,
    ];
    let sections = kinds.map(|kind| PageFrame::Section(section(kind, &[(0, 3), (900, 1)])));
    let ack = PageAck { task: task(), epoch: Epoch(7), chunks: vec![ChunkId(0), chunk] };
    sections
        .into_iter()
        .chain([ask(&[]), ask(&[(1 << 33, 1), (4, ASK_RUN_PAGES_MAX)]), PageFrame::Ack(ack)])
        .chain([PageFrame::Want(PageWant { task: task(), epoch: Epoch(7) }), have()])
        .collect()
}

fn have() -> PageFrame {
    PageFrame::Have(PageHave {
        task: task(),
        epoch: Epoch(7),
        runs: vec![Run::new(Page(9), 2), Run::new(Page(1 << 33), 1)],
        hashes: (0..48).collect(),
        is_last: true,
    })
}

fn encoded(frame: &PageFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn profile() -> Vec<u8> {
    let mut hot = Hot::new();
    let pages: Vec<HotPage> = (0..20).map(|page| HotPage { slot: 1, page: page * 300 }).collect();
    hot.faulted_first(EntryId(9), &pages);
    let mut bytes = Vec::new();
    assert!(hot.encode(EntryId(9), &mut bytes));
    bytes
}

#[test]
fn every_page_frame_survives_the_wire_and_no_part_of_it_does() {
    for frame in frames() {
        let mut bytes = encoded(&frame);
        for len in 0..bytes.len() {
            assert!(PageFrame::decode(&bytes[..len]).is_err(), "{frame:?} cut to {len}");
        }
        assert_eq!(PageFrame::decode(&bytes), Ok(frame));
        bytes.push(0);
        assert_eq!(PageFrame::decode(&bytes), Err(WireError::Trailing { len: 1 }));
    }
}

#[test]
fn runs_are_checked_before_anybody_uses_them() {
    let check = |frame: PageFrame, what: Option<&'static str>| {
        let expected = match what {
            None => Ok(frame.clone()),
            Some(what) => Err(WireError::Malformed { what }),
        };
        assert_eq!(PageFrame::decode(&encoded(&frame)), expected);
    };
    let sent = |runs: &[(u32, u32)]| PageFrame::Section(section(SectionKind::Rest, runs));
    check(sent(&[(0, 1), (1, 2), (9, 1)]), None);
    for runs in
        [&[(0, 2), (1, 1)][..], &[(5, 1), (4, 1)], &[(5, 0)], &[(u32::MAX, 1)], &[(2, u32::MAX)]]
    {
        check(sent(runs), Some("page run"));
    }
    check(sent(&[(0, u32::MAX)]), Some("page section"));
    check(ask(&[(0, ASK_RUN_PAGES_MAX + 1)]), Some("page request"));
    check(ask(&[(0, 0)]), Some("page request"));
    check(ask(&[((1 << 52) - 1, 1)]), None);
    check(ask(&[((1 << 52) - 1, 2)]), Some("page request"));
    check(ask(&[(u64::MAX, 1)]), Some("page request"));
    check(ask(&vec![(0, 1); LIST_RUNS_MAX]), None);
    check(ask(&vec![(0, 1); LIST_RUNS_MAX + 1]), Some("page request"));
    for page_len in [0, 1, 4095, 6000, 1 << 22] {
        let flawed = Section { page_len, ..section(SectionKind::Head, &[]) };
        check(PageFrame::Section(flawed), Some("page length"));
    }
}

#[test]
fn lengths_are_refused_before_anything_is_made_of_them() {
    let long = vec![0; PAGE_FRAME_LEN_MAX + 1];
    let too_long = WireError::TooLong { len: long.len(), limit: PAGE_FRAME_LEN_MAX };
    assert_eq!(PageFrame::decode(&long), Err(too_long));
    // A list of 2^60 requests.
    let mut bytes = encoded(&ask(&[]));
    bytes.pop();
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    bytes.extend([0; 64]);
    assert!(PageFrame::decode(&bytes).is_err());
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A million inputs, half of them sound messages damaged in a few places.
#[test]
fn any_bytes_are_a_message_or_an_error() {
    let mut seeds: Vec<Vec<u8>> = frames().iter().map(encoded).collect();
    seeds.push(profile());
    let mut state = 0x1234_5678_9abc_def1;
    let mut bytes = Vec::new();
    let mut decoded = 0;
    for round in 0..1_000_000 {
        bytes.clear();
        if round % 2 == 0 {
            bytes.extend(&seeds[next(&mut state) as usize % seeds.len()]);
            for _ in 0..=next(&mut state) % 3 {
                let index = next(&mut state) as usize % bytes.len();
                match next(&mut state) % 4 {
                    0 => bytes[index] ^= 1 << (next(&mut state) % 8),
                    1 => bytes.truncate(index + 1),
                    2 => bytes.insert(index, next(&mut state) as u8),
                    _ => bytes[index] = next(&mut state) as u8,
                }
            }
        } else {
            // Small numbers are likelier to mean something.
            let mask = if round % 4 == 1 { 0xff } else { 0x07 };
            bytes.extend((0..next(&mut state) % 60).map(|_| next(&mut state) as u8 & mask));
        }
        decoded += u32::from(PageFrame::decode(&bytes).is_ok());
        fuzz_frames(&bytes);
    }
    assert!(decoded > 50_000, "only {decoded} inputs got as far as the second encoding");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_frames(&bytes);
    }

    #[test]
    fn joining_profiles_is_the_same_in_any_order(
        runs in proptest::collection::vec(proptest::collection::vec((0..3u16, 0..400u32), 0..300), 3),
    ) {
        let profiles: Vec<Hot> = runs.iter().map(|run| heated(run)).collect();
        let join = |a: &Hot, b: &Hot| { let mut c = a.clone(); c.merge(b); c };
        let [a, b, c] = &profiles[..] else { unreachable!() };
        let shown = |hot: &Hot| hot.predict(EntryId(1), usize::MAX);
        prop_assert_eq!(shown(&join(a, b)), shown(&join(b, a)));
        prop_assert_eq!(shown(&join(&join(a, b), c)), shown(&join(a, &join(b, c))));
        prop_assert_eq!(shown(&join(&join(a, b), b)), shown(&join(a, b)));
        let mut bytes = Vec::new();
        let joined = join(a, b);
        joined.encode(EntryId(1), &mut bytes);
        prop_assert!(bytes.len() <= PROFILE_ENCODED_LEN_MAX);
        let mut copy = Hot::new();
        prop_assert_eq!(copy.merge_encoded(&bytes), Ok(EntryId(1)));
        prop_assert_eq!(shown(&copy), shown(&joined));
    }
}

fn heated(pages: &[(u16, u32)]) -> Hot {
    let pages: Vec<HotPage> = pages.iter().map(|&(slot, page)| HotPage { slot, page }).collect();
    let mut hot = Hot::new();
    // Two moves, so that there are different heats.
    hot.faulted_first(EntryId(1), &pages);
    hot.faulted_first(EntryId(1), &pages[pages.len() / 2..]);
    hot
}

fn page(page: u32) -> HotPage {
    HotPage { slot: 0, page }
}

#[test]
fn what_faulted_often_and_early_is_predicted_first_and_old_habits_fade() {
    let (mut hot, entry) = (Hot::new(), EntryId(4));
    hot.faulted_first(entry, &[page(1), page(2), page(3)]);
    assert_eq!(hot.predict(entry, 2), [page(1), page(2)]);
    assert_eq!(hot.likely(entry, 2), []);
    hot.faulted_first(entry, &[page(3), page(9)]);
    assert_eq!(hot.predict(entry, 9), [page(3), page(1), page(9), page(2)]);
    assert_eq!(hot.likely(entry, 9), [page(3)], "the others were met by one move alone");
    for _ in 0..100 {
        hot.faulted_first(entry, &[page(7)]);
    }
    assert_eq!(hot.predict(entry, 9), [page(7)]);
    assert_eq!(hot.predict(EntryId(5), 9), []);
}

#[test]
fn profiles_are_bounded_in_pages_entries_and_bytes() {
    let mut hot = Hot::new();
    let many: Vec<HotPage> =
        (0..5_000).map(|page| HotPage { slot: u16::MAX, page: u32::MAX - page }).collect();
    for entry in 0..1_000 {
        hot.faulted_first(EntryId(u64::MAX - entry), &many);
    }
    assert_eq!(hot.entries().count(), PROFILES_MAX);
    let newest = EntryId(u64::MAX - 999);
    assert_eq!(hot.predict(newest, usize::MAX).len(), PROFILE_PAGES_MAX);
    assert_eq!(hot.predict(EntryId(u64::MAX), 1), [], "the oldest was forgotten");
    for _ in 0..20 {
        hot.faulted_first(newest, &many);
    }
    let mut bytes = Vec::new();
    assert!(hot.encode(newest, &mut bytes));
    assert!(bytes.len() <= PROFILE_ENCODED_LEN_MAX && bytes.len() > PROFILE_ENCODED_LEN_MAX - 100);
    bytes.push(0);
    let before = hot.clone();
    assert!(hot.merge_encoded(&bytes).is_err());
    assert_eq!(hot, before);
}
