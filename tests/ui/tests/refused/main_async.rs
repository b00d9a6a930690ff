//! `main` is a task and tasks are not coloured.

#![allow(unused, reason = "only the refusals matter")]

#[migrt::main]
async fn main() {}
