//! One stack canary and one pointer guard for a whole cluster, derived from its secret.
//!
//! Both are random words that libc draws at start and keeps in each thread's block. A task takes its
//! stack along, with canaries in the frames of its C code, and the `jmp_buf`s in it, whose code
//! addresses are mangled with the guard: so both words have to be equal on all nodes. They stay
//! secret: no peer sees them, and they tell nothing of the secret they came from.
//!
//! ```text
//!   mangled = rotate_left(address ^ guard, 17)
//! ```
//!
//! What libc mangled before [`install`] is mangled again: the lists of `atexit` and `at_quick_exit`,
//! and the jump buffer of `main`'s caller. Relies on there being one thread; later threads inherit
//! both words. Absent: where the secret comes from.

use std::fmt;

use super::tls::{TlsError, TlsLayout};

/// Puts the cluster's canary and pointer guard in place of this process's. Once per process, first
/// thing in `main`; the same secret again is no error.
///
/// # Errors
///
/// [`SecretError`]; nothing has changed then.
///
/// # Safety
///
/// * No other thread runs, nor is any being made.
/// * No C frame that is protected by the canary and will return is on the stack, and no `jmp_buf`
///   that will be used was filled before. That is so in Rust's `main`.
#[inline(never)]
pub unsafe fn install(secret: &[u8; 32]) -> Result<(), SecretError> {
    TlsLayout::probe().map_err(SecretError::Tls)?;
    // SAFETY: the caller's promise is the one asked for.
    unsafe { words::replace(words_of(secret)) }
}

/// The two words of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Words {
    canary: u64,
    guard: u64,
}

fn words_of(secret: &[u8; 32]) -> Words {
    // The low byte is zero, so that a string function that runs over the end stops there.
    Words { canary: derive(secret, 1) & !0xff, guard: derive(secret, 2) }
}

