//! The coroutine of a task: corosensei's switch on a stack that we own.
//!
//! The `Coroutine` value is plain data (stack pointer, bounds, a function pointer), so that of a
//! mobile task lives in its header and travels by byte copy (facts K7; the version is pinned).
//! It is never dropped half-way: a task ends by returning.

use std::fmt;
use std::mem::{ManuallyDrop, size_of};
use std::num::NonZeroUsize;
use std::ptr;
use std::sync::OnceLock;

use corosensei::stack::{STACK_ALIGNMENT, Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// Why a task gave its worker back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Suspend {
    /// It lets others run and goes on by itself.
    Yield,
    /// It waits for somebody to wake it.
    Park,
    /// It was asked to move and has reached a safepoint.
    Move,
    /// It touched a page that is not here yet, and stands in the handler of that fault: it does not
    /// move from there.
    Fault,
}

/// Addresses a task's stack lies between. Owns nothing: the slot does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackBounds {
    /// One past the highest byte; 16-byte aligned.
    pub(crate) base: usize,
    /// The lowest byte, guard included.
    pub(crate) limit: usize,
}

impl StackBounds {
    pub(crate) fn new(limit: usize, top: usize) -> StackBounds {
        let base = top & !(STACK_ALIGNMENT - 1);
        assert!(limit > 0 && limit + 8192 <= base, "stack of {limit:#x}..{base:#x}");
        StackBounds { base, limit }
    }
}

// SAFETY: the bounds are aligned, non-zero, and the range belongs to the slot that the task owns
// for as long as the coroutine is resumed (I3); a guard lies at `limit`.
unsafe impl Stack for StackBounds {
    fn base(&self) -> StackPointer {
        NonZeroUsize::new(self.base).expect("checked in new")
    }
    fn limit(&self) -> StackPointer {
        NonZeroUsize::new(self.limit & !(STACK_ALIGNMENT - 1)).expect("checked in new")
    }
}

/// What a task's body uses to suspend.
pub(crate) type TaskYielder = Yielder<(), Suspend>;

/// A task's registers and stack pointer while it is suspended.
pub(crate) struct Coro(ManuallyDrop<Coroutine<(), Suspend, (), StackBounds>>);

impl fmt::Debug for Coro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coro").field("done", &self.0.done()).finish()
    }
}

impl Coro {
    /// Puts `body` onto the stack; it runs at the first [`Coro::resume`].
    ///
    /// # Safety
    /// The memory of `stack` is writable, unused, and outlives the coroutine.
    pub(crate) unsafe fn new<F>(stack: StackBounds, body: F) -> Coro
    where
        F: FnOnce(&TaskYielder) + 'static,
    {
        Coro(ManuallyDrop::new(Coroutine::with_stack(stack, move |yielder: &TaskYielder, ()| {
            body(yielder)
        })))
    }

    /// Where the suspended task's live stack begins: below it (less nothing: the switch saves its
    /// registers above) all is dead.
    pub(crate) fn saved_sp(&self) -> usize {
        // SAFETY: the offset was found in a value of this very type, whose word there is plain.
        unsafe { ptr::from_ref(self).cast::<usize>().add(saved_sp_word()).read() }
    }

    /// Runs the task until it suspends (`Some`) or returns (`None`).
    #[inline]
    pub(crate) fn resume(&mut self) -> Option<Suspend> {
        match self.0.resume(()) {
            CoroutineResult::Yield(why) => Some(why),
            CoroutineResult::Return(()) => None,
        }
    }
}

/// Which word of a [`Coro`] holds the stack pointer of the suspended task.
///
/// corosensei keeps it private, so it is found once by watching a coroutine: before the first
/// resume two words hold the same address of its stack, and exactly one of them changes by it.
///
/// # Panics
/// If there is not exactly one such word: this build's corosensei is not the one it was made for.
pub(crate) fn saved_sp_word() -> usize {
    static WORD: OnceLock<usize> = OnceLock::new();
    *WORD.get_or_init(|| {
        let memory = vec![0u64; 4096].leak().as_mut_ptr_range();
        let bounds = StackBounds::new(memory.start as usize, memory.end as usize);
        // SAFETY: the memory is leaked and used by nobody else.
        let mut coro = unsafe { Coro::new(bounds, |yielder| yielder.suspend(Suspend::Yield)) };
        let words = |coro: &Coro| -> Vec<usize> {
            let first = ptr::from_ref(coro).cast::<usize>();
            // SAFETY: a coroutine is words without padding: two bounds, pointers, a function.
            (0..size_of::<Coro>() / 8).map(|i| unsafe { first.add(i).read() }).collect()
        };
        let before = words(&coro);
        coro.resume();
        let after = words(&coro);
        coro.resume();
        let changed: Vec<usize> = (0..before.len()).filter(|&i| before[i] != after[i]).collect();
        let in_stack = |at: usize| (bounds.limit..=bounds.base).contains(&at);
        assert!(
            changed.len() == 1 && in_stack(after[changed[0]]),
            "the saved stack pointer of a coroutine was not found: words {changed:?} changed"
        );
        changed[0]
    })
}
