//! Parcels: handed from task to task on one node and between nodes, held by tasks that move, given up.
//!
//! `parcels PARAGRAPH [ROUNDS]`, two nodes (three for `deaths`). Each paragraph prints `ok` and its name.
//! Exit code 1 if something is wrong.

#![allow(unsafe_code, reason = "a tree whose children point to their parents")]

use std::cell::Cell;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migrt::{JoinError, NodeId, Parcel, ParcelError};
use migrt_iso::{SlotClass, pool};
use migrt_test_migrate::trip::{self, next_node};

type Map = HashMap<String, Vec<u64>>;

const RESIDENT_SLACK_KIB: u64 = 24 << 10;
const SLOT_SLACK: u64 = 40;

fn map(keys: u64, len: u64) -> Map {
    (0..keys).map(|key| (format!("key {key}"), (0..len).map(|n| n * key).collect())).collect()
}

/// What [`sum`] gives of such a map.
fn sum_of(keys: u64, len: u64) -> u64 {
    (0..keys).sum::<u64>() * (0..len).sum::<u64>()
}

#[inline(never)]
fn sum(map: &Map) -> u64 {
    map.iter()
        .map(|(key, values)| {
            assert!(key.starts_with("key "));
            values.iter().sum::<u64>()
        })
        .sum()
}

/// A tree whose children know their parents.
struct Node {
    name: String,
    parent: *const Node,
    children: Vec<Box<Node>>,
}

/// A tree may be sent as a whole: nothing outside points into it.
struct Tree(Box<Node>);

// SAFETY: the pointers lead to nodes of the same tree, which one owner has.
unsafe impl Send for Tree {}

impl Tree {
    fn grow(depth: u32) -> Tree {
        fn node(name: String, depth: u32, parent: *const Node) -> Box<Node> {
            let mut this = Box::new(Node { name, parent, children: Vec::new() });
            if depth > 0 {
                let at: *const Node = &raw const *this;
                this.children = (0..3).map(|n| node(format!("{}.{n}", this.name), depth - 1, at)).collect();
            }
            this
        }
        Tree(node("root".to_owned(), depth, std::ptr::null()))
    }

    /// Walks down to each leaf and up again; the number of nodes.
    fn check(&self) -> u64 {
        fn walk(node: &Node, parent: *const Node, depth: usize) -> u64 {
            assert!(std::ptr::eq(node.parent, parent), "{}", node.name);
            let mut up = (node.parent, 0);
            // SAFETY: parents live as long as the tree.
            while let Some(parent) = unsafe { up.0.as_ref() } {
                up = (parent.parent, up.1 + 1);
            }
            assert_eq!((up.1, node.name.matches('.').count()), (depth, depth));
            1 + node.children.iter().map(|child| walk(child, node, depth + 1)).sum::<u64>()
        }
        walk(&self.0, std::ptr::null(), 0)
    }
}

