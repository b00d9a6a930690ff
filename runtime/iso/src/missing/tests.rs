//! Each sharp edge on real memory, with real signals.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::track::{TrackMode, Tracker};
use crate::{guard, page};

/// The service, or the reason why the test cannot be made. Tests run one after the other: they share
/// handlers, what is wanted, and what has ended; and one forks, which keeps pages from moving.
fn missing() -> Option<(&'static Missing, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    if let MissingSupport::None(reason) = probe() {
        println!("skipped: {reason}");
    }
    Some((Missing::global()?, ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())))
}

/// Pages of a mapping of their own, gone on drop.
struct Pages {
    addr: usize,
    count: usize,
}

impl Pages {
    fn new(count: usize) -> Pages {
        Pages { addr: sys::map_private(count * PAGE_LEN).unwrap(), count }
    }

    fn missing(count: usize, missing: &Missing) -> Pages {
        let pages = Pages::new(count);
        missing.register(pages.addr, pages.len(), false).unwrap();
        pages
    }

    fn len(&self) -> usize {
        self.count * PAGE_LEN
    }

    fn at(&self, page: usize) -> usize {
        assert!(page < self.count);
        self.addr + page * PAGE_LEN
    }

    fn write(&self, page: usize) {
        // SAFETY: a mapping of our own.
        unsafe { (self.at(page) as *mut u8).write_volatile(1) };
    }

    /// The first and the last word of a page.
    fn words(&self, page: usize) -> [u64; 2] {
        let words = self.at(page) as *const u64;
        // SAFETY: words of our own mapping, here and below.
        let first = unsafe { words.read_volatile() };
        // SAFETY: as above.
        [first, unsafe { words.add(511).read_volatile() }]
    }

    /// What a system call finds there.
    fn call_error(&self, page: usize) -> Option<i32> {
        let (_reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the kernel checks the address by itself.
        let done = unsafe { libc::write(writer.as_raw_fd(), self.at(page) as *const _, 1) };
        (done < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { sys::unmap(self.addr, self.len()) };
    }
}

/// Pages whose words all are `first` plus the page's index.
fn contents(first: u64, count: usize) -> Vec<u8> {
    (0..count as u64).flat_map(|page| (first + page).to_le_bytes().repeat(512)).collect()
}

fn none_left_out(run: PageRun, why: LeftOut) {
    panic!("{run:?} was left out: {why:?}");
}

#[test]
fn pages_come_whole_and_what_did_not_come_is_zero_after_the_end() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(100, missing);
    let bytes = contents(1000, 40);
    let done = missing.install(pages.at(10), &bytes, Mark::Dirty, &mut none_left_out);
    assert_eq!(done, Ok(40));
    (0..40).for_each(|page| assert_eq!(pages.words(10 + page), [1000 + page as u64; 2]));
    assert_eq!(page::present_count(pages.addr, pages.len()), 40);
    assert_eq!(pages.call_error(9), Some(libc::EFAULT), "rule 1, for root too");
    assert_eq!(pages.call_error(10), None);
    assert_eq!(classify(pages.at(9)), MissingFault::Missing);
    missing.unregister(pages.addr, pages.len()).unwrap();
    assert_eq!(pages.words(9), [0; 2]);
    assert_eq!(classify(pages.at(9)), MissingFault::Late);
    assert_eq!((0..2000).filter(|_| classify(pages.at(9)) == MissingFault::Late).count(), 999);
    assert_eq!(classify(PAGE_LEN), MissingFault::Foreign);
    let refused = missing.install(pages.at(50), &bytes, Mark::Dirty, &mut none_left_out);
    assert_eq!(refused.unwrap_err().errno, libc::ENOENT);
}

#[test]
fn pages_that_are_there_stay_and_are_told() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(16, missing);
    missing.install(pages.at(3), &contents(7, 1), Mark::Dirty, &mut none_left_out).unwrap();
    missing.install(pages.at(8), &contents(7, 2), Mark::Dirty, &mut none_left_out).unwrap();
    let mut told = Vec::new();
    let mut tell = |run: PageRun, why| told.push(((run.addr - pages.addr) / PAGE_LEN, why));
    let done = missing.install(pages.addr, &contents(100, 16), Mark::Dirty, &mut tell);
    assert_eq!(done, Ok(13));
    assert_eq!(told, [3, 8, 9].map(|page| (page, LeftOut::Present)));
    assert_eq!([3, 8, 9].map(|page| pages.words(page)[0]), [7, 7, 8]);
    assert_eq!([0, 4, 15].map(|page| pages.words(page)[1]), [100, 104, 115]);
    missing.unregister(pages.addr, pages.len()).unwrap();
}

