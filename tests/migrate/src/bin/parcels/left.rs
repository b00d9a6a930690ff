//! What is left behind: by messages that nobody reads, by statics, by very many hand-overs, by nodes that die.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migrt::{JoinError, NodeId, Parcel};
use migrt_test_migrate::trip::next_node;

use crate::address;
use crate::values::{Map, map, sum, sum_of};

const RESIDENT_SLACK_KIB: u64 = 24 << 10;
const SLOT_SLACK: u64 = 8;

/// Waits with what it got until it is told to go on.
#[migrt::migratable]
fn never_reads(_parcels: Vec<Parcel<Vec<u8>>>) -> u64 {
    migrt::sleep(Duration::from_secs(60));
    0
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
pub fn unread(rounds: u64) -> Result<(), JoinError> {
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
pub fn statics(rounds: u64) -> Result<(), JoinError> {
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
        _ => {
            migrt::spawn_on(next_node(), passes_on(parcel, left - 1)).join().expect("it comes back")
        }
    }
}

/// Handed over again and again, between nodes and on one.
pub fn rounds(count: u64) -> Result<(), JoinError> {
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
    migrt::metrics().slots_in_use
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

#[migrt::migratable]
fn rests() {
    migrt::sleep(Duration::from_millis(20));
}

/// Many tasks at once: workers keep their slots warm afterwards, and these are not in use.
fn crowd() -> Result<(), JoinError> {
    let tasks: Vec<_> = (0..200).map(|n| migrt::spawn_on(NodeId(n % 2), rests())).collect();
    tasks.into_iter().try_for_each(|task| task.join())
}

/// Does it, and looks that nothing is left over.
pub fn at_baseline(
    what: impl Fn(u64) -> Result<(), JoinError>,
    count: u64,
) -> Result<(), JoinError> {
    what(count.min(100))?;
    let before = measure(2)?;
    what(count)?;
    crowd()?;
    let is_back = |after: &[(u64, u64)]| {
        let mut pairs = before.iter().zip(after);
        pairs.all(|(b, a)| a.0 < b.0 + RESIDENT_SLACK_KIB && a.1 < b.1 + SLOT_SLACK)
    };
    let mut after = measure(2)?;
    // What looked reached is looked at ever more rarely: the sixth time after half a minute.
    for _ in 0..8 {
        if is_back(&after) {
            break;
        }
        after = measure(2)?;
    }
    assert!(is_back(&after), "KiB and slots in use: {before:?} before, {after:?} after");
    Ok(())
}

#[migrt::migratable]
fn far(parcel: Parcel<Map>) -> u64 {
    sum(&parcel)
}

/// Node 1 makes a parcel, node 2 gets it; one of them dies on the way (`MIGRT_FAIL`). Everybody hears of it.
pub fn deaths() -> Result<(), JoinError> {
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
