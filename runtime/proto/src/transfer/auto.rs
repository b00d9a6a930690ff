//! Which strategy a task moves by when its caller only says how long it may stand still.
//!
//! ```text
//! as short as a hand-off, or few pages           stop-copy     nothing to track, nothing to wait for
//! writes slower than the link, or unknown        pre-copy      no page is missed afterwards
//! else, if everything fits into the pause        stop-copy     rounds would be sent in vain
//! else, if missing pages can be served           post-copy     the pause does not depend on the writes
//! else                                           pre-copy, or stop-copy without tracking, and it says what it costs
//! ```
//!
//! What fits into the pause goes in rounds all the same if it takes much longer than a hand-off: a short pause is sought
//! where it costs little ([`goal`]).
//!
//! After rounds that did not converge [`fallback`] decides again, with what the rounds have measured. Absent: the
//! caller's own choice of a strategy, which is not asked about here.

use core::fmt;

use super::rounds::{FreezeWhy, LinkRate, RoundsRecord};
use crate::time::Micros;

/// Pre-copy needs a link this many times as fast as the task writes: each round then leaves at most half.
const MARGIN: u64 = 2;
/// A pause of so many hand-offs with nothing to send is short.
const SHORT: u64 = 2;
/// A round of so few pages, and the thread that makes it, cost more than the pause that they save.
const FEW_PAGES: u64 = 64;
/// Pages that travel with the head of a post-copy move: registers, TLS, stack top and the hot set.
const HEAD_PAGES: u64 = 16;

/// How a task's memory moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// All of it while the task stands still.
    StopCopy,
    /// Most of it before.
    PreCopy,
    /// Most of it after.
    PostCopy,
}

impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Strategy::StopCopy => "stop-copy",
            Strategy::PreCopy => "pre-copy",
            Strategy::PostCopy => "post-copy",
        })
    }
}

/// What is known before a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AutoInput {
    /// Pages that would travel.
    pub live_pages: u64,
    /// Distinct pages written per second, if it was measured.
    pub dirty_pages_per_s: Option<u64>,
    /// Pages of the writable working set, if an earlier move has seen it.
    pub working_set_pages: Option<u64>,
    /// Bytes per page.
    pub page_len: u32,
    /// The way to the target.
    pub link: LinkRate,
    /// The pause to stay within.
    pub max_pause: Micros,
    /// Whether writes can be tracked here.
    pub can_track: bool,
    /// Whether faults on missing pages can be served there.
    pub can_fault: bool,
    /// Whether the task was there just before: it would come over its own remains, and these are compared page by page
    /// before it runs.
    pub was_there: bool,
}

/// What was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The strategy.
    pub strategy: Strategy,
    /// Why.
    pub why: Reason,
    /// The pause to expect, as far as it can be known before.
    pub expected_pause: Micros,
    /// Whether that is within the limit.
    pub meets_max_pause: bool,
}

impl fmt::Display for Choice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { strategy, why, expected_pause, meets_max_pause } = self;
        let over = if *meets_max_pause { "" } else { ", over the limit" };
        write!(out, "{strategy}: {why}; expected pause {} us{over}", expected_pause.0)
    }
}

/// Why a strategy was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The whole task fits into the pause.
    Fits,
    /// Rounds will converge.
    Converges,
    /// Nobody knows how fast it writes; rounds will tell.
    RateUnknown,
    /// It writes too fast for rounds.
    WritesTooFast,
    /// What it writes again and again does not fit into the pause.
    WorkingSetTooLarge,
    /// Writes cannot be tracked.
    NoTracking,
    /// It writes too much for rounds, and missing pages cannot be served.
    NoFaults,
    /// Neither tracking nor missing pages.
    Neither,
    /// It writes too much for rounds, and would come over its own remains.
    Remains,
    /// The rounds ended and what is left fits into the pause.
    Converged,
    /// The rounds ended without leaving less.
    DidNotShrink,
    /// The rounds were used up.
    RoundsUsedUp,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Reason::Fits => "the whole task fits into the pause",
            Reason::Converges => "the link is faster than its writes",
            Reason::RateUnknown => "how fast it writes is not known yet",
            Reason::WritesTooFast => "it writes faster than rounds can follow",
            Reason::WorkingSetTooLarge => {
                "what it writes again and again does not fit into the pause"
            }
            Reason::NoTracking => "writes cannot be tracked on this node",
            Reason::NoFaults => {
                "it writes more than rounds can follow, and the target cannot serve missing pages"
            }
            Reason::Neither => {
                "writes cannot be tracked here and the target cannot serve missing pages"
            }
            Reason::Remains => {
                "it writes more than rounds can follow, and the target compares it with its remains"
            }
            Reason::Converged => "the rounds left little enough",
            Reason::DidNotShrink => "the rounds stopped leaving less",
            Reason::RoundsUsedUp => "all rounds that are allowed were used",
        })
    }
}

