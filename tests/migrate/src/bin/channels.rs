//! Channels between tasks that move all the time.
//!
//! `channels KIND`: `order`, `parcels`, `closed`, `deaths`, `leaves`. Exit code 1 if anything is not as it is to be.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use migrt::{ChannelError, JoinError, NodeId, Parcel, Receiver, Sender};
use migrt_test_migrate::trip::{self, next_node};

type Map = BTreeMap<String, Vec<u64>>;

const EACH: u64 = 60;

/// Moves, or tries to for a while: what is left behind may be in the way.
fn hop() {
    let since = Instant::now();
    while let Err(error) = migrt::migrate_to(next_node()) {
        assert!(since.elapsed() < Duration::from_secs(5), "{error}");
        migrt::sleep(Duration::from_millis(5));
    }
}

#[migrt::migratable]
fn sends(who: u64, to: Sender<(u64, u64)>) {
    for n in 0..EACH {
        to.send((who, n)).expect("the channel is open");
        if (n + who).is_multiple_of(3) {
            hop();
        }
    }
}

#[migrt::migratable]
fn receives(from: Receiver<(u64, u64)>, senders: u64) -> u64 {
    let mut next = vec![0; senders as usize];
    for n in 0..senders * EACH {
        let (who, number) = from.recv().expect("one for each that is sent");
        assert_eq!(number, next[who as usize], "of sender {who}");
        next[who as usize] += 1;
        if n % 4 == 1 {
            hop();
        }
    }
    u64::from(migrt::moves())
}

/// Three senders and a receiver, all of which go to and fro; more are sent than there is room for.
fn order() -> Result<(), JoinError> {
    for capacity in [1, 7] {
        let (to, from) = migrt::channel(capacity);
        let nodes = migrt::nodes();
        let senders: Vec<_> = (0..3)
            .map(|who| migrt::spawn_on(nodes[who % nodes.len()], sends(who as u64, to.clone())))
            .collect();
        let moves = migrt::spawn(receives(from, 3)).join()?;
        assert!(moves > 20, "the receiver has moved {moves} times");
        for sender in senders {
            sender.join()?;
        }
    }
    Ok(())
}

fn map(seed: u64) -> Map {
    (0..40).map(|n| (format!("{seed} {n}"), vec![seed + n; 200])).collect()
}

#[migrt::migratable]
fn sends_parcels(to: Sender<(u64, Parcel<Map>)>, count: u64) {
    for seed in 0..count {
        let parcel = Parcel::new(move || map(seed)).expect("a map is alone");
        let at = std::ptr::from_ref(&*parcel) as u64;
        to.send((!at, parcel)).expect("the channel is open");
    }
    to.close();
}

