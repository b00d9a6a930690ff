//! The floating-point control words over a suspension (I5): corosensei's switch leaves them alone.
//!
//! A thread owns them, so a task does. Workers, and so new tasks, have the default ones; a task that
//! has set others gives its worker the defaults back when it suspends, and has its own again when it
//! goes on, wherever that is. The exception flags in MXCSR are not kept.

use std::arch::asm;

/// Rounding to nearest, all exceptions masked, no flushing to zero: as the kernel starts a thread.
const DEFAULT: Control = Control { mxcsr: 0x1f80, x87: 0x037f };
/// The bits of MXCSR that say which exceptions there were.
const MXCSR_FLAGS: u32 = 0x3f;

/// MXCSR without its flags, and the x87 control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    mxcsr: u32,
    x87: u16,
}

impl Control {
    /// Those of the running thread.
    #[inline]
    fn read() -> Control {
        let (mut mxcsr, mut x87) = (0u32, 0u16);
        // SAFETY: stores into the two live words.
        unsafe {
            asm!("stmxcsr [{m}]", "fnstcw [{x}]", m = in(reg) &mut mxcsr, x = in(reg) &mut x87,
                options(nostack, preserves_flags));
        }
        Control { mxcsr: mxcsr & !MXCSR_FLAGS, x87 }
    }

    #[cold]
    fn write(self) {
        // SAFETY: words that were read from the same processor class (the hello compares them), or
        // the defaults.
        unsafe {
            asm!("ldmxcsr [{m}]", "fldcw [{x}]", m = in(reg) &self.mxcsr, x = in(reg) &self.x87,
                options(nostack, preserves_flags));
        }
    }
}

/// Calls `suspend` with the default words; afterwards the caller has its own again.
#[inline(always)]
pub(crate) fn around_suspension(suspend: impl FnOnce()) {
    let mine = Control::read();
    if mine == DEFAULT {
        suspend();
    } else {
        DEFAULT.write();
        suspend();
        mine.write();
    }
}

/// The task has ended: its worker is to have the default words.
pub(crate) fn reset() {
    if Control::read() != DEFAULT {
        DEFAULT.write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_starts_with_the_default_words() {
        std::thread::spawn(|| assert_eq!(Control::read(), DEFAULT)).join().unwrap();
    }

    #[test]
    fn set_words_are_back_after_a_suspension_and_not_seen_during_it() {
        let up = Control { mxcsr: DEFAULT.mxcsr | 0x4000, x87: DEFAULT.x87 | 0x0800 };
        up.write();
        let mut during = up;
        around_suspension(|| during = Control::read());
        let after = Control::read();
        reset();
        assert_eq!((during, after, Control::read()), (DEFAULT, up, DEFAULT));
    }
}
