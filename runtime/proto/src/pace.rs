//! Who may hand the next piece of bulk to the wire, and when.
//!
//! ```text
//! stream   ask ──> queue ──> head: take ──Yours──> writes one piece ──> done ──> asks again, at the end
//!                              │ Until(t)                                  │
//!                              └─ sleeps, and takes again                  └─ the next head is told
//! ```
//!
//! 1. One stream of a link writes at a time, one piece; then it is the next one's turn. So streams of one link share
//!    it alike, however much each has to send, and one that is over holds nobody up.
//! 2. While messages wait to be written no piece is granted: a message waits for one piece at most.
//! 3. Pieces of all links of a node draw on one [`Limit`]. Whoever is at the head of its link reserves a time there,
//!    once; so links get alike too, in the order in which they come.
//! 4. Pages that a task waits for do not come here: they go at once, and are [charged](Limit::charge).

use std::collections::VecDeque;

use crate::time::Micros;

const NS_PER_S: u64 = 1_000_000_000;
/// What may go at once after a silence.
const BURST_NS: u64 = 5_000_000;

/// Bytes per second that a node may send in bulk: a bucket of [`BURST_NS`] worth of them.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `None`: as many as the wire takes.
    bytes_per_s: Option<u64>,
    /// When all that was let through is paid for, nanoseconds.
    paid_ns: u64,
}

impl Limit {
    /// No limit, or so many bytes per second (at least one).
    pub fn new(bytes_per_s: Option<u64>) -> Limit {
        Limit { bytes_per_s: bytes_per_s.map(|rate| rate.max(1)), paid_ns: 0 }
    }

    /// The limit, if there is one.
    pub fn bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// When `len` bytes may go that are asked for `now`. They count from this call on.
    pub fn reserve(&mut self, now: Micros, len: usize) -> Micros {
        let at = self.paid_ns.saturating_sub(BURST_NS).div_ceil(1000);
        self.charge(now, len);
        now.max(Micros(at))
    }

    /// Counts bytes that go whatever the limit says: others wait for longer.
    pub fn charge(&mut self, now: Micros, len: usize) {
        let Some(rate) = self.bytes_per_s else { return };
        let cost = u128::from(NS_PER_S) * len as u128 / u128::from(rate);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.paid_ns = self.paid_ns.max(now.0.saturating_mul(1000)).saturating_add(cost);
    }
}

/// A stream's name among those of its link.
pub type StreamKey = u64;

/// What a stream may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Write its piece, then say [`done`](Turns::done).
    Yours,
    /// Wait until told that it is at the head.
    Wait,
    /// Take again at that time.
    Until(Micros),
}

/// The turns of one link's streams.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    queue: VecDeque<StreamKey>,
    /// When the head may write, once it has reserved its time.
    at: Option<Micros>,
    /// It writes.
    is_writing: bool,
    /// Messages wait to be written.
    is_held: bool,
}

impl Turns {
    /// Nobody has anything to send.
    pub fn new() -> Turns {
        Turns::default()
    }

    /// The stream has a piece to write.
    pub fn ask(&mut self, stream: StreamKey) {
        if !self.queue.contains(&stream) {
            self.queue.push_back(stream);
        }
    }

    /// Whether it may write its piece of `len` bytes now.
    pub fn take(&mut self, now: Micros, stream: StreamKey, len: usize, limit: &mut Limit) -> Take {
        if self.queue.front() != Some(&stream) || self.is_held {
            return Take::Wait;
        }
        let at = *self.at.get_or_insert_with(|| limit.reserve(now, len));
        if at > now {
            return Take::Until(at);
        }
        self.is_writing = true;
        Take::Yours
    }

    /// The stream has written its piece, or will not any more; who is to be told that it is at the head.
    pub fn done(&mut self, stream: StreamKey) -> Option<StreamKey> {
        let was_head = self.queue.front() == Some(&stream);
        self.queue.retain(|other| *other != stream);
        if !was_head {
            return None;
        }
        (self.at, self.is_writing) = (None, false);
        self.head()
    }

    /// Messages wait to be written, or do so no more: then who is to be told that it is at the head.
    pub fn hold(&mut self, is_held: bool) -> Option<StreamKey> {
        let was_held = std::mem::replace(&mut self.is_held, is_held);
        if was_held && !is_held && !self.is_writing { self.head() } else { None }
    }

    fn head(&self) -> Option<StreamKey> {
        self.queue.front().copied()
    }
}
