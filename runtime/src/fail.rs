//! Points where a test can have this process killed or stopped: each step of a hand-off has one.
//!
//! `MIGRT_FAIL=target.installed=kill@3` kills the process the third time it comes by; `=stop` stops
//! it (SIGSTOP). Without the variable a point is one load and one branch.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::error::{Error, Kind, Result};

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

#[derive(Debug)]
struct Plan {
    point: String,
    stop: bool,
    at: u32,
    seen: AtomicU32,
}

/// The names that exist; a plan for another one is an error at start.
pub(crate) const POINTS: &[&str] = &[
    "source.ordered",
    "source.frozen",
    "source.shipped",
    "source.ready",
    "source.committed",
    "source.acked",
    "target.shipping",
    "target.installed",
    "target.ready",
    "target.commit",
    "target.thawed",
];

/// Reads `MIGRT_FAIL`.
pub(crate) fn arm() -> Result<()> {
    let Ok(text) = std::env::var("MIGRT_FAIL") else { return Ok(()) };
    let plan = parse(&text).ok_or_else(|| {
        Error::new(
            Kind::Config,
            format!(
                "MIGRT_FAIL is to be POINT=kill or POINT=stop, maybe with @N, POINT one of {}; \
                 but is {text:?}: correct or unset it",
                POINTS.join(", ")
            ),
        )
    })?;
    let _ = PLAN.set(plan);
    ARMED.store(true, Ordering::Release);
    Ok(())
}

fn parse(text: &str) -> Option<Plan> {
    let (point, deed) = text.split_once('=')?;
    let (deed, at) = deed.split_once('@').map_or((deed, Some(1)), |(d, n)| (d, n.parse().ok()));
    if !POINTS.contains(&point) || !matches!(deed, "kill" | "stop") {
        return None;
    }
    Some(Plan { point: point.to_owned(), stop: deed == "stop", at: at?, seen: AtomicU32::new(0) })
}

/// Passes the point.
#[inline]
pub(crate) fn point(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        strike(name);
    }
}

#[cold]
fn strike(name: &str) {
    let Some(plan) = PLAN.get() else { return };
    if plan.point != name || plan.seen.fetch_add(1, Ordering::SeqCst) + 1 != plan.at {
        return;
    }
    eprintln!("migrt: MIGRT_FAIL strikes at {name}");
    let signal = if plan.stop { rustix::process::Signal::STOP } else { rustix::process::Signal::KILL };
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_wrong_ones_refused() {
        let plan = parse("target.installed=kill@3").unwrap();
        assert_eq!((plan.point.as_str(), plan.stop, plan.at), ("target.installed", false, 3));
        assert!(parse("target.commit=stop").unwrap().stop);
        for wrong in ["", "nowhere=kill", "target.commit", "target.commit=burn", "target.commit=kill@x"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
