//! The thread-local block of a task: what `%fs` points to while the task runs.
//!
//! A task that moves between OS threads and machines needs thread-locals of its own, or safe code
//! breaks: the compiler keeps the address of a thread-local in a register across a suspension. So
//! each mobile task has a complete block inside its slot, laid out as glibc would do it:
//!
//! ```text
//!   low                                                                    high (slot top)
//!   … stack, growing down │ .tdata copy │ .tbss zeros │ struct pthread │ pad │ Header …
//!                         └─────── image_len() ───────┴── TCB_SPACE ─────────┘
//!                                                     ▲ TP: fs:[0] = fs:[0x10] = TP
//! ```
//!
//! Relies on static, non-PIE glibc 2.36 for x86-64. Its `struct pthread` is private, so every offset
//! used here is asked of the library where it tells (the tables for debuggers), and checked by its
//! behaviour where it does not; [`TlsLayout::probe`] does that once and names what did not match.
//!
//! Absent: where a block lies and when it is lent (the header's and the executor's business), and
//! the list of destructors (`dtors`).

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes from a task's thread pointer to its header: room for `struct pthread` and its alignment.
pub const TCB_SPACE: usize = 0xA00;

/// Offsets into glibc 2.36's `struct pthread`, each checked by [`TlsLayout::probe`].
#[cfg_attr(not(target_feature = "crt-static"), allow(dead_code, reason = "nothing is interposed"))]
pub(crate) mod offset {
    pub(crate) const TCB: usize = 0x0;
    pub(crate) const DTV: usize = 0x8;
    pub(crate) const SELF: usize = 0x10;
    pub(crate) const MULTIPLE_THREADS: usize = 0x18;
    pub(crate) const CANARY: usize = 0x28;
    pub(crate) const POINTER_GUARD: usize = 0x30;
    pub(crate) const FEATURE_1: usize = 0x48;
    pub(crate) const LIST: usize = 0x2c0;
    pub(crate) const TID: usize = 0x2d0;
    pub(crate) const ROBUST_PREV: usize = 0x2d8;
    pub(crate) const ROBUST_HEAD: usize = 0x2e0;
    pub(crate) const ROBUST_FUTEX_OFFSET: usize = 0x2e8;
    pub(crate) const CLEANUP_JMP_BUF: usize = 0x300;
    pub(crate) const CANCEL_HANDLING: usize = 0x308;
    pub(crate) const SPECIFIC_FIRST_BLOCK: usize = 0x310;
    pub(crate) const SPECIFIC: usize = 0x510;
    pub(crate) const USER_STACK: usize = 0x612;
    pub(crate) const STACK_BLOCK: usize = 0x690;
    pub(crate) const STACK_BLOCK_LEN: usize = 0x698;
    pub(crate) const RESOLVER: usize = 0x6b8;
    pub(crate) const RSEQ: usize = 0x920;
    pub(crate) const RSEQ_CPU_ID: usize = RSEQ + 4;
    pub(crate) const PTHREAD_LEN: usize = 0x940;
}

/// `RSEQ_CPU_ID_REGISTRATION_FAILED`: makes `sched_getcpu` ask the kernel, and keeps every user of
/// restartable sequences away from an area that the kernel does not know.
const RSEQ_UNREGISTERED: i32 = -2;

/// Where this program's thread-locals lie in a block, found once per process.
#[derive(Debug)]
pub struct TlsLayout {
    /// `.tdata`: the initial bytes, in the program's read-only data.
    tdata: &'static [u8],
    /// Bytes from the start of the image to TP.
    image_len: usize,
    image_align: usize,
    /// Distances below TP of libc's three ctype table pointers.
    ctype_below: [usize; 3],
    /// Distance below TP of libc's pointer to the thread's resolver state.
    resolver_below: usize,
}

static LAYOUT: OnceLock<Result<TlsLayout, TlsError>> = OnceLock::new();

