//! Closures that mobile tasks spawn: what they leave becomes the task's, moves with it and is freed
//! wherever it is.
//!
//! `children [ROUNDS]`, two nodes. Each paragraph prints `ok` and its name, each refused move a line
//! `refused` and why. Exit code 1 if something is wrong.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migrt::{JoinError, LocalHandle, NodeId};
use migrt_test_migrate::trip::{self, next_node};

const NODES: u16 = 2;
/// What allocators and buffers come and go by.
const RESIDENT_SLACK_KIB: u64 = 24 << 10;
/// Slots that workers and resting lists may hold more or less than before.
const SLOT_SLACK: u64 = 8;

/// What a child gives back: a vector, a map, and a closure with its captures.
struct Goods {
    names: Vec<String>,
    squares: HashMap<String, u64>,
    add: Box<dyn Fn(u64) -> u64 + Send>,
}

impl Goods {
    fn make(from: String, n: u64) -> Goods {
        let base = vec![n; 100];
        Goods {
            names: (0..20).map(|i| format!("{from} {n}.{i}")).collect(),
            squares: (0..20).map(|i| (format!("{i}"), i * i + n)).collect(),
            add: Box::new(move |x| x + base.iter().sum::<u64>()),
        }
    }

    fn check(&self, from: &str, n: u64) {
        assert_eq!(self.names.len(), 20);
        assert_eq!(self.names[7], format!("{from} {n}.7"));
        assert_eq!(self.squares["9"], 81 + n);
        assert_eq!((self.add)(1), 1 + 100 * n);
    }
}

/// Moves on; whether that was refused at first. Remains of others go when a collector has come round;
/// what a stale word holds for longer is counted, and the task goes on where it is.
fn hop() -> u64 {
    let since = Instant::now();
    let mut refused = 0;
    while let Err(error) = migrt::migrate_to(next_node()) {
        if error.to_string().contains("another move of this task") {
            // Chaos mode's.
            migrt::yield_now();
            continue;
        }
        if refused == 0 {
            println!("refused {error}");
        }
        refused = 1;
        if since.elapsed() > Duration::from_secs(3) {
            break;
        }
        migrt::sleep(Duration::from_millis(20));
    }
    refused
}

#[migrt::migratable]
fn results(rounds: u64) -> u64 {
    let mut refused = 0;
    for n in 0..rounds {
        let from = format!("round {n}");
        let captured = from.clone();
        let goods = migrt::spawn(move || Goods::make(captured, n)).join().expect("it ends well");
        refused += hop();
        goods.check(&from, n);
        drop(goods);
        refused += hop();
    }
    refused
}

#[migrt::migratable]
fn long_results(rounds: u64) -> u64 {
    // More than the first extent of an arena, and more than one slot of it.
    let mut refused = 0;
    for n in 0..rounds {
        let make = move || (0..40).map(|i| vec![n as u8 ^ i; 50_000]).collect::<Vec<_>>();
        let mut blocks = migrt::spawn(make).join().expect("it ends well");
        refused += hop();
        // Half is freed here, half where it came from.
        blocks.truncate(20);
        refused += hop();
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.iter().all(|&byte| byte == n as u8 ^ i as u8));
        }
    }
    refused
}

#[migrt::migratable]
fn panics() -> u64 {
    let mut refused = 0;
    for n in 0..20u64 {
        let child = migrt::spawn(move || {
            let text = format!("child {n} fails");
            assert!(n > 100, "{text}");
            text
        });
        let error = child.join().expect_err("it panics");
        refused += hop();
        assert_eq!(error, JoinError::Panicked { message: format!("child {n} fails") });
    }
    refused
}

#[migrt::migratable]
fn nested() -> u64 {
    let mut refused = 0;
    for n in 0..20u64 {
        let (inner, handle, later) = migrt::spawn(move || {
            let inner = migrt::spawn(move || Goods::make("inner".to_owned(), n));
            let handle: LocalHandle<Vec<String>> = migrt::spawn(|| vec!["handle".to_owned(); 50]);
            // Ends after its parent.
            let later = migrt::spawn(|| {
                migrt::sleep(Duration::from_millis(2));
                vec!["later".to_owned(); 50]
            });
            (inner.join().expect("the inner one"), handle, later)
        })
        .join()
        .expect("the outer one");
        let later = later.join().expect("the late one");
        let handle = handle.join().expect("the handle");
        refused += hop();
        inner.check("inner", n);
        assert_eq!(handle[49], "handle");
        assert_eq!(later[49], "later");
    }
    refused
}

