//! A task cannot borrow.

#![allow(unused, reason = "only the refusals matter")]

use std::borrow::Cow;

#[migrt::migratable]
fn text(name: &str) {}

#[migrt::migratable]
fn slice(all: &[u64]) -> u64 {
    all.iter().sum()
}

#[migrt::migratable]
fn in_place(list: &mut Vec<u64>) {}

#[migrt::migratable]
fn nested(pair: Option<(u64, &'static str)>) {}

#[migrt::migratable]
fn result() -> Vec<&'static str> {
    Vec::new()
}

#[migrt::migratable]
fn elided(text: Cow<'_, str>) {}

#[migrt::migratable]
fn named<'a>(text: u64) {}

#[migrt::migratable]
fn pointer(at: *const u64) {}

fn main() {}
