//! Takes the specimens of the zoo through one mode of travelling and compares their checksums.
//!
//! `zoo MODE [NAME…]`, `zoo list`. MODE: `workers` `once` `back` `five` `faults` `ordered` `chaos`. Exit code 1 if a
//! specimen fails; each has a line.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use migrt::{JoinHandle, NodeId};
use migrt_test_migrate::trip::{self, Plan, Seeded};
use migrt_test_migrate::zoo::{self, Visit, visit};
use serde::{Deserialize, Serialize, Serializer};

struct Mode {
    nodes: u16,
    workers: usize,
    plans: Vec<Plan>,
    /// Two order each task elsewhere all the time, in each other's way.
    is_ordered: bool,
}

fn mode(name: &str) -> Option<Mode> {
    let hops = |first, hops| Plan::Hops { first, hops };
    let chase = |first, hops| Plan::Chase { first, hops };
    let ordered = |first, moves| Plan::Ordered { first, moves };
    let plain = |nodes, workers, plans| Mode { nodes, workers, plans, is_ordered: false };
    Some(match name {
        "workers" => plain(1, 3, vec![Plan::Yield, Plan::Shuffle]),
        "once" => plain(2, 1, vec![hops(0, 1), hops(3, 1)]),
        "back" => plain(2, 1, vec![hops(0, 2), hops(2, 2)]),
        "five" => plain(3, 1, vec![hops(0, 5), hops(1, 5)]),
        "faults" => plain(3, 1, vec![chase(0, 3), chase(1, 2)]),
        "ordered" => Mode { is_ordered: true, ..plain(3, 1, vec![ordered(0, 4), ordered(2, 3)]) },
        "chaos" => plain(3, 1, vec![Plan::Yield]),
        _ => return None,
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((mode_name, names)) = args.split_first() else {
        eprintln!(
            "zoo MODE [NAME…]: workers, once, back, five, faults, ordered, chaos; or zoo list"
        );
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
                let (to, is_ordered) = (to.clone(), mode.is_ordered);
                migrt::spawn(move || {
                    let (task, other) = match is_ordered {
                        false => (task, None),
                        true => {
                            let [task, other] = order_about(task);
                            (task, Some(other))
                        }
                    };
                    let still = migrt::spawn(visit(name.to_owned(), Plan::Still, seed)).join();
                    let _ = to.send((name, plan, still.map(|v| v.checksum), task.join()));
                    // Not before: dropping a handle says that nobody wants the result.
                    drop(other);
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
    let (done, meanwhile) = (DONE.load(Ordering::Relaxed), MEANWHILE.load(Ordering::Relaxed));
    println!("orders done {done} meanwhile {meanwhile}");
    println!("total hops {hops} threads {threads} refused {refused}");
    good
}

/// Moves that were ordered from outside and made, and those refused because another one was under way.
static DONE: AtomicU64 = AtomicU64::new(0);
static MEANWHILE: AtomicU64 = AtomicU64::new(0);

/// A handle, or the same one twice: encoding makes two of one.
#[derive(Deserialize)]
struct Pair(JoinHandle<Visit>, Option<JoinHandle<Visit>>);

impl Serialize for Pair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0, Some(self.1.as_ref().unwrap_or(&self.0))).serialize(serializer)
    }
}

#[migrt::migratable]
fn twice(pair: Pair) -> Pair {
    pair
}

/// Has two at once order the task to some node, again and again until it has ended. An order that comes while another
/// move is under way is refused, whatever that one's step is; it must not harm it.
fn order_about(task: JoinHandle<Visit>) -> [JoinHandle<Visit>; 2] {
    let Pair(first, second) = migrt::spawn(twice(Pair(task, None))).join().expect("it returns");
    let second = second.expect("it was encoded");
    let order = |task: JoinHandle<Visit>, number| {
        migrt::spawn(move || {
            let mut random = Seeded::new(number);
            while !task.is_finished() {
                match task.migrate(NodeId(random.below(3) as u16)) {
                    Ok(()) => _ = DONE.fetch_add(1, Ordering::Relaxed),
                    Err(why) if why.to_string().contains("another move") => {
                        MEANWHILE.fetch_add(1, Ordering::Relaxed);
                    }
                    // It is pinned just now, or has ended.
                    Err(_) => {}
                }
                migrt::sleep(Duration::from_micros(100 + random.below(400)));
            }
            task
        })
    };
    [order(first, 1), order(second, 2)].map(|it| it.join().expect("an orderer does not panic"))
}

/// Whether the task went where its plan sent it, but for what was refused.
fn went(plan: Plan, walked: &trip::Walked) -> Result<(), String> {
    let (first, hops) = match plan {
        Plan::Hops { first, hops } => (first, hops),
        Plan::Chase { first, hops } => (first, hops),
        _ => return Ok(()),
    };
    let possible = hops.min(walked.steps.saturating_sub(first));
    let tried = walked.hops + walked.refused.len() as u32;
    (tried >= possible && possible > 0)
        .then_some(())
        .ok_or_else(|| format!("it moved {} of {possible} times", walked.hops))
}
