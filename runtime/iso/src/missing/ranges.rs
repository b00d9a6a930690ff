//! Which ranges are registered: a fixed table of atomics that a signal handler may read at any time.
//!
//! An entry is free (start 0), being changed (start 1), or a range. Writers claim a free entry by its
//! start; a reader that finds a start reads the end and looks whether the start is still the same.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::fault::{Hidden, Late};

const RANGES_MAX: usize = 4096;
const FREE: usize = 0;
const CHANGING: usize = 1;

struct Entry {
    start: Hidden,
    end: Hidden,
}

static RANGES: [Entry; RANGES_MAX] =
    [const { Entry { start: Hidden::new(FREE), end: Hidden::new(0) } }; RANGES_MAX];
/// No entry from here on was ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
static LATE: Late = Late::new();

/// Whose a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingFault {
    /// A registered range: the page is missing, or came a moment ago.
    Missing,
    /// A range that has ended: the access is tried again by returning from the handler.
    Late,
    /// Nobody's here.
    Foreign,
}

/// Says whose a fault at `addr` is. May be called in any signal handler: takes no lock and makes no
/// call. Costs a few nanoseconds for each range registered.
#[must_use]
pub fn classify(addr: usize) -> MissingFault {
    // `add` makes an entry known before its range can fault, so a fault's own thread sees it.
    let used = USED.load(SeqCst).min(RANGES_MAX);
    let holds = |entry: &Entry| {
        let start = entry.start.load();
        start > CHANGING && start <= addr && addr < entry.end.load() && entry.start.load() == start
    };
    if RANGES[..used].iter().any(holds) {
        MissingFault::Missing
    } else if LATE.is_late(addr) {
        MissingFault::Late
    } else {
        MissingFault::Foreign
    }
}

/// False if the table is full.
pub(super) fn add(addr: usize, len: usize) -> bool {
    let claim = |entry: &Entry| entry.start.replace(FREE, CHANGING);
    let Some(index) = RANGES.iter().position(claim) else { return false };
    RANGES[index].end.store(addr + len);
    RANGES[index].start.store(addr);
    USED.fetch_max(index + 1, SeqCst);
    true
}

/// Forgets a range that was added so; faults that are on their way are late ones from here on.
pub(super) fn remove(addr: usize, len: usize) {
    LATE.ended(addr, len);
    let used = USED.load(SeqCst).min(RANGES_MAX);
    for entry in &RANGES[..used] {
        let is_it = entry.end.load() == addr + len && entry.start.load() == addr;
        if is_it && entry.start.replace(addr, FREE) {
            return;
        }
    }
}