/// The strategy for a task that is to stand still for at most `max_pause`.
pub fn pick(input: AutoInput) -> Choice {
    let AutoInput { live_pages, page_len, link, max_pause, can_track, can_fault, .. } = input;
    let choose = |strategy, why, pages| {
        let expected_pause = link.pause(pages, page_len);
        Choice { strategy, why, expected_pause, meets_max_pause: expected_pause <= max_pause }
    };
    let all = choose(Strategy::StopCopy, Reason::Fits, live_pages);
    let is_short = all.expected_pause <= goal(link, max_pause) || live_pages <= FEW_PAGES;
    if all.meets_max_pause && (is_short || !can_track) {
        return all;
    }
    let head = HEAD_PAGES.min(live_pages);
    if !can_track {
        return if can_fault {
            choose(Strategy::PostCopy, Reason::NoTracking, head)
        } else {
            Choice { why: Reason::Neither, ..all }
        };
    }
    let (trouble, left) = forecast(&input);
    match trouble {
        None if input.dirty_pages_per_s.is_none() => {
            choose(Strategy::PreCopy, Reason::RateUnknown, left)
        }
        None => choose(Strategy::PreCopy, Reason::Converges, left),
        Some(_) if all.meets_max_pause => all,
        Some(_) if input.was_there => choose(Strategy::PreCopy, Reason::Remains, left),
        Some(why) if can_fault => choose(Strategy::PostCopy, why, head),
        Some(_) => choose(Strategy::PreCopy, Reason::NoFaults, left),
    }
}

/// The pause that is short enough for rounds to end: hardly more than a hand-off takes in any case.
pub fn goal(link: LinkRate, max_pause: Micros) -> Micros {
    Micros(link.fixed.0.saturating_mul(SHORT)).min(max_pause)
}

/// What speaks against pre-copy, and how many pages it would leave for the pause.
fn forecast(input: &AutoInput) -> (Option<Reason>, u64) {
    let AutoInput { live_pages, link, page_len, max_pause, .. } = *input;
    let working_set = input.working_set_pages.unwrap_or(0).min(live_pages);
    // Nothing is as little as there can be, whatever an empty hand-off takes.
    let fits = |pages| pages == 0 || link.pause(pages, page_len) <= max_pause;
    let Some(rate) = input.dirty_pages_per_s else {
        let trouble = (!fits(working_set)).then_some(Reason::WorkingSetTooLarge);
        return (trouble, working_set);
    };
    let link_pages_per_s = link.bytes_per_s / u64::from(page_len.max(1));
    if rate.saturating_mul(MARGIN) > link_pages_per_s {
        // Rounds leave what is written while the task is sent once: all that it writes.
        let sending = link.time(live_pages, page_len);
        let left = written_during(rate, sending).max(working_set).min(live_pages);
        return (Some(Reason::WritesTooFast), left);
    }
    // The last round is as short as a hand-off; what is written in it is left.
    let left = written_during(rate, link.fixed).max(working_set).min(live_pages);
    ((!fits(left)).then_some(Reason::WorkingSetTooLarge), left)
}

fn written_during(pages_per_s: u64, span: Micros) -> u64 {
    let pages = (u128::from(pages_per_s) * u128::from(span.0)).div_ceil(1_000_000);
    u64::try_from(pages).unwrap_or(u64::MAX)
}

