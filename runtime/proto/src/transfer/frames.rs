//! The wire of moving pages: heads of sections, requests and acknowledgements.
//!
//! ```text
//! source -> target    [ Section | pages as raw bytes, in the order of its runs ] ...
//! target -> source    PageAsk, PageAck
//! ```
//!
//! A section names slots and page indices, a request names pages of the region; nothing names an address, and whether
//! they are the task's is for the receiver to check. As in [`crate::wire`]: bounded before anything is allocated, every
//! input is a value or a [`WireError`]. Long sections are cut into several, so the bounds here are narrower than there.

use serde::{Deserialize, Serialize};

use super::{
    pages::{PAGE_END, Run},
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

/// A message about pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PageFrame {
    /// Pages follow.
    Section(Section),
    /// Pages are wanted.
    Ask(PageAsk),
    /// Pages were installed.
    Ack(PageAck),
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
