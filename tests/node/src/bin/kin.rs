//! Tasks that start, hand over, wait for and cancel other tasks on three nodes. Every paragraph
//! prints `ok` and its name; a wrong outcome is a panic.

use std::time::Duration;

use migrt::{JoinError, JoinHandle, NodeId};

const FAR: NodeId = NodeId(1);
const FARTHER: NodeId = NodeId(2);

#[migrt::migratable]
fn place(wait_ms: u64) -> u16 {
    migrt::sleep(Duration::from_millis(wait_ms));
    migrt::here().0
}

#[migrt::migratable]
fn parent(of: NodeId, wait_ms: u64) -> JoinHandle<u16> {
    migrt::spawn_on(of, place(wait_ms))
}

#[migrt::migratable]
fn waiter(child: JoinHandle<u16>) -> String {
    match child.join() {
        Ok(node) => format!("{node} heard on {}", migrt::here()),
        Err(why) => format!("{why} heard on {}", migrt::here()),
    }
}

#[migrt::migratable]
fn wanderer() -> Vec<u16> {
    let mut heard = Vec::new();
    for to in [FAR, FARTHER, NodeId(0), FARTHER] {
        let child = migrt::spawn(place(20));
        migrt::migrate_to(to).expect("nothing pins it");
        heard.push(child.join().expect("it sleeps a bit"));
    }
    heard
}

#[migrt::migratable]
fn fail_late() -> u16 {
    migrt::sleep(Duration::from_millis(30));
    panic!("too late")
}

#[migrt::migratable]
fn squander(log: String) -> u64 {
    struct Guard(String);
    impl Drop for Guard {
        fn drop(&mut self) {
            std::fs::write(&self.0, "dropped").expect("the log can be written");
        }
    }
    let _guard = Guard(log);
    let mut turns = 0u64;
    loop {
        turns = turns.wrapping_add(1);
        migrt::safepoint();
        // A task that only passes safepoints keeps the local tasks of its worker waiting.
        if turns.is_multiple_of(100_000) {
            migrt::yield_now();
        }
    }
}

fn calls() {
    let far = migrt::spawn_on(FAR, place(0)).join().unwrap();
    assert_eq!(far, 1);
    let many: Vec<_> = (0..300).map(|n| migrt::spawn_on(NodeId(n % 3), place(0))).collect();
    for (n, task) in many.into_iter().enumerate() {
        assert_eq!(task.join().unwrap(), (n % 3) as u16);
    }
    println!("ok calls");
}

fn handles() {
    // A grandchild that was born on another node, whose parent has ended.
    let grandchild = migrt::spawn_on(FAR, parent(FARTHER, 50)).join().unwrap();
    assert_eq!(grandchild.join().unwrap(), 2);
    // A handle as an argument: joined on a third node.
    let child = migrt::spawn_on(FAR, place(50));
    let heard = migrt::spawn_on(FARTHER, waiter(child)).join().unwrap();
    assert_eq!(heard, "1 heard on n2");
    // Joined, and asked about, before and after it has ended.
    let child = migrt::spawn_on(FAR, place(100));
    let info = child.info().unwrap();
    assert!(!child.is_finished() && info.node == FAR, "{info:?}");
    while !child.is_finished() {
        migrt::sleep(Duration::from_millis(5));
    }
    assert_eq!(child.join().unwrap(), 1);
    println!("ok handles");
}

fn joins() {
    assert_eq!(migrt::spawn(wanderer()).join().unwrap(), [0, 1, 2, 0]);
    // The one who waits is moved while it waits, and so is the one waited for.
    let child = migrt::spawn_on(FAR, place(300));
    let id = child.id();
    let waiting = migrt::spawn(waiter(child));
    for to in [FAR, FARTHER, NodeId(0), FAR] {
        migrt::sleep(Duration::from_millis(10));
        waiting.migrate(to).unwrap();
    }
    assert_eq!(waiting.info().unwrap().moves, 4, "{id}");
    assert_eq!(waiting.join().unwrap(), "1 heard on n1");
    let late = migrt::spawn_on(FAR, fail_late());
    let heard = migrt::spawn_on(FARTHER, waiter(late)).join().unwrap();
    assert_eq!(heard, "the task panicked: too late heard on n2");
    println!("ok joins");
}

fn moves_of_calls() {
    // One worker is held, so that calls wait in its queue: they move as calls.
    let sleepers: Vec<_> = (0..50).map(|_| migrt::spawn(place(20))).collect();
    for task in &sleepers {
        let _ = task.migrate(FAR);
    }
    let there = sleepers.into_iter().filter_map(|t| t.join().ok()).filter(|&n| n == 1).count();
    assert!(there > 0, "none has moved");
    println!("ok moves");
}

fn cancels(log: &str) {
    let ways: [fn(&JoinHandle<u64>); 3] = [
        |_| {},
        |task| task.migrate(FARTHER).unwrap(),
        |task| {
            task.migrate(FAR).unwrap();
            task.migrate(NodeId(0)).unwrap();
        },
    ];
    for (at, way) in ways.iter().enumerate() {
        let log = format!("{log}.{at}");
        let task = migrt::spawn_on(FAR, squander(log.clone()));
        migrt::sleep(Duration::from_millis(30));
        way(&task);
        task.cancel();
        assert_eq!(task.join(), Err(JoinError::Cancelled));
        let said = std::fs::read_to_string(&log).expect("its guard was dropped");
        assert_eq!(said, "dropped");
        let _ = std::fs::remove_file(&log);
    }
    println!("ok cancels");
}

fn main() {
    let log = std::env::args().nth(1).expect("a file to write");
    let result = migrt::Builder::new().workers(2).local_nodes(3).run(move || {
        calls();
        handles();
        joins();
        moves_of_calls();
        cancels(&log);
        println!("ok all");
    });
    if let Err(why) = result {
        eprintln!("Error: {why}");
        std::process::exit(1);
    }
}
