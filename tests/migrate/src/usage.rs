//! What nodes have in use, before and after: resident memory, mappings, registrations with userfaultfd, descriptors,
//! threads, slots (I10).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buffers of the wire and the allocator's caches come and go by this much; a page that is lost in
/// each of 20,000 moves would be three times as much.
const RESIDENT_SLACK_KIB: u64 = 24 << 10;
/// Caches of stacks and of the allocator split and join a mapping now and then.
const MAPPINGS_SLACK: u64 = 8;
/// The tasks that measure, and copies of pages that are about to be made or dropped.
const SLOTS_SLACK: u64 = 8;

/// What a process has in use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    resident_kib: u64,
    mappings: u64,
    /// Mappings whose pages are watched by userfaultfd: for writes, or because some are missing.
    watched: u64,
    lacking: u64,
    descriptors: u64,
    threads: u64,
}

/// Whether a thread waits here that gives back memory which was kept warm, and then ends.
fn is_cooling() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").expect("procfs");
    let mut names =
        threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("comm")));
    names.any(|name| name.is_ok_and(|name| name.trim_end() == "migrt-cooler"))
}

#[migrt::migratable]
fn usage() -> Usage {
    while is_cooling() {
        migrt::sleep(Duration::from_millis(100));
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a known line");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    };
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("procfs");
    let flags: Vec<&str> = smaps.lines().filter_map(|l| l.strip_prefix("VmFlags:")).collect();
    let with = |flag: &str| {
        flags.iter().filter(|line| line.split_whitespace().any(|f| f == flag)).count() as u64
    };
    Usage {
        resident_kib: number("VmRSS:"),
        mappings: flags.len() as u64,
        watched: with("uw"),
        lacking: with("um"),
        descriptors: std::fs::read_dir("/proc/self/fd").expect("procfs").count() as u64,
        threads: number("Threads:"),
    }
}

/// What all nodes have in use.
#[derive(Clone, Debug)]
pub struct Measured {
    nodes: Vec<Usage>,
    owned_slots: u64,
    used_slots: u64,
}

/// Measures all nodes, once the collectors have been round.
///
/// # Errors
/// A node cannot be asked.
pub fn measure() -> Result<Measured, String> {
    // Collectors look at what a departed task left after 0.8 s; slots of travelled tasks rest for 2.5 s.
    migrt::sleep(Duration::from_millis(3_500));
    let mut measured = Measured { nodes: Vec::new(), owned_slots: 0, used_slots: 0 };
    for node in migrt::nodes() {
        measured.nodes.push(migrt::spawn_on(node, usage()).join().map_err(|e| e.to_string())?);
    }
    // Slots walk with tasks, so only the sum over the nodes stays.
    for (node, metrics) in migrt::cluster_metrics() {
        println!("{node} slots {} in use {}", metrics.slots_owned, metrics.slots_in_use);
        measured.owned_slots += metrics.slots_owned;
        measured.used_slots += metrics.slots_in_use;
    }
    Ok(measured)
}

/// How often nodes are measured before something counts as lost: remains that looked reached are kept until a later
/// collector finds that they are not.
const TRIES: u32 = 8;

/// Waits until all is as it was `before`, and prints both.
///
/// # Errors
/// Something does not come back.
pub fn returned_to(before: &Measured) -> Result<(), String> {
    for _ in 1..TRIES {
        match compare(before, &measure()?) {
            Ok(()) => return Ok(()),
            Err(why) => println!("not yet: {why}"),
        }
    }
    compare(before, &measure()?)
}

/// Prints both, a line per node and thing.
fn compare(before: &Measured, after: &Measured) -> Result<(), String> {
    for (node, (b, a)) in before.nodes.iter().zip(&after.nodes).enumerate() {
        println!("n{node} resident_kib before {} after {}", b.resident_kib, a.resident_kib);
        println!("n{node} mappings before {} after {}", b.mappings, a.mappings);
        println!("n{node} watched before {} after {}", b.watched, a.watched);
        println!("n{node} lacking before {} after {}", b.lacking, a.lacking);
        println!("n{node} descriptors before {} after {}", b.descriptors, a.descriptors);
        println!("n{node} threads before {} after {}", b.threads, a.threads);
        if a.resident_kib > b.resident_kib + RESIDENT_SLACK_KIB
            || a.mappings > b.mappings + MAPPINGS_SLACK
        {
            return Err(format!("n{node} has grown: {b:?} before, {a:?} after"));
        }
        if (a.watched, a.lacking) != (b.watched, b.lacking) {
            return Err(format!("n{node} watches more, or less: {b:?} before, {a:?} after"));
        }
        if a.descriptors != b.descriptors || a.threads != b.threads {
            return Err(format!("n{node} has more open: {b:?} before, {a:?} after"));
        }
    }
    println!("owned slots before {} after {}", before.owned_slots, after.owned_slots);
    println!("used slots before {} after {}", before.used_slots, after.used_slots);
    if after.used_slots > before.used_slots + SLOTS_SLACK {
        return Err(format!("slots stay in use: {before:?} before, {after:?} after"));
    }
    if before.owned_slots != after.owned_slots {
        return Err(format!("slots were lost or doubled: {before:?} before, {after:?} after"));
    }
    Ok(())
}
