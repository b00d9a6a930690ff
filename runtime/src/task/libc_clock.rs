//! Clocks that do not jump when a task moves.
//!
//! `CLOCK_MONOTONIC` counts from the boot of a machine, so an `Instant` taken on one node means
//! nothing on another. Each mobile task carries the difference: its clocks are the node's plus
//! `clock_offset_ns`, which the move sets so that they go on from where they were.
//!
//! Then waits for an absolute time have to be translated back before the kernel sees them: std's
//! `futex` calls (which go through `syscall`) and `clock_nanosleep`. Absent: `timerfd_settime` and
//! `pthread_cond_clockwait` with absolute monotonic times, which keep the node's clock.

#![cfg(target_feature = "crt-static")]

use std::ffi::{c_int, c_long};
use std::sync::atomic::Ordering;

use libc::timespec;

use super::prefix::HeaderPrefix;

unsafe extern "C" {
    fn __clock_gettime(clock: c_int, time: *mut timespec) -> c_int;
    fn __clock_nanosleep(
        clock: c_int,
        flags: c_int,
        time: *const timespec,
        rest: *mut timespec,
    ) -> c_int;
}

/// The clocks that count from a machine's boot.
fn counts_from_boot(clock: c_int) -> bool {
    const BOOT_CLOCKS: u32 = 1 << libc::CLOCK_MONOTONIC
        | 1 << libc::CLOCK_MONOTONIC_RAW
        | 1 << libc::CLOCK_MONOTONIC_COARSE
        | 1 << libc::CLOCK_BOOTTIME
        | 1 << libc::CLOCK_BOOTTIME_ALARM;
    (0..32).contains(&clock) && BOOT_CLOCKS >> clock & 1 == 1
}

/// What the running task adds to the node's clocks; 0 on an OS thread.
#[inline]
fn offset_ns() -> i64 {
    let header = HeaderPrefix::current();
    if header.is_null() {
        return 0;
    }
    // SAFETY: the running task's header. Relaxed: set while the task does not run.
    unsafe { (*header).clock_offset_ns.load(Ordering::Relaxed) }
}

fn shifted(time: timespec, by_ns: i64) -> timespec {
    const SECOND: i64 = 1_000_000_000;
    let ns = time.tv_nsec + by_ns % SECOND;
    timespec {
        tv_sec: time.tv_sec.saturating_add(by_ns / SECOND + ns.div_euclid(SECOND)),
        tv_nsec: ns.rem_euclid(SECOND),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut timespec) -> c_int {
    // SAFETY: the caller's arguments. Reaches the vDSO without a system call.
    let code = unsafe { __clock_gettime(clock, time) };
    let offset = offset_ns();
    if offset != 0 && code == 0 && counts_from_boot(clock) {
        // SAFETY: written by the call.
        unsafe { *time = shifted(*time, offset) };
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: c_int,
    flags: c_int,
    time: *const timespec,
    rest: *mut timespec,
) -> c_int {
    let offset = offset_ns();
    if offset == 0 || flags & libc::TIMER_ABSTIME == 0 || !counts_from_boot(clock) {
        // SAFETY: the caller's arguments.
        return unsafe { __clock_nanosleep(clock, flags, time, rest) };
    }
    // SAFETY: the caller's arguments, with the time by the node's clock.
    unsafe { __clock_nanosleep(clock, flags, &shifted(*time, -offset), rest) }
}

/// The general system call. Only a task's `futex` wait for a moment of the monotonic clock differs.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let offset = offset_ns();
    if offset != 0 && number == libc::SYS_futex && d != 0 && waits_for_monotonic(b as c_int) {
        // SAFETY: the fourth argument of such a wait is a time; the rest is the caller's.
        return unsafe {
            let time = shifted(*(d as *const timespec), -offset);
            kernel(number, [a, b, c, &raw const time as c_long, e, f])
        };
    }
    // SAFETY: the caller's arguments.
    unsafe { kernel(number, [a, b, c, d, e, f]) }
}

fn waits_for_monotonic(operation: c_int) -> bool {
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    // A plain FUTEX_WAIT has a duration, the PI locks count by the wall clock.
    operation & libc::FUTEX_CLOCK_REALTIME == 0
        && matches!(
            command,
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI | libc::FUTEX_LOCK_PI2
        )
}

/// # Safety
///
/// As for the system call.
#[inline(always)]
unsafe fn kernel(number: c_long, args: [c_long; 6]) -> c_long {
    const ERRNO_MAX: c_long = 4095;
    let result: c_long;
    // SAFETY: the caller's promise.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5], out("rcx") _, out("r11") _,
            options(nostack));
    }
    if (-ERRNO_MAX..0).contains(&result) {
        // SAFETY: the caller's own variable.
        unsafe { *libc::__errno_location() = -result as c_int };
        return -1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{shifted, timespec};

    #[test]
    fn a_shifted_time_is_whole_and_comes_back() {
        for (sec, nsec) in [(0, 0), (5, 999_999_999), (100, 1)] {
            for by in [0, 1, -1, 999_999_999, -1_500_000_001, 86_400_000_000_000] {
                let there = shifted(timespec { tv_sec: sec, tv_nsec: nsec }, by);
                assert!((0..1_000_000_000).contains(&there.tv_nsec));
                let back = shifted(there, -by);
                assert_eq!((back.tv_sec, back.tv_nsec), (sec, nsec));
            }
        }
    }
}