/// Moves on, as soon as nothing is in the way any more.
fn hop() {
    let since = Instant::now();
    let before = migrt::moves();
    while let Err(error) = migrt::migrate_to(next_node()) {
        if migrt::moves() > before {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{error}");
        migrt::sleep(Duration::from_millis(20));
    }
}

#[migrt::migratable]
fn total(parcel: Parcel<Map>) -> u64 {
    sum(&parcel)
}

#[migrt::migratable]
fn address(parcel: Parcel<Map>) -> (u64, usize, Parcel<Map>) {
    let at = std::ptr::from_ref(&*parcel) as usize;
    (sum(&parcel), at, parcel)
}

#[migrt::migratable]
fn make(keys: u64, len: u64) -> Parcel<Map> {
    Parcel::new(move || map(keys, len)).expect("a map is alone")
}

#[migrt::migratable]
fn nodes_of(trees: Vec<Parcel<Tree>>, extra: Option<Parcel<String>>) -> (u64, Option<Parcel<String>>) {
    (trees.iter().map(|tree| tree.check()).sum(), extra)
}

/// Sends one of its own and takes it back, wherever it and the other are.
#[migrt::migratable]
fn sends(to: NodeId) -> u64 {
    let mut parcel = Parcel::new(|| map(50, 50)).expect("a map is alone");
    let mut done = 0;
    for _ in 0..6 {
        let (sum, at, back) = migrt::spawn_on(to, address(parcel)).join().expect("it comes back");
        assert_eq!(sum, sum_of(50, 50));
        assert_eq!(at, std::ptr::from_ref(&*back) as usize, "the same address");
        parcel = back;
        hop();
        done += 1;
    }
    done
}

fn local() -> Result<(), JoinError> {
    let parcel = Parcel::new(|| map(100, 100)).expect("a map is alone");
    let at = std::ptr::from_ref(&*parcel) as usize;
    let (found, there, back) = migrt::spawn(address(parcel)).join()?;
    assert_eq!((found, there), (sum_of(100, 100), at));
    assert_eq!(std::ptr::from_ref(&*back) as usize, at);
    // By a closure, and by an OS thread.
    let back = migrt::spawn(move || (sum(&back), back)).join()?;
    assert_eq!(back.0, found);
    let parcel = back.1;
    let parcel = std::thread::spawn(move || {
        assert_eq!(sum(&parcel), sum_of(100, 100));
        let other = Parcel::new(|| map(3, 3)).expect("on a thread of its own");
        assert_eq!(migrt::spawn(total(other)).join(), Ok(sum_of(3, 3)));
        parcel
    })
    .join()
    .expect("a thread");
    // What is taken out of it lives on.
    let mut map = parcel.into_inner();
    map.insert("more".to_owned(), vec![1]);
    assert_eq!(map.remove("key 7").map(|values| values[1]), Some(7));
    drop(map);
    Ok(())
}

fn remote() -> Result<(), JoinError> {
    let there = NodeId(1);
    let parcel = Parcel::new(|| map(100, 1000)).expect("a map is alone");
    let at = std::ptr::from_ref(&*parcel) as usize;
    let (found, same, back) = migrt::spawn_on(there, address(parcel)).join()?;
    assert_eq!((found, same), (sum_of(100, 1000), at));
    assert_eq!(std::ptr::from_ref(&*back) as usize, at);
    drop(back);
    let made = migrt::spawn_on(there, make(10, 10)).join()?;
    assert_eq!(sum(&made), sum_of(10, 10));
    assert_eq!(migrt::spawn_on(there, total(made)).join()?, sum_of(10, 10));
    let trees = || (0..3).map(|_| Parcel::new(|| Tree::grow(6)).expect("a tree")).collect();
    let extra = Parcel::new(|| "extra".repeat(1000)).expect("a text");
    let (count, extra) = migrt::spawn_on(there, nodes_of(trees(), Some(extra))).join()?;
    assert_eq!((count, extra.expect("sent back").len()), (3 * 1093, 5000));
    let (count, none) = migrt::spawn_on(there, nodes_of(trees(), None)).join()?;
    assert!(count == 3 * 1093 && none.is_none());
    assert_eq!(migrt::spawn(sends(there)).join()?, 6);
    assert_eq!(migrt::spawn_on(there, sends(there)).join()?, 6);
    Ok(())
}

struct Rarely(Mutex<Option<Arc<String>>>);

static SHARED: Mutex<Option<Arc<String>>> = Mutex::new(None);

fn refused() -> Result<(), JoinError> {
    let check = |result: Result<(), ParcelError>, part: &str| {
        let error = result.expect_err(part);
        assert!(matches!(error, ParcelError::NotAlone { .. }), "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    };
    let file = Parcel::new(|| std::fs::File::open("/proc/self/status").expect("procfs"));
    check(file.map(drop), "1 open file(s) or socket(s)");
    let socket = Parcel::new(|| std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback"));
    check(socket.map(drop), "1 open file(s) or socket(s)");
    let shared = Arc::new("shared with the outside".to_owned());
    let also = shared.clone();
    let both = Parcel::new(move || vec![also; 3]);
    check(both.map(drop), "a word of its value, at 0x");
    assert_eq!(Arc::strong_count(&shared), 1, "what was refused is dropped");
    let text = String::from("a text of the caller's, long enough for a block");
    check(Parcel::new(move || text).map(drop), "of this node's heap");
    let inner = Parcel::new(|| 7u64).expect("a number");
    check(Parcel::new(move || vec![inner]).map(drop), "another parcel is in it");
    let panicked = Parcel::<u64>::new(|| panic!("it fails"));
    assert!(matches!(panicked, Err(ParcelError::Panicked { message }) if message == "it fails"));
    // By a mobile task, whose memory is another's from the parcel's point of view.
    migrt::spawn(refused_in_task()).join()?;
    // What comes in later is found at the sending, or before it leaves.
    let mut later = Parcel::new(|| Rarely(Mutex::new(None))).expect("nothing in it");
    let also = shared.clone();
    later.with_mut(move |rarely| rarely.0 = Mutex::new(Some(also)));
    let error = migrt::try_spawn(keeps(later)).expect_err("it leads out").to_string();
    assert!(error.contains("a word of its value"), "{error}");
    let later = Parcel::new(|| Rarely(Mutex::new(None))).expect("nothing in it");
    *later.0.lock().expect("not poisoned") = Some(shared.clone());
    let error = migrt::spawn_on(NodeId(1), keeps(later)).join().expect_err("it cannot leave");
    assert!(error.to_string().contains("a word of its value"), "{error}");
    // Only the runtime encodes one.
    let parcel = Parcel::new(|| 7u64).expect("a number");
    struct Shown<'a>(&'a Parcel<u64>);
    impl std::fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            serde::Serialize::serialize(self.0, f)
        }
    }
    let mut text = String::new();
    assert!(std::fmt::write(&mut text, format_args!("{}", Shown(&parcel))).is_err());
    assert_eq!(*parcel, 7, "and it is still there");
    let wrong = migrt::spawn(takes_text(Wrong(Cell::new(Some(parcel))))).join();
    let error = wrong.expect_err("a number is no text").to_string();
    assert!(error.contains("a parcel holds a `u64`"), "{error}");
    Ok(())
}

/// Encoded as a parcel of one type, decoded as one of another.
struct Wrong(Cell<Option<Parcel<u64>>>);

impl serde::Serialize for Wrong {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parcel = self.0.take().expect("once");
        serde::Serialize::serialize(&parcel, serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Wrong {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Wrong, D::Error> {
        let parcel: Parcel<String> = serde::Deserialize::deserialize(deserializer)?;
        unreachable!("{parcel:?} is no text")
    }
}

#[migrt::migratable]
fn takes_text(_wrong: Wrong) {}

#[migrt::migratable]
fn keeps(parcel: Parcel<Rarely>) -> bool {
    parcel.0.lock().expect("not poisoned").is_some()
}

#[migrt::migratable]
fn refused_in_task() {
    let text = String::from("a text of the task's, long enough for a block");
    let error = Parcel::new(move || text).map(drop).expect_err("it lies in the task").to_string();
    assert!(error.contains("in a slot of another task"), "{error}");
    *SHARED.lock().expect("not poisoned") = Some(Arc::new("in a static".to_owned()));
    let error = Parcel::new(|| SHARED.lock().expect("not poisoned").clone()).map(drop);
    assert!(error.expect_err("a static has it").to_string().contains("a word of its value"));
    *SHARED.lock().expect("not poisoned") = None;
    hop();
}

/// Holds parcels in its heap and walks.
#[migrt::migratable]
fn holder(hops: u64) -> u64 {
    let mut held: Vec<Parcel<Map>> =
        (1..4).map(|n| Parcel::new(move || map(n * 20, 200)).expect("a map is alone")).collect();
    let tree = Parcel::new(|| Tree::grow(6)).expect("a tree");
    let addresses: Vec<usize> = held.iter().map(|p| std::ptr::from_ref(&**p) as usize).collect();
    for n in 0..hops {
        hop();
        for (at, parcel) in held.iter().enumerate() {
            let keys = (at as u64 + 1) * 20;
            assert_eq!(sum(parcel), sum_of(keys, 200) + n);
            assert_eq!(std::ptr::from_ref(&**parcel) as usize, addresses[at]);
        }
        for parcel in &mut held {
            parcel.with_mut(move |map| {
                let list = map.entry("key extra".to_owned()).or_default();
                list.push(1);
                list.reserve(1000);
            });
        }
        assert_eq!(tree.check(), 1093);
    }
    // What it gives away does not hold it back.
    let given = held.pop().expect("three of them");
    let count = migrt::spawn_on(next_node(), total(given)).join().expect("a sum");
    assert_eq!(count, sum_of(60, 200) + hops);
    hop();
    drop(held);
    hop();
    tree.check()
}

/// Waits with what it got until it is told to go on.
#[migrt::migratable]
fn never_reads(_parcels: Vec<Parcel<Vec<u8>>>) -> u64 {
    migrt::sleep(Duration::from_secs(60));
    0
}

#[migrt::migratable]
fn makes_bytes(len: usize) -> Parcel<Vec<u8>> {
    Parcel::new(move || vec![7u8; len]).expect("bytes")
}

#[migrt::migratable]
fn busy() -> bool {
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    true
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Counted(#[expect(dead_code, reason = "memory to be seen")] Vec<u8>);

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

#[migrt::migratable]
fn keeps_counted(_parcel: Parcel<Counted>) {}

#[migrt::migratable]
fn makes_counted() -> Parcel<Counted> {
    Parcel::new(|| Counted(vec![1; 1 << 20])).expect("bytes")
}

#[migrt::migratable]
fn dropped() -> u64 {
    DROPPED.swap(0, Ordering::SeqCst)
}

/// Waits until so many values were dropped on the nodes.
fn wait_dropped(count: u64, nodes: u16) -> Result<(), JoinError> {
    let since = Instant::now();
    let mut sum = 0;
    while sum < count {
        for node in 0..nodes {
            sum += migrt::spawn_on(NodeId(node), dropped()).join()?;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{sum} of {count} were dropped");
        migrt::sleep(Duration::from_millis(5));
    }
    assert_eq!(sum, count, "dropped once each");
    Ok(())
}

/// Messages that nobody reads.
fn unread(rounds: u64) -> Result<(), JoinError> {
    let there = NodeId(1);
    let counted = || Parcel::new(|| Counted(vec![1; 1 << 20])).expect("bytes");
    // Calls that are cancelled before they begin, here and there.
    for n in 0..rounds {
        let spins: Vec<_> = (0..4).map(|_| migrt::spawn_on(NodeId(n as u16 % 2), busy())).collect();
        let call = migrt::spawn_on(NodeId(n as u16 % 2), keeps_counted(counted()));
        call.cancel();
        let _ = call.join();
        spins.into_iter().for_each(|spin| assert_eq!(spin.join(), Ok(true)));
    }
    wait_dropped(rounds, 2)?;
    println!("ok cancelled calls");
    // Calls that cannot be sent.
    for _ in 0..rounds {
        let call = migrt::spawn_on(NodeId(77), keeps_counted(counted()));
        assert!(call.join().is_err());
    }
    wait_dropped(rounds, 2)?;
    println!("ok calls to nowhere");
    // Results that nobody joins, before and after their end.
    for n in 0..rounds {
        let call = migrt::spawn_on(NodeId(n as u16 % 2), makes_counted());
        if n % 4 > 1 {
            while !call.is_finished() {
                migrt::sleep(Duration::from_millis(1));
            }
        }
        drop(call);
    }
    wait_dropped(rounds, 2)?;
    println!("ok results not joined");
    // One that is cancelled with what it holds.
    let held: Vec<_> = (0..4).map(|_| Parcel::new(|| vec![1u8; 1 << 20]).expect("bytes")).collect();
    let waits = migrt::spawn_on(there, never_reads(held));
    migrt::sleep(Duration::from_millis(100));
    waits.cancel();
    assert_eq!(waits.join(), Err(JoinError::Cancelled));
    // Dropped where they were made, moved to, or held by the node.
    drop(counted());
    drop(migrt::spawn_on(there, makes_counted()).join()?);
    drop(migrt::spawn(makes_counted()).join()?);
    wait_dropped(3, 2)?;
    Ok(())
}

static ESCAPED: Mutex<Vec<Arc<String>>> = Mutex::new(Vec::new());

struct Leaky(Vec<Arc<String>>);

/// What a static reaches of a parcel that has left stays whole here, and there is one that goes on there.
fn statics(rounds: u64) -> Result<(), JoinError> {
    let make = || Leaky((0..50).map(|n| Arc::new(format!("escaped {n}"))).collect());
    for round in 0..rounds {
        let parcel = Parcel::new(make).expect("alone when it was built");
        ESCAPED.lock().expect("not poisoned").push(parcel.0[(round % 50) as usize].clone());
        let kept = migrt::spawn_on(NodeId(1), leaky(parcel)).join()?;
        assert_eq!(kept, 50);
        if round % 10 == 9 {
            // The collector comes round.
            migrt::sleep(Duration::from_millis(1_000));
        }
        let escaped = ESCAPED.lock().expect("not poisoned");
        for (n, text) in escaped.iter().enumerate() {
            assert_eq!(**text, format!("escaped {}", n % 50));
        }
    }
    ESCAPED.lock().expect("not poisoned").clear();
    Ok(())
}

#[migrt::migratable]
fn leaky(parcel: Parcel<Leaky>) -> usize {
    assert!(parcel.0.iter().enumerate().all(|(n, text)| **text == format!("escaped {n}")));
    parcel.0.len()
}

#[migrt::migratable]
fn passes_on(parcel: Parcel<Map>, left: u64) -> Parcel<Map> {
    match left {
        0 => parcel,
        _ => migrt::spawn_on(next_node(), passes_on(parcel, left - 1)).join().expect("it comes back"),
    }
}

/// Handed over again and again, between nodes and on one.
fn rounds(count: u64) -> Result<(), JoinError> {
    let mut parcel = Parcel::new(|| map(100, 100)).expect("a map is alone");
    for n in 0..count {
        let node = NodeId((n % 2) as u16);
        let (found, _, back) = migrt::spawn_on(node, address(parcel)).join()?;
        assert_eq!(found, sum_of(100, 100));
        parcel = back;
        if n % 50 == 0 {
            parcel = migrt::spawn(passes_on(parcel, 4)).join()?;
        }
    }
    Ok(())
}

fn slots_in_use() -> u64 {
    let pool = pool::global();
    let used = |class| u64::from(pool.owned_count(class)) - u64::from(pool.free_count(class));
    (0..=18).filter_map(SlotClass::new).map(used).sum()
}

#[migrt::migratable]
fn usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a known line");
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    (kib, slots_in_use())
}

fn measure(nodes: u16) -> Result<Vec<(u64, u64)>, JoinError> {
    // Remains are looked at after 0.8 s, and slots that have travelled rest for 2.5.
    migrt::sleep(Duration::from_millis(4_000));
    (0..nodes).map(|node| migrt::spawn_on(NodeId(node), usage()).join()).collect()
}

/// Does it, and looks that nothing is left over.
fn at_baseline(what: impl Fn(u64) -> Result<(), JoinError>, count: u64) -> Result<(), JoinError> {
    what(count.min(100))?;
    let before = measure(2)?;
    what(count)?;
    let after = measure(2)?;
    println!("KiB and slots before {before:?} after {after:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(after.0 < before.0 + RESIDENT_SLACK_KIB, "memory has grown");
        assert!(after.1 < before.1 + SLOT_SLACK, "slots are missing");
    }
    Ok(())
}

#[migrt::migratable]
fn far(parcel: Parcel<Map>) -> u64 {
    sum(&parcel)
}

static OVER: AtomicBool = AtomicBool::new(false);

/// Node 1 makes a parcel, node 2 gets it; one of them dies on the way (`MIGRT_FAIL`). Everybody hears of it.
fn deaths() -> Result<(), JoinError> {
    let before = slots_in_use();
    for n in 0..20 {
        let made = migrt::spawn_on(NodeId(1), sends_far(n)).join();
        match &made {
            Ok(found) => assert_eq!(*found, sum_of(200, 1000)),
            Err(why) => println!("heard {why}"),
        }
        // And one of this node's, by whichever of the two lives.
        for node in [NodeId(1), NodeId(2)] {
            let parcel = Parcel::new(|| map(20, 1000)).expect("a map is alone");
            match migrt::spawn_on(node, far(parcel)).join() {
                Ok(found) => assert_eq!(found, sum_of(20, 1000)),
                Err(why) => println!("heard {why}"),
            }
        }
        if migrt::nodes().len() < 3 {
            break;
        }
    }
    OVER.store(true, Ordering::Relaxed);
    assert_eq!(migrt::nodes().len(), 2, "one was to die");
    let since = Instant::now();
    while slots_in_use() > before + SLOT_SLACK {
        assert!(since.elapsed() < Duration::from_secs(10), "slots are missing");
        migrt::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[migrt::migratable]
fn sends_far(_n: u64) -> u64 {
    let parcel = Parcel::new(|| map(200, 1000)).expect("a map is alone");
    match migrt::spawn_on(NodeId(2), far(parcel)).join() {
        Ok(found) => found,
        Err(why) => panic!("{why}"),
    }
}

fn paragraph(name: &str, count: u64) -> Result<(), JoinError> {
    match name {
        "local" => local()?,
        "remote" => remote()?,
        "refused" => refused()?,
        "holder" => {
            for node in 0..2 {
                assert_eq!(migrt::spawn_on(NodeId(node), holder(5)).join()?, 1093);
            }
        }
        "unread" => at_baseline(unread, count)?,
        "statics" => statics(count)?,
        "rounds" => at_baseline(rounds, count)?,
        "deaths" => deaths()?,
        other => panic!("no paragraph is called {other}"),
    }
    println!("ok {name}");
    Ok(())
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "local".to_owned());
    let count = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(20);
    let nodes = if name == "deaths" { 3 } else { 2 };
    let run = migrt::Builder::new().workers(2).local_nodes(nodes).run(move || {
        if nodes == 2 {
            trip::settle();
        }
        paragraph(&name, count)
    });
    match run.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
