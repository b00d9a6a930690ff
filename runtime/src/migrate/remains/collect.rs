//! Dropping remains that nothing reaches: a conservative scan of all other memory of the node, with
//! every other thread stopped (as Boehm's collector does it).
//!
//! ```text
//! roots   writable image, live node blocks, stacks and registers of OS threads, other mappings,
//!         stacks, thread-locals and heaps of the tasks that are here (mobile and local)
//! then    remains that a root reaches are scanned in turn; the rest is dropped, or put on the shelf
//! ```
//!
//! A word that looks like an address in a live block of a task's heap, or among its thread-locals,
//! reaches all that the task left. Its stack, its header and the heap's own records are nothing that
//! others may keep the address of. The world is stopped for about as long as the node's live memory takes to read; the collector thread runs at
//! most a small share of the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrt_iso::arena::Arena;
use migrt_iso::{SlotId, page};

use super::stall::{Blind, Stall};
use super::{Kept, table};
use crate::census::{self, Scratch, StoppedThread, TaskSight};
use crate::cluster::cluster;
use crate::task::body::MobileBody;
use crate::task::header::{Header, Layout};
use crate::task::prefix::HeaderPrefix;
use crate::task::{adopted, child, parcel, stack};

/// How long the world may take to stop.
const STOP_PATIENCE: Duration = Duration::from_millis(25);
/// Remains are looked at when they are this old ...
const AGE: Duration = Duration::from_millis(800);
/// ... or this many, or hold this much memory, whichever comes first.
const COUNT_MAX: usize = 128;
const BYTE_COUNT_MAX: usize = 16 << 20;
/// What looked reached is looked at once more after this, and then ever more rarely.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Whoever has just left remains may have their addresses on its stack for so long.
const GRACE: Duration = Duration::from_millis(10);
/// The collector looks this often, and rests at least [`SHARE`] times as long as a run took.
const PERIOD: Duration = Duration::from_millis(20);
const SHARE: u32 = 25;

static ASKED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
/// Remains are in the way of a task.
static URGENT: AtomicBool = AtomicBool::new(false);
static RUNNING: AtomicBool = AtomicBool::new(false);

/// There are remains to look at.
pub(super) fn ask() {
    let mut asked = ASKED.0.lock().unwrap_or_else(PoisonError::into_inner);
    if !*asked {
        *asked = true;
        ASKED.1.notify_one();
    }
}

/// Remains are in the way of a task that arrives, and that is refused: they are looked at soon. Not now,
/// since what has come of it leads to where it was to lie.
pub(crate) fn look_soon() {
    URGENT.store(true, Ordering::SeqCst);
    ask();
}