/// SipHash-2-4 keyed by the secret's first half, of its second half and the purpose: who learns the
/// result learns nothing of the key.
fn derive(secret: &[u8; 32], purpose: u64) -> u64 {
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| secret[i * 8 + b]));
    let (k0, k1) = (word(0), word(1));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last block carries the length of the message, 24, in its top byte.
    for block in [word(2), word(3), purpose, 24 << 56] {
        v[3] ^= block;
        (0..2).for_each(|_| sip_round(&mut v));
        v[0] ^= block;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| sip_round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// Why the cluster's words could not be put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// The program is not one whose thread blocks are known.
    Tls(TlsError),
    /// Another thread was started before.
    ThreadsRunning,
    /// A mangled address of libc's does not lead into the program's code.
    UnknownMangling {
        /// In what it was found.
        list: &'static str,
    },
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Tls(error) => error.fmt(f),
            SecretError::ThreadsRunning => f.write_str(
                "the cluster's secret must be installed before the program starts its first thread: \
                 let migrt start before anything else in main",
            ),
            SecretError::UnknownMangling { list } => write!(
                f,
                "an address in libc's {list} is not mangled as glibc 2.36 does it; build with glibc 2.36"
            ),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SecretError::Tls(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(not(target_feature = "crt-static"))]
mod words {
    use super::{SecretError, TlsError, Words};

    pub(super) unsafe fn replace(_: Words) -> Result<(), SecretError> {
        Err(SecretError::Tls(TlsError::NotStatic))
    }
}

#[cfg(target_feature = "crt-static")]
mod words {
    use super::{SecretError, Words};
    use crate::task::tls::{get, offset, thread_pointer};

    /// A node of libc's lists of functions to call at exit.
    #[repr(C)]
    struct ExitFunctions {
        next: *mut ExitFunctions,
        used: usize,
        entries: [ExitEntry; 32],
    }

    #[repr(C)]
    struct ExitEntry {
        /// 0 free, 1 being made; above, each kind has its function first.
        flavor: i64,
        function: u64,
        argument: *mut u8,
        object: *mut u8,
    }

    unsafe extern "C" {
        static mut __exit_funcs: *mut ExitFunctions;
        static mut __quick_exit_funcs: *mut ExitFunctions;
        static __libc_single_threaded: u8;
        static __executable_start: u8;
        static etext: u8;
    }

    /// # Safety
    ///
    /// As for [`super::install`].
    #[inline(never)]
    pub(super) unsafe fn replace(new: Words) -> Result<(), SecretError> {
        let tp = thread_pointer();
        // SAFETY: two words of the own block, whose offsets `probe` has checked.
        let old = unsafe {
            Words { canary: get(tp, offset::CANARY), guard: get(tp, offset::POINTER_GUARD) }
        };
        if old == new {
            return Ok(());
        }
        // SAFETY: a byte that libc keeps.
        if unsafe { __libc_single_threaded } == 0 {
            return Err(SecretError::ThreadsRunning);
        }
        // Look at all before the first change: an error must leave the process as it was.
        for change in [false, true] {
            // SAFETY: no other thread (the caller's promise), so nobody else has the lists.
            unsafe {
                mangle_list("atexit list", __exit_funcs, old, new, change)?;
                mangle_list("at_quick_exit list", __quick_exit_funcs, old, new, change)?;
                mangle_jump(get(tp, offset::CLEANUP_JMP_BUF), old, new, change)?;
            }
        }
        // SAFETY: the own block. Nothing between the two stores calls C.
        unsafe {
            tp.add(offset::CANARY).cast::<u64>().write(new.canary);
            tp.add(offset::POINTER_GUARD).cast::<u64>().write(new.guard);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `list` is one of libc's, and no other thread runs.
    unsafe fn mangle_list(
        name: &'static str,
        mut list: *mut ExitFunctions,
        old: Words,
        new: Words,
        change: bool,
    ) -> Result<(), SecretError> {
        // SAFETY: libc's list, whole while nobody changes it.
        while let Some(node) = unsafe { list.as_mut() } {
            for entry in node.entries.iter_mut().take(node.used).filter(|e| e.flavor > 1) {
                let address = demangle(entry.function, old);
                if !is_code(address) {
                    return Err(SecretError::UnknownMangling { list: name });
                }
                if change {
                    entry.function = mangle(address, new);
                }
            }
            list = node.next;
        }
        Ok(())
    }

    /// The buffer that `pthread_exit` in the main thread jumps to.
    ///
    /// # Safety
    ///
    /// `buffer` is null or libc's own `jmp_buf`, and no other thread runs.
    unsafe fn mangle_jump(
        buffer: *mut [u64; 8],
        old: Words,
        new: Words,
        change: bool,
    ) -> Result<(), SecretError> {
        const MANGLED: [usize; 3] = [1, 6, 7]; // rbp, rsp, rip
        // SAFETY: the caller's promise.
        let Some(buffer) = (unsafe { buffer.as_mut() }) else {
            return Ok(());
        };
        if !is_code(demangle(buffer[7], old)) {
            return Err(SecretError::UnknownMangling { list: "main's jump buffer" });
        }
        if change {
            MANGLED.iter().for_each(|&i| buffer[i] = mangle(demangle(buffer[i], old), new));
        }
        Ok(())
    }

    fn is_code(address: u64) -> bool {
        let (low, high) = (&raw const __executable_start as u64, &raw const etext as u64);
        (low..high).contains(&address)
    }

    fn mangle(address: u64, words: Words) -> u64 {
        (address ^ words.guard).rotate_left(17)
    }

    fn demangle(mangled: u64, words: Words) -> u64 {
        mangled.rotate_right(17) ^ words.guard
    }
}

#[cfg(test)]
mod tests {
    use super::{derive, words_of};

    #[test]
    fn words_depend_on_each_half_of_the_secret_and_on_the_purpose() {
        let base = [7u8; 32];
        let words = words_of(&base);
        assert_eq!(words.canary & 0xff, 0);
        assert_ne!(words.canary, words.guard & !0xff);
        for byte in [0, 15, 16, 31] {
            let mut other = base;
            other[byte] ^= 1;
            assert!(words_of(&other) != words);
        }
    }

    #[test]
    #[expect(deprecated, reason = "std's own SipHash-2-4, kept for this")]
    fn the_derivation_is_siphash() {
        use std::hash::{Hasher, SipHasher};
        let secret: [u8; 32] = std::array::from_fn(|i| (i * 7 + 3) as u8);
        let word = |i: usize| u64::from_le_bytes(secret[i * 8..i * 8 + 8].try_into().unwrap());
        for purpose in [1u64, 2, u64::MAX] {
            let mut reference = SipHasher::new_with_keys(word(0), word(1));
            reference.write(&secret[16..]);
            reference.write(&purpose.to_le_bytes());
            assert_eq!(derive(&secret, purpose), reference.finish());
        }
    }
}
