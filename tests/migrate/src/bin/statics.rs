//! Statics that are first filled inside a mobile task, which then walks on: to other nodes, back,
//! and ends elsewhere, while residents of every node use the same statics all the time.
//!
//! `statics SCENARIO ROUNDS NODES`. Prints `total moves M refused R uses U` and one line `refused WHY`
//! for each kind of refusal; exit code 1 if a use went wrong.

use std::backtrace::Backtrace;
use std::collections::{BTreeMap, HashMap};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use migrt::NodeId;
use migrt_test_migrate::trip::{self, next_node};
use regex::Regex;
use serde::{Deserialize, Serialize};

/// Each names a static and a way to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Scenario {
    Regex,
    OnceMap,
    MutexVec,
    MutexArc,
    Println,
    Backtrace,
    Panic,
}

const SCENARIOS: &[(&str, Scenario)] = &[
    ("regex", Scenario::Regex),
    ("once_map", Scenario::OnceMap),
    ("mutex_vec", Scenario::MutexVec),
    ("mutex_arc", Scenario::MutexArc),
    ("println", Scenario::Println),
    ("backtrace", Scenario::Backtrace),
    ("panic", Scenario::Panic),
];

static PATTERN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?<user>\w+)@(?<host>[a-z]+\.(?:org|com))").expect("a pattern"));
static MAP: OnceLock<HashMap<String, u64>> = OnceLock::new();
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SHARED: Mutex<Option<Arc<Vec<String>>>> = Mutex::new(None);
static STOP: AtomicBool = AtomicBool::new(false);
static USES: AtomicU64 = AtomicU64::new(0);

/// Uses the static once, as `who`, for the `n`-th time.
fn use_once(scenario: Scenario, who: &str, n: u64) {
    match scenario {
        Scenario::Regex => {
            let text = format!("to ann{n}@example.org and {who}@host.com, not @x");
            let found: Vec<_> =
                PATTERN.captures_iter(&text).map(|c| c["user"].to_owned()).collect();
            assert_eq!(found, [format!("ann{n}"), who.to_owned()]);
        }
        Scenario::OnceMap => {
            let map = MAP.get_or_init(|| (0..200).map(|k| (format!("key {k}"), k * k)).collect());
            assert_eq!(map[&format!("key {}", n % 200)], (n % 200).pow(2));
            assert_eq!(map.len(), 200);
        }
        Scenario::MutexVec => {
            let mut log = LOG.lock().expect("not poisoned");
            for entry in log.iter() {
                let (body, len) = entry.rsplit_once(' ').expect("an entry has a length");
                assert_eq!(body.len().to_string(), len, "a broken entry: {entry:?}");
            }
            if log.len() > 50 {
                log.remove(0);
            }
            let body = format!("{who} was here for the {n}th time");
            log.push(format!("{body} {}", body.len()));
        }
        Scenario::MutexArc => {
            let mut shared = SHARED.lock().expect("not poisoned");
            let held = shared.get_or_insert_with(|| Arc::new(vec!["made once".to_owned(); 9]));
            let mine = Arc::clone(held);
            drop(shared);
            assert_eq!(mine.concat().len(), 81);
            assert!(Arc::strong_count(&mine) >= 2);
        }
        Scenario::Println => println!("line {who} {n} is whole"),
        Scenario::Backtrace => {
            let text = Backtrace::force_capture().to_string();
            assert!(text.contains("use_once"), "{text}");
        }
        Scenario::Panic => {
            let caught = catch_unwind(|| {
                let list: Vec<u64> = (0..n % 5).collect();
                list[(n % 5) as usize + 3]
            });
            let text = caught.expect_err("out of bounds").downcast::<String>().expect("a text");
            assert!(text.contains("index out of bounds"), "{text}");
        }
    }
    USES.fetch_add(1, Ordering::Relaxed);
}

