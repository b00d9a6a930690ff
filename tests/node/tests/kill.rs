//! kill -9 at every step of the hand-off, of the source and of the target, wherever the home is.
//!
//! Whatever dies, the task is told of exactly once, and no step of it is done twice. Each case runs
//! `MIGRT_KILL_ROUNDS` times.

use std::time::Duration;

use migrt_test_node::{Run, Scratch, count, for_each, steps};

mod common;

use common::{CASES, FOLLOWING, Fate, LAZY, ROUNDS, Roles, judge, lost};

const ROLES: [Roles; 3] = [
    Roles { home: 0, source: 1, target: 2 },
    Roles { home: 1, source: 1, target: 2 },
    Roles { home: 2, source: 1, target: 2 },
];

#[derive(Debug)]
struct Case {
    roles: Roles,
    point: &'static str,
    fate: Fate,
    strategy: &'static str,
}

impl Case {
    fn victim(&self) -> u16 {
        if self.point.starts_with("source") { self.roles.source } else { self.roles.target }
    }

    fn run(&self) {
        // Pages may all have come before the task touches one: then nobody asks for any.
        let may_miss = ["source.demanded", "target.faulted"].contains(&self.point);
        let mut tries = if may_miss { 5 } else { 1 };
        while !self.strikes(tries == 1) {
            tries -= 1;
        }
    }

    /// Plays the case; `false`: the node did not come by its point, and so lived. That is a failure if it `must`.
    fn strikes(&self, must: bool) -> bool {
        let log = Scratch::new("kill");
        let Roles { home, source, target } = self.roles;
        let victim = self.victim();
        let numbers = [3, home, source, target, 150].map(|n| n.to_string());
        let mut arguments = vec![log.text()];
        arguments.extend(numbers.iter().map(String::as_str));
        let plan = format!("n{victim}:{}=kill", self.point);
        let run = Run::start(
            env!("CARGO_BIN_EXE_traveller"),
            &arguments,
            &[("MIGRT_FAIL", &plan), ("MIGRT_STRATEGY", self.strategy)],
        );
        let ended = run.end();
        ended.expect(0, &["outcome", "over"]);
        if !must && !ended.text().contains("MIGRT_FAIL strikes") {
            assert_eq!(ended.value("outcome"), r#"Ok("moved")"#, "{}", ended.text());
            return false;
        }
        ended.expect(0, &["MIGRT_FAIL strikes"]);
        let walk = steps::read(log.path()).remove(&0).expect("it has made steps");
        steps::check(0, &walk);
        let outcome = ended.value("outcome");
        let fate = judge(self.roles, victim, outcome, &walk);
        if home == victim {
            // Nobody knows its outcome: it is lost with its home, and cancelled where it is.
            assert_eq!(outcome, lost(victim), "{}", ended.text());
            let end = *walk.last().expect("steps");
            assert!(end.0 < 23 || fate == Fate::Lost, "an orphan went on to its end: {walk:?}");
        } else {
            let fits = match self.fate {
                Fate::LostOr(other) => fate == Fate::Lost || fate == *other,
                wanted => fate == wanted,
            };
            assert!(fits, "{fate:?} instead of {:?}: {walk:?}\n{}", self.fate, ended.text());
        }
        if fate == Fate::Lost || home == victim {
            let waited = ended.when("outcome") - ended.when("MIGRT_FAIL strikes");
            assert!(waited < Duration::from_secs(2), "waited {waited:?} for the bad news");
        }
        true
    }
}

fn cases(roles: &[Roles]) -> Vec<Case> {
    let rounds = count("MIGRT_KILL_ROUNDS", 3);
    let mut cases = Vec::new();
    for _ in 0..rounds {
        for &roles in roles {
            for (point, fate) in CASES {
                cases.push(Case { roles, point, fate, strategy: "stop-copy" });
            }
            for (point, fate) in CASES.into_iter().chain(ROUNDS) {
                cases.push(Case { roles, point, fate, strategy: "pre-copy" });
            }
            let others =
                || CASES.into_iter().filter(|case| LAZY.iter().all(|lazy| lazy.0 != case.0));
            for (point, fate) in others().chain(LAZY).chain(FOLLOWING) {
                cases.push(Case { roles, point, fate, strategy: "post-copy" });
            }
            // Rounds, and what they leave follows.
            for (point, fate) in others().chain(ROUNDS).chain(LAZY) {
                cases.push(Case { roles, point, fate, strategy: "auto:0us" });
            }
        }
    }
    cases
}

#[test]
fn whatever_step_a_node_dies_at_its_task_ends_once() {
    for_each(&cases(&ROLES), 4, Case::run);
}

#[test]
fn the_death_of_the_starting_node_ends_the_others_with_a_message() {
    let mut cases = Vec::new();
    for _ in 0..count("MIGRT_KILL_ROUNDS", 3).div_ceil(3) {
        cases.extend(CASES.map(|(point, _)| point));
    }
    for_each(&cases, 3, |point| {
        let log = Scratch::new("zero");
        let (source, target) = if point.starts_with("source") { ("0", "1") } else { ("1", "0") };
        let plan = format!("n0:{point}=kill");
        let arguments = [log.text(), "3", "0", source, target, "0"];
        let run = Run::start(env!("CARGO_BIN_EXE_traveller"), &arguments, &[("MIGRT_FAIL", &plan)]);
        let ended = run.end();
        let died = ended.when("MIGRT_FAIL strikes");
        let last = ended.lines.last().expect("lines").when;
        ended.expect(128 + 9, &["node n1 stops", "node n2 stops"]);
        let waited = last - died;
        assert!(waited < Duration::from_secs(3), "they went on for {waited:?}");
        steps::check(0, &steps::read(log.path()).remove(&0).expect("steps"));
    });
}
