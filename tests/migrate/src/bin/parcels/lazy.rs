//! Lazy parcels: used while their pages are on their way, given up, changed and sent on before these have come.

use std::time::{Duration, Instant};

use migrt::{JoinError, Method, NodeId, Parcel};
use migrt_test_migrate::trip::{Seeded, next_node};

use crate::values::{Map, map, sum, sum_of};

/// 16 MiB.
const WORDS: u64 = 2 << 20;

fn words() -> Parcel<Vec<u64>> {
    Parcel::new(|| (0..WORDS).map(|n| n * 7 + 1).collect::<Vec<_>>()).expect("words").lazily()
}

fn check(words: &[u64]) {
    assert_eq!(words.len() as u64, WORDS);
    for (n, &word) in words.iter().enumerate() {
        assert_eq!(word, n as u64 * 7 + 1, "word {n}");
    }
}

fn look(words: &[u64], seed: u64, touches: usize) {
    let mut random = Seeded::new(seed);
    for _ in 0..touches {
        let at = random.below(WORDS);
        assert_eq!(words[at as usize], at * 7 + 1, "word {at}");
    }
}

#[migrt::migratable]
fn touches(parcel: Parcel<Vec<u64>>, seed: u64) {
    parcel.with(|words| look(words, seed, 40));
    parcel.with(|words| check(words));
}

/// Gives it up when it has hardly looked.
#[migrt::migratable]
fn drops(parcel: Parcel<Vec<u64>>, seed: u64) {
    parcel.with(|words| look(words, seed, 2));
}

/// Goes on with it, when all of it is here.
#[migrt::migratable]
fn goes_on(parcel: Parcel<Vec<u64>>, seed: u64) {
    parcel.with(|words| look(words, seed, 2));
    let before = migrt::moves();
    // What the parcel has left there is in the way, for a moment.
    migrt::migrate_to(next_node()).expect("it goes on");
    assert!(migrt::moves() > before);
    parcel.with(|words| check(words));
}

/// Hands it on at once.
#[migrt::migratable]
fn hands_on(parcel: Parcel<Vec<u64>>, left: u64) -> Parcel<Vec<u64>> {
    if left == 0 {
        return parcel;
    }
    migrt::spawn_on(next_node(), hands_on(parcel, left - 1)).join().expect("it comes back")
}

#[migrt::migratable]
fn changes(mut parcel: Parcel<Vec<u64>>) -> Parcel<Vec<u64>> {
    parcel.with_mut(|words| words[1000] += 1);
    parcel.with_mut(|words| words[1000] -= 1);
    parcel
}

#[migrt::migratable]
fn takes_out(parcel: Parcel<Map>) -> u64 {
    let mut map = parcel.into_inner();
    map.insert("key more".to_owned(), vec![1, 2, 3]);
    sum(&map)
}

/// Ends with it in its hands, and never looks.
#[migrt::migratable]
fn forgets(parcel: Parcel<Vec<u64>>) {
    std::mem::forget(parcel);
}

#[migrt::migratable]
fn makes() -> Parcel<Vec<u64>> {
    words()
}

/// Closures of a task wait for the whole of it.
#[migrt::migratable]
fn by_closure(parcel: Parcel<Vec<u64>>) {
    let parcel = migrt::spawn(move || {
        look(&parcel, 9, 40);
        parcel
    });
    parcel.join().expect("it looks").with(|words| check(words));
}

pub fn rounds(count: u64) -> Result<(), JoinError> {
    for n in 0..count {
        let there = NodeId((n as u16 + 1) % 2);
        migrt::spawn_on(there, touches(words(), n)).join()?;
        migrt::spawn_on(there, drops(words(), n)).join()?;
        migrt::spawn_on(there, goes_on(words(), n)).join()?;
        migrt::spawn_on(there, by_closure(words())).join()?;
        migrt::spawn_on(there, forgets(words())).join()?;
        let back = migrt::spawn_on(there, hands_on(words(), 3)).join()?;
        back.with(|words| check(words));
        let back = migrt::spawn_on(there, changes(back)).join()?;
        back.with(|words| check(words));
        let back = migrt::spawn_on(there, makes()).join()?;
        migrt::spawn(move || back).join()?.with(|words| check(words));
        let parcel = Parcel::new(|| map(300, 1000)).expect("a map is alone").lazily();
        assert_eq!(migrt::spawn_on(there, takes_out(parcel)).join()?, sum_of(300, 1000) + 6);
    }
    Ok(())
}

/// Whether they have come lazily, and whether anybody had to wait for a page.
pub fn records() -> Result<(), JoinError> {
    for (node, metrics) in migrt::cluster_metrics() {
        let count = metrics.moves.iter().filter(|r| r.method == Method::PostCopy).count();
        println!("lazy {count}");
        println!("faults {}", metrics.demand_faults);
        let long = metrics.moves.iter().filter(|r| r.live_pages > 4_000);
        assert!(long.clone().count() > 0, "none came to {node}");
    }
    Ok(())
}

/// Node 1 sends one to node 2 and dies when little of it has left (`MIGRT_FAIL`).
pub fn lost() -> Result<(), JoinError> {
    let before = migrt::metrics().slots_in_use;
    let reader = migrt::spawn_on(NodeId(2), reads_long(NodeId(1)));
    match reader.join() {
        Err(why) => println!("heard {why:?}"),
        Ok(()) => println!("all of it came"),
    }
    let since = Instant::now();
    while migrt::nodes().len() > 2 {
        assert!(since.elapsed() < Duration::from_secs(10), "one was to die");
        migrt::sleep(Duration::from_millis(10));
    }
    // Node 2 goes on, and has lost nothing.
    migrt::spawn_on(NodeId(2), touches(words(), 1)).join()?;
    while migrt::metrics().slots_in_use > before + 8 {
        assert!(since.elapsed() < Duration::from_secs(20), "slots are missing");
        migrt::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[migrt::migratable]
fn reads_long(from: NodeId) {
    let parcel = migrt::spawn_on(from, makes()).join().expect("it is made");
    loop {
        parcel.with(|words| look(words, 3, 100));
        parcel.with(|words| check(words));
        migrt::yield_now();
    }
}
