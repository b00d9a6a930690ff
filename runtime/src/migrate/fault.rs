//! A page is touched that is not here yet: the fault, and who waits for it.
//!
//! ```text
//! task, own stack     SIGBUS on its stack: asks, is suspended in the handler; its worker runs others.
//!                     When the page is there the handler returns, and the instruction runs again.
//! any other thread    SIGBUS on its stack: asks, sleeps in the handler.
//! page under SP gone  SIGSEGV on the alternate stack: the ticker asks, the handler sleeps.
//! ```
//!
//! The handler has no alternate stack of its own and blocks nothing, so that it may be left for another
//! task and come back on another thread (facts M3b). What its frame says of the alternate stack would
//! be put in force by its return, there; it is made void instead, which the kernel passes over.
//!
//! A task that stands in a fault is not moved from there, pages or not (`Tie::Fault`): the frame is of
//! this kernel. A wake that it got meanwhile may have been meant for what it was about to wait for; so
//! it is woken once more when it goes on.
//!
//! A task that is suspended here may hold a static's lock. If all workers come to wait for that lock
//! the task is run by the spare (`Worker::run_as_spare`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use migrt_iso::missing::{MissingFault, SIGNAL_FRAME_LEN, classify};
use migrt_iso::{PAGE_LEN, in_region};

use super::lacking;
use super::sleepers;
use crate::task::coro::Suspend;
use crate::task::header::Header;
use crate::task::{current, prefix, scrub};

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Pages that handlers on alternate stacks wait for: too little room there to ask.
static WANTED: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// What a fault comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The access is to be tried again.
    GoOn,
    /// The same: the page was untouched, and has been made.
    Made,
    /// The page will come.
    Wait,
    /// It will not.
    Never,
}

/// Installs the handler.
pub(crate) fn install() {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_bus;
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live memory; the handler obeys what the module says.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, &mut previous) } == 0 {
        let _ = PREVIOUS.set(previous);
    }
}

extern "C" fn on_bus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGBUS.
    let addr = unsafe { (*info).si_addr() } as usize;
    match classify(addr) {
        MissingFault::Missing => {}
        MissingFault::Late => return,
        _ => return crate::overflow::pass_on_to(PREVIOUS.get(), signal, info, context),
    }
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let sp = context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    // SAFETY: the calling thread's or task's own variable.
    let errno = unsafe { *libc::__errno_location() };
    match current::mobile() {
        // Not if it stands on its worker's stack.
        Some(header) if in_region(sp) => wait_suspended(header, addr),
        _ => prefix::on_worker(|| wait_here(addr)),
    }
    // The thread may be another one now: with flags that there are none of, the kernel leaves its
    // alternate stack as it is. And no address of the node stays on the task's stack.
    const NO_FLAGS: i32 = 0x40;
    context.uc_stack.ss_sp = std::ptr::null_mut();
    context.uc_stack.ss_size = 0;
    context.uc_stack.ss_flags = NO_FLAGS;
    // SAFETY: as above; for a task it is the task's own, on whatever thread.
    unsafe { libc::__errno_location().write(errno) };
    scrub::below::<{ scrub::DEEP }>();
}

/// The task waits; its worker does not.
#[inline(never)]
fn wait_suspended(header: &Header, addr: usize) {
    let mut is_first = true;
    let mut since = None;
    loop {
        let verdict = header.on_worker(|worker| {
            since.get_or_insert_with(Instant::now);
            let body = worker.task().and_then(|record| record.mobile()).expect("it runs");
            body.set_in_fault(true);
            lacking::fault(addr, Some(worker.waker()))
        });
        if matches!(verdict, Verdict::GoOn | Verdict::Made) {
            break;
        }
        is_first = false;
        header.suspend_in_fault(Suspend::Fault);
    }
    header.on_worker(|worker| {
        let record = worker.task().expect("it runs");
        let body = record.mobile().expect("a mobile task");
        body.set_in_fault(false);
        if !is_first {
            let took = since.expect("it has waited").elapsed();
            crate::cluster::cluster().metrics.waited(took);
            // It runs, so this is only remembered.
            let _ = record.state.wake();
            if body.move_asked().is_some() {
                crate::task::safepoint::ask(header);
            }
        }
    });
}

/// The thread waits; on its own thread-locals.
#[inline(never)]
fn wait_here(addr: usize) {
    if crate::cluster::cluster().is_net_thread() {
        stop("the net thread has touched a page that only it could bring");
    }
    loop {
        let seen = sleepers::arrivals();
        match lacking::fault(addr, None) {
            Verdict::GoOn | Verdict::Made => return,
            Verdict::Wait => sleepers::sleep(seen),
            Verdict::Never => stop("a thread needs a page that was lost with another node"),
        }
    }
}

#[cold]
fn stop(why: &str) -> ! {
    crate::fence::stop(why)
}

/// A SIGSEGV: whether the kernel could not push a signal's frame for want of pages under the stack
/// pointer. They are there when this returns.
pub(crate) fn brings_stack(context: *mut libc::c_void) -> bool {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let sp = context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    let pages = (sp.saturating_sub(SIGNAL_FRAME_LEN) & !(PAGE_LEN - 1)..=sp).step_by(PAGE_LEN);
    let mut any = false;
    for page in pages.filter(|&page| classify(page) == MissingFault::Missing) {
        any |= bring(page);
    }
    any
}

/// What the low bits of a wanted page's address say.
const ASKED: usize = 1;
const WAS_HERE: usize = 2;
const BROUGHT: usize = 4;

/// Has the ticker bring a page; whether it was not here.
fn bring(page: usize) -> bool {
    let is_mine = |place: &&AtomicUsize| {
        place.compare_exchange(0, page, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    };
    // All places taken: the access is tried again, and comes back here.
    let Some(place) = WANTED.iter().find(is_mine) else { return true };
    loop {
        let now = place.load(Ordering::SeqCst);
        if now & (WAS_HERE | BROUGHT) != 0 {
            place.store(0, Ordering::SeqCst);
            return now & BROUGHT != 0;
        }
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        // SAFETY: sleeps.
        unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
    }
}

/// Asks for pages that handlers wait for; called every few milliseconds.
pub(crate) fn tick() {
    for place in &WANTED {
        let wanted = place.load(Ordering::SeqCst);
        if wanted == 0 || wanted & (WAS_HERE | BROUGHT) != 0 {
            continue;
        }
        let page = wanted & !ASKED;
        let now = match lacking::fault(page, None) {
            Verdict::Wait => page | ASKED,
            Verdict::GoOn if wanted & ASKED == 0 => page | WAS_HERE,
            Verdict::GoOn | Verdict::Made => page | BROUGHT,
            Verdict::Never => stop("a stack was lost with another node"),
        };
        place.store(now, Ordering::SeqCst);
    }
}