/// Uses the static on its node until it is told to stop. It only ever sleeps there.
#[migrt::migratable]
fn resident(scenario: Scenario, who: String) {
    let _here = migrt::pin_here();
    let mut n = 0;
    while !STOP.load(Ordering::Relaxed) {
        use_once(scenario, &who, n);
        n += 1;
        migrt::sleep(Duration::from_micros(400));
    }
}

#[migrt::migratable]
fn stop() -> u64 {
    STOP.store(true, Ordering::Relaxed);
    USES.load(Ordering::Relaxed)
}

#[migrt::migratable]
fn use_after_all(scenario: Scenario) {
    for n in 0..5 {
        use_once(scenario, "late", n);
        migrt::yield_now();
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Walked {
    moves: u64,
    refused: BTreeMap<String, u64>,
}

/// Is the first to use the static on the node it is born on, and walks round after round.
#[migrt::migratable]
fn traveller(scenario: Scenario, who: String, rounds: u64) -> Walked {
    let mut walked = Walked::default();
    let nodes = migrt::nodes().len() as u64;
    for n in 0..rounds * nodes + 1 {
        use_once(scenario, &who, n);
        match migrt::migrate_to(next_node()) {
            Ok(()) => walked.moves += 1,
            Err(error) => {
                let text = error.to_string();
                let why = text.split_once(": ").map_or(&*text, |(_, why)| why).to_owned();
                *walked.refused.entry(why).or_default() += 1;
                migrt::sleep(Duration::from_micros(500));
            }
        }
    }
    use_once(scenario, &who, 0);
    walked
}

fn tour(scenario: Scenario, rounds: u64) -> Result<(), String> {
    trip::settle();
    let nodes = migrt::nodes();
    // The travellers go first, so that the static is filled inside one of them.
    let travellers: Vec<_> = nodes
        .iter()
        .map(|&node: &NodeId| {
            migrt::spawn_on(node, traveller(scenario, format!("traveller{}", node.0), rounds))
        })
        .collect();
    migrt::sleep(Duration::from_millis(2));
    let residents: Vec<_> = nodes
        .iter()
        .map(|&node| migrt::spawn_on(node, resident(scenario, format!("resident{}", node.0))))
        .collect();
    let (mut moves, mut refused) = (0, BTreeMap::<String, u64>::new());
    let mut failed = Vec::new();
    for task in travellers {
        match task.join() {
            Ok(walked) => {
                moves += walked.moves;
                for (why, count) in walked.refused {
                    *refused.entry(why).or_default() += count;
                }
            }
            Err(error) => failed.push(format!("traveller: {error}")),
        }
    }
    let mut uses = 0;
    for &node in &nodes {
        match migrt::spawn_on(node, stop()).join() {
            Ok(count) => uses += count,
            Err(error) => failed.push(format!("stop on {node}: {error}")),
        }
    }
    for task in residents {
        failed.extend(task.join().err().map(|error| format!("resident: {error}")));
    }
    // All who filled the static have ended; it still stands.
    for &node in &nodes {
        let late = migrt::spawn_on(node, use_after_all(scenario)).join();
        failed.extend(late.err().map(|error| format!("afterwards on {node}: {error}")));
    }
    let refusals: u64 = refused.values().sum();
    println!("total moves {moves} refused {refusals} uses {uses}");
    refused.iter().for_each(|(why, count)| println!("refused {count} times: {why}"));
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, rounds, nodes] = &args[..] else {
        eprintln!("statics SCENARIO ROUNDS NODES");
        return ExitCode::FAILURE;
    };
    let scenario = SCENARIOS.iter().find(|(known, _)| known == name).map(|(_, scenario)| *scenario);
    let (Some(scenario), Ok(rounds), Ok(nodes)) = (scenario, rounds.parse(), nodes.parse()) else {
        eprintln!("no such scenario, or no numbers: {args:?}");
        return ExitCode::FAILURE;
    };
    let run =
        migrt::Builder::new().workers(2).local_nodes(nodes).run(move || tour(scenario, rounds));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
