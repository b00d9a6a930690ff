//! The wire of moving pages: heads of sections, requests and acknowledgements.
//!
//! ```text
//! source -> target    [ Section | pages as raw bytes, in the order of its runs ] ...
//! target -> source    PageAsk, PageAck
//!
//! before a move to a node where the task has been:
//! source -> target    PageWant
//! target -> source    PageHave ...
//! ```
//!
//! A section names slots and page indices, a request names pages of the region; nothing names an address, and whether
//! they are the task's is for the receiver to check. As in [`crate::wire`]: bounded before anything is allocated, every
//! input is a value or a [`WireError`]. Long sections are cut into several, so the bounds here are narrower than there.

use serde::{Deserialize, Serialize};

use super::{
    delta::{KeptPages, PageHash},
    pages::{PAGE_END, Page, Run},
    push::ChunkId,
};
use crate::{
    id::{Epoch, TaskId},
    wire::{
        ShipSlot, WireError,
        limits::{self, bytes, list},
    },
};

/// Longest page frame, in bytes, without the pages behind it.
pub const PAGE_FRAME_LEN_MAX: usize = 1 << 20;
/// Most slots, runs of one slot, requests or acknowledgements of one frame.
pub const LIST_RUNS_MAX: usize = 1 << 16;
/// Most pages behind one section: 16 TiB, so that their bytes can be counted.
const SECTION_PAGES_MAX: u64 = 1 << 32;
/// Most pages of one request.
pub const ASK_RUN_PAGES_MAX: u64 = 1024;
/// Most pages of one [`PageHave`].
pub const HAVE_PAGES_MAX: u64 = 1 << 15;
/// Bytes of a hash.
const HASH_LEN: usize = 16;

/// A message about pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PageFrame {
    /// Pages follow.
    Section(Section),
    /// Pages are wanted.
    Ask(PageAsk),
    /// Pages were installed.
    Ack(PageAck),
    /// What is kept of a task?
    Want(PageWant),
    /// This is.
    Have(PageHave),
}

/// What a section is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SectionKind {
    /// Pre-copy, round `n` from 1.
    Round { n: u32 },
    /// Post-copy: what the task needs in order to go on.
    Head,
    /// Pre-copy and stop-copy: everything that is left.
    Rest,
    /// Post-copy: a chunk of the push.
    Push { chunk: ChunkId },
    /// Post-copy: the answer to a request.
    Demand { chunk: ChunkId },
    /// Stop-copy and pre-copy: pages that the target had kept, and was found to have lost.
    Found,
}

/// The head of some pages of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Section {
    /// The task.
    pub task: TaskId,
    /// The epoch of the hand-off that the section belongs to.
    pub epoch: Epoch,
    /// What it is for.
    pub kind: SectionKind,
    /// Pages that follow.
    #[serde(with = "list")]
    pub slots: Vec<ShipSlot>,
    /// Pages that are zero, or dead: the target clears them, nothing follows.
    #[serde(with = "list")]
    pub zero: Vec<ShipSlot>,
    /// Bytes per page.
    pub page_len: u32,
    /// What the driver adds; opaque here.
    #[serde(with = "bytes")]
    pub extra: Vec<u8>,
}

/// Target to source: pages that are wanted now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageAsk {
    /// The task.
    pub task: TaskId,
    /// The epoch in which it runs at the target.
    pub epoch: Epoch,
    /// The pages, each run at most [`ASK_RUN_PAGES_MAX`] long.
    #[serde(with = "list")]
    pub asks: Vec<Run>,
}

/// Target to source: chunks that were installed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageAck {
    /// The task.
    pub task: TaskId,
    /// The epoch in which it runs at the target.
    pub epoch: Epoch,
    /// The chunks.
    #[serde(with = "list")]
    pub chunks: Vec<ChunkId>,
}

/// Source to target: what do you keep of this task?
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageWant {
    /// The task.
    pub task: TaskId,
    /// The epoch of the try that the answer is for.
    pub epoch: Epoch,
}

/// Target to source: pages that are kept. Several may follow each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageHave {
    /// The task.
    pub task: TaskId,
    /// The epoch that was asked for.
    pub epoch: Epoch,
    /// The pages, ascending and apart.
    #[serde(with = "list")]
    pub runs: Vec<Run>,
    /// Their hashes, 16 bytes each, little-endian, in the same order.
    #[serde(with = "bytes")]
    pub hashes: Vec<u8>,
    /// Nothing follows.
    pub is_last: bool,
}

impl PageHave {
    /// All of `kept`, in as few frames as may be; at least one.
    pub fn frames(task: TaskId, epoch: Epoch, kept: &KeptPages) -> Vec<PageHave> {
        let empty =
            || PageHave { task, epoch, runs: Vec::new(), hashes: Vec::new(), is_last: false };
        let mut frames = vec![empty()];
        for (page, hash) in kept.iter() {
            let mut frame = frames.last_mut().expect("there is one");
            if frame.hashes.len() == HAVE_PAGES_MAX as usize * HASH_LEN {
                frames.push(empty());
                frame = frames.last_mut().expect("just added");
            }
            match frame.runs.last_mut() {
                Some(run) if run.end() == page => run.count += 1,
                _ => frame.runs.push(Run::one(page)),
            }
            frame.hashes.extend_from_slice(&hash.0.to_le_bytes());
        }
        frames.last_mut().expect("there is one").is_last = true;
        frames
    }