#[migrt::migratable]
fn takes_parcels(from: Receiver<(u64, Parcel<Map>)>) -> u64 {
    let mut count = 0;
    loop {
        match from.recv() {
            Ok((at, parcel)) => {
                assert_eq!(!at, std::ptr::from_ref(&*parcel) as u64, "at the same address");
                assert_eq!(*parcel, map(count));
                count += 1;
            }
            Err(ChannelError::Closed) => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

fn parcels() -> Result<(), JoinError> {
    for (there, here) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let (to, from) = migrt::channel(3);
        let sender = migrt::spawn_on(NodeId(there), sends_parcels(to, 12));
        let taken = migrt::spawn_on(NodeId(here), takes_parcels(from)).join()?;
        assert_eq!(taken, 12, "from {there} to {here}");
        sender.join()?;
    }
    Ok(())
}

#[migrt::migratable]
fn waits_for_one(from: Receiver<String>) -> Option<String> {
    from.recv().ok()
}

#[migrt::migratable]
fn closes(to: Sender<String>) {
    migrt::sleep(Duration::from_millis(50));
    to.close();
}

fn closed() -> Result<(), JoinError> {
    let (to, from) = migrt::channel(2);
    to.send("one".to_owned()).expect("open");
    to.send("two".to_owned()).expect("open");
    // A third has no room, and is held up until the channel is closed.
    let other = to.clone();
    let third = migrt::spawn(move || other.send("three".to_owned()));
    migrt::sleep(Duration::from_millis(50));
    assert!(!third.is_finished(), "there is room for two");
    from.close();
    assert_eq!(third.join()?, Err(ChannelError::Closed));
    assert_eq!(to.send("four".to_owned()), Err(ChannelError::Closed));
    assert_eq!(from.recv().as_deref(), Ok("one"));
    assert_eq!(from.recv().as_deref(), Ok("two"));
    assert_eq!(from.recv(), Err(ChannelError::Closed));
    assert_eq!(from.recv(), Err(ChannelError::Closed));
    // What is too long for the wire is not sent, and what comes after it is.
    let (to, from) = migrt::channel(2);
    let long = to.send("x".repeat(65 << 20));
    assert!(matches!(&long, Err(ChannelError::NotSent(why)) if why.to_string().contains("parcel")));
    to.send("short".to_owned()).expect("open");
    assert_eq!(from.recv().as_deref(), Ok("short"));
    // A receiver that waits elsewhere hears of the end.
    let (to, from) = migrt::channel(2);
    let waits = migrt::spawn_on(NodeId(1), waits_for_one(from));
    migrt::spawn_on(NodeId(1), closes(to)).join()?;
    assert_eq!(waits.join()?, None);
    // One that is cancelled while it waits takes no message along.
    let (to, from) = migrt::channel::<String>(2);
    let copy = postcard::to_stdvec(&from).expect("plain data");
    let cancelled = migrt::spawn_on(NodeId(1), waits_for_one(from));
    migrt::sleep(Duration::from_millis(50));
    cancelled.cancel();
    assert_eq!(cancelled.join(), Err(JoinError::Cancelled));
    to.send("late".to_owned()).expect("open");
    let from: Receiver<String> = postcard::from_bytes(&copy).expect("plain data");
    assert_eq!(from.recv().as_deref(), Ok("late"));
    Ok(())
}

#[migrt::migratable]
fn makes_one() -> (Sender<u64>, Receiver<u64>) {
    migrt::channel(4)
}

#[migrt::migratable]
fn sends_one(to: Sender<u64>, value: u64) {
    to.send(value).expect("open");
}

#[migrt::migratable]
fn dies() {
    // As a crash would: no other node is told.
    std::process::abort();
}

fn deaths() -> Result<(), JoinError> {
    let (here, from) = migrt::channel(4);
    migrt::spawn_on(NodeId(1), sends_one(here.clone(), 1)).join()?;
    migrt::spawn_on(NodeId(2), sends_one(here.clone(), 2)).join()?;
    here.send(3).expect("open");
    let (to_dead, from_dead) = migrt::spawn_on(NodeId(1), makes_one()).join()?;
    // One waits at the channel whose home dies.
    let bytes = postcard::to_stdvec(&from_dead).expect("plain data");
    let waits = migrt::spawn(move || {
        let from: Receiver<u64> = postcard::from_bytes(&bytes).expect("plain data");
        from.recv()
    });
    migrt::sleep(Duration::from_millis(50));
    assert!(migrt::spawn_on(NodeId(1), dies()).join().is_err());
    let lost = Err(ChannelError::Lost { node: NodeId(1) });
    assert_eq!(waits.join()?, lost);
    assert_eq!(from_dead.recv(), lost);
    assert_eq!(to_dead.send(5), Err(ChannelError::Lost { node: NodeId(1) }));
    // What node 1 had sent is lost with it, and nothing else is.
    let first = from.recv();
    assert!(matches!(first, Err(ChannelError::NotReceived(JoinError::Lost { .. }))), "{first:?}");
    assert_eq!(from.recv(), Ok(2));
    assert_eq!(from.recv(), Ok(3));
    Ok(())
}

/// Channels that are forgotten with messages in them, and such that are used up.
fn leaves() -> Result<(), JoinError> {
    let in_use = || migrt::metrics().slots_in_use;
    let rounds = |count: u64| -> Result<(), JoinError> {
        for n in 0..count {
            let (to, from) = migrt::channel(3);
            let sender = migrt::spawn_on(NodeId((n % 2) as u16), sends_parcels(to, 3));
            if n % 2 == 0 {
                migrt::spawn_on(NodeId(1), takes_parcels(from)).join()?;
            } else {
                while from.recv().is_ok() {}
            }
            sender.join()?;
        }
        Ok(())
    };
    rounds(4)?;
    migrt::sleep(Duration::from_secs(4));
    let before = in_use();
    rounds(20)?;
    for _ in 0..8 {
        if in_use() <= before + 2 {
            break;
        }
        migrt::sleep(Duration::from_secs(1));
    }
    assert!(in_use() <= before + 2, "{} slots in use, {before} before", in_use());
    Ok(())
}

fn main() -> ExitCode {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let nodes = if kind == "deaths" { 3 } else { 2 };
    let run = migrt::Builder::new().workers(1).local_nodes(nodes).run(move || {
        if nodes == 2 {
            trip::settle();
        }
        match &*kind {
            "order" => order(),
            "parcels" => parcels(),
            "closed" => closed(),
            "deaths" => deaths(),
            "leaves" => leaves(),
            other => panic!("{other:?} is no kind of channels"),
        }
    });
    match run.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