#[test]
fn guards_stay_guards() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(8, missing);
    // SAFETY: pages of our own which hold nothing.
    unsafe { guard::install(pages.at(2), 2 * PAGE_LEN) }.unwrap();
    let mut told = Vec::new();
    let done = missing.install(pages.addr, &contents(1, 8), Mark::Dirty, &mut |run, why| {
        told.push((run, why));
    });
    if guard::method() == guard::GuardMethod::Madvise {
        assert_eq!(done, Ok(6));
        assert_eq!(told, [(PageRun { addr: pages.at(2), count: 2 }, LeftOut::Guard)]);
    }
    assert_eq!(pages.call_error(2), Some(libc::EFAULT));
    assert_eq!(pages.call_error(3), Some(libc::EFAULT));
    assert_eq!([0, 1, 4, 7].map(|page| pages.words(page)[0]), [1, 2, 5, 8]);
    missing.unregister(pages.addr, pages.len()).unwrap();
}

#[test]
fn zeros_take_no_memory() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(8, missing);
    assert_eq!(missing.install_zero(pages.at(2), 4 * PAGE_LEN, &mut none_left_out), Ok(4));
    assert_eq!(pages.words(3), [0; 2]);
    assert_eq!(page::present_count(pages.addr, pages.len()), 0);
    pages.write(3);
    assert_eq!(page::present_count(pages.addr, pages.len()), 1);
    let mut told = 0;
    missing.install(pages.at(2), &contents(1, 4), Mark::Dirty, &mut |_, _| told += 1).unwrap();
    assert_eq!(told, 4, "a page of zeros is there");
    missing.unregister(pages.addr, pages.len()).unwrap();
}

#[test]
fn pages_move_out_of_staging_memory_and_holes_are_zeros() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(64, missing);
    let mut staging = Staging::new(64 * PAGE_LEN).unwrap();
    staging.bytes()[..40 * PAGE_LEN].copy_from_slice(&contents(50, 40));
    staging.bytes()[42 * PAGE_LEN..44 * PAGE_LEN].copy_from_slice(&contents(92, 2));
    let len = 44 * PAGE_LEN;
    assert_eq!(missing.move_from(pages.addr, &mut staging, 0, len, &mut none_left_out), Ok(44));
    (0..40).for_each(|page| assert_eq!(pages.words(page), [50 + page as u64; 2]));
    assert_eq!([40, 41, 42, 43].map(|page| pages.words(page)[1]), [0, 0, 92, 93]);
    if matches!(probe(), MissingSupport::Signals { moves: true, .. }) {
        assert_eq!(page::present_count(staging.addr, staging.len), 0, "they have moved");
    }
    // Again, onto pages that are there: nothing moves.
    staging.bytes()[..PAGE_LEN].fill(1);
    let mut told = 0;
    let done = missing.move_from(pages.addr, &mut staging, 0, PAGE_LEN, &mut |_, _| told += 1);
    assert_eq!((done, told), (Ok(0), 1));
    assert_eq!(pages.words(0)[0], 50);
    missing.unregister(pages.addr, pages.len()).unwrap();
}

#[test]
fn pages_that_cannot_move_are_copied() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::missing(8, missing);
    let mut staging = Staging::new(8 * PAGE_LEN).unwrap();
    staging.bytes().copy_from_slice(&contents(5, 8));
    // SAFETY: the child only waits to be killed: it touches nothing.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: waits.
            unsafe { libc::pause() };
        }
    }
    let done = missing.move_from(pages.addr, &mut staging, 0, 8 * PAGE_LEN, &mut none_left_out);
    // SAFETY: our own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: as above.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert_eq!(done, Ok(8));
    (0..8).for_each(|page| assert_eq!(pages.words(page), [5 + page as u64; 2]));
    missing.unregister(pages.addr, pages.len()).unwrap();
}

#[test]
fn installs_go_across_mappings() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::new(64);
    let half = pages.len() / 2;
    missing.register(pages.addr, half, false).unwrap();
    missing.register(pages.addr + half, half, true).unwrap();
    let done = missing.install(pages.addr, &contents(1, 64), Mark::Dirty, &mut none_left_out);
    assert_eq!(done, Ok(64));
    (0..64).for_each(|page| assert_eq!(pages.words(page), [1 + page as u64; 2]));
    missing.unregister(pages.addr, half).unwrap();
    missing.unregister(pages.addr + half, half).unwrap();
}

