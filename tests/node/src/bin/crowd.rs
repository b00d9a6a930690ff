//! More tasks than slots: `crowd NODES`, with `MIGRT_SLOTS` small. Every paragraph prints what was
//! refused, and that everything goes on once tasks have ended. A wrong outcome is a panic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrt::{JoinError, JoinHandle, NodeId, SpawnError};

static OPEN: AtomicBool = AtomicBool::new(false);

/// Holds its slot until it is told, or the time is over on a node that is not.
#[migrt::migratable]
fn hold(number: u64, limit_ms: u64) -> u64 {
    for _ in 0..limit_ms {
        if OPEN.load(Ordering::SeqCst) {
            break;
        }
        migrt::sleep(Duration::from_millis(1));
    }
    number
}

fn hold_here() -> u64 {
    while !OPEN.load(Ordering::SeqCst) {
        migrt::sleep(Duration::from_millis(1));
    }
    7
}

const MANY: u64 = 100_000;

/// Starts tasks until none is started any more, nor a little later: a worker that was busy may have
/// kept a slot warm until then.
fn fill<H>(start: impl Fn(u64) -> Result<H, SpawnError>) -> (Vec<H>, SpawnError) {
    let mut held = Vec::new();
    let mut patience = 5;
    loop {
        assert!((held.len() as u64) < MANY, "slots do not run out");
        match start(held.len() as u64) {
            Ok(handle) => held.push(handle),
            Err(error) if patience == 0 => return (held, error),
            Err(_) => {
                patience -= 1;
                migrt::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn mobile() -> usize {
    let (held, error): (Vec<JoinHandle<u64>>, _) = fill(|n| migrt::try_spawn(hold(n, MANY)));
    println!("mobile: {error}");
    assert!(matches!(error, SpawnError::OutOfSlots { slot_len } if slot_len == 1 << 20));
    // `spawn` says so at the join, and nobody else is harmed.
    let late = migrt::spawn(hold(0, 1));
    assert!(late.is_finished());
    assert_eq!(late.join(), Err(JoinError::OutOfSlots { slot_len: 1 << 20 }));
    let closure = migrt::try_spawn(|| 1).err();
    assert!(matches!(closure, Some(SpawnError::OutOfSlots { .. })));
    // Those that were started have slots, each of them.
    OPEN.store(true, Ordering::SeqCst);
    let count = held.len();
    for (number, handle) in held.into_iter().enumerate() {
        assert_eq!(handle.join(), Ok(number as u64));
    }
    OPEN.store(false, Ordering::SeqCst);
    count
}

fn local() -> usize {
    let (held, error) = fill(|_| migrt::try_spawn(hold_here));
    println!("local: {error}");
    assert_eq!(migrt::spawn(|| 1).join(), Err(JoinError::OutOfSlots { slot_len: 1 << 20 }));
    OPEN.store(true, Ordering::SeqCst);
    let count = held.len();
    for handle in held {
        assert_eq!(handle.join(), Ok(7));
    }
    OPEN.store(false, Ordering::SeqCst);
    count
}

/// Calls sent to a node that is full: each ends, some refused.
fn far() {
    let calls: Vec<_> = (0..200).map(|n| migrt::spawn_on(NodeId(1), hold(n, 300))).collect();
    let mut refused = 0;
    for (number, call) in calls.into_iter().enumerate() {
        match call.join() {
            Ok(value) => assert_eq!(value, number as u64),
            Err(JoinError::OutOfSlots { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!("far: {refused} of 200 refused");
    assert!(refused > 0 && refused < 200);
    assert_eq!(migrt::spawn_on(NodeId(1), hold(5, 1)).join(), Ok(5));
}

fn main() -> migrt::Result<()> {
    let nodes = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of nodes"));
    migrt::Builder::new().workers(2).local_nodes(nodes).run(move || {
        let first = mobile();
        for round in 0..20 {
            let (mobile, local) = (mobile(), local());
            println!("round {round}: {mobile} mobile, {local} local");
            assert_eq!((mobile, local), (first, first), "slots were lost");
        }
        if nodes > 1 {
            far();
        }
        println!("crowd ok: {first} tasks at a time");
    })
}
