//! What this crate asks of the kernel, one safe or unsafe function per question. The rest of the
//! crate never sees a system call number.
//!
//! Errors are bare error numbers: the callers know the operation and turn them into their own. The
//! calls are made by hand and not through libc, which would write a failing call's number into the
//! `errno` of whatever task happens to allocate.

mod linux;
mod pagemap;
mod userfault;

pub use linux::raw_syscall;
pub(crate) use linux::{
    EAGAIN, EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, abort_with, describe,
    discard, forbid, forbid_write, guard_install, guard_remove, huge_pages, map_private,
    no_huge_pages, permit, populate_write, reserve, touch, unmap, yield_now,
};
pub(crate) use pagemap::{GuardSight, guard_runs, guard_sight, present_runs, written_runs};
pub(crate) use userfault::{Purpose, Userfault, userfault};

/// An error number of the kernel.
pub(crate) type Errno = i32;