impl TlsLayout {
    /// Finds the layout and checks every offset, on the first call; the same answer afterwards.
    ///
    /// Call it on an OS thread (the main thread at start), not on a task.
    ///
    /// # Errors
    ///
    /// [`TlsError`] says what of the program or of its libc is not as this module needs it.
    pub fn probe() -> Result<&'static TlsLayout, TlsError> {
        LAYOUT.get_or_init(probe::layout).as_ref().map_err(Clone::clone)
    }

    /// The layout that [`probe`](Self::probe) has found.
    ///
    /// # Panics
    ///
    /// If the probe was not called or failed.
    #[inline]
    pub fn get() -> &'static TlsLayout {
        match LAYOUT.get() {
            Some(Ok(layout)) => layout,
            _ => panic!("no task may exist before TlsLayout::probe() has succeeded"),
        }
    }

    /// Bytes a block needs below TP. A multiple of [`image_align`](Self::image_align).
    pub fn image_len(&self) -> usize {
        self.image_len
    }

    /// Alignment that TP needs, at least 64.
    pub fn image_align(&self) -> usize {
        self.image_align
    }

    /// Makes the block of a new task. Costs two fills, one copy and a few stores; calls nothing.
    ///
    /// `tid` is what libc takes for the kernel's thread id (recursive mutexes, stdio locks): a
    /// constant of the task. `stack` is what `pthread_getattr_np` will answer.
    ///
    /// # Safety
    ///
    /// * `tp` is aligned to [`image_align`](Self::image_align); `image_len()` bytes below it and
    ///   [`TCB_SPACE`] above it are writable and nobody else's (I3).
    /// * `tid` is no kernel thread id and no other task's.
    /// * The caller runs on an OS thread's own FS base.
    pub unsafe fn init_block(&self, tp: *mut u8, tid: u32, stack: Range<usize>) {
        let image = tp.wrapping_sub(self.image_len);
        let rest = self.image_len - self.tdata.len();
        // SAFETY: the caller owns `image_len` bytes below TP; `.tdata` is elsewhere (program image).
        unsafe { image.copy_from_nonoverlapping(self.tdata.as_ptr(), self.tdata.len()) };
        // SAFETY: `.tbss`, the rest of the same bytes, and `struct pthread` above them. A thread of
        // libc's own starts from zeroed memory too, and then gets the fields set below.
        unsafe { image.add(self.tdata.len()).write_bytes(0, rest + offset::PTHREAD_LEN) };

        let worker = thread_pointer();
        let at = |field: usize| tp.wrapping_add(field);
        // SAFETY: all offsets are below PTHREAD_LEN, checked by `probe`; the caller owns the block.
        unsafe {
            put(tp, offset::TCB, tp);
            put(tp, offset::SELF, tp);
            put(tp, offset::MULTIPLE_THREADS, 1u32);
            put(tp, offset::CANARY, get::<u64>(worker, offset::CANARY));
            put(tp, offset::POINTER_GUARD, get::<u64>(worker, offset::POINTER_GUARD));
            put(tp, offset::FEATURE_1, get::<u32>(worker, offset::FEATURE_1));
            put(tp, offset::TID, tid);
            // In none of libc's lists of threads, but `fork` unlinks it in the child: a ring of one.
            put(tp, offset::LIST, at(offset::LIST));
            put(tp, offset::LIST + 8, at(offset::LIST));
            // An empty list of robust mutexes points to its own head.
            put(tp, offset::ROBUST_PREV, at(offset::ROBUST_HEAD));
            put(tp, offset::ROBUST_HEAD, at(offset::ROBUST_HEAD));
            put(tp, offset::ROBUST_FUTEX_OFFSET, get::<u64>(worker, offset::ROBUST_FUTEX_OFFSET));
            put(tp, offset::SPECIFIC, at(offset::SPECIFIC_FIRST_BLOCK));
            put(tp, offset::USER_STACK, 1u8);
            put(tp, offset::STACK_BLOCK, stack.start);
            put(tp, offset::STACK_BLOCK_LEN, stack.end - stack.start);
            put(tp.wrapping_sub(self.resolver_below), 0, at(offset::RESOLVER));
        }
        // SAFETY: the block is complete but for what differs between processes, set here.
        unsafe { self.arrive(tp) };
    }

    /// Renews what differs between processes, on the node a task has come to (or was made on).
    ///
    /// # Safety
    ///
    /// * `tp` is a block made by [`init_block`](Self::init_block) of the same program, and its task
    ///   does not run.
    /// * The caller runs on an OS thread's own FS base.
    pub unsafe fn arrive(&self, tp: *mut u8) {
        let worker = thread_pointer();
        // SAFETY: both are whole blocks of this program, so both have the three pointers. A locale
        // set at run time lives in this node's heap: its tables must come from here.
        unsafe {
            for below in self.ctype_below {
                put(tp.wrapping_sub(below), 0, get::<usize>(worker.wrapping_sub(below), 0));
            }
            put(tp, offset::RSEQ, 0u32);
            put(tp, offset::RSEQ_CPU_ID, RSEQ_UNREGISTERED);
            self.lend(tp, worker);
        }
    }

    /// Gives a task's block what belongs to the OS thread that is about to run it: one store.
    ///
    /// # Safety
    ///
    /// `tp` is a task's block, not running elsewhere (I1); `worker_tp` is the calling OS thread's.
    #[inline]
    pub unsafe fn lend(&self, tp: *mut u8, worker_tp: *mut u8) {
        // SAFETY: TP + 8 in both. The vector of dynamic modules is the thread's and dies with it.
        unsafe { put(tp, offset::DTV, get::<*mut u8>(worker_tp, offset::DTV)) };
    }

    /// The addresses of the program's own thread-locals in the block at `tp`: what a scan for
    /// pointers into node memory has to read.
    pub fn image_range(&self, tp: usize) -> Range<usize> {
        tp - self.image_len..tp
    }
}