/// Why the task may not leave; chaos mode may be trying the same.
fn refusal() -> String {
    loop {
        let why = migrt::migrate_to(next_node()).expect_err("it is pinned").to_string();
        if !why.contains("another move of this task") {
            return why;
        }
        migrt::yield_now();
    }
}

#[migrt::migratable]
fn pinned() -> u64 {
    let child = migrt::spawn(|| {
        migrt::sleep(Duration::from_millis(30));
        assert!(migrt::migrate_to(next_node()).is_err(), "a closure does not move");
        "slept".to_owned()
    });
    let here = migrt::here();
    let why = refusal();
    assert!(why.contains("1 local task(s) that it started and that still run"), "{why}");
    assert_eq!(migrt::here(), here);
    assert_eq!(child.join().expect("it sleeps"), "slept");
    hop()
}

#[migrt::migratable]
fn handles_travel() -> u64 {
    let children: Vec<LocalHandle<Goods>> =
        (0..10).map(|n| migrt::spawn(move || Goods::make("far".to_owned(), n))).collect();
    while children.iter().any(|child| !child.is_finished()) {
        migrt::yield_now();
    }
    let mut refused = hop();
    for (n, child) in children.into_iter().enumerate() {
        child.join().expect("it has ended").check("far", n as u64);
        refused += hop();
    }
    refused
}

#[migrt::migratable]
fn shared() -> u64 {
    let shared = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..30u64 {
        let (shared, done) = (shared.clone(), done.clone());
        drop(migrt::spawn(move || {
            shared.lock().expect("not poisoned").push(format!("left by {n}"));
            drop(shared);
            done.fetch_add(1, Ordering::SeqCst);
        }));
    }
    while done.load(Ordering::SeqCst) < 30 {
        migrt::yield_now();
    }
    // The last child may be on its last steps.
    while migrt::migrate_to(next_node()).is_err() {
        migrt::yield_now();
    }
    let left = std::mem::take(&mut *shared.lock().expect("not poisoned"));
    assert_eq!(left.iter().filter(|text| text.starts_with("left by ")).count(), 30);
    drop(left);
    hop()
}

/// A file that a child has opened pins the one who holds it.
#[migrt::migratable]
fn files() -> u64 {
    let file = migrt::spawn(|| std::fs::File::open("/proc/self/status").expect("procfs"))
        .join()
        .expect("it opens");
    let why = refusal();
    assert!(why.contains("1 open file(s)"), "{why}");
    drop(file);
    hop()
}

#[migrt::migratable]
fn place() -> NodeId {
    migrt::here()
}

#[migrt::migratable]
fn crowd() -> u64 {
    let mut refused = 0;
    for _ in 0..5 {
        let children: Vec<_> = (0..64u64)
            .map(|n| {
                migrt::spawn(move || {
                    // Thread-locals, calls and sleeps of its own.
                    let there = migrt::spawn(place()).join().expect("a call");
                    migrt::sleep(Duration::from_micros(n * 10));
                    let text = format!("{n} at {there}");
                    vec![text; 10 + n as usize]
                })
            })
            .collect();
        let texts: Vec<_> =
            children.into_iter().map(|child| child.join().expect("one of a crowd")).collect();
        refused += hop();
        assert!(texts.iter().enumerate().all(|(n, t)| t.len() == n + 10 && t[0] == t[9]));
    }
    refused
}

static LATE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Ends while its child runs.
#[migrt::migratable]
fn leaves_a_child(n: u64) -> u64 {
    let text = format!("child of a parent that has ended {n}");
    drop(migrt::spawn(move || {
        migrt::sleep(Duration::from_millis(20));
        LATE.lock().expect("not poisoned").push(text.clone() + ", from its own heap");
        text
    }));
    0
}

/// Is cancelled while it waits for its child.
#[migrt::migratable]
fn waits_for_ever() -> u64 {
    let child = migrt::spawn(|| {
        migrt::sleep(Duration::from_millis(50));
        LATE.lock().expect("not poisoned").push("child of a cancelled parent".to_owned());
        vec![1u64; 1000]
    });
    child.join().expect("never seen").len() as u64
}

