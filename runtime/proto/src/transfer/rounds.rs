//! Pre-copy: what to send while the task runs on, and when to stop.
//!
//! ```text
//!   next(live) -> send all        round 1
//!   next(dirty) -> send some      round 2, 3, ...      outstanding = dirty, and held back before, and not sent since
//!   next(dirty) -> freeze         the outstanding pages go with the frozen task
//! ```
//!
//! 1. The rounds stop when the outstanding pages fit into the goal at the rate that was measured (converged), when
//!    sending makes them no fewer (not shrinking), or when there were `max_rounds`. So they always stop. What fits into
//!    the pause, if not into the goal, goes on only as long as each round leaves less, and has converged then.
//! 2. Pages written in at least two of the last [`WINDOW`] rounds are the *writable working set*: they would be dirty
//!    again before they arrive. With `hold_back` they are outstanding until the freeze, or until they cool down.
//! 3. A page that was sent and then freed leaves old bytes at the target: [`Rounds::retracted`] names them, to be
//!    cleared by the last shipment.
//!
//! Absent: the choice of pre-copy (`auto`), tracking, and time, which the driver measures.

use std::collections::VecDeque;

use super::pages::PageSet;
use crate::time::Micros;

/// How many rounds back the writable working set looks.
const WINDOW: usize = 3;
/// Rounds in succession without progress that end the rounds.
const STALLS_MAX: u32 = 2;
/// Progress is to have at most this share, in percent, of the fewest pages outstanding before.
const SHRINK_PERCENT: u64 = 90;
/// Shipments shorter than this say more about latency than about the rate.
const MEASURE_LEN_MIN: u64 = 1 << 20;

/// Rounds shorter than this say little about how fast the task writes.
const RATE_SPAN_MIN: Micros = Micros::from_millis(2);

/// What the caller allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The pause to stay within.
    pub max_pause: Micros,
    /// The pause that is good enough: no round is worth its while below. Never more than `max_pause`.
    pub goal: Micros,
    /// Most rounds of sending; 0 freezes at once.
    pub max_rounds: u32,
    /// Whether the writable working set is kept for the last shipment.
    pub hold_back: bool,
    /// Bytes per page.
    pub page_len: u32,
}

/// How fast the way to the target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkRate {
    /// Bytes of pages per second, from memory to memory.
    pub bytes_per_s: u64,
    /// The pause of a hand-off with nothing to send.
    pub fixed: Micros,
}

impl LinkRate {
    /// The pause of a hand-off that ships `pages` pages.
    pub fn pause(self, pages: u64, page_len: u32) -> Micros {
        self.fixed + self.time(pages, page_len)
    }

    /// How long `pages` pages are on the way.
    pub fn time(self, pages: u64, page_len: u32) -> Micros {
        let us = u128::from(pages) * u128::from(page_len) * 1_000_000
            / u128::from(self.bytes_per_s.max(1));
        Micros(u64::try_from(us).unwrap_or(u64::MAX))
    }
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send these pages, then call [`Rounds::next`] with what was written since the last call. Never empty.
    Send(PageSet),
    /// Freeze the task.
    Freeze {
        /// Why now.
        why: FreezeWhy,
        /// How many pages are left to ship ([`Rounds::outstanding`]), not counting those written between the last
        /// scan and the freeze.
        outstanding: u64,
        /// How long that will take.
        expected_pause: Micros,
    },
}

/// Why the rounds stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeWhy {
    /// What is left fits into the pause.
    Converged,
    /// More rounds would not leave less.
    NotShrinking,
    /// No more rounds are allowed.
    RoundLimit,
}

/// One round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RoundRecord {
    /// Pages that were reported: live ones in the first round, then dirty ones.
    pub dirty_pages: u64,
    /// Pages that were sent.
    pub sent_pages: u64,
    /// Pages that were held back.
    pub held_back_pages: u64,
    /// Bytes that they became.
    pub byte_count: u64,
    /// How long sending took.
    pub took: Micros,
}

/// What happened so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoundsRecord {
    /// The rounds that sent something.
    pub rounds: Vec<RoundRecord>,
    /// Pages of the writable working set, as last seen.
    pub working_set_pages: u64,
    /// The link's rate as measured, or as given when nothing was measured.
    pub bytes_per_s: u64,
    /// Distinct pages written per second during the last round that was long enough to tell, or the first.
    pub dirty_pages_per_s: Option<u64>,
    /// Why the rounds stopped, once they have.
    pub frozen: Option<FreezeWhy>,
    /// Pages to ship yet.
    pub outstanding: u64,
    /// The pause that shipping them takes.
    pub expected_pause: Micros,
}

/// Pre-copy of one task.
#[derive(Clone, Debug)]
pub struct Rounds {
    limits: Limits,
    link: LinkRate,
    is_measured: bool,
    /// To be sent in a later round or by the last shipment.
    outstanding: PageSet,
    sent: PageSet,
    retracted: PageSet,
    /// What was written in the last rounds, newest first; the first call's live pages are not in it.
    written: VecDeque<PageSet>,
    fewest: u64,
    stalls: u32,
    is_first: bool,
    /// Time since the last call of `next`, as far as sending took it.
    since: Micros,
    record: RoundsRecord,
}

impl Rounds {
    /// No round yet.
    pub fn new(limits: Limits, link: LinkRate) -> Rounds {
        Rounds {
            limits,
            link,
            is_measured: false,
            outstanding: PageSet::new(),
            sent: PageSet::new(),
            retracted: PageSet::new(),
            written: VecDeque::new(),
            fewest: u64::MAX,
            stalls: 0,
            is_first: true,
            since: Micros::ZERO,
            record: RoundsRecord { bytes_per_s: link.bytes_per_s, ..RoundsRecord::default() },
        }
    }