/// The calling thread's or task's thread pointer.
#[inline(always)]
pub fn thread_pointer() -> *mut u8 {
    let tp: *mut u8;
    // SAFETY: every block holds its own address at 0x10. Not `pure`: two reads with a suspension or
    // a switch between them may differ, and must not be merged.
    unsafe {
        std::arch::asm!("mov {}, fs:[0x10]", out(reg) tp, options(nostack, preserves_flags, readonly));
    }
    tp
}

/// Whether `wrfsbase` may be used: 14-43 ns against the 200-600 of the system call.
static HAS_WRFSBASE: AtomicBool = AtomicBool::new(false);

/// Makes `tp` the FS base of this OS thread.
///
/// # Safety
///
/// `tp` is a whole block that no other OS thread runs on, and the caller does not go on with an
/// address of a thread-local that it took before: see [`with_thread_pointer`].
#[inline(always)]
pub unsafe fn set_thread_pointer(tp: *mut u8) {
    // Relaxed: a constant once `probe` has run, and the slow way is right before that.
    if HAS_WRFSBASE.load(Ordering::Relaxed) {
        // SAFETY: the kernel announced the instruction in AT_HWCAP2. It clobbers nothing, but all
        // memory accesses through FS must stay on their side of it, hence no `nomem`.
        unsafe { std::arch::asm!("wrfsbase {}", in(reg) tp, options(nostack, preserves_flags)) };
        return;
    }
    const ARCH_SET_FS: usize = 0x1002;
    // SAFETY: sets the FS base of this thread only. Raw, because the libc wrapper writes errno.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_arch_prctl => _, in("rdi") ARCH_SET_FS,
            in("rsi") tp, out("rcx") _, out("r11") _, options(nostack));
    }
}

