//! Parcels: handed from task to task on one node and between nodes, held by tasks that move, given up.
//!
//! `parcels PARAGRAPH [ROUNDS]`, two nodes (three for `deaths` and `lost`). Each paragraph prints `ok` and its name.
//! Exit code 1 if something is wrong.

mod lazy;
mod left;
mod values;

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use left::{at_baseline, deaths, rounds, statics, unread};
use migrt::{JoinError, NodeId, Parcel, ParcelError};
use migrt_test_migrate::trip::{self, next_node};
use values::{Map, Tree, map, sum, sum_of};

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
fn nodes_of(
    trees: Vec<Parcel<Tree>>,
    extra: Option<Parcel<String>>,
) -> (u64, Option<Parcel<String>>) {
    (trees.iter().map(|tree| tree.check()).sum(), extra)
}

/// Sends one of its own, takes it back, and moves with it: so what it leaves behind is in the way of the parcel.
#[migrt::migratable]
fn sends(to: NodeId) -> u64 {
    let mut parcel = Parcel::new(|| map(50, 50)).expect("a map is alone");
    let mut done = 0;
    for _ in 0..6 {
        let (sum, at, back) = migrt::spawn_on(to, address(parcel)).join().expect("it comes back");
        assert_eq!(sum, sum_of(50, 50));
        assert_eq!(!at, place(&back), "the same address");
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

/// The address of the value, inverted.
#[inline(never)]
fn place(parcel: &Parcel<Map>) -> usize {
    parcel.with(|map| !(std::ptr::from_ref(map) as usize))
}

/// Holds parcels in its heap and walks.
#[migrt::migratable]
fn holder(hops: u64) -> u64 {
    let mut held: Vec<Parcel<Map>> =
        (1..4).map(|n| Parcel::new(move || map(n * 20, 200)).expect("a map is alone")).collect();
    let tree = Parcel::new(|| Tree::grow(6)).expect("a tree");
    // Inverted: numbers that look like addresses would refuse moves when a parcel was given away.
    let addresses: Vec<usize> = held.iter().map(place).collect();
    for n in 0..hops {
        hop();
        for (at, parcel) in held.iter().enumerate() {
            let keys = (at as u64 + 1) * 20;
            assert_eq!(parcel.with(sum), sum_of(keys, 200) + n);
            assert_eq!(place(parcel), addresses[at]);
        }
        for parcel in &mut held {
            parcel.with_mut(move |map| {
                let list = map.entry("key extra".to_owned()).or_default();
                list.push(1);
                list.reserve(1000);
            });
        }
        assert_eq!(tree.with(Tree::check), 1093);
    }
    // What it gives away does not hold it back.
    let given = held.pop().expect("three of them");
    let count = migrt::spawn_on(next_node(), total(given)).join().expect("a sum");
    assert_eq!(count, sum_of(60, 200) + hops);
    hop();
    drop(held);
    hop();
    tree.with(Tree::check)
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
        "lazy" => {
            at_baseline(lazy::rounds, count)?;
            lazy::records()?;
        }
        "lost" => lazy::lost()?,
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
    let nodes = if ["deaths", "lost"].contains(&name.as_str()) { 3 } else { 2 };
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
