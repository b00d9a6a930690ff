//! `parcel`: what it takes to hand a large value to another task, on one node and between two.
//!
//! The value is a `HashMap<String, Vec<u64>>`, built anew for each sample, so no node knows anything of it. The clock
//! is read just before the call that carries the parcel is spawned and again as the first thing in the task that got
//! it, which then checks every word. On one node that time has the spawning and the first step of a task in it, and
//! nothing else: the same call with a number in the parcel's place stands beside it. Both once at a time when the caches hold nothing
//! but the value that was just built (*cold*), and then when they hold what the last such tasks needed: the parcel goes from task to
//! task and comes back as the result, and is checked in the end. The nodes have one worker
//! each, so no worker has to be woken on the way. Between nodes the bare wire carries as many bytes, in turns
//! (see `quic`). A lazy parcel goes there too: the time until its task has begun, and until that has read every word of it,
//! in the order of the map, which is not that of memory. What serde (postcard) takes to encode and decode the same value stands beside both.

use std::collections::HashMap;
use std::time::Instant;

use clap::Args;
use migrt::{NodeId, Parcel};

use crate::clock::machine_ns;
use crate::quic::Wire;
use crate::random::random_bytes;
use crate::report::Report;
use crate::size::parse_size;
use crate::stats::Sample;
use crate::{Fault, Outcome};

/// Words of each entry: with its record one entry takes a little more than 8 KiB.
const WORDS: u64 = 1024;

type Map = HashMap<String, Vec<u64>>;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Bytes of the values in the map.
    #[arg(long, default_value = "64MiB", value_parser = parse_size)]
    pub size: u64,
    /// Samples of each kind.
    #[arg(long, default_value_t = 15)]
    pub rounds: u64,
}

/// One round's figures, in microseconds.
struct Round {
    local: f64,
    cold_local: f64,
    number: f64,
    cold_number: f64,
    remote: f64,
    lazy: f64,
    lazy_whole: f64,
    quic: f64,
    serde: f64,
    byte_count: f64,
}

/// A figure of a round.
type Value<'a> = &'a dyn Fn(&Round) -> f64;

fn build(entries: u64, round: u64) -> Map {
    (0..entries)
        .map(|n| (format!("entry {n}"), (0..WORDS).map(|w| w * n + round).collect()))
        .collect()
}

fn check(map: &Map, entries: u64, round: u64) -> Result<(), String> {
    let right = |n: u64| {
        let words = map.get(&format!("entry {n}"))?;
        let all = words.iter().zip(0..WORDS).all(|(&word, w)| word == w * n + round);
        (all && words.len() as u64 == WORDS).then_some(())
    };
    let all = map.len() as u64 == entries && (0..entries).all(|n| right(n).is_some());
    if all { Ok(()) } else { Err("the value has changed on the way".to_owned()) }
}

/// When it began, or what is wrong with the value.
#[migrt::migratable]
fn takes(parcel: Parcel<Map>, entries: u64, round: u64) -> Result<u64, String> {
    let since = machine_ns();
    check(&parcel, entries, round)?;
    Ok(since)
}

/// As [`takes`]; when it began, and when it had seen every word.
#[migrt::migratable]
fn takes_lazily(parcel: Parcel<Map>, entries: u64, round: u64) -> Result<(u64, u64), String> {
    let since = machine_ns();
    check(&parcel, entries, round)?;
    Ok((since, machine_ns()))
}

#[migrt::migratable]
fn takes_number(_number: u64, _entries: u64, _round: u64) -> Result<u64, String> {
    Ok(machine_ns())
}

/// As [`takes`], unchecked; the parcel too.
#[migrt::migratable]
fn passes(parcel: Parcel<Map>) -> (u64, Parcel<Map>) {
    (machine_ns(), parcel)
}

/// Times of one round on one node, in nanoseconds.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Local {
    /// When the caches hold what was built.
    cold_number: u64,
    cold_parcel: u64,
    /// When they hold what it takes to start such a task.
    number: u64,
    parcel: u64,
}

/// Hand-overs before the one that counts.
const WARM: u32 = 20;

