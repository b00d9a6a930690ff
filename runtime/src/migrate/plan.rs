//! Which way a task moves: the caller's wish, or for `Auto` the runtime's choice.

use migrt_iso::PAGE_LEN;
use migrt_iso::track::Tracker;
use migrt_proto::Micros;
use migrt_proto::transfer::{self, AutoInput, Limits, LinkRate};
use migrt_proto::wire::Strategy;

/// Rounds at most when nobody says how many.
const ROUNDS_MAX: u32 = 16;

/// How a task is to move.
#[derive(Debug)]
pub(super) struct Plan {
    /// What its rounds are to keep to; `None`: it is stopped and copied.
    pub(super) limits: Option<Limits>,
    /// For the record.
    pub(super) why: String,
}

/// The plan for a task with so many pages.
pub(super) fn plan(strategy: Strategy, live_pages: u64, link: LinkRate) -> Plan {
    let can_track = Tracker::global().is_some();
    let page_len = PAGE_LEN as u32;
    let limits = |max_pause: Micros, max_rounds, hold_back| {
        Some(Limits { max_pause, max_rounds, hold_back, page_len })
    };
    match strategy {
        Strategy::PreCopy { max_pause, max_rounds, hold_back } if can_track => {
            Plan { limits: limits(max_pause, max_rounds, hold_back), why: "asked for".to_owned() }
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
            let limits = match choice.strategy {
                transfer::Strategy::PreCopy => limits(max_pause, ROUNDS_MAX, true),
                _ => None,
            };
            Plan { limits, why: choice.why.to_string() }
        }
        _ => Plan { limits: None, why: why_stop_copy(Some(strategy)) },
    }
}

/// The pause that a strategy is to keep to.
pub(super) fn max_pause(strategy: Strategy) -> Option<u64> {
    match strategy {
        Strategy::PreCopy { max_pause, .. } | Strategy::Auto { max_pause } => Some(max_pause.0),
        _ => None,
    }
}

/// Why a task was stopped and copied.
pub(super) fn why_stop_copy(strategy: Option<Strategy>) -> String {
    match strategy {
        Some(Strategy::Auto { .. }) if Tracker::global().is_some() => {
            transfer::Reason::Fits.to_string()
        }
        Some(Strategy::StopCopy) | None => "asked for".to_owned(),
        _ => "writes cannot be tracked on this node".to_owned(),
    }
}
