//! Takes the specimens of the zoo through one mode of travelling and compares their checksums.
//!
//! `zoo MODE [NAME…]`, `zoo list`. MODE: `workers` `once` `back` `five` `chaos`. Exit code 1 if a specimen
//! fails; each has a line.

use std::process::ExitCode;
use std::sync::mpsc;

use migrt_test_migrate::trip::{self, Plan};
use migrt_test_migrate::zoo::{self, visit};

struct Mode {
    nodes: u16,
    workers: usize,
    plans: Vec<Plan>,
}

fn mode(name: &str) -> Option<Mode> {
    let hops = |first, hops| Plan::Hops { first, hops };
    Some(match name {
        "workers" => Mode { nodes: 1, workers: 3, plans: vec![Plan::Yield, Plan::Shuffle] },
        "once" => Mode { nodes: 2, workers: 1, plans: vec![hops(0, 1), hops(3, 1)] },
        "back" => Mode { nodes: 2, workers: 1, plans: vec![hops(0, 2), hops(2, 2)] },
        "five" => Mode { nodes: 3, workers: 1, plans: vec![hops(0, 5), hops(1, 5)] },
        "chaos" => Mode { nodes: 3, workers: 1, plans: vec![Plan::Yield] },
        _ => return None,
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((mode_name, names)) = args.split_first() else {
        eprintln!("zoo MODE [NAME…]: workers, once, back, five, chaos; or zoo list");
        return ExitCode::FAILURE;
    };
    let all: Vec<&'static str> = zoo::specimens().into_iter().map(|(name, _)| name).collect();
    if mode_name == "list" {
        all.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let Some(mode) = mode(mode_name) else {
        eprintln!("{mode_name} is no mode");
        return ExitCode::FAILURE;
    };
    let chosen: Vec<&'static str> = all
        .into_iter()
        .filter(|name| names.is_empty() || names.iter().any(|n| n == name))
        .collect();
    let builder = migrt::Builder::new().workers(mode.workers).local_nodes(mode.nodes);
    match builder.run(move || tour(&mode, &chosen)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Visits all specimens at once, one local task each to wait and compare.
fn tour(mode: &Mode, chosen: &[&'static str]) -> bool {
    let chaos = std::env::var("MIGRT_CHAOS").is_ok_and(|v| v == "1");
    trip::settle();
    let (to, reports) = mpsc::channel();
    let (mut good, mut hops, mut threads, mut refused) = (true, 0, 0, 0);
    // A few at a time: enough to get into each other's way, few enough to tell who crashed.
    for group in chosen.chunks(8) {
        let visits: Vec<_> = group
            .iter()
            .flat_map(|&name| {
                mode.plans.iter().enumerate().map(move |(n, &plan)| (name, n as u64, plan))
            })
            .map(|(name, seed, plan)| {
                println!("begin {name}");
                (name, seed, plan, migrt::spawn(visit(name.to_owned(), plan, seed)))
            })
            .collect();
        let waiting: Vec<_> = visits
            .into_iter()
            .map(|(name, seed, plan, task)| {
                let to = to.clone();
                migrt::spawn(move || {
                    let still = migrt::spawn(visit(name.to_owned(), Plan::Still, seed)).join();
                    let _ = to.send((name, plan, still.map(|v| v.checksum), task.join()));
                })
            })
            .collect();
        for task in waiting {
            if let Err(error) = task.join() {
                println!("FAILED reference: {error}");
                good = false;
            }
        }
        for (name, plan, expected, result) in reports.try_iter() {
            let verdict = match &result {
                Err(error) => Err(error.to_string()),
                Ok(visit) if expected.as_ref() != Ok(&visit.checksum) => Err(format!(
                    "{:#x}, but at rest {expected:x?}: {:?}",
                    visit.checksum, visit.walked
                )),
                Ok(visit) => {
                    hops += visit.walked.hops;
                    threads += visit.walked.threads;
                    refused += visit.walked.refused.len();
                    for why in &visit.walked.refused {
                        println!("refused {name} {plan:?}: {why}");
                    }
                    if chaos && visit.walked.hops == 0 {
                        println!("unmoved {name}: {:?}", visit.walked);
                    }
                    went(plan, &visit.walked)
                }
            };
            match verdict {
                Ok(()) => println!("ok {name} {}", result.map_or(0, |v| v.walked.hops)),
                Err(why) => {
                    good = false;
                    println!("FAILED {name} {plan:?}: {why}");
                }
            }
        }
    }
    println!("total hops {hops} threads {threads} refused {refused}");
    good
}

/// Whether the task went where its plan sent it, but for what was refused.
fn went(plan: Plan, walked: &trip::Walked) -> Result<(), String> {
    let Plan::Hops { first, hops } = plan else { return Ok(()) };
    let possible = hops.min(walked.steps.saturating_sub(first));
    let tried = walked.hops + walked.refused.len() as u32;
    (tried >= possible && possible > 0)
        .then_some(())
        .ok_or_else(|| format!("it moved {} of {possible} times", walked.hops))
}
