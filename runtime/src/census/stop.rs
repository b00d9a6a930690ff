//! Stopping the world: all other threads of this process stand still while one looks at their memory.
//!
//! ```text
//!   stopper                                    another thread
//!   ROUND even → odd
//!   list threads, signal those not yet seen ─► handler: in ACTIVE, registers itself, STOPPED += 1
//!   wait for STOPPED, list again …             sleeps on ROUND
//!   a list that began with all known threads
//!   stopped names nobody new: all stand
//!   f(threads)
//!   ROUND odd → even, wake ──────────────────► leaves the handler, out of ACTIVE
//! ```
//!
//! 1. A thread enters ACTIVE before it reads ROUND, and a stop begins only when ACTIVE is 0. So a
//!    handler that comes late, for a round that was given up, finds an even ROUND and returns, or
//!    serves the round that is on; it never writes into the table of a later one.
//! 2. Only a list that *began* when all known threads stood is believed: a stopped thread starts none.
//! 3. The handler may run on a mobile task's thread block: it uses no thread-local, no libc function,
//!    no errno, no memory but the stack it is on and the table.
//!
//! System calls that were interrupted start again or answer EINTR (epoll, timed futex waits): std
//! waits again, and the runtime's own loops take it for a spurious wake.
//!
//! Absent: a thread that blocks the signal. A stop gives up at its deadline then, and says so.

use std::arch::asm;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use migrt_iso::raw;

/// Most threads that a process may have for its world to be stopped.
const THREADS_MAX: usize = 1024;
/// How long the stopper sleeps at most before it looks again whether a thread has ended instead.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A thread that stands still in the handler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoppedThread {
    /// The kernel's number for it.
    pub(crate) tid: i32,
    /// Its stack pointer where it was interrupted.
    pub(crate) rsp: usize,
    /// Its thread block: its own, or that of the mobile task that it runs.
    pub(crate) fs_base: usize,
    /// Its 16 integer registers, in the signal frame.
    pub(crate) registers: *const [usize; 16],
    /// Its floating-point and vector registers, in the signal frame: start and length in bytes.
    pub(crate) vectors: (usize, usize),
    /// Its alternate stack; length 0 if it has none. The signal frame lies there, or else below
    /// `rsp`.
    pub(crate) alternate_stack: (usize, usize),
}

/// Makes stops possible. Repeating it does nothing.
///
/// # Errors
///
/// The system's error if the handler cannot be installed.
pub(crate) fn install() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // What is found out at first use must not be found out while others stand in its midst.
        let _ = migrt_iso::page::present_count(0, migrt_iso::PAGE_LEN);
        let _ = Instant::now();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) = on_signal;
        // SAFETY: zeroes are a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: lives on this stack. Nothing else may interrupt a thread that is to stand still,
        // save for faults.
        unsafe { libc::sigfillset(&mut action.sa_mask) };
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            // SAFETY: as above.
            unsafe { libc::sigdelset(&mut action.sa_mask, fault) };
        }
        // SAFETY: the handler keeps rule 3.
        if unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) } != 0 {
            result = Err(std::io::Error::last_os_error());
        }
        READY.store(result.is_ok(), Ordering::Release);
    });
    result
}

/// Stops all other threads of the process, runs `f` with them, and lets them go on. `None`, and `f`
/// not run, if not all of them stand within `deadline` (one blocks the signal, or another stop is
/// on), if there are too many, or if [`install`] was not called.
///
/// `f` must take no lock that a stopped thread may hold: **it must not allocate or free**, print,
/// panic, or use anything of std that does. What it needs is made before. Not to be called on a
/// mobile task's thread block.
pub(crate) fn with_stopped_threads<R>(
    deadline: Duration,
    f: impl FnOnce(&[StoppedThread]) -> R,
) -> Option<R> {
    let end = Instant::now() + deadline;
    if !READY.load(Ordering::Acquire) || !begin(end) {
        return None;
    }
    let _release = Release;
    let count = stop_all(end)?;
    // SAFETY: the stop is ours (BUSY), and the first `count` places were filled, for no thread that
    // has registered goes on before the release.
    Some(f(unsafe {
        std::slice::from_raw_parts(TABLE.stopped.get().cast::<StoppedThread>(), count)
    }))
}

/// Why the last stop was given up: the number of a thread that did not stand, or one of these.
static WHY: AtomicI32 = AtomicI32::new(0);
const WHY_BUSY: i32 = -1;
const WHY_ACTIVE: i32 = -2;
const WHY_UNSEEN: i32 = -3;

/// Why the last stop that was given up was, in words.
pub(crate) fn why_given_up() -> String {
    // Relaxed: for people.
    match WHY.load(Ordering::Relaxed) {
        WHY_BUSY => "another thread stops them all the time".to_owned(),
        WHY_ACTIVE => "a thread has not left the last stop".to_owned(),
        WHY_UNSEEN => "the list of threads cannot be read, or signalled, as a whole".to_owned(),
        tid => {
            let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
            let name = name.unwrap_or_default();
            let name = name.trim_end();
            format!(
                "thread {tid} ({name}) did not stop in time: it blocks signals, or gets no core"
            )
        }
    }
}

