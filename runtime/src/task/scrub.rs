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

/// Clears `LEN` bytes below the frame of the function this is inlined into (and its red zone).
///
/// Only writes below the stack pointer of a thread that is about to call a function which uses more.
#[inline(always)]
pub(crate) fn below<const LEN: usize>() {
    // SAFETY: memory below the red zone belongs to nobody until the next call; signal frames that
    // lie there while a handler runs are gone when this code goes on. Registers are declared.
    unsafe {
        std::arch::asm!(
            "lea rdi, [rsp - {far}]",
            "mov ecx, {words}",
            "xor eax, eax",
            "rep stosq",
            "xor r12d, r12d",
            "xor r13d, r13d",
            "xor r14d, r14d",
            "xor r15d, r15d",
            far = const LEN + 128,
            words = const LEN / 8,
            out("rdi") _,
            out("rcx") _,
            out("rax") _,
            // Not used, but not kept over the call either: a register that a callee saves may hold
            // a value that nobody needs any more, and would be stored with the frame. (rbx and rbp
            // cannot be named.)
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            options(nostack),
        );
    }
}
