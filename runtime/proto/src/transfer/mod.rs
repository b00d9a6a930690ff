//! Which pages of a task travel when: the decisions of pre-copy, post-copy and of choosing between them.
//!
//! ```text
//! decide      auto      size, dirty rate and link  ->  stop-copy, pre-copy or post-copy
//! pre-copy    rounds    ( send | ... )*  freeze         which pages in which round, and when to stop
//! post-copy   hot       before the head                 which pages go along with the head
//!             missing   fault -> ask, arrived -> wake   the target's half
//!             push      demanded -> send, next_chunk    the source's half
//! any         delta     what the target has kept           pages that need not travel
//! wire        frames    sections, asks and acknowledgements
//! ```
//!
//! All of it counts in [`Page`]s from the region's start and keeps [`PageSet`]s; bytes never come here. There is no
//! clock: a driver says how long a thing took. Equal calls give equal answers. Absent: who runs the task (that is the
//! hand-off in [`crate::migrate`]; these pages move within one epoch of it) and what is in a page.

mod auto;
mod block;
mod delta;
mod frames;
mod hot;
mod missing;
mod pages;
mod push;
mod readahead;
mod rounds;

pub use auto::{AutoInput, Choice, Reason, Strategy, fallback, goal, pick};
pub use delta::{Delta, KeptPages, PageHash, Return, Settled, Shelf};
pub use frames::{
    ASK_RUN_PAGES_MAX, HAVE_PAGES_MAX, LIST_RUNS_MAX, PAGE_FRAME_LEN_MAX, PageAck, PageAsk,
    PageFrame, PageHave, PageWant, Section, SectionKind,
};
pub use hot::{Hot, HotPage, PROFILE_ENCODED_LEN_MAX, PROFILE_PAGES_MAX, PROFILES_MAX};
pub use missing::{Arrived, Fault, Missing, MissingCounts, SourceLost, Waiter, Way};
pub use pages::{Page, PageSet, Run, Runs};
pub use push::{Chunk, ChunkId, Demanded, PIVOTS_MAX, Push, PushCounts, PushLimits, WARY};
pub use rounds::{FreezeWhy, Limits, LinkRate, RoundRecord, Rounds, RoundsRecord, Step};

#[doc(hidden)]
pub use frames::fuzz_frames;
