//! Internal to migrt. The region, its slots, their pages, and the heap of one task.
//!
//! This is the only crate that asks the kernel for memory, and it decides nothing: who gets a slot,
//! when a task moves and what is shipped is settled elsewhere. It relies on Linux on x86-64 with
//! 4 KiB pages. It never calls `malloc` where a task's allocation may pass, because in a migrt
//! program [`arena::Arena`] *is* `malloc`: bookkeeping lives in mappings and fixed tables of its own,
//! and system calls go straight to the kernel so that a task's `errno` stays what it was.
//!
//! ```text
//! 0x2000_0000_0000                                                             0x3300_0000_0000
//! | class 0        | class 1        | ... | class 4 (task slots) | ...  | class 18            |
//! | 64 KiB slots   | 128 KiB slots  |     | 1 MiB slots          |      | 16 GiB slots        |
//! '---- 1 TiB -----'---- 1 TiB -----'     '------- 1 TiB --------'      '------ 1 TiB --------'
//! ```

#[allow(unsafe_code, reason = "touches the region once, before anybody has it")]
pub mod region;
pub mod slot;

#[allow(unsafe_code, reason = "slots that change hands are emptied: their memory goes away")]
pub mod pool;

#[allow(unsafe_code, reason = "guards and their probe touch mappings")]
pub mod guard;

#[allow(unsafe_code, reason = "reads, discards and populates raw pages")]
pub mod page;

#[allow(unsafe_code, reason = "protects pages, and finds out what the kernel offers")]
pub mod track;

#[allow(unsafe_code, reason = "fills pages that are missing, and finds out what the kernel offers")]
pub mod missing;

#[allow(unsafe_code, reason = "the heap of a task is raw memory")]
pub mod arena;

#[allow(unsafe_code, reason = "system calls for those who may not allocate")]
pub mod raw;

#[allow(unsafe_code, reason = "system calls")]
mod sys;

mod error;
mod fault;

pub use error::KernelError;
pub use page::PAGE_LEN;
pub use region::{
    CLASS_COUNT, CLASS_SPAN_LEN, REGION_BASE, REGION_LEN, Region, RegionError, in_region,
};
pub use slot::{SlotClass, SlotId};