    /// Takes note of `dirty` (first all live pages, later those written since the last call) and decides. After a
    /// `Freeze` it may be called again, with what the frozen task had written last; the answer is the same reason.
    pub fn next(&mut self, dirty: &PageSet) -> Step {
        self.outstanding.add_all(dirty);
        self.retracted.remove_all(dirty);
        if self.is_first {
            self.is_first = false;
        } else {
            self.note_written(dirty);
        }
        let working_set = self.working_set();
        self.record.working_set_pages = working_set.len();
        if let Some(why) = self.record.frozen {
            return self.freeze(why);
        }
        let Limits { max_pause, goal, .. } = self.limits;
        let pause = self.expected_pause();
        if self.outstanding.is_empty() || pause <= goal.min(max_pause) {
            return self.freeze(FreezeWhy::Converged);
        }
        let fits = pause <= max_pause;
        let end = |why| if fits { FreezeWhy::Converged } else { why };
        if self.record.rounds.len() as u64 >= u64::from(self.limits.max_rounds) {
            return self.freeze(end(FreezeWhy::RoundLimit));
        }
        let send = if self.limits.hold_back {
            self.outstanding.difference(&working_set)
        } else {
            self.outstanding.clone()
        };
        if send.is_empty() || self.is_stuck(fits) {
            return self.freeze(end(FreezeWhy::NotShrinking));
        }
        self.outstanding.remove_all(&send);
        self.sent.add_all(&send);
        self.record.rounds.push(RoundRecord {
            dirty_pages: dirty.len(),
            sent_pages: send.len(),
            held_back_pages: self.outstanding.len(),
            ..RoundRecord::default()
        });
        Step::Send(send)
    }

    fn note_written(&mut self, dirty: &PageSet) {
        let is_long = self.since >= RATE_SPAN_MIN || self.record.dirty_pages_per_s.is_none();
        if is_long && self.since > Micros::ZERO {
            let per_s = u128::from(dirty.len()) * 1_000_000 / u128::from(self.since.0);
            self.record.dirty_pages_per_s = Some(u64::try_from(per_s).unwrap_or(u64::MAX));
        }
        self.since = Micros::ZERO;
        self.written.push_front(dirty.clone());
        self.written.truncate(WINDOW);
    }

    /// Rule 2.
    fn working_set(&self) -> PageSet {
        let mut once = PageSet::new();
        let mut often = PageSet::new();
        for written in &self.written {
            often.add_all(&once.intersection(written));
            once.add_all(written);
        }
        often
    }

    /// Whether the rounds have stopped making progress. Where what is left `fits` there is no patience.
    fn is_stuck(&mut self, fits: bool) -> bool {
        let outstanding = self.outstanding.len();
        let goal = (u128::from(self.fewest) * u128::from(SHRINK_PERCENT) / 100) as u64;
        self.stalls = if outstanding <= goal { 0 } else { self.stalls + 1 };
        self.fewest = self.fewest.min(outstanding);
        self.stalls >= if fits { 1 } else { STALLS_MAX }
    }

    fn freeze(&mut self, why: FreezeWhy) -> Step {
        self.record.frozen = Some(why);
        let expected_pause = self.expected_pause();
        Step::Freeze { why, outstanding: self.outstanding.len(), expected_pause }
    }

    fn expected_pause(&self) -> Micros {
        self.link.pause(self.outstanding.len(), self.limits.page_len)
    }

    /// Sending of this round, or of a part of it, became `byte_count` bytes and took `took`, until the target had them.
    pub fn sent(&mut self, byte_count: u64, took: Micros) {
        self.since += took;
        if let Some(round) = self.record.rounds.last_mut() {
            round.byte_count += byte_count;
            round.took += took;
        }
        if byte_count >= MEASURE_LEN_MIN && took > Micros::ZERO {
            let per_s = u128::from(byte_count) * 1_000_000 / u128::from(took.0);
            let measured = u64::try_from(per_s).unwrap_or(u64::MAX).max(1);
            // The first measurement replaces the guess; later ones count half, so that one slow moment does not decide.
            self.link.bytes_per_s =
                if self.is_measured { self.link.bytes_per_s.midpoint(measured) } else { measured };
            self.is_measured = true;
            self.record.bytes_per_s = self.link.bytes_per_s;
        }
    }

    /// The task freed `pages`: they need not be sent, and what was sent of them is void.
    pub fn dead(&mut self, pages: &PageSet) {
        self.outstanding.remove_all(pages);
        self.retracted.add_all(&pages.intersection(&self.sent));
        for written in &mut self.written {
            written.remove_all(pages);
        }
    }

    /// The pages that the last shipment has to carry, as known now.
    pub fn outstanding(&self) -> &PageSet {
        &self.outstanding
    }

    /// The pages that were sent and are dead (rule 3): the target clears them.
    pub fn retracted(&self) -> &PageSet {
        &self.retracted
    }

    /// The link, at its measured rate.
    pub fn link(&self) -> LinkRate {
        self.link
    }

    /// What happened so far.
    pub fn record(&self) -> RoundsRecord {
        RoundsRecord {
            outstanding: self.outstanding.len(),
            expected_pause: self.expected_pause(),
            ..self.record.clone()
        }
    }
}
