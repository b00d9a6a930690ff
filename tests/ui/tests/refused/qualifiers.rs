//! A task's start is a plain function.

#![allow(unused, reason = "only the refusals matter")]

#[migrt::migratable]
async fn waits(address: String) {}

#[migrt::migratable]
unsafe fn trusts() {}

#[migrt::migratable]
const fn early() -> u64 {
    1
}

#[migrt::migratable]
extern "C" fn foreign() {}

#[migrt::migratable]
fn never() -> ! {
    loop {}
}

#[migrt::migratable]
#[unsafe(no_mangle)]
fn exported() {}

#[migrt::migratable]
fn optional(#[cfg(unix)] id: u64) {}

#[migrt::migratable]
struct NotAFunction;

#[migrt::migratable(name = "x")]
fn option() {}

fn main() {}
