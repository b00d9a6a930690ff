//! `main` has no arguments.

#![allow(unused, reason = "only the refusals matter")]

#[migrt::main]
fn main(args: Vec<String>) {}
