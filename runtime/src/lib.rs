//! Green threads that move between machines *while they run*.
//!
//! A program is one binary, started once per machine; the processes form a cluster. A task in the
//! middle of a function on one node goes on in the middle of that function on another, with its
//! stack, its heap and its thread-locals, every pointer still valid. Its author writes ordinary
//! blocking Rust.
//!
//! ```
//! #[migrt::migratable]
//! fn count(upto: u64) -> u64 {
//!     let mut sum = 0;
//!     for n in 1..=upto {
//!         sum += n;
//!     }
//!     sum
//! }
//!
//! #[migrt::main]
//! fn main() -> migrt::Result<()> {
//!     let task = migrt::spawn(count(1_000));
//!     assert_eq!(task.join()?, 500_500);
//!     Ok(())
//! }
//! ```
//!
//! The modules stand in the order of a task's life: it is made in `task`, run by `exec`, decided
//! about in `cluster`, moved in `migrate`, over `net`.

#[expect(unsafe_code, reason = "reads the time-stamp counter")]
mod clock;
mod config;
mod error;
#[expect(unsafe_code, reason = "sends this thread a signal")]
mod fail;
mod strategy;
mod sync;
mod thread;

#[expect(unsafe_code, reason = "reads memory that the rest of the node uses")]
mod census;
mod entry;
mod task;

mod exec;
#[expect(unsafe_code, reason = "ends the process from a signal handler")]
mod fence;
#[expect(unsafe_code, reason = "handles faults on guard pages")]
mod overflow;
mod symbols;
#[expect(unsafe_code, reason = "asks libc to fill its lazies")]
mod warm;

mod cluster;
mod migrate;
#[allow(
    dead_code,
    unused_imports,
    reason = "a self-contained wire with more doors than the runtime uses yet"
)]
mod net;

mod builder;
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
pub mod machine;
#[expect(unsafe_code, reason = "installs the cluster's secret before any thread exists")]
mod node;

pub use migrt_macros::{main, migratable};
pub use migrt_proto::wire::{Method, MoveRecord};
pub use migrt_proto::{NodeId, TaskId};

pub use builder::Builder;
pub use cluster::metrics::{Metrics, cluster_metrics, metrics};
pub use entry::{Argument, Output};
pub use error::{Error, JoinError, Result, SpawnError};
pub use strategy::Strategy;
pub use task::channel::{ChannelError, Receiver, Sender, channel};
pub use task::current::yield_now;
pub use task::handle::{JoinHandle, TaskInfo, TaskState};
pub use task::here::{here, migrate_to, moves, nodes};
pub use task::parcel::{Parcel, ParcelError};
pub use task::pin::{PinGuard, pin_here};
pub use task::safepoint::safepoint;
pub use task::sleep::sleep;
pub use task::spawn::{LocalHandle, Spawn, spawn, spawn_on, try_spawn};
pub use task::wish::set_strategy;

/// What the macros write names of. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use linkme;

    pub use crate::builder::main;
    pub use crate::cluster::wire_blank;
    pub use crate::entry::{
        Call, Decoder, ENTRIES, Encoder, Entry, EntryError, MainOptions, check_duplicates, lookup,
        run_entry,
    };
    pub use crate::task::spawn::{spawn_call, try_spawn_call};
    pub use crate::warm::NODE_START;
}

/// The programs in the README are doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
