//! The head of a shipped task. It opens a bulk stream of its own; the pages it lists follow as raw bytes, in order.
//!
//! It names slots and page indices, never addresses. Whether the slots are acceptable is for the region to judge.

use serde::{Deserialize, Serialize};

use super::limits::{self, WireError, bytes, list};
use crate::{
    id::{Epoch, SlotRef, TaskId},
    transfer::PageFrame,
};

/// The first frame of a bulk stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamHead {
    /// A whole task.
    Ship(ShipHeader),
    /// Pages of a task: sections follow one another.
    Pages(PageFrame),
    /// Bytes that are nothing to anybody: measures the wire.
    Blank,
}

impl StreamHead {
    const SHIP: u8 = 0;
    const PAGES: u8 = 1;
    const BLANK: u8 = 2;

    /// Appends the encoded head to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            StreamHead::Ship(header) => {
                out.push(StreamHead::SHIP);
                header.encode(out);
            }
            StreamHead::Pages(frame) => {
                out.push(StreamHead::PAGES);
                frame.encode(out);
            }
            StreamHead::Blank => out.push(StreamHead::BLANK),
        }
    }

    /// Decodes a head that fills `bytes`, as [`ShipHeader::decode`] and [`PageFrame::decode`] do.
    ///
    /// # Errors
    /// [`WireError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<StreamHead, WireError> {
        match bytes.split_first() {
            Some((&StreamHead::SHIP, rest)) => ShipHeader::decode(rest).map(StreamHead::Ship),
            Some((&StreamHead::PAGES, rest)) => PageFrame::decode(rest).map(StreamHead::Pages),
            Some((&StreamHead::BLANK, [])) => Ok(StreamHead::Blank),
            _ => Err(WireError::Malformed { what: "stream head" }),
        }
    }
}

/// What a bulk stream carries, before the pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipHeader {
    /// The task.
    pub task: TaskId,
    /// The epoch that it will have at the target, from the order to ship.
    pub epoch: Epoch,
    /// The task's slots; the first is its task slot.
    #[serde(with = "list")]
    pub slots: Vec<ShipSlot>,
    /// Bytes per page, equal on all nodes (hello) and repeated here so that a stream can be checked by itself.
    pub page_len: u32,
    /// What the driver adds; opaque here.
    #[serde(with = "bytes")]
    pub extra: Vec<u8>,
}

/// One slot of a shipped task, and which of its pages follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipSlot {
    /// The slot. Its ownership goes with the task.
    pub slot: SlotRef,
    /// Pages that follow, ascending and apart. Pages not named are zero.
    #[serde(with = "list")]
    pub runs: Vec<PageRun>,
}

/// Neighbouring pages of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// Index of the first page in the slot.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl ShipHeader {
    /// Appends the encoded header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        limits::encode(self, out);
    }

    /// Decodes a header that fills `bytes`, and checks that the runs of each slot ascend and do not overlap.
    ///
    /// # Errors
    /// [`WireError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<ShipHeader, WireError> {
        let header: ShipHeader = limits::decode(bytes, "ship header")?;
        let ascending = header.slots.iter().all(|slot| {
            let mut free = 0u32;
            slot.runs.iter().all(|run| {
                let fits = run.count > 0 && run.first >= free;
                match run.first.checked_add(run.count) {
                    Some(end) if fits => {
                        free = end;
                        true
                    }
                    _ => false,
                }
            })
        });
        if ascending { Ok(header) } else { Err(WireError::Malformed { what: "page run" }) }
    }

    /// Pages that follow the header.
    pub fn page_count(&self) -> u64 {
        self.slots.iter().flat_map(|slot| &slot.runs).map(|run| u64::from(run.count)).sum()
    }
}
