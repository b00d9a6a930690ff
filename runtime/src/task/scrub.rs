//! Clearing the stack below the caller's frame before the runtime's own frames go there.
//!
//! The runtime's frames have slots that nothing has written yet, and what lies in them are words of
//! deeper calls that have returned: perhaps the address of a block that a static holds. The audit of
//! a frozen task could not tell such a word from one that is used. So the doors through which a task
//! enters the runtime are inlined into the caller and clear what they are about to use.

/// Bytes cleared where the runtime goes a few calls deep.
pub(crate) const DEEP: usize = 3072;
/// Bytes cleared where it suspends at once.
pub(crate) const SHALLOW: usize = 768;

/// Clears `LEN` bytes below the frame of the function this is inlined into (and its red zone), if
/// that is a mobile task's: nobody looks at the stacks of others.
///
/// Only writes below the stack pointer of a thread that is about to call a function which uses more.
#[inline(always)]
pub(crate) fn below<const LEN: usize>() {
    if !migrt_iso::in_region(super::tls::thread_pointer() as usize) {
        return;
    }
    const { assert!(LEN.is_multiple_of(64)) };
    // Plain stores: `rep stosq` takes longer to begin than this takes in all (3 ns for 768 bytes).
    // SAFETY: memory below the stack pointer belongs to nobody until the next call; signal frames that
    // lie there while a handler runs are gone when this code goes on. Registers are declared.
    unsafe {
        std::arch::asm!(
            "lea rdi, [rsp - {far}]",
            "and rdi, -16",
            "mov ecx, {chunks}",
            "pxor xmm0, xmm0",
            // What the rounding down has left out at the top.
            "movups [rsp - {near}], xmm0",
            "2:",
            "movaps [rdi], xmm0",
            "movaps [rdi + 16], xmm0",
            "movaps [rdi + 32], xmm0",
            "movaps [rdi + 48], xmm0",
            "add rdi, 64",
            "dec ecx",
            "jnz 2b",
            "xor r12d, r12d",
            "xor r13d, r13d",
            "xor r14d, r14d",
            "xor r15d, r15d",
            far = const LEN,
            near = const 16,
            chunks = const LEN / 64,
            out("rdi") _,
            out("rcx") _,
            out("xmm0") _,
            // Not used, but not kept over the call either: a register that a callee saves may hold
            // a value that nobody needs any more, and would be stored with the frame. (rbx and rbp
            // cannot be named.)
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            // Without `nostack`, so there is no red zone below the stack pointer here.
        );
    }
}

/// So much of a page's lower end tells whether the stack went on below it.
const TELLING: usize = 512;

/// Clears what a task that has ended has left on its stack, below `top`: the frames of the slot's next
/// task have words that nothing has written yet, and would show its predecessor's.
///
/// Goes down page by page as long as there is something near their lower ends, so no page is touched
/// that the task did not touch, but perhaps one. Where a frame had a hole of so many bytes there,
/// words may be left.
///
/// # Safety
/// `low..top` is a stack that nobody runs on, and nothing on it is needed any more.
pub(crate) unsafe fn dead_stack(low: usize, top: usize) {
    let mut end = top & !15;
    while end > low {
        let start = ((end - 1) & !(migrt_iso::PAGE_LEN - 1)).max(low);
        let telling = (end - start).min(TELLING) / 8;
        // SAFETY: whole words of the dead stack (the caller's promise).
        let words = unsafe { std::slice::from_raw_parts(start as *const u64, telling) };
        let goes_on = words.iter().any(|&word| word != 0);
        // SAFETY: as above; the words are not looked at any more.
        unsafe { (start as *mut u8).write_bytes(0, end - start) };
        if !goes_on {
            return;
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_dead_stack_is_cleared_as_far_as_it_was_used() {
        const PAGE: usize = migrt_iso::PAGE_LEN;
        let mut stack = vec![0_u64; 5 * PAGE / 8];
        let low = (stack.as_ptr() as usize).next_multiple_of(PAGE);
        let first = (low - stack.as_ptr() as usize) / 8;
        let words = PAGE / 8;
        // The fourth page and the third are used to their ends, the second in part, the first not.
        stack[first + words + 100..first + 4 * words].fill(7);
        stack[first + 3] = 9;
        // SAFETY: four pages of the vector's own.
        unsafe { super::dead_stack(low, low + 4 * PAGE) };
        assert!(stack[first + words..first + 4 * words].iter().all(|&word| word == 0));
        assert_eq!(stack[first + 3], 9, "a page that was not used is left alone");
    }
}
