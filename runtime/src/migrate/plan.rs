//! Which way a task moves: the caller's wish, or for `Auto` the runtime's choice.

use std::borrow::Cow;

use migrt_iso::PAGE_LEN;
use migrt_iso::missing::MissingSupport;
use migrt_iso::track::Tracker;
use migrt_proto::transfer::{self, AutoInput, Limits, LinkRate};
use migrt_proto::wire::{MoveRecord, Strategy};
use migrt_proto::{Micros, NodeId};

use super::rounds::Checkpoint;
use crate::cluster::Cluster;
use crate::task::header::Header;

/// Rounds at most when nobody says how many.
const ROUNDS_MAX: u32 = 16;

/// How a task is to move.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) way: Way,
    /// For the record.
    pub(super) why: Cow<'static, str>,
}

#[derive(Debug)]
pub(super) enum Way {
    /// It is stopped and copied.
    Stop,
    /// Its pages follow it.
    Follow,
    /// They go in rounds, which keep to this. `Auto` may let what they leave follow.
    Rounds { limits: Limits, auto: Option<AutoInput>, first: Checkpoint },
}

/// What is known of the task's last move, and of the way that it is to go.
#[derive(Debug)]
pub(super) struct Known {
    dirty_pages_per_s: Option<u64>,
    working_set_pages: Option<u64>,
    /// It came from there.
    was_there: bool,
    link: LinkRate,
    /// The target can serve faults on missing pages, by its hello.
    can_follow: bool,
}

impl Known {
    pub(super) fn of(cluster: &Cluster, target: NodeId, arrival: Option<&MoveRecord>) -> Known {
        Known {
            dirty_pages_per_s: arrival.and_then(|record| record.dirty_pages_per_s),
            working_set_pages: arrival.and_then(|record| record.working_set_pages),
            was_there: arrival.is_some_and(|record| record.from == target),
            link: cluster.link_rate(target),
            can_follow: cluster.can_follow(target),
        }
    }
}

/// The plan for a frozen task.
pub(super) fn plan(strategy: Strategy, header: &Header, known: &Known) -> Plan {
    let can_track = Tracker::global().is_some();
    let page_len = PAGE_LEN as u32;
    let asked = |way| Plan { way, why: "asked for".into() };
    match strategy {
        Strategy::StopCopy => asked(Way::Stop),
        Strategy::PostCopy => asked(Way::Follow),
        Strategy::PreCopy { max_pause, max_rounds, hold_back } if can_track => {
            let limits = Limits { max_pause, goal: max_pause, max_rounds, hold_back, page_len };
            asked(Way::Rounds { limits, auto: None, first: Checkpoint::of(header) })
        }
        Strategy::PreCopy { .. } => {
            Plan { way: Way::Stop, why: "writes cannot be tracked on this node".into() }
        }
        Strategy::Auto { max_pause } => auto(max_pause, can_track, header, known),
        Strategy::Usual => unreachable!("the task's or the program's has taken its place"),
    }
}

fn auto(max_pause: Micros, can_track: bool, header: &Header, known: &Known) -> Plan {
    let first = Checkpoint::of(header);
    let input = AutoInput {
        live_pages: first.page_count(),
        dirty_pages_per_s: known.dirty_pages_per_s,
        working_set_pages: known.working_set_pages,
        page_len: PAGE_LEN as u32,
        link: known.link,
        max_pause,
        can_track,
        can_fault: known.can_follow,
        was_there: known.was_there,
    };
    let choice = transfer::pick(input);
    let way = match choice.strategy {
        transfer::Strategy::StopCopy => Way::Stop,
        transfer::Strategy::PostCopy => Way::Follow,
        transfer::Strategy::PreCopy => {
            let goal = transfer::goal(known.link, max_pause);
            let (max_rounds, page_len) = (ROUNDS_MAX, input.page_len);
            let limits = Limits { max_pause, goal, max_rounds, hold_back: true, page_len };
            Way::Rounds { limits, auto: Some(input), first }
        }
    };
    Plan { way, why: choice.why.to_string().into() }
}

/// Whether this node can serve faults on missing pages.
pub(super) fn can_fault() -> bool {
    matches!(migrt_iso::missing::probe(), MissingSupport::Signals { .. })
}

/// The pause that a strategy is to keep to.
pub(super) fn max_pause(strategy: Strategy) -> Option<u64> {
    match strategy {
        Strategy::PreCopy { max_pause, .. } | Strategy::Auto { max_pause } => Some(max_pause.0),
        _ => None,
    }
}