/// Spawns for long and moves only then: dead arenas may not gather.
#[migrt::migratable]
fn stays() -> u64 {
    let mut held: Vec<Vec<u64>> = Vec::new();
    let slots_before = slots_in_use();
    let mut slots_max = 0;
    let since = Instant::now();
    for n in 0..5_000u64 {
        let list = migrt::spawn(move || vec![n; 30]).join().expect("a list");
        assert_eq!(list[29], n);
        held.push(list);
        if held.len() > 10 {
            held.remove(0);
        }
        slots_max = slots_in_use().max(slots_max);
    }
    println!("{:?} for each child that is spawned and joined", since.elapsed() / 5_000);
    let refused = hop();
    assert_eq!(held.iter().map(|list| list[3]).sum::<u64>(), (4_990..5_000).sum());
    // In chaos mode slots that have travelled rest for a while.
    let is_chaos = std::env::var("MIGRT_CHAOS").is_ok_and(|v| v == "1");
    assert!(
        is_chaos || slots_max < slots_before + 64,
        "{slots_max} slots in use, {slots_before} before"
    );
    refused
}

fn slots_in_use() -> u64 {
    migrt::metrics().slots_in_use
}

#[migrt::migratable]
fn usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a known line");
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    (kib, slots_in_use())
}

fn measure() -> Result<Vec<(u64, u64)>, JoinError> {
    // Remains are looked at after 0.8 s, and slots that have travelled rest for 2.5.
    migrt::sleep(Duration::from_millis(4_000));
    (0..NODES).map(|node| migrt::spawn_on(NodeId(node), usage()).join()).collect()
}

fn late() -> Result<(), JoinError> {
    for n in 0..10 {
        migrt::spawn(leaves_a_child(n)).join()?;
    }
    let cancelled = migrt::spawn(waits_for_ever());
    migrt::sleep(Duration::from_millis(10));
    cancelled.cancel();
    assert_eq!(cancelled.join(), Err(JoinError::Cancelled));
    let since = Instant::now();
    while LATE.lock().expect("not poisoned").len() < 11 {
        assert!(since.elapsed() < Duration::from_secs(5), "{LATE:?}");
        migrt::sleep(Duration::from_millis(1));
    }
    // What they left in a static outlives parents, children and the collector.
    migrt::sleep(Duration::from_millis(1_500));
    let texts = std::mem::take(&mut *LATE.lock().expect("not poisoned"));
    assert_eq!(texts.iter().filter(|t| t.ends_with(", from its own heap")).count(), 10);
    Ok(())
}

/// Everything once: how many moves were refused.
fn paragraphs(rounds: u64) -> Result<u64, JoinError> {
    let mut refused = 0;
    let mut paragraph = |name: &str, count: Result<u64, JoinError>| {
        println!("ok {name}");
        count.map(|count| refused += count)
    };
    paragraph("results", migrt::spawn(results(rounds)).join())?;
    paragraph("long_results", migrt::spawn(long_results(50)).join())?;
    paragraph("panics", migrt::spawn(panics()).join())?;
    paragraph("nested", migrt::spawn(nested()).join())?;
    paragraph("pinned", migrt::spawn(pinned()).join())?;
    paragraph("handles_travel", migrt::spawn(handles_travel()).join())?;
    paragraph("shared", migrt::spawn(shared()).join())?;
    paragraph("files", migrt::spawn(files()).join())?;
    paragraph("crowd", migrt::spawn(crowd()).join())?;
    paragraph("stays", migrt::spawn(stays()).join())?;
    late()?;
    println!("ok late");
    Ok(refused)
}

fn tour(rounds: u64) -> Result<(), JoinError> {
    trip::settle();
    // Caches and pools fill first: the base line is a node that has done all of this before.
    paragraphs(100)?;
    let before = measure()?;
    let refused = paragraphs(rounds)?;
    let after = measure()?;
    println!("KiB and slots before {before:?} after {after:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(after.0 < before.0 + RESIDENT_SLACK_KIB, "memory has grown");
        assert!(after.1 < before.1 + SLOT_SLACK, "slots are missing");
    }
    println!("total refused {refused}");
    Ok(())
}

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1000);
    let run = migrt::Builder::new().workers(2).local_nodes(NODES).run(move || tour(rounds));
    match run.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
