//! Arguments and results are serde types.

#![allow(unused, reason = "only the refusals matter")]

struct Plain {
    key: u64,
}

#[derive(serde::Serialize)]
struct OneWay;

#[migrt::migratable]
fn argument(count: u64, plain: Plain) {}

#[migrt::migratable]
fn inside(all: Vec<Plain>) {}

#[migrt::migratable]
fn one_way(value: OneWay) {}

#[migrt::migratable]
fn boxed(value: Box<dyn Fn()>) {}

#[migrt::migratable]
fn result() -> Plain {
    Plain { key: 1 }
}

#[migrt::migratable]
fn error() -> Result<u64, std::io::Error> {
    Ok(1)
}

fn main() {}
