//! A task's clock over a move: `CLOCK_MONOTONIC` differs between machines, a task's own does not jump.
//!
//! The offset in the header is added to the node's clock wherever the task reads it. Between nodes
//! of one machine the clocks are one, so the offset stays. Between machines it is set so that the
//! clock goes on from what it showed when the image was made, plus the time since its arrival; the
//! time on the wire in between cannot be known without a common clock and is left out. Either way
//! it never goes back.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::header::Header;

/// A reading of a task's clock, as it travels.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// What the node's clock showed, nanoseconds.
    node_ns: i64,
    /// What the task's showed.
    task_ns: i64,
    /// Which boot of which machine the node's clock belongs to.
    boot: u64,
}

impl Reading {
    /// Reads the clock of a task (or the node's alone) now.
    pub(crate) fn take(header: Option<&Header>) -> Reading {
        let node_ns = monotonic_ns();
        let offset = header.map_or(0, |h| h.prefix.clock_offset_ns.load(Ordering::Relaxed));
        Reading { node_ns, task_ns: node_ns + offset, boot: boot() }
    }

    /// Sets the clock of a task that was frozen at this reading and arrived `since` ago.
    pub(crate) fn go_on(self, header: &Header, since: Duration) {
        if self.boot != boot() {
            let shows = self.task_ns + since.as_nanos() as i64;
            header.prefix.clock_offset_ns.store(shows - monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// Time since this reading: exact on one machine, else what has passed since the arrival.
    pub(crate) fn elapsed(self, since: Duration) -> Duration {
        if self.boot == boot() {
            Duration::from_nanos((monotonic_ns() - self.node_ns).max(0) as u64)
        } else {
            since
        }
    }
}

fn monotonic_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Tells machines and their boots apart; 0 (equal to none) if the kernel does not say.
fn boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        match id.trim().bytes().fold(0xcbf2_9ce4_8422_2325, fold) {
            _ if id.is_empty() => u64::from(std::process::id()) << 32,
            hash => hash,
        }
    })
}
