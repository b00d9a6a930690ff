//! SIGSTOP for five seconds at steps of the hand-off: no task runs twice or ends twice.
//!
//! The stopped node is taken for dead by the others and finds, when it goes on, that its lease has
//! ended: it ends before it does anything else. If node 0 is stopped the others end.
//! `MIGRT_STOP_ALL=1` runs every step.

use std::time::Duration;

use migrt_test_node::{Run, Scratch, count, for_each, signal, steps};
use rustix::process::Signal;

mod common;

use common::{CASES, Fate, Roles, judge};

const PAUSE: Duration = Duration::from_secs(5);
/// After the pause node 0 goes on for a moment, so that anybody who runs on is seen.
const LINGER_MS: &str = "6500";

#[derive(Debug)]
struct Case {
    roles: Roles,
    point: &'static str,
    fate: Fate,
}

impl Case {
    fn run(&self) {
        let log = Scratch::new("stop");
        let Roles { home, source, target } = self.roles;
        let victim = if self.point.starts_with("source") { source } else { target };
        let numbers = [3, home, source, target].map(|n| n.to_string());
        let mut arguments = vec![log.text()];
        arguments.extend(numbers.iter().map(String::as_str));
        arguments.push(LINGER_MS);
        let plan = format!("n{victim}:{}=stop", self.point);
        let run = Run::start(env!("CARGO_BIN_EXE_traveller"), &arguments, &[("MIGRT_FAIL", &plan)]);
        let struck = run.line("MIGRT_FAIL strikes").text;
        let pid: i32 = struck.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a process");
        std::thread::sleep(PAUSE);
        signal(pid, Signal::CONT);
        let ended = run.end();
        ended.expect(0, &["outcome", "over"]);
        let walk = steps::read(log.path()).remove(&0).expect("it has made steps");
        steps::check(0, &walk);
        if victim == 0 {
            // The others were cut off: they end, and what ran there is lost.
            ended.expect(0, &["node n1 stops", "node n2 stops"]);
            let other = source.max(target);
            judge(self.roles, other, ended.value("outcome"), &walk);
            return;
        }
        // Said by whoever notices first: the signal's handler, a worker, the net thread.
        ended.expect(0, &[" stops: "]);
        let fate = judge(self.roles, victim, ended.value("outcome"), &walk);
        let fits = match self.fate {
            _ if home == victim => fate == Fate::Lost,
            Fate::LostOr(other) => fate == Fate::Lost || fate == *other,
            wanted => fate == wanted,
        };
        assert!(fits, "{fate:?} instead of {:?}: {walk:?}\n{}", self.fate, ended.text());
    }
}

#[test]
fn a_pause_at_any_step_makes_no_task_run_twice() {
    let of = |home, source, target| Roles { home, source, target };
    let all = count("MIGRT_STOP_ALL", 0) > 0;
    let usual = ["source.committed", "source.shipped", "target.installed", "target.thawed"];
    let mut cases = Vec::new();
    for (point, fate) in CASES {
        let roles: &[Roles] = match (all, usual.contains(&point)) {
            (true, _) => &[of(0, 1, 2), of(1, 1, 2), of(2, 1, 2), of(0, 0, 1), of(0, 1, 0)],
            (false, true) => &[of(0, 1, 2), of(0, 0, 1), of(0, 1, 0)],
            (false, false) => &[of(0, 1, 2)],
        };
        cases.extend(roles.iter().map(|&roles| Case { roles, point, fate }));
    }
    for_each(&cases, 10, Case::run);
}
