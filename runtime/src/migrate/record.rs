//! The record of a move: begun at the source, finished at the target, where it is kept.

use std::time::Duration;

use migrt_proto::transfer::RoundsRecord;
use migrt_proto::wire::{Method, MoveRecord};
use migrt_proto::{NodeId, TaskId};
use serde::{Deserialize, Serialize};

use super::plan;
use crate::task::body::Journey;

/// The source's part of a record; it travels with the task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    method: Method,
    why: String,
    rounds: u32,
    live_pages: u64,
    sent_pages: u64,
    rest_pages: u64,
    same_pages: u64,
    held_back_pages: u64,
    max_pause_us: Option<u64>,
    dirty_pages_per_s: Option<u64>,
    working_set_pages: Option<u64>,
    /// Since the order, when this was written.
    total_us: u64,
}

impl Report {
    /// Of a move that is about to be shipped.
    pub(super) fn begin(journey: &Journey) -> Report {
        let Some(order) = journey.order else { return Report::default() };
        let arrival = journey.arrival.as_deref();
        Report {
            total_us: micros(order.since.elapsed()),
            max_pause_us: plan::max_pause(order.strategy),
            why: journey.why.to_string(),
            // What is not measured anew counts for less each time, so that rounds are tried again.
            dirty_pages_per_s: arrival.and_then(|record| record.dirty_pages_per_s).map(|r| r / 2),
            working_set_pages: arrival.and_then(|record| record.working_set_pages).map(|n| n / 2),
            ..Report::default()
        }
    }

    /// All of it while the task stands still.
    pub(super) fn stop_copy(&mut self, page_count: u64) {
        self.method = Method::StopCopy;
        (self.live_pages, self.sent_pages, self.rest_pages) = (page_count, page_count, page_count);
    }

    /// Rounds, then the rest.
    pub(super) fn pre_copy(&mut self, rounds: &RoundsRecord, live_pages: u64, rest_pages: u64) {
        self.method = Method::PreCopy;
        let ended = rounds.frozen.map_or("", |why| match why {
            migrt_proto::transfer::FreezeWhy::Converged => "; rounds ended: little enough was left",
            migrt_proto::transfer::FreezeWhy::NotShrinking => "; rounds ended: they left no less",
            migrt_proto::transfer::FreezeWhy::RoundLimit => "; rounds ended: no more are allowed",
        });
        self.why += ended;
        self.dirty_pages_per_s = rounds.dirty_pages_per_s.or(self.dirty_pages_per_s);
        self.working_set_pages = Some(rounds.working_set_pages);
        self.rounds = rounds.rounds.len() as u32;
        self.live_pages = live_pages;
        self.rest_pages = rest_pages;
        self.sent_pages = rest_pages + rounds.rounds.iter().map(|r| r.sent_pages).sum::<u64>();
        self.held_back_pages = rounds.rounds.last().map_or(0, |round| round.held_back_pages);
    }

    /// The head, and everything else after it.
    pub(super) fn post_copy(&mut self, head_pages: u64, missing_pages: u64) {
        self.method = Method::PostCopy;
        self.live_pages = head_pages + missing_pages;
        (self.sent_pages, self.rest_pages) = (self.live_pages, head_pages);
    }

    /// So many live pages the target has from before.
    pub(super) fn same(&mut self, page_count: u64) {
        self.same_pages = page_count;
        if self.method != Method::PreCopy {
            self.live_pages += page_count;
        }
    }

    /// Of these, so many the target has lost: they were sent after all.
    pub(super) fn lost(&mut self, page_count: u64) {
        self.same_pages -= page_count.min(self.same_pages);
        self.sent_pages += page_count;
        if self.method != Method::PostCopy {
            self.rest_pages += page_count;
        }
    }

    /// The same after rounds.
    pub(super) fn after_rounds(&mut self, rounds: &RoundsRecord, live_pages: u64, missing: u64) {
        let head_pages = self.rest_pages;
        self.pre_copy(rounds, live_pages, head_pages);
        self.method = Method::PostCopy;
        self.why += "; what they left follows it";
        self.sent_pages += missing;
    }

    /// It does not run before it is whole.
    pub(super) fn waits_for_all(&mut self) {
        self.why += "; over remains that are in use, or of which some are gone, or without userfaultfd, it waits for all of its pages";
        self.rest_pages = self.sent_pages;
    }

    /// The whole record, at the target: `since` the last pages began to come.
    pub(super) fn finish(
        self,
        (task, from, to): (TaskId, NodeId, NodeId),
        pause_us: u64,
        since: Duration,
    ) -> MoveRecord {
        MoveRecord {
            task,
            from,
            to,
            method: self.method,
            why: self.why,
            rounds: self.rounds,
            live_pages: self.live_pages,
            sent_pages: self.sent_pages,
            rest_pages: self.rest_pages,
            same_pages: self.same_pages,
            held_back_pages: self.held_back_pages,
            pause_us,
            total_us: self.total_us + micros(since),
            max_pause_us: self.max_pause_us,
            faults: 0,
            dirty_pages_per_s: self.dirty_pages_per_s,
            working_set_pages: self.working_set_pages,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
