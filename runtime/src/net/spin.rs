//! How long the net thread looks for work before it sleeps.
//!
//! On an idle core a short spin saves the wake-up, the dearest part of a small message. On a busy
//! one it takes time from a worker. So a spin has to earn its keep: when few of the last ones met
//! anything, most are left out, and one that was itself interrupted by another thread stops
//! spinning for some milliseconds. Only a spin of [`DUE`], for an answer that stops a task until it comes, is always made.

use std::time::{Duration, Instant};

/// A gap this long between two looks means that the core was given to somebody else.
const INTERRUPTED: Duration = Duration::from_micros(60);
/// So long is not spun after an interruption.
const BACK_OFF: Duration = Duration::from_millis(5);
/// A limit as long as this: an answer is due at once, and some task stands still until it is here.
pub(super) const DUE: Duration = Duration::from_micros(400);
/// Score of a perfect record; below a quarter of it only every `PROBE`th spin is made.
const FULL: u32 = 1024;
const PROBE: u32 = 8;

/// The record of past spins.
#[derive(Debug)]
pub(super) struct Spin {
    score: u32,
    left_out: u32,
    off_until: Option<Instant>,
}

/// One spin in progress.
#[derive(Debug)]
pub(super) struct Round {
    /// `None`: this round is left out.
    end: Option<Instant>,
    last: Option<Instant>,
    interrupted: bool,
}

impl Default for Spin {
    fn default() -> Self {
        Self { score: FULL / 2, left_out: 0, off_until: None }
    }
}

impl Spin {
    /// Begins a round of at most `limit` that ends before `deadline`.
    pub(super) fn start(&mut self, limit: Duration, deadline: Option<Instant>) -> Round {
        let left_out = Round { end: None, last: None, interrupted: false };
        if limit.is_zero() {
            return left_out;
        }
        let is_due = limit >= DUE;
        if !is_due && self.score < FULL / 4 && self.left_out < PROBE {
            self.left_out += 1;
            return left_out;
        }
        let now = Instant::now();
        if !is_due && self.off_until.is_some_and(|until| now < until) {
            return left_out;
        }
        self.left_out = 0;
        let end = deadline.map_or(now + limit, |deadline| deadline.min(now + limit));
        Round { end: Some(end), last: Some(now), interrupted: false }
    }

    /// Notes how a round went.
    pub(super) fn finish(&mut self, round: Round, met_work: bool) {
        if round.end.is_none() {
            return;
        }
        self.score -= self.score / 16;
        if met_work {
            self.score += FULL / 16;
        }
        if round.interrupted {
            self.off_until = Some(Instant::now() + BACK_OFF);
        }
    }
}

impl Round {
    /// Whether to look once more.
    pub(super) fn go_on(&mut self) -> bool {
        let (Some(end), Some(last)) = (self.end, self.last) else {
            return false;
        };
        let now = Instant::now();
        if now - last > INTERRUPTED {
            self.interrupted = true;
            return false;
        }
        self.last = Some(now);
        std::hint::spin_loop();
        now < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(spin: &mut Spin, count: u32, met_work: bool) -> u32 {
        let mut made = 0;
        for _ in 0..count {
            let round = spin.start(Duration::from_micros(100), None);
            made += u32::from(round.end.is_some());
            spin.finish(round, met_work);
        }
        made
    }

    #[test]
    fn spins_that_meet_nothing_are_mostly_left_out() {
        let mut spin = Spin::default();
        rounds(&mut spin, 100, false);
        assert!(rounds(&mut spin, 90, false) <= 10);
    }

    #[test]
    fn spins_that_meet_work_come_back() {
        let mut spin = Spin::default();
        rounds(&mut spin, 200, false);
        rounds(&mut spin, 100, true);
        assert_eq!(rounds(&mut spin, 50, true), 50);
    }

    #[test]
    fn what_is_due_is_waited_for_whatever_the_record() {
        let mut spin = Spin::default();
        rounds(&mut spin, 200, false);
        let mut interrupted = spin.start(DUE, None);
        interrupted.interrupted = true;
        spin.finish(interrupted, false);
        assert!(spin.start(Duration::from_micros(30), None).end.is_none());
        assert!(spin.start(DUE, None).end.is_some());
    }

    #[test]
    fn zero_means_never() {
        let mut spin = Spin::default();
        assert!(!spin.start(Duration::ZERO, None).go_on());
    }
}
