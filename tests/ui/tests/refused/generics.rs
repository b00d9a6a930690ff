//! An entry is one function.

#![allow(unused, reason = "only the refusals matter")]

#[migrt::migratable]
fn of_a_type<T>(value: Vec<u64>) {}

#[migrt::migratable]
fn of_a_number<const N: usize>() {}

#[migrt::migratable]
fn with_a_clause()
where
    String: Clone,
{
}

#[migrt::migratable]
fn callback(f: impl Fn(u64) -> u64) {}

#[migrt::migratable]
fn items(all: impl Iterator<Item = u64>) {}

#[migrt::migratable]
fn future() -> impl Future<Output = u64> {
    async { 1 }
}

fn main() {}
