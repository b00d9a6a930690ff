//! The time-stamp counter as a cheap clock for charging CPU time (facts K5).

use std::cell::Cell;
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

/// What a worker charges its tasks (I8): the counter's time, corrected every now and then by what the
/// kernel says that the thread has used. Where cores are shared, the counter runs on while the thread
/// does not (4.8 times too much on an oversubscribed machine, facts K5).
#[derive(Debug, Default)]
pub(crate) struct Charge {
    /// The counter and the thread's CPU time when they were last compared.
    seen: Cell<(u64, u64)>,
    /// Charged since then.
    charged_ns: Cell<u64>,
}

/// The two are compared after so long.
const COMPARE_NS: u64 = 5_000_000;

impl Charge {
    /// A task begins to run; the counter.
    #[inline]
    pub(crate) fn begin(&self) -> u64 {
        let now = ticks();
        if self.seen.get().0 == 0 {
            self.compare(now);
        }
        now
    }

    /// The task that began at `since` gives its worker back: nanoseconds to charge it.
    #[inline]
    pub(crate) fn end(&self, since: u64) -> u64 {
        let now = ticks();
        let ran_ns = ticks_to_ns(now - since);
        if ticks_to_ns(now - self.seen.get().0) < COMPARE_NS {
            self.charged_ns.set(self.charged_ns.get() + ran_ns);
            return ran_ns;
        }
        self.settle(now, ran_ns)
    }

    #[cold]
    fn settle(&self, now: u64, ran_ns: u64) -> u64 {
        let (_, before) = self.seen.get();
        let charged = self.charged_ns.get();
        self.compare(now);
        let used = self.seen.get().1.saturating_sub(before);
        // What was charged already cannot be taken back; this run bears the correction.
        used.saturating_sub(charged).min(ran_ns)
    }

    fn compare(&self, now: u64) {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        self.seen.set((now, time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64));
        self.charged_ns.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(time: std::time::Duration) {
        let since = Instant::now();
        while since.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    fn thread_cpu_ns() -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    /// Twice as many threads as cores: the counter alone would charge twice what was used.
    #[test]
    fn charged_time_adds_up_to_used_time_where_cores_are_shared() {
        // Threads that begin take memory over that others have just freed, with what is in it.
        let _alone = crate::census::tests::alone();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores * 2)
            .map(|_| {
                std::thread::spawn(|| {
                    let charge = Charge::default();
                    let before = thread_cpu_ns();
                    let mut charged = 0;
                    for run in 0..60 {
                        let since = charge.begin();
                        spin(std::time::Duration::from_millis(1 + run % 13));
                        charged += charge.end(since);
                    }
                    (charged, thread_cpu_ns() - before)
                })
            })
            .collect();
        for thread in threads {
            let (charged, used) = thread.join().unwrap();
            let ratio = charged as f64 / used as f64;
            assert!((0.85..1.15).contains(&ratio), "charged {charged} ns of {used} ns");
        }
    }
}