/// Hands a parcel and a number to tasks of this node.
#[migrt::migratable]
fn gives(entries: u64, round: u64) -> Result<Local, String> {
    let parcel = Parcel::new(move || build(entries, round)).map_err(|e| e.to_string())?;
    let cold_number = gives_number()?;
    let mut number = 0;
    for _ in 0..WARM {
        number = gives_number()?;
    }
    let (cold_parcel, mut parcel) = gives_parcel(parcel)?;
    let mut took = 0;
    for _ in 0..WARM {
        (took, parcel) = gives_parcel(parcel)?;
    }
    check(&parcel, entries, round)?;
    Ok(Local { cold_number, number, cold_parcel, parcel: took })
}

fn gives_parcel(parcel: Parcel<Map>) -> Result<(u64, Parcel<Map>), String> {
    let before = machine_ns();
    let (began, parcel) = migrt::spawn(passes(parcel)).join().map_err(|e| e.to_string())?;
    Ok((began - before, parcel))
}

fn gives_number() -> Result<u64, String> {
    let before = machine_ns();
    let began = migrt::spawn(takes_number(1, 2, 3)).join().map_err(|e| e.to_string())??;
    Ok(began - before)
}

pub fn run(options: Options) -> Outcome {
    let entries = (options.size / (WORDS * 8)).max(1);
    let rounds = options.rounds;
    let found = migrt::Builder::new().workers(1).local_nodes(2).run(move || {
        let mut wire = Wire::open()?;
        // The first warms both nodes.
        round(entries, 0, &mut wire)?;
        (1..=rounds).map(|n| round(entries, n, &mut wire)).collect::<Result<Vec<_>, Fault>>()
    })??;
    let of = |value: Value| Sample::new(found.iter().map(value).collect());
    let mut report = Report::new(format!(
        "a map of {entries} vectors of 8 KiB handed over as a parcel, {} rounds",
        found.len()
    ));
    let figures: [(&str, &str, Value); 11] = [
        ("local_us_median", "us", &|r| r.local),
        ("local_cold_us_median", "us", &|r| r.cold_local),
        ("local_number_us_median", "us", &|r| r.number),
        ("local_cold_number_us_median", "us", &|r| r.cold_number),
        ("remote_us_median", "us", &|r| r.remote),
        ("lazy_us_median", "us", &|r| r.lazy),
        ("lazy_whole_us_median", "us", &|r| r.lazy_whole),
        ("remote_bytes", "B", &|r| r.byte_count),
        ("quic_us_median", "us", &|r| r.quic),
        ("remote_over_quic", "x", &|r| r.remote / r.quic),
        ("serde_us_median", "us", &|r| r.serde),
    ];
    for (name, unit, value) in figures {
        let sample = of(value);
        report.add(format!("parcel.{name}"), sample.median(), unit, sample.spread());
    }
    report.note("serde: postcard, encoded and decoded on one node, without any wire");
    Ok(report)
}

fn round(entries: u64, round: u64, wire: &mut Wire) -> Result<Round, Fault> {
    let local = migrt::spawn(gives(entries, round)).join()??;
    let parcel = Parcel::new(move || build(entries, round))?;
    let shipped = migrt::metrics().bytes_shipped;
    let before = machine_ns();
    let began = migrt::spawn_on(NodeId(1), takes(parcel, entries, round)).join()??;
    let remote = began - before;
    let byte_count = migrt::metrics().bytes_shipped - shipped;
    let parcel = Parcel::new(move || build(entries, round))?.lazily();
    let before = machine_ns();
    let (began, whole) =
        migrt::spawn_on(NodeId(1), takes_lazily(parcel, entries, round)).join()??;
    let (lazy, lazy_whole) = (began - before, whole - before);
    let payload = random_bytes(byte_count as usize);
    wire.exchange(&payload)?;
    let quic = wire.exchange(&payload)?;
    let map = build(entries, round);
    let since = Instant::now();
    let copy: Map = postcard::from_bytes(&postcard::to_stdvec(&map)?)?;
    let serde = since.elapsed();
    check(&copy, entries, round)?;
    let us = |ns: u64| ns as f64 / 1e3;
    Ok(Round {
        local: us(local.parcel),
        cold_local: us(local.cold_parcel),
        number: us(local.number),
        cold_number: us(local.cold_number),
        remote: us(remote),
        lazy: us(lazy),
        lazy_whole: us(lazy_whole),
        quic: quic.as_nanos() as f64 / 1e3,
        serde: serde.as_nanos() as f64 / 1e3,
        byte_count: byte_count as f64,
    })
}