/// Waits until there are new remains, or for so long. Whether there are.
fn wait_until_asked(at_most: Option<Duration>) -> bool {
    let mut asked = ASKED.0.lock().unwrap_or_else(PoisonError::into_inner);
    let until = at_most.map(|pause| Instant::now() + pause);
    while !*asked {
        asked = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => ASKED.1.wait(asked).unwrap_or_else(PoisonError::into_inner),
            Some(Duration::ZERO) => return false,
            Some(rest) => {
                ASKED.1.wait_timeout(asked, rest).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    std::mem::take(&mut *asked)
}

/// Starts the collector's thread, once.
pub(crate) fn start_collector() -> std::io::Result<()> {
    if RUNNING.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    crate::migrate::later::start()?;
    crate::thread::start_clearing("migrt-collector", || {
        // What the last look has left: it is not looked at again and again for being much.
        let mut floor = (0, 0);
        // When to look once more, though nothing has left since.
        let mut again = None;
        let mut stall = Stall::new();
        loop {
            let is_asked = wait_until_asked(again);
            if is_asked {
                let first = Instant::now();
                std::thread::sleep(GRACE);
                while first.elapsed() < AGE
                    && !URGENT.load(Ordering::SeqCst)
                    && !super::is_much(COUNT_MAX + floor.0, BYTE_COUNT_MAX + floor.1)
                {
                    std::thread::sleep(PERIOD);
                }
            }
            URGENT.store(false, Ordering::SeqCst);
            let since = Instant::now();
            let left = stall.note(collect());
            super::fill_bases();
            floor = super::held();
            // What looked like a reference may be gone when it is looked at once more; and a look that
            // could not be taken settles nothing.
            again = match (left, again) {
                (Some(0), _) => None,
                (_, Some(pause)) if !is_asked => Some((2 * pause).min(AGAIN_MAX)),
                _ => Some(AGAIN),
            };
            let took = since.elapsed();
            tracing::trace!(left, ?took, "remains collected");
            census::clear_stack();
            std::thread::sleep(took * SHARE);
            census::clear_stack();
        }
    })?;
    Ok(())
}

/// Everything the marking needs, allocated before the world stops.
struct Marking {
    /// `(slot, which remains)`, ascending.
    index: Vec<(SlotId, usize)>,
    /// The task slot of each, if it is a task's. No addresses: what is allocated here is a root too.
    task_slots: Vec<Option<SlotId>>,
    low: usize,
    high: usize,
    reached: Vec<bool>,
    work: Vec<usize>,
}

/// [`collect`], unless that was done just now: for a thread that must not stop the world again and
/// again.
pub(crate) fn collect_if_due() {
    const REST: Duration = Duration::from_millis(300);
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() > REST) {
        let _ = collect();
        *last = Some(Instant::now());
    }
}

/// Drops the remains that nothing reaches; how many are left. On any stack but a task's own.
///
/// # Errors
/// Not all could be seen, and all stay.
#[inline(never)]
pub(crate) fn collect() -> Result<usize, Blind> {
    // From here down the stack holds addresses of what is looked for.
    // The 128 bytes below the address count too, as a red zone: they are the mark's own.
    let mark = std::hint::black_box([0usize; 16 + 1]);
    let left = collect_from(&raw const mark[16] as usize);
    // The next to collect may be another thread, for whom this stack is one like all others.
    census::clear_stack();
    left
}

#[inline(never)]
fn collect_from(caller: usize) -> Result<usize, Blind> {
    let mut table = table();
    if table.is_empty() {
        return Ok(0);
    }
    // Taken before the stop, so that no stopped thread holds them.
    let transit = super::transit();
    let stacks = stack::registry();
    let children = child::registry::lock();
    let held = parcel::held();
    let mut marking = Marking::new(&table);
    let sight = TaskSight { worker_tp, worker_rsp };
    let mut scratch = Scratch::new(sight).ok_or(Blind::Memory)?;
    scratch.set_caller_from(caller);
    let mut complete = false;
    let stopped = cluster().hold_residents(|residents| {
        census::with_stopped_threads(STOP_PATIENCE, |stopped| {
            complete = census::for_each_root_range(stopped, &mut scratch, &mut |_, start, len| {
                marking.scan(start, len);
            });
            for task in residents {
                if let Some(header) = task.mobile().and_then(MobileBody::header) {
                    marking.scan_task(header, stopped);
                }
            }
            for &slot in stacks.iter() {
                marking.scan_local(slot, stopped);
            }
            for &slot in children.iter().chain(held.keys()) {
                // SAFETY: a child's slot, its header made before it was registered.
                marking.scan_task(unsafe { &*Layout { slot }.header() }, stopped);
            }
            for &slot in transit.iter().flat_map(|entry| &entry.1) {
                marking.scan_present(slot.base(), slot.len());
            }
            while let Some(next) = marking.work.pop() {
                for &slot in &table[next].slots {
                    marking.scan_present(slot.base(), slot.len());
                }
            }
        })
    });
    drop(held);
    drop(children);
    drop(stacks);
    drop(transit);
    if stopped.is_none() {
        return Err(Blind::Stop);
    }
    if !complete {
        return Err(Blind::Parts);
    }
    let mut reached = marking.reached.into_iter();
    let all = std::mem::take(&mut *table);
    let (kept, dropped): (Vec<Kept>, Vec<Kept>) =
        all.into_iter().partition(|_| reached.next().expect("one for each"));
    *table = kept;
    // A task that comes back finds them in the table or on the shelf: the lock is held.
    for kept in dropped {
        if let Err(kept) = super::shelf::put(kept) {
            kept.drop_all();
        }
    }
    Ok(table.len())
}

impl Marking {
    fn new(table: &[Kept]) -> Marking {
        let mut index: Vec<(SlotId, usize)> = Vec::new();
        for (at, kept) in table.iter().enumerate() {
            index.extend(kept.slots.iter().map(|&slot| (slot, at)));
        }
        index.sort_unstable();
        let low = index.iter().map(|(slot, _)| slot.base()).min().unwrap_or(0);
        let high = index.iter().map(|(slot, _)| slot.base() + slot.len()).max().unwrap_or(0);
        let count = table.len();
        Marking {
            index,
            task_slots: table.iter().map(task_slot).collect(),
            low,
            high,
            reached: vec![false; count],
            work: Vec::with_capacity(count),
        }
    }

    fn scan(&mut self, start: usize, len: usize) {
        let (low, high) = (self.low, self.high);
        // SAFETY: a range of the census or of a task that does not run now: readable.
        unsafe { census::scan_words(start, len, low, high, &mut |_, word| self.see(word)) };
    }

    fn see(&mut self, word: usize) {
        let Some(slot) = SlotId::of_addr(word) else { return };
        let Ok(at) = self.index.binary_search_by_key(&slot, |entry| entry.0) else { return };
        let which = self.index[at].1;
        if !self.reached[which] && (self.is_local(which, word) || is_in_block(word)) {
            self.reached[which] = true;
            // Within its capacity: each is pushed once.
            self.work.push(which);
        }
    }

    /// Whether the word leads among the thread-locals of the task.
    fn is_local(&self, which: usize, word: usize) -> bool {
        let Some(slot) = self.task_slots[which] else { return false };
        let layout = Layout { slot };
        (layout.tls_start()..layout.tp() as usize).contains(&word)
    }

    fn scan_present(&mut self, start: usize, len: usize) {
        page::present_runs(start, len, &mut |run| self.scan(run.addr, run.byte_len()));
    }

    /// A mobile task that is here: stack from SP, thread-locals, header, heap.
    fn scan_task(&mut self, header: &Header, stopped: &[StoppedThread]) {
        let layout = header.layout();
        let end = layout.slot.base() + layout.slot.len();
        self.scan_stack(saved_sp(header), layout.stack_low(), end, stopped);
        self.scan_present(layout.slot.base(), layout.guard() - layout.slot.base());
        // The list is read while the task may be in the middle of extending it; a heap slot that is
        // not on it yet holds nothing that is not on its stack too.
        header
            .prefix
            .arena()
            .for_each_extent(&mut |slot| self.scan_present(slot.base(), slot.len()));
        adopted::slots(header, &mut |slot| self.scan_present(slot.base(), slot.len()));
    }

    /// The stack of a local task, if it has one.
    fn scan_local(&mut self, slot: SlotId, stopped: &[StoppedThread]) {
        let Some(sp) = stack::tenant_sp(slot) else { return };
        let low = slot.base() + stack::GUARD_LEN;
        self.scan_stack(sp, low, slot.base() + slot.len(), stopped);
    }

    fn scan_stack(&mut self, saved: usize, low: usize, end: usize, stopped: &[StoppedThread]) {
        let inside = |sp: usize| (low..end).contains(&sp);
        let running = stopped.iter().map(|thread| thread.rsp).find(|&sp| inside(sp));
        match running
            .map(|sp| sp.saturating_sub(128).max(low))
            .or(Some(saved).filter(|&sp| inside(sp)))
        {
            Some(from) => self.scan(from & !7, end - (from & !7)),
            // It runs, but works on its worker's stack at this moment.
            None => self.scan_present(low & !4095, end - (low & !4095)),
        }
    }
}

/// The slot that has the task's thread-locals. A parcel has none: those of whoever built it ended with that task.
fn task_slot(kept: &Kept) -> Option<SlotId> {
    let slot = kept.slots[0];
    // SAFETY: a kept slot, its header whole.
    let header = unsafe { &*Layout { slot }.header() };
    (!header.is_parcel()).then_some(slot)
}

/// Whether the word leads into a live block of the heap in its slot. A block that was freed here since
/// its task left is still one of them: the free is carried out when the task comes home.
fn is_in_block(word: usize) -> bool {
    // SAFETY: a kept slot: its memory is there, and nobody changes the heap in it (I1); the world is
    // stopped.
    unsafe { Arena::live_block_at(word) }.is_some()
}

/// The thread block of the worker below a running task, by the task's.
fn worker_tp(task_fs_base: usize) -> usize {
    // SAFETY: an FS base in the region is a task's, its header lies above.
    unsafe { &*HeaderPrefix::of(task_fs_base as *mut u8) }.worker_tp() as usize
}

/// Where the worker's own stack stands while a task runs on this thread: the link that the switch
/// left at the task's stack base.
fn worker_rsp(thread: &StoppedThread) -> Option<usize> {
    let slot = SlotId::of_addr(thread.rsp)?;
    let base = match SlotId::of_addr(thread.fs_base) {
        Some(_) => Layout { slot }.stack().base,
        None => stack::base_of(slot),
    };
    // SAFETY: the first words of a stack in use, whose thread is stopped.
    Some(unsafe { ((base - 16) as *const usize).read() })
}

fn saved_sp(header: &Header) -> usize {
    // SAFETY: the word is plain; it is 0 while the task runs.
    unsafe { &*header.coro.get() }.as_ref().map_or(0, |coro| coro.saved_sp())
}
