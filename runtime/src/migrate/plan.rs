//! Which way a task moves: the caller's wish, or for `Auto` the runtime's choice.

use migrt_iso::PAGE_LEN;
use migrt_iso::track::Tracker;
use migrt_proto::Micros;
use migrt_proto::transfer::{self, AutoInput, Limits, LinkRate};
use migrt_proto::wire::Strategy;

/// Rounds at most when nobody says how many.
const ROUNDS_MAX: u32 = 16;

/// What the rounds of a task with so many pages are to keep to; `None`: it is stopped and copied.
pub(super) fn limits(strategy: Strategy, live_pages: u64, link: LinkRate) -> Option<Limits> {
    let can_track = Tracker::global().is_some();
    let page_len = PAGE_LEN as u32;
    let limits = |max_pause: Micros, max_rounds, hold_back| Limits {
        max_pause,
        max_rounds,
        hold_back,
        page_len,
    };
    match strategy {
        Strategy::PreCopy { max_pause, max_rounds, hold_back } if can_track => {
            Some(limits(max_pause, max_rounds, hold_back))
        }
        Strategy::Auto { max_pause } => {
            let choice = transfer::pick(AutoInput {
                live_pages,
                dirty_pages_per_s: None,
                working_set_pages: None,
                page_len,
                link,
                max_pause,
                can_track,
                can_fault: false,
            });
            tracing::debug!(%choice, "auto");
            (choice.strategy == transfer::Strategy::PreCopy)
                .then(|| limits(max_pause, ROUNDS_MAX, true))
        }
        _ => None,
    }
}
