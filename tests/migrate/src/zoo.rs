//! The zoo: small programs of every kind that ordinary Rust (and C below it) is made of. Each is
//! run once without a step that does anything, and then as a mobile task that is taken elsewhere
//! while it works; the checksums must be equal.
//!
//! A specimen is `fn(seed) -> checksum` and calls [`step`](crate::trip::step) where it can be
//! suspended. The rooms are sorted by what is put to the test.

mod collections;
#[expect(unsafe_code, reason = "floating-point control words, SIMD and x87")]
mod floats;
mod graphs;
#[expect(unsafe_code, reason = "raw allocations, and C's allocator by name")]
mod heap;
#[expect(unsafe_code, reason = "calls SQLite's start")]
mod libraries;
mod stack;
mod tasks;
#[expect(unsafe_code, reason = "asks libc for errno and the stack's bounds")]
mod thread;
mod unwinding;

use serde::{Deserialize, Serialize};

use crate::trip::{self, Plan, Walked};

/// A specimen: from a seed to a checksum.
pub type Run = fn(u64) -> u64;

/// All specimens by name.
#[must_use]
pub fn specimens() -> Vec<(&'static str, Run)> {
    [
        stack::ALL,
        floats::ALL,
        graphs::ALL,
        collections::ALL,
        unwinding::ALL,
        heap::ALL,
        thread::ALL,
        tasks::ALL,
        libraries::ALL,
    ]
    .concat()
}

/// What a visit to a specimen brought.
#[derive(Debug, Serialize, Deserialize)]
pub struct Visit {
    /// The specimen's result.
    pub checksum: u64,
    /// Where it went.
    pub walked: Walked,
}

/// Runs a specimen as a mobile task.
#[migrt::migratable]
pub fn visit(name: String, plan: Plan, seed: u64) -> Visit {
    let found = specimens().into_iter().find(|(known, _)| *known == name);
    let (_, run) = found.expect("the caller took the name from the list");
    trip::begin(plan);
    let checksum = run(seed);
    Visit { checksum, walked: trip::end() }
}