    /// The pages and their hashes.
    pub fn pages(&self) -> impl Iterator<Item = (Page, PageHash)> {
        let pages = self.runs.iter().flat_map(|run| (run.first.0..run.end().0).map(Page));
        let hash = |bytes: &[u8]| {
            PageHash(u128::from_le_bytes(bytes.try_into().expect("cut into 16 bytes")))
        };
        pages.zip(self.hashes.chunks_exact(HASH_LEN).map(hash))
    }

    fn flaw(&self) -> Option<&'static str> {
        let mut free = Page(0);
        let mut count = 0u64;
        let is_sound = self.runs.iter().all(|run| {
            let fits = run.first >= free
                && (1..=HAVE_PAGES_MAX).contains(&run.count)
                && run.end() <= PAGE_END;
            free = run.end();
            if fits {
                count += run.count;
            }
            fits && count <= HAVE_PAGES_MAX
        });
        let is_whole = is_sound && self.hashes.len() as u64 == count * HASH_LEN as u64;
        (!is_whole).then_some("list of kept pages")
    }
}

impl PageFrame {
    /// Appends the encoded frame to `out`. The sender keeps to the limits: a frame beyond them is refused on arrival.
    pub fn encode(&self, out: &mut Vec<u8>) {
        limits::encode(self, out);
    }

    /// Decodes a frame that fills `bytes`, and checks everything that can be checked without the task.
    ///
    /// # Errors
    /// [`WireError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<PageFrame, WireError> {
        if bytes.len() > PAGE_FRAME_LEN_MAX {
            return Err(WireError::TooLong { len: bytes.len(), limit: PAGE_FRAME_LEN_MAX });
        }
        let frame: PageFrame = limits::decode(bytes, "page frame")?;
        match frame.flaw() {
            None => Ok(frame),
            Some(what) => Err(WireError::Malformed { what }),
        }
    }

    /// What is wrong with it.
    fn flaw(&self) -> Option<&'static str> {
        match self {
            PageFrame::Section(section) => section.flaw(),
            PageFrame::Ask(ask) => {
                let is_sound = |run: &Run| {
                    (1..=ASK_RUN_PAGES_MAX).contains(&run.count) && run.end() <= PAGE_END
                };
                let all_sound = ask.asks.len() <= LIST_RUNS_MAX && ask.asks.iter().all(is_sound);
                (!all_sound).then_some("page request")
            }
            PageFrame::Ack(ack) => {
                (ack.chunks.len() > LIST_RUNS_MAX).then_some("page acknowledgement")
            }
            PageFrame::Want(_) => None,
            PageFrame::Have(have) => have.flaw(),
        }
    }
}

impl Section {
    fn flaw(&self) -> Option<&'static str> {
        if !self.page_len.is_power_of_two() || !(4096..=1 << 21).contains(&self.page_len) {
            return Some("page length");
        }
        let lists = [&self.slots, &self.zero];
        let is_short = lists.iter().all(|slots| {
            slots.len() <= LIST_RUNS_MAX
                && slots.iter().all(|slot| slot.runs.len() <= LIST_RUNS_MAX)
        });
        if !lists.iter().all(|slots| slots.iter().all(runs_ascend)) {
            return Some("page run");
        }
        if !is_short || self.page_count() > SECTION_PAGES_MAX {
            return Some("page section");
        }
        None
    }

    /// Pages that follow the section.
    pub fn page_count(&self) -> u64 {
        self.slots.iter().flat_map(|slot| &slot.runs).map(|run| u64::from(run.count)).sum()
    }

    /// Bytes that follow the section.
    pub fn byte_count(&self) -> u64 {
        self.page_count() * u64::from(self.page_len)
    }
}

/// Whether the runs of a slot ascend, do not overlap, and end within 32 bits.
fn runs_ascend(slot: &ShipSlot) -> bool {
    let mut free = 0u32;
    slot.runs.iter().all(|run| {
        let fits = run.count > 0 && run.first >= free;
        free = run.first.saturating_add(run.count);
        fits && run.first.checked_add(run.count).is_some()
    })
}

/// Decodes `bytes` as everything that travels here, and checks that what decodes can be sent on and means the same
/// again. For a fuzzer: it panics if that does not hold.
pub fn fuzz_frames(bytes: &[u8]) {
    if let Ok(frame) = PageFrame::decode(bytes) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        // Numbers have one shortest form, and encoding finds it.
        assert!(again.len() <= bytes.len());
        assert_eq!(PageFrame::decode(&again), Ok(frame.clone()));
        if let PageFrame::Section(section) = frame {
            assert_eq!(section.byte_count() % u64::from(section.page_len), 0);
        }
    }
    let mut hot = super::Hot::new();
    if let Ok(entry) = hot.merge_encoded(bytes) {
        let mut again = Vec::new();
        assert!(hot.encode(entry, &mut again) && again.len() <= super::PROFILE_ENCODED_LEN_MAX);
        let mut same = super::Hot::new();
        assert_eq!(same.merge_encoded(&again), Ok(entry));
        assert_eq!(same, hot);
    }
}
