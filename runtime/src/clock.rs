//! The time-stamp counter as a cheap clock for charging CPU time (facts K5).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The counter of this CPU.
#[inline]
pub(crate) fn ticks() -> u64 {
    // SAFETY: reads a register; every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds per 2^20 ticks, measured since the start of the runtime and refined as it runs.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Converts a difference of ticks.
#[inline]
pub(crate) fn ticks_to_ns(ticks: u64) -> u64 {
    let scale = SCALE.load(Ordering::Relaxed);
    ((u128::from(ticks) * u128::from(if scale == 0 { measure() } else { scale })) >> 20) as u64
}

/// Measures the rate: at start over a millisecond.
#[cold]
pub(crate) fn measure() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let &(time, tick) = START.get_or_init(|| (Instant::now(), ticks()));
    while time.elapsed().as_micros() < 1000 {
        std::hint::spin_loop();
    }
    let ns = time.elapsed().as_nanos();
    let scale = ((ns << 20) / u128::from((ticks() - tick).max(1))) as u64;
    SCALE.store(scale, Ordering::Relaxed);
    scale
}

/// The reverse of [`ticks_to_ns`].
pub(crate) fn ns_to_ticks(ns: u64) -> u64 {
    let scale = SCALE.load(Ordering::Relaxed);
    let scale = if scale == 0 { measure() } else { scale };
    ((u128::from(ns) << 20) / u128::from(scale.max(1))) as u64
}
