//! Running tasks: workers that steal from each other, and the doors through which tasks come in.
//!
//! [`queue`] holds what is runnable, [`idle`] who sleeps, [`timer`] who waits for a time,
//! [`worker`] the loop, [`door`] the only ways in for the rest of the runtime.

pub(crate) mod door;
pub(crate) mod idle;
pub(crate) mod park;
pub(crate) mod queue;
#[expect(unsafe_code, reason = "reaches the task that a worker runs")]
pub(crate) mod ticker;
pub(crate) mod timer;
#[expect(unsafe_code, reason = "hands the worker's own address to the tasks it runs")]
pub(crate) mod worker;
