//! The two halves of a post-copy, each fed with page frames that a peer made up: whatever it asks for, acknowledges or
//! sends, only pages of the task leave, only missing ones are installed, and what is in flight stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::transfer::{
    Chunk, Fault, Missing, Page, PageFrame, PageSet, Push, PushLimits, Run, Section, Waiter, Way,
};

const LIMITS: PushLimits = PushLimits { chunk_pages: 4, credit: 2, readahead_pages: 8 };

fn all() -> PageSet {
    [Run::new(Page(10), 40), Run::new(Page(1 << 20), 7)].into_iter().collect()
}

fn is_ours(pages: &PageSet) -> bool {
    pages.difference(&all()).is_empty()
}

fn sent(chunk: Option<Chunk>) {
    assert!(chunk.is_none_or(|chunk| !chunk.pages.is_empty() && is_ours(&chunk.pages)));
}

/// The pages that a section names, numbered as if its slots were 2^16 pages apart.
fn runs(section: &Section) -> Vec<Run> {
    let lists = section.slots.iter().chain(&section.zero);
    let runs = lists.flat_map(|slot| slot.runs.iter().map(move |run| (slot.slot.0, run)));
    runs.map(|(slot, run)| {
        Run::new(Page((u64::from(slot) << 16) + u64::from(run.first)), u64::from(run.count))
    })
    .collect()
}

fuzz_target!(|bytes: &[u8]| {
    let (mut push, mut missing) = (Push::new(all(), LIMITS), Missing::new(all()));
    let mut rest = bytes;
    while let Some((&len, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        match PageFrame::decode(piece) {
            Ok(PageFrame::Ask(ask)) => {
                for run in ask.asks {
                    let answer = push.demanded(run);
                    assert!(answer.on_its_way + answer.needless <= run.count);
                    sent(answer.chunk);
                    for part in missing.prefetch(run) {
                        assert!(missing.pages().within(part).len() == part.count);
                    }
                    // One waiter a page: it is noted exactly if it has to wait.
                    let waits = missing.pages().contains(run.first);
                    let fault = missing.fault(run.first, Waiter(run.first.0));
                    let noted =
                        matches!(fault, Fault::Ask(_) | Fault::AlreadyAsked | Fault::LinkDown);
                    assert!(noted == waits || fault == Fault::SourceLost);
                }
            }
            Ok(PageFrame::Ack(ack)) => ack.chunks.into_iter().for_each(|chunk| push.acked(chunk)),
            Ok(PageFrame::Section(section)) => {
                let before = missing.pages().clone();
                let arrived = missing.arrived(&runs(&section), Way::Push);
                assert!(arrived.install.difference(&before).is_empty(), "installed over a page");
                assert!(missing.pages().intersection(&arrived.install).is_empty());
            }
            // What no frame says: the link breaks, comes back, a stream is reset, time passes.
            Err(_) => match piece.first().map_or(0, |byte| byte % 8) {
                0 => (push.link_lost(), missing.link_lost()).0,
                1 => push.link_back(),
                2 => missing.link_back().iter().for_each(|run| sent(push.demanded(*run).chunk)),
                3 => drop(push.resent(&all())),
                _ => sent(push.next_chunk()),
            },
        }
        assert!(push.in_flight() <= LIMITS.credit && push.missing_count() <= all().len());
        assert!(is_ours(missing.pages()));
    }
});