fn give_up<R>(why: i32) -> Option<R> {
    WHY.store(why, Ordering::Relaxed);
    None
}

/// Lets the threads go on, however the stop ended.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        // Pairs with the load in the handler's loop.
        ROUND.fetch_add(1, Ordering::SeqCst);
        wake(&ROUND, i32::MAX as usize);
        BUSY.store(false, Ordering::Release);
    }
}

/// Where the stop's own tables lie: start and length. They hold stack pointers and the like.
pub(super) fn table() -> (usize, usize) {
    (&raw const TABLE as usize, size_of::<Table>())
}

/// The signal's number: real-time signals queue, so none is lost.
fn signal() -> i32 {
    libc::SIGRTMIN() + 6
}

static READY: AtomicBool = AtomicBool::new(false);
/// Somebody stops the world, or tries to.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Odd while a stop is on. Stopped threads sleep on it.
static ROUND: AtomicU32 = AtomicU32::new(0);
/// Threads between the two ends of the handler.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
/// Threads that stand. The stopper sleeps on it.
static STOPPED: AtomicU32 = AtomicU32::new(0);
/// Places in the table that were given out.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

struct Table {
    /// Written by the threads, each its own place.
    stopped: UnsafeCell<[MaybeUninit<StoppedThread>; THREADS_MAX]>,
    /// Who has filled the place; 0: nobody yet.
    tids: [AtomicI32; THREADS_MAX],
    /// The rest is the stopper's own.
    signalled: UnsafeCell<[i32; THREADS_MAX]>,
    listing: UnsafeCell<Listing>,
}

#[repr(align(16))]
struct Listing([u8; 64 << 10]);

// SAFETY: the first field by place numbers that are given out once a round, the last two by BUSY.
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    stopped: UnsafeCell::new([const { MaybeUninit::uninit() }; THREADS_MAX]),
    tids: [const { AtomicI32::new(0) }; THREADS_MAX],
    signalled: UnsafeCell::new([0; THREADS_MAX]),
    listing: UnsafeCell::new(Listing([0; 64 << 10])),
};

