//! The machine's clock, asked directly: the same on all processes of one machine.
//!
//! `std::time::Instant` inside a mobile task is the task's own clock, which stands still while the
//! task is on its way; what a move takes must be read off the machine's.

/// Nanoseconds of the machine's monotonic clock.
pub fn machine_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