#[test]
fn pages_arrive_clean_or_dirty_for_the_tracker() {
    let Some((missing, _alone)) = missing() else { return };
    if crate::track::probe() != crate::track::TrackSupport::Async {
        println!("skipped: tracking and missing pages go together by userfaultfd only");
        return;
    }
    let tracker = Tracker::choose(TrackMode::Async).unwrap();
    let pages = Pages::new(8);
    pages.write(7);
    missing.register(pages.addr, pages.len(), true).unwrap();
    tracker.watch(pages.addr, pages.len()).unwrap();
    missing.install(pages.at(0), &contents(1, 2), Mark::Clean, &mut none_left_out).unwrap();
    missing.install(pages.at(2), &contents(1, 2), Mark::Dirty, &mut none_left_out).unwrap();
    missing.install_zero(pages.at(4), PAGE_LEN, &mut none_left_out).unwrap();
    let mut staging = Staging::new(PAGE_LEN).unwrap();
    staging.bytes().fill(1);
    missing.move_from(pages.at(5), &mut staging, 0, PAGE_LEN, &mut none_left_out).unwrap();
    let take = || {
        let mut dirty = Vec::new();
        let mut add = |run: PageRun| {
            let first = (run.addr - pages.addr) / PAGE_LEN;
            dirty.extend(first..first + run.count);
        };
        tracker.take_dirty(pages.addr, pages.len(), &mut add).unwrap();
        dirty
    };
    assert_eq!(take(), [2, 3, 5]);
    pages.write(1);
    pages.write(4);
    assert_eq!(take(), [1, 4]);
    // Pages are missing still, though they are watched.
    assert_eq!(pages.call_error(6), Some(libc::EFAULT));
    missing.unregister(pages.addr, pages.len()).unwrap();
    assert_eq!(pages.call_error(6), None);
}

/// The page that a faulting thread waits for; 0: none.
static WANTED: AtomicUsize = AtomicUsize::new(0);
/// Faults by where the handler ran: on the faulting stack, on the alternate one.
static SIGBUS_COUNT: AtomicUsize = AtomicUsize::new(0);
static SIGSEGV_COUNT: AtomicUsize = AtomicUsize::new(0);

fn page_of(addr: usize) -> usize {
    addr & !(PAGE_LEN - 1)
}

fn handle(
    signal: i32,
    flags: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
) {
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | flags;
    // SAFETY: `action` is live, its handler async-signal-safe.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

/// Asks for the page and waits, as a task would be suspended here.
extern "C" fn on_bus_error(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let addr = unsafe { (*info).si_addr() } as usize;
    match classify(addr) {
        MissingFault::Missing => {
            SIGBUS_COUNT.fetch_add(1, SeqCst);
            WANTED.store(page_of(addr), SeqCst);
            while WANTED.load(SeqCst) != 0 {
                sys::yield_now();
            }
        }
        MissingFault::Late => {}
        // SAFETY: the default action; the instruction is tried again and ends the process.
        MissingFault::Foreign => unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        },
    }
}

/// Serves wanted pages until told to stop: page `n` of `pages` holds `n` everywhere.
fn serve(missing: &Missing, pages: &Pages, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let wanted = WANTED.load(SeqCst);
        if wanted == 0 {
            sys::yield_now();
            continue;
        }
        let index = (wanted - pages.addr) / PAGE_LEN;
        missing
            .install(wanted, &contents(index as u64, 1), Mark::Dirty, &mut none_left_out)
            .unwrap();
        WANTED.store(0, SeqCst);
    }
}

