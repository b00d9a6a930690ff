//! A call that nobody spawns is a mistake.

#![allow(unused_variables, reason = "only the refusal matters")]
#![deny(unused_must_use)]

#[migrt::migratable]
fn work(n: u64) {}

fn main() {
    work(1);
}
