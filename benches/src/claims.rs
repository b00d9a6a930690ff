//! The talk's four claims about pre-copy and post-copy, and that of holding pages back, as lines that
//! hold or do not. Their wording and bounds are fixed in `docs/performance.md`.

use crate::compare::{Cell, Run};
use crate::method::Method;

/// Post-copy moves a page once; a few more may cross on the way.
const ONCE: f64 = 1.05;
/// What is called the same for tasks that read and that write.
const SAME: f64 = 1.25;

/// One line for each claim.
pub fn check(cells: &[Cell]) -> Vec<String> {
    let find = |workload: &str, method| {
        cells.iter().find(|cell| cell.workload == workload && cell.method == method)
    };
    let value = |workload: &str, method, of: fn(&Run) -> f64| {
        find(workload, method).map(|cell| cell.median(of))
    };
    let pair = |workload: &str, of| {
        Some((value(workload, Method::PreCopy, of)?, value(workload, Method::PostCopy, of)?))
    };
    let line = |name: &str, found: Option<(bool, String)>| match found {
        Some((true, text)) => format!("claim {name}: holds: {text}"),
        Some((false, text)) => format!("claim {name}: DOES NOT HOLD: {text}"),
        None => format!("claim {name}: not measured"),
    };
    let moved = || {
        let (pre, post) = pair("write", |run| run.pages_moved)?;
        let (_, post_read) = pair("read", |run| run.pages_moved)?;
        let text = format!(
            "pages moved over used: post-copy {post_read:.2} (read) and {post:.2} (write), at most {ONCE}; \
             pre-copy {pre:.2} (write)"
        );
        Some((post <= ONCE && post_read <= ONCE && pre > post, text))
    };
    let stability = || {
        let (pre_write, post_write) = pair("write", |run| run.total)?;
        let (pre_read, post_read) = pair("read", |run| run.total)?;
        let (pre, post) = (pre_write / pre_read, post_write / post_read);
        let text = format!(
            "total time, write over read: post-copy {post:.2}, within {SAME} either way; pre-copy {pre:.2}"
        );
        Some(((1.0 / SAME..=SAME).contains(&post) && pre > post, text))
    };
    let pause = || {
        let (pre, post) = pair("write", |run| run.pause)?;
        let stop = value("write", Method::StopCopy, |run| run.pause)?;
        let text = format!(
            "pause of the write task: post-copy {post:.0} us, pre-copy {pre:.0} us, stop-copy {stop:.0} us"
        );
        Some((post < pre && pre < stop, text))
    };
    let degradation = || {
        let (pre, post) = pair("read", |run| run.slowdown)?;
        let text = format!(
            "progress lost by the read task while it moves: pre-copy {pre:.1} %, post-copy {post:.1} %"
        );
        Some((pre < post, text))
    };
    let hold_back = || {
        let of = |method| value("hot", method, |run| run.pages_moved);
        let (on, off) = (of(Method::PreCopy)?, of(Method::PreCopyAll)?);
        let text = format!(
            "pages moved over used, hot task: held back {on:.2}, all sent each round {off:.2}"
        );
        Some((on < off, text))
    };
    vec![
        line("1, pages moved", moved()),
        line("2, stability", stability()),
        line("3, pause", pause()),
        line("4, degradation", degradation()),
        line("of holding back", hold_back()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(workload: &'static str, method: Method, pages_moved: f64, pause: f64) -> Cell {
        let run =
            Run { pages_moved, rounds: 1.0, pause, total: 100.0, slowdown: 10.0, faults: 0.0 };
        Cell { workload, method, runs: vec![run] }
    }

    #[test]
    fn a_claim_holds_fails_or_was_not_measured() {
        let mut cells = vec![
            cell("read", Method::PreCopy, 1.0, 2.0),
            cell("write", Method::PreCopy, 3.0, 2.0),
            cell("write", Method::StopCopy, 1.0, 9.0),
            cell("read", Method::PostCopy, 1.0, 1.0),
        ];
        assert!(check(&cells)[0].ends_with("not measured"));
        cells.push(cell("write", Method::PostCopy, 1.02, 1.0));
        assert!(check(&cells)[0].starts_with("claim 1, pages moved: holds"));
        assert!(check(&cells)[2].starts_with("claim 3, pause: holds"));
        cells.last_mut().expect("one").runs[0].pages_moved = 1.3;
        assert!(check(&cells)[0].contains("DOES NOT HOLD"));
    }
}
