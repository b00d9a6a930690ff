//! Blocks are emptied as they are freed, on threads that handle tasks' addresses.
//!
//! A census reads all live blocks, and a live block may not have been written to its end yet: what
//! shows then is what its last owner left. Tables of a task's pages, copies of its stack in packets
//! and lists of its blocks would so look like references to what the task has left, for as long as
//! the block's new owner lives. Threads of the runtime that handle such data clear what they free.
//!
//! And a stack, where their calls have been: a value that is written to a block may have bytes that nobody has set
//! (an `Option`'s `None` has), and the compiler is free to write there what its frame happens to lie on.

use std::cell::Cell;

thread_local! {
    // Read on OS threads' blocks only: a task's frees of node memory are carried out by its worker.
    static CLEARING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread empties the node blocks that it frees.
#[inline(always)]
pub(crate) fn is_clearing() -> bool {
    CLEARING.with(Cell::get)
}

/// This thread handles addresses of tasks from here on: the net thread, the collector.
pub(crate) fn clear_always() {
    CLEARING.with(|clearing| clearing.set(true));
}

/// This thread handles them while `f` runs.
pub(crate) fn clearing<R>(f: impl FnOnce() -> R) -> R {
    let before = CLEARING.with(|clearing| clearing.replace(true));
    let result = f();
    CLEARING.with(|clearing| clearing.set(before));
    if !before {
        clear_stack();
    }
    result
}

/// Clears the part of this thread's stack that is not in use, where words of finished calls would
/// lie in the frame that it sleeps in, or in values that it writes; and the vector registers, through which it has
/// copied pages.
#[inline(never)]
pub(crate) fn clear_stack() {
    clear_room::<2048>();
    clear_vectors();
}

/// As [`clear_stack`], at a thread's end. libc keeps the stack for another thread, with the upmost 16 KiB of what the
/// thread has used, and up to a page more since its own frames lie above the last of ours; a census reads that for as long as it lies there.
#[inline(never)]
pub(crate) fn clear_whole_stack() {
    clear_room::<4096>();
    clear_vectors();
}

#[inline(never)]
fn clear_room<const WORDS: usize>() {
    let mut room = [0u64; WORDS];
    std::hint::black_box(&mut room);
}

fn clear_vectors() {
    // SAFETY: the registers are declared as changed.
    unsafe {
        std::arch::asm!(
            "pxor xmm0, xmm0", "pxor xmm1, xmm1", "pxor xmm2, xmm2", "pxor xmm3, xmm3",
            "pxor xmm4, xmm4", "pxor xmm5, xmm5", "pxor xmm6, xmm6", "pxor xmm7, xmm7",
            "pxor xmm8, xmm8", "pxor xmm9, xmm9", "pxor xmm10, xmm10", "pxor xmm11, xmm11",
            "pxor xmm12, xmm12", "pxor xmm13, xmm13", "pxor xmm14, xmm14", "pxor xmm15, xmm15",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _, options(nostack),
        );
    }
    if std::is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has it.
        unsafe { clear_upper() };
    }
}

#[target_feature(enable = "avx")]
fn clear_upper() {
    std::arch::x86_64::_mm256_zeroall();
}
