//! Points where a test can have this process killed or stopped: each step of a hand-off has one.
//!
//! `MIGRT_FAIL=target.installed=kill@3` kills the process the third time it comes by; `=stop` stops
//! it (SIGSTOP); `target.told=forget` drops what was kept of a task each time that was told;
//! `target.arrived=refuse` installs no page that comes after its task; `source.lingers=dawdle` has what
//! watches a departed task's pages end two seconds later. `n1:` before it means node 1 only: the nodes of a local cluster share one environment. Without the variable a point is one load and one branch.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::error::{Error, Kind, Result};

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

#[derive(Debug)]
struct Plan {
    /// The only node that this is for.
    node: Option<u16>,
    point: String,
    deed: Deed,
    at: u32,
    seen: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Stop,
    Forget,
    Dawdle,
    Refuse,
}

/// The names that exist, in the order of a move; a plan for another one is an error at start.
pub(crate) const POINTS: &[&str] = &[
    "source.ordered",
    "target.told",
    "source.copying",
    "source.round",
    "target.round",
    "source.frozen",
    "source.committed",
    "source.shipped",
    "target.shipping",
    "target.installed",
    "target.commit",
    "target.thawed",
    "source.serving",
    "source.pushed",
    "target.faulted",
    "source.demanded",
    "target.arrived",
    "target.whole",
    "source.acked",
    "source.lingers",
];

/// Reads `MIGRT_FAIL`.
pub(crate) fn arm(node: u16) -> Result<()> {
    let Ok(text) = std::env::var("MIGRT_FAIL") else { return Ok(()) };
    let plan = parse(&text).ok_or_else(|| {
        Error::new(
            Kind::Config,
            format!(
                "MIGRT_FAIL is to be POINT=kill, POINT=stop, target.told=forget, \
                 target.arrived=refuse or source.lingers=dawdle, maybe with n1: before it (node 1 \
                 only) and @N after it (the N-th time), POINT one of {}; but is {text:?}: correct or unset it",
                POINTS.join(", ")
            ),
        )
    })?;
    if plan.node.is_none_or(|only| only == node) {
        let _ = PLAN.set(plan);
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

fn parse(text: &str) -> Option<Plan> {
    let (node, text) = match text.split_once(':') {
        None => (None, text),
        Some((node, rest)) => (Some(node.strip_prefix('n')?.parse().ok()?), rest),
    };
    let (point, deed) = text.split_once('=')?;
    let (deed, at) = deed.split_once('@').map_or((deed, Some(1)), |(d, n)| (d, n.parse().ok()));
    let deed = match deed {
        "kill" => Deed::Kill,
        "stop" => Deed::Stop,
        "forget" if point == "target.told" => Deed::Forget,
        "dawdle" if point == "source.lingers" => Deed::Dawdle,
        "refuse" if point == "target.arrived" => Deed::Refuse,
        _ => return None,
    };
    if !POINTS.contains(&point) {
        return None;
    }
    let point = point.to_owned();
    Some(Plan { node, point, deed, at: at.filter(|&at| at > 0)?, seen: AtomicU32::new(0) })
}

/// Whether this process waits for a point.
#[inline]
pub(crate) fn is_armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

/// Passes the point; whether what was told there is to be forgotten.
#[inline]
pub(crate) fn forgets(name: &str) -> bool {
    point(name);
    is_to(Deed::Forget, name)
}

/// Passes the point; whether what is to be done there soon is to be done late.
#[inline]
pub(crate) fn dawdles(name: &str) -> bool {
    point(name);
    is_to(Deed::Dawdle, name)
}

/// Whether what is to be done there fails.
#[inline]
pub(crate) fn refuses(name: &str) -> bool {
    is_to(Deed::Refuse, name)
}

fn is_to(deed: Deed, name: &str) -> bool {
    is_armed() && PLAN.get().is_some_and(|plan| plan.deed == deed && plan.point == name)
}

/// Passes the point.
#[inline]
pub(crate) fn point(name: &str) {
    if is_armed() {
        strike(name);
    }
}

#[cold]
fn strike(name: &str) {
    let strikes = |plan: &&Plan| matches!(plan.deed, Deed::Kill | Deed::Stop);
    let Some(plan) = PLAN.get().filter(strikes) else { return };
    if plan.point != name || plan.seen.fetch_add(1, Ordering::SeqCst) + 1 != plan.at {
        return;
    }
    let pid = std::process::id();
    let text = format!("migrt: MIGRT_FAIL strikes at {name} in process {pid}\n");
    eprint!("{text}");
    let signal = if plan.deed == Deed::Stop { libc::SIGSTOP } else { libc::SIGKILL };
    // To this very thread: sent to the process, another thread might take it, and this one go on
    // past the point for a moment.
    // SAFETY: the signal ends or stops the process; nothing of it runs a handler.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_wrong_ones_refused() {
        let plan = parse("target.installed=kill@3").unwrap();
        assert_eq!((plan.point.as_str(), plan.deed, plan.at), ("target.installed", Deed::Kill, 3));
        assert_eq!(plan.node, None);
        assert_eq!(parse("target.commit=stop").unwrap().deed, Deed::Stop);
        assert_eq!(parse("target.told=forget").unwrap().deed, Deed::Forget);
        assert_eq!(parse("target.arrived=refuse").unwrap().deed, Deed::Refuse);
        let plan = parse("n12:source.shipped=stop@2").unwrap();
        assert_eq!((plan.node, plan.point.as_str(), plan.at), (Some(12), "source.shipped", 2));
        for wrong in [
            "",
            "nowhere=kill",
            "target.commit",
            "target.commit=burn",
            "target.commit=forget",
            "target.commit=refuse",
            "target.commit=kill@x",
            "target.commit=kill@0",
            "n:target.commit=kill",
            "1:target.commit=kill",
            "n1:",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
