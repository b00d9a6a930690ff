//! What this crate asks of the kernel, one safe or unsafe function per question. The rest of the
//! crate never sees a system call number.
//!
//! Errors are bare error numbers: the callers know the operation and turn them into their own. The
//! calls are made by hand and not through libc, which would write a failing call's number into the
//! `errno` of whatever task happens to allocate.

mod linux;
mod pagemap;

pub(crate) use linux::{
    EEXIST, EINVAL, abort_with, describe, discard, forbid, guard_install, guard_remove,
    map_private, no_huge_pages, permit, populate_write, reserve, unmap,
};
pub(crate) use pagemap::{GuardSight, guard_sight, present_runs};

/// An error number of the kernel.
pub(crate) type Errno = i32;
