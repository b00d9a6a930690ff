//! Guards: pages whose touch is a SIGSEGV, below each stack.
//!
//! By `MADV_GUARD_INSTALL` (Linux 6.13) a guard costs no mapping of its own; with `mprotect` each
//! guard splits its neighbourhood in two and a process has 65,530 mappings at most. `discard` keeps
//! guards of both kinds.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::page::PAGE_LEN;
use crate::sys::{self, GuardSight};
use crate::track;

/// How guards are made on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMethod {
    /// `MADV_GUARD_INSTALL`: no limit on their number.
    Madvise,
    /// `mprotect`: each guard costs two mappings.
    Mprotect,
}

/// Number of ranges forbidden by `mprotect` at some time: 0 spares `remove` a call.
static PROTECTED_EVER: AtomicU64 = AtomicU64::new(0);

/// How guards are made on this machine: tried once, on a mapping made for it.
#[must_use]
pub fn method() -> GuardMethod {
    match sys::guard_sight() {
        GuardSight::Seen => GuardMethod::Madvise,
        GuardSight::Unusable => GuardMethod::Mprotect,
    }
}

/// Makes a guard of the range; its pages are dropped.
///
/// # Safety
///
/// - the range lies in the region, the caller owns its slot (I3), and its bytes are dead
///
/// # Errors
///
/// The kernel's error number: no memory for tables, or too many mappings.
///
/// # Panics
///
/// If the range is not made of whole pages.
pub unsafe fn install(addr: usize, len: usize) -> Result<(), i32> {
    assert!(
        (addr | len).is_multiple_of(PAGE_LEN),
        "a guard at {addr:#x}+{len:#x} is not made of whole pages"
    );
    if method() == GuardMethod::Madvise {
        // SAFETY: the caller's promise.
        match unsafe { sys::guard_install(addr, len) } {
            // Locked memory (mlockall) cannot have guards of this kind.
            Err(sys::EINVAL) => {}
            done => return done,
        }
    }
    // SAFETY: the caller's promise.
    unsafe { install_by_protection(addr, len) }
}

/// # Safety
///
/// - as for [`install`]
unsafe fn install_by_protection(addr: usize, len: usize) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    unsafe { sys::discard(addr, len) }?;
    // Relaxed: see `remove`.
    PROTECTED_EVER.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { sys::forbid(addr, len) }
}

/// Takes all guards in the range away; other pages in it stay as they are.
///
/// # Safety
///
/// - the range lies in the region, the caller owns its slot (I3), and relies on no guard in it
///
/// # Errors
///
/// The kernel's error number.
///
/// # Panics
///
/// If the range is not made of whole pages.
pub unsafe fn remove(addr: usize, len: usize) -> Result<(), i32> {
    assert!(
        (addr | len).is_multiple_of(PAGE_LEN),
        "a guard at {addr:#x}+{len:#x} is not made of whole pages"
    );
    if method() == GuardMethod::Madvise {
        match sys::guard_remove(addr, len) {
            Ok(()) | Err(sys::EINVAL) => {}
            failed => return failed,
        }
    }
    // Relaxed: whoever may remove a guard in this slot has synchronised with who installed it.
    if PROTECTED_EVER.load(Ordering::Relaxed) != 0 {
        track::before_permit(addr, len);
        // SAFETY: the caller's promise.
        return unsafe { sys::permit(addr, len) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page;

    fn check_guard(install: unsafe fn(usize, usize) -> Result<(), i32>) {
        let base = sys::map_private(4 * PAGE_LEN).unwrap();
        // SAFETY: a mapping of our own, here and below.
        unsafe { page::populate_write(base, 4 * PAGE_LEN) };
        // SAFETY: as above.
        unsafe { install(base + PAGE_LEN, PAGE_LEN) }.unwrap();
        let mut runs = Vec::new();
        page::present_runs(base, 4 * PAGE_LEN, &mut |run| {
            runs.push(((run.addr - base) / PAGE_LEN, run.count));
        });
        assert_eq!(runs, [(0, 1), (2, 2)]);
        // SAFETY: as above.
        unsafe { remove(base, 4 * PAGE_LEN) }.unwrap();
        // SAFETY: as above; no guard is left, so this does not fault.
        unsafe { ((base + PAGE_LEN) as *mut u8).write_volatile(1) };
        assert_eq!(page::present_count(base, 4 * PAGE_LEN), 4);
        // SAFETY: nothing refers to the mapping any more.
        unsafe { sys::unmap(base, 4 * PAGE_LEN) };
    }

    #[test]
    fn a_guard_holds_no_page_and_leaves_its_neighbours() {
        check_guard(install);
    }

    #[test]
    fn so_does_one_by_protection() {
        check_guard(install_by_protection);
    }

    #[test]
    fn touching_a_guard_is_a_segmentation_fault() {
        const CHILD: &str = "MIGRT_TEST_TOUCH_GUARD";
        if std::env::var_os(CHILD).is_some() {
            let base = sys::map_private(PAGE_LEN).unwrap();
            // SAFETY: a mapping of our own.
            unsafe { install(base, PAGE_LEN) }.unwrap();
            // SAFETY: faults, which is the point.
            unsafe { (base as *mut u8).write_volatile(1) };
            std::process::exit(0);
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "guard::tests::touching_a_guard_is_a_segmentation_fault",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
        assert_eq!(signal, Some(11), "{child:?}");
    }
}