#[test]
fn ten_thousand_faults_wait_on_their_own_stack_and_go_on() {
    const COUNT: usize = 10_000;
    let Some((missing, _alone)) = missing() else { return };
    handle(libc::SIGBUS, 0, on_bus_error);
    let pages = Pages::missing(COUNT, missing);
    let stop = AtomicBool::new(false);
    let before = SIGBUS_COUNT.load(SeqCst);
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(missing, &pages, &stop));
        let faulting = scope.spawn(|| {
            // Every third page first, and floating-point state across each fault.
            let mut sum = 0.5f64;
            for start in 0..3 {
                for page in (start..COUNT).step_by(3) {
                    let words = pages.words(page);
                    assert_eq!(words, [page as u64; 2]);
                    sum += words[0] as f64;
                }
            }
            sum
        });
        let sum = faulting.join();
        stop.store(true, SeqCst);
        assert_eq!(sum.unwrap(), (COUNT * (COUNT - 1) / 2) as f64 + 0.5);
    });
    let faults = SIGBUS_COUNT.load(SeqCst) - before;
    println!("{faults} faults, {:.1} us each", begun.elapsed().as_secs_f64() * 1e6 / faults as f64);
    assert_eq!(faults, COUNT);
    missing.unregister(pages.addr, pages.len()).unwrap();
}

/// Makes what lies under the stack pointer present and lets the instruction run again.
extern "C" fn on_segmentation_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let sp = context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    let here = &raw const context as usize;
    assert!(here.abs_diff(sp) > 1 << 16, "on the alternate stack");
    SIGSEGV_COUNT.fetch_add(1, SeqCst);
    if SIGSEGV_COUNT.load(SeqCst) > 10 || classify(sp) != MissingFault::Missing {
        std::process::abort();
    }
    let start = page_of(sp - SIGNAL_FRAME_LEN);
    let len = page_of(sp) + PAGE_LEN - start;
    let installed = Missing::global().unwrap().install_zero(start, len, &mut |_, _| {});
    if !matches!(installed, Ok(1..)) {
        std::process::abort();
    }
}

/// Runs on a stack whose every page is missing and pushes, and then reads another missing page.
fn push_on_missing_stack(stack_top: usize, other: usize) -> u64 {
    let (pushed, read): (u64, u64);
    // SAFETY: the stack pointer is back before the block ends; the memory is ours.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "mov eax, 42",
            "push rax",
            "mov rcx, [{other}]",
            "pop rax",
            "mov rsp, r12",
            top = in(reg) stack_top,
            other = in(reg) other,
            out("rax") pushed,
            out("rcx") read,
            out("r12") _,
        );
    }
    pushed + read
}

#[test]
fn a_missing_page_under_the_stack_pointer_is_told_on_the_alternate_stack() {
    const CHILD: &str = "MIGRT_TEST_MISSING_STACK";
    let Some((missing, _alone)) = missing() else { return };
    if std::env::var_os(CHILD).is_none() {
        // A process of its own: it takes SIGSEGV over.
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["a_missing_page_under_the_stack_pointer", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        return;
    }
    handle(libc::SIGBUS, 0, on_bus_error);
    handle(libc::SIGSEGV, libc::SA_ONSTACK, on_segmentation_fault);
    let pages = Pages::missing(64, missing);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(missing, &pages, &stop));
        let faulting = scope.spawn(|| {
            let alternate = vec![0u8; 1 << 16].leak();
            let alternate = libc::stack_t {
                ss_sp: alternate.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: alternate.len(),
            };
            // SAFETY: memory that stays.
            assert_eq!(unsafe { libc::sigaltstack(&alternate, std::ptr::null_mut()) }, 0);
            push_on_missing_stack(pages.at(32), pages.at(50))
        });
        let answer = faulting.join();
        stop.store(true, SeqCst);
        assert_eq!(answer.unwrap(), 42 + 50);
    });
    // One for the push, whose page lies just below 32; the read's frame then finds pages there.
    assert_eq!((SIGSEGV_COUNT.load(SeqCst), SIGBUS_COUNT.load(SeqCst)), (1, 1));
    std::io::stdout().flush().unwrap();
}

#[test]
fn registrations_leave_no_trace() {
    let Some((missing, _alone)) = missing() else { return };
    let pages = Pages::new(64);
    let mappings = || std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let flags = || {
        let range = format!("{:x}-", pages.addr);
        let text = mappings();
        text.lines()
            .skip_while(|line| !line.starts_with(&range))
            .find(|line| line.starts_with("VmFlags:"))
            .map(str::to_owned)
    };
    let before = flags();
    for _ in 0..10_000 {
        missing.register(pages.addr, pages.len(), false).unwrap();
        missing.unregister(pages.addr, pages.len()).unwrap();
    }
    assert_eq!(flags(), before);
    // The table has its places back.
    for _ in 0..5000 {
        assert!(ranges::add(pages.addr, pages.len()));
        ranges::remove(pages.addr, pages.len());
    }
}