/// Calls `f` with the FS base at `tp`, and puts the old one back. A panic of `f` aborts: it would
/// leave one block's panic count to another.
///
/// Never inlined, nor is the call of `f`, so that no address of a thread-local is kept across the
/// switch. `f` must not return such an address either.
///
/// # Safety
///
/// `tp` is a whole block that nobody else runs on. `f` may resume a task, which may suspend; but if
/// the caller *is* a task (working on its worker's block), `f` must not suspend it.
#[inline(never)]
pub unsafe fn with_thread_pointer<R>(tp: *mut u8, f: impl FnOnce() -> R) -> R {
    let previous = thread_pointer();
    // SAFETY: the caller's promise.
    unsafe { set_thread_pointer(tp) };
    let result = call_there(f);
    // SAFETY: the base this OS thread had before.
    unsafe { set_thread_pointer(previous) };
    result
}

#[inline(never)]
fn call_there<R>(f: impl FnOnce() -> R) -> R {
    struct NoUnwind;
    impl Drop for NoUnwind {
        fn drop(&mut self) {
            const TEXT: &[u8] = b"migrt: a panic reached a switch of the thread pointer\n";
            // SAFETY: writes a constant to stderr and ends the process.
            unsafe {
                libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
                libc::abort()
            }
        }
    }
    let guard = NoUnwind;
    let result = f();
    std::mem::forget(guard);
    result
}

/// # Safety
///
/// `base + field` is valid for a write of `T`.
#[inline(always)]
unsafe fn put<T>(base: *mut u8, field: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { base.wrapping_add(field).cast::<T>().write_unaligned(value) };
}

/// # Safety
///
/// `base + field` is valid for a read of `T`, which has no invalid values.
#[inline(always)]
pub(crate) unsafe fn get<T: Copy>(base: *const u8, field: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { base.wrapping_add(field).cast::<T>().read_unaligned() }
}

/// Why this program's threads cannot be imitated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The program is linked dynamically or at a changing address.
    NotStatic,
    /// The program headers name no thread-locals, or not where they are.
    NoImage,
    /// A field of `struct pthread` is not where glibc 2.36 has it.
    Mismatch {
        /// The field.
        what: &'static str,
        /// What this module relies on.
        expected: u64,
        /// What this libc has.
        found: u64,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::NotStatic => f.write_str(
                "mobile tasks need a static, non-PIE program: put migrt's lines (target, \
                 +crt-static, relocation-model=static) into .cargo/config.toml and unset RUSTFLAGS",
            ),
            TlsError::NoImage => f.write_str(
                "the program's thread-locals are not where its PT_TLS header says; was it linked with an unusual linker?",
            ),
            TlsError::Mismatch { what, expected, found } => write!(
                f,
                "this libc's thread structure differs from glibc 2.36 (x86-64): {what} is {found:#x}, not {expected:#x}; \
                 build on a system with glibc 2.36"
            ),
        }
    }
}

impl std::error::Error for TlsError {}

#[path = "tls_probe.rs"]
mod probe;

#[cfg(all(test, target_feature = "crt-static"))]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_switch_lead_there_and_back() {
        let layout = TlsLayout::probe().unwrap();
        let mut memory = vec![0u8; layout.image_len() + layout.image_align() + TCB_SPACE];
        let first = memory.as_mut_ptr().wrapping_add(layout.image_len());
        let tp = first.wrapping_add(first.align_offset(layout.image_align()));
        // SAFETY: the block is whole and ours.
        unsafe { layout.init_block(tp, 0x7000_0000, 0..4096) };
        let before = thread_pointer();
        let has = HAS_WRFSBASE.load(Ordering::Relaxed);
        for way in [has, false] {
            HAS_WRFSBASE.store(way, Ordering::Relaxed);
            // SAFETY: nobody else runs on the block.
            assert_eq!(unsafe { with_thread_pointer(tp, thread_pointer) }, tp);
            assert_eq!(thread_pointer(), before);
        }
        HAS_WRFSBASE.store(has, Ordering::Relaxed);
    }
}