/// How to go on after rounds that have stopped: ship the rest while the task stands still ([`Strategy::PreCopy`]), or
/// let it go and send the outstanding pages after it ([`Strategy::PostCopy`]).
pub fn fallback(after: &RoundsRecord, input: &AutoInput) -> Choice {
    let why = match after.frozen {
        Some(FreezeWhy::RoundLimit) => Reason::RoundsUsedUp,
        Some(FreezeWhy::NotShrinking) => Reason::DidNotShrink,
        Some(FreezeWhy::Converged) | None => Reason::Converged,
    };
    let max_pause = input.max_pause;
    let choose = |strategy, why, expected_pause| Choice {
        strategy,
        why,
        expected_pause,
        meets_max_pause: expected_pause <= max_pause,
    };
    if after.expected_pause <= max_pause {
        // Also when the reason was another one: what is left fits.
        return choose(Strategy::PreCopy, Reason::Converged, after.expected_pause);
    }
    if input.can_fault {
        let link = LinkRate { bytes_per_s: after.bytes_per_s, ..input.link };
        let head = HEAD_PAGES.min(after.outstanding);
        return choose(Strategy::PostCopy, why, link.pause(head, input.page_len));
    }
    choose(Strategy::PreCopy, why, after.expected_pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkRate = LinkRate { bytes_per_s: 800 << 20, fixed: Micros(200) };
    const MIB: u64 = 256;

    fn task(live_pages: u64) -> AutoInput {
        AutoInput {
            live_pages,
            dirty_pages_per_s: None,
            working_set_pages: None,
            page_len: 4096,
            link: LINK,
            max_pause: Micros(3_000),
            can_track: true,
            can_fault: true,
            was_there: false,
        }
    }

    fn check(input: AutoInput, strategy: Strategy, why: Reason, meets: bool) {
        let choice = pick(input);
        assert_eq!(
            (choice.strategy, choice.why, choice.meets_max_pause),
            (strategy, why, meets),
            "{input:?}: {choice}"
        );
    }

    #[test]
    fn what_is_short_is_copied_at_once() {
        check(task(MIB / 8), Strategy::StopCopy, Reason::Fits, true);
        check(task(0), Strategy::StopCopy, Reason::Fits, true);
        let fast = AutoInput { dirty_pages_per_s: Some(u64::MAX), ..task(MIB / 8) };
        check(fast, Strategy::StopCopy, Reason::Fits, true);
    }

    #[test]
    fn what_fits_goes_in_rounds_unless_these_would_be_in_vain() {
        check(task(MIB), Strategy::PreCopy, Reason::RateUnknown, true);
        let modest = AutoInput { dirty_pages_per_s: Some(10 * MIB), ..task(MIB) };
        check(modest, Strategy::PreCopy, Reason::Converges, true);
        let fast = AutoInput { dirty_pages_per_s: Some(500 * MIB), ..modest };
        check(fast, Strategy::StopCopy, Reason::Fits, true);
        let no_tracking = AutoInput { can_track: false, ..modest };
        check(no_tracking, Strategy::StopCopy, Reason::Fits, true);
        let hurry = AutoInput { max_pause: Micros(1_000), ..fast };
        check(hurry, Strategy::PostCopy, Reason::WritesTooFast, true);
    }

    #[test]
    fn over_its_own_remains_rounds_are_tried_first() {
        let back =
            AutoInput { was_there: true, dirty_pages_per_s: Some(500 * MIB), ..task(256 * MIB) };
        check(back, Strategy::PreCopy, Reason::Remains, false);
        let modest = AutoInput { dirty_pages_per_s: Some(10 * MIB), ..back };
        check(modest, Strategy::PreCopy, Reason::Converges, true);
    }

    #[test]
    fn rounds_are_for_writers_that_they_can_follow() {
        let large = task(256 * MIB);
        check(large, Strategy::PreCopy, Reason::RateUnknown, true);
        let no_pause = AutoInput { max_pause: Micros::ZERO, ..large };
        check(no_pause, Strategy::PreCopy, Reason::RateUnknown, false);
        let modest = AutoInput { dirty_pages_per_s: Some(10 * MIB), ..large };
        check(modest, Strategy::PreCopy, Reason::Converges, true);
        let fast = AutoInput { dirty_pages_per_s: Some(500 * MIB), ..large };
        check(fast, Strategy::PostCopy, Reason::WritesTooFast, true);
        let hot = AutoInput { working_set_pages: Some(64 * MIB), ..modest };
        check(hot, Strategy::PostCopy, Reason::WorkingSetTooLarge, true);
        let cool = AutoInput { working_set_pages: Some(MIB), ..modest };
        check(cool, Strategy::PreCopy, Reason::Converges, true);
    }

    #[test]
    fn what_the_kernel_lacks_is_gone_round_and_said() {
        let large = AutoInput { dirty_pages_per_s: Some(500 * MIB), ..task(256 * MIB) };
        let no_faults = AutoInput { can_fault: false, ..large };
        check(no_faults, Strategy::PreCopy, Reason::NoFaults, false);
        let no_tracking = AutoInput { can_track: false, ..large };
        check(no_tracking, Strategy::PostCopy, Reason::NoTracking, true);
        let neither = AutoInput { can_track: false, ..no_faults };
        check(neither, Strategy::StopCopy, Reason::Neither, false);
        assert_eq!(
            pick(neither).to_string(),
            "stop-copy: writes cannot be tracked here and the target cannot serve missing pages; \
             expected pause 320200 us, over the limit"
        );
    }

    #[test]
    fn after_the_rounds_the_measured_pause_decides() {
        let input = task(256 * MIB);
        let check = |frozen, expected_pause, can_fault, strategy, why, meets| {
            let record = RoundsRecord {
                frozen: Some(frozen),
                expected_pause: Micros(expected_pause),
                outstanding: 64 * MIB,
                bytes_per_s: LINK.bytes_per_s,
                ..RoundsRecord::default()
            };
            let choice = fallback(&record, &AutoInput { can_fault, ..input });
            assert_eq!(
                (choice.strategy, choice.why, choice.meets_max_pause),
                (strategy, why, meets)
            );
        };
        use FreezeWhy::{NotShrinking, RoundLimit};
        check(FreezeWhy::Converged, 900, true, Strategy::PreCopy, Reason::Converged, true);
        check(RoundLimit, 2_900, true, Strategy::PreCopy, Reason::Converged, true);
        check(RoundLimit, 9_000, true, Strategy::PostCopy, Reason::RoundsUsedUp, true);
        check(NotShrinking, 9_000, true, Strategy::PostCopy, Reason::DidNotShrink, true);
        check(NotShrinking, 9_000, false, Strategy::PreCopy, Reason::DidNotShrink, false);
    }
}