/// Takes the right to stop, and opens a round.
fn begin(end: Instant) -> bool {
    while BUSY.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        if Instant::now() >= end {
            WHY.store(WHY_BUSY, Ordering::Relaxed);
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    // Rule 1.
    while ACTIVE.load(Ordering::SeqCst) != 0 {
        if Instant::now() >= end {
            WHY.store(WHY_ACTIVE, Ordering::Relaxed);
            BUSY.store(false, Ordering::Release);
            return false;
        }
        std::thread::yield_now();
    }
    let used = TAKEN.swap(0, Ordering::Relaxed).min(THREADS_MAX);
    for tid in &TABLE.tids[..used] {
        tid.store(0, Ordering::Relaxed);
    }
    STOPPED.store(0, Ordering::Relaxed);
    ROUND.fetch_add(1, Ordering::SeqCst);
    true
}

/// Signals and waits until all others stand; how many. `None`: given up.
fn stop_all(end: Instant) -> Option<usize> {
    let own = own_tid();
    let process = process_id();
    let mut signalled = 0;
    loop {
        let known = STOPPED.load(Ordering::Acquire) as usize;
        // SAFETY: BUSY is ours.
        let (listing, seen) =
            unsafe { (&mut (*TABLE.listing.get()).0, &mut *TABLE.signalled.get()) };
        let (mut others, mut standing, mut last) = (0, 0, WHY_UNSEEN);
        let whole = for_each_thread(listing, &mut |tid| {
            if tid == own {
                return true;
            }
            others += 1;
            if has_stopped(tid) {
                standing += 1;
                return true;
            }
            last = tid;
            if seen[..signalled].contains(&tid) {
                return true;
            }
            if signalled == THREADS_MAX {
                return false;
            }
            seen[signalled] = tid;
            signalled += 1;
            // A thread that is gone by now is no failure: the next list lacks it.
            let sent = [process, tid as usize, signal() as usize, 0, 0, 0];
            // SAFETY: a signal of ours to a thread of this process.
            unsafe { raw::syscall(libc::SYS_tgkill, sent) != -(libc::EAGAIN as isize) }
        });
        if !whole {
            return give_up(WHY_UNSEEN);
        }
        // Rule 2: those that stood before the list began are all that it names.
        if others == standing && standing == known {
            return Some(known);
        }
        if Instant::now() >= end {
            return give_up(last);
        }
        if others != standing {
            wait(&STOPPED, known as u32, Some(LOOK_AGAIN));
        }
    }
}

fn has_stopped(tid: i32) -> bool {
    let taken = TAKEN.load(Ordering::Acquire).min(THREADS_MAX);
    // Acquire: pairs with the handler's store, after which the place is filled.
    TABLE.tids[..taken].iter().any(|place| place.load(Ordering::Acquire) == tid)
}

/// Calls `found` with each thread's number, until it says `false`. Whether all were seen.
fn for_each_thread(listing: &mut [u8], found: &mut dyn FnMut(i32) -> bool) -> bool {
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    let at = libc::AT_FDCWD as isize as usize;
    let path = c"/proc/self/task".as_ptr() as usize;
    // SAFETY: a C string; the descriptor is closed below.
    let folder = unsafe { raw::syscall(libc::SYS_openat, [at, path, flags, 0, 0, 0]) };
    if folder < 0 {
        return false;
    }
    let mut whole = true;
    loop {
        let args = [folder as usize, listing.as_mut_ptr() as usize, listing.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most the listing's length.
        let got = unsafe { raw::syscall(libc::SYS_getdents64, args) };
        if got <= 0 {
            whole &= got == 0;
            break;
        }
        let mut rest = &listing[..got as usize];
        // A record: number, offset (8 bytes each), its own length (2), type (1), name, zero.
        while whole && rest.len() > 19 {
            let len = u16::from_ne_bytes([rest[16], rest[17]]) as usize;
            let mut name = rest[19..len].iter().take_while(|&&byte| byte != 0);
            let tid = name.try_fold(0i32, |number, &digit| match digit {
                b'0'..=b'9' => number.checked_mul(10)?.checked_add(i32::from(digit - b'0')),
                _ => None,
            });
            rest = &rest[len..];
            whole = tid.is_none_or(&mut *found);
        }
        if !whole {
            break;
        }
    }
    // SAFETY: opened above.
    unsafe { raw::syscall(libc::SYS_close, [folder as usize, 0, 0, 0, 0, 0]) };
    whole
}

/// See the module, rule 3.
extern "C" fn on_signal(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    ACTIVE.fetch_add(1, Ordering::SeqCst);
    let round = ROUND.load(Ordering::SeqCst);
    if round & 1 == 1 {
        let place = TAKEN.fetch_add(1, Ordering::AcqRel);
        if place < THREADS_MAX {
            let tid = own_tid();
            // SAFETY: the kernel's context for this signal, on this stack.
            let thread = unsafe { read_context(tid, context) };
            // SAFETY: the place was given to this thread alone (rule 1).
            unsafe { (*TABLE.stopped.get())[place].write(thread) };
            TABLE.tids[place].store(tid, Ordering::Release);
            STOPPED.fetch_add(1, Ordering::AcqRel);
            wake(&STOPPED, 1);
        }
        while ROUND.load(Ordering::Acquire) == round {
            wait(&ROUND, round, None);
        }
    }
    ACTIVE.fetch_sub(1, Ordering::SeqCst);
}

/// # Safety
///
/// - `context` is what the kernel gave the handler
unsafe fn read_context(tid: i32, context: *mut libc::ucontext_t) -> StoppedThread {
    const MAGIC: u32 = 0x4650_5853;
    const LEGACY_LEN: usize = 512;
    let fs_base: usize;
    // SAFETY: every thread block begins with its own address.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) fs_base, options(nostack, preserves_flags, readonly))
    };
    // SAFETY: the caller's promise. The first 16 registers are the integer ones.
    let context = unsafe { &*context };
    let registers = &context.uc_mcontext.gregs;
    let vectors = context.uc_mcontext.fpregs as usize;
    let mut vectors_len = 0;
    if vectors != 0 {
        // SAFETY: the area that FXSAVE leaves to software begins with a magic word and the length
        // of the whole area if that is longer.
        let [magic, len] = unsafe { ((vectors + 464) as *const [u32; 2]).read() };
        vectors_len = if magic == MAGIC { len as usize } else { LEGACY_LEN };
    }
    let has_stack = context.uc_stack.ss_flags & libc::SS_DISABLE == 0;
    StoppedThread {
        tid,
        rsp: registers[libc::REG_RSP as usize] as usize,
        fs_base,
        registers: registers.as_ptr().cast(),
        vectors: (vectors, vectors_len),
        alternate_stack: (
            context.uc_stack.ss_sp as usize,
            if has_stack { context.uc_stack.ss_size } else { 0 },
        ),
    }
}

/// The calling thread, by the kernel's number.
pub(super) fn own_tid() -> i32 {
    // SAFETY: asks for a number.
    unsafe { raw::syscall(libc::SYS_gettid, [0; 6]) as i32 }
}

fn process_id() -> usize {
    // SAFETY: asks for a number.
    unsafe { raw::syscall(libc::SYS_getpid, [0; 6]) as usize }
}

fn wait(word: &AtomicU32, value: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as i64,
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(0, |t| std::ptr::from_ref(t) as usize);
    let operation = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let args = [word.as_ptr() as usize, operation, value as usize, timeout, 0, 0];
    // SAFETY: a futex word of ours; a wake without cause is looked into by the caller.
    unsafe { raw::syscall(libc::SYS_futex, args) };
}

fn wake(word: &AtomicU32, count: usize) {
    let operation = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: a futex word of ours.
    unsafe { raw::syscall(libc::SYS_futex, [word.as_ptr() as usize, operation, count, 0, 0, 0]) };
}
