//! Ranges that are no roots: copies and tables that hold addresses as data.
//!
//! A small static table without a lock, so that it can be read while whoever writes it is stopped in
//! the middle: an entry counts from the store of its start on, which is the last, until it is
//! cleared, which is the first.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Most ranges at a time.
pub(super) const EXCLUDED_MAX: usize = 1024;

const FREE: usize = 0;
/// Somebody fills the entry.
const TAKEN: usize = 1;

struct Entry {
    start: AtomicUsize,
    len: AtomicUsize,
}

static TABLE: [Entry; EXCLUDED_MAX] =
    [const { Entry { start: AtomicUsize::new(FREE), len: AtomicUsize::new(0) } }; EXCLUDED_MAX];

/// Entries past this one have never been used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Keeps `start..start + len` out of the roots until [`unexclude`]. Of node blocks only those are
/// left out that lie in it whole. `false`: the table is full, and nothing was done.
#[must_use]
pub(crate) fn exclude(start: usize, len: usize) -> bool {
    for (index, entry) in TABLE.iter().enumerate() {
        if entry.start.load(Ordering::Relaxed) == FREE
            && (entry.start)
                .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            entry.len.store(len, Ordering::Relaxed);
            // Release: pairs with the load in `for_each`; the length is there before the start.
            entry.start.store(start, Ordering::Release);
            USED.fetch_max(index + 1, Ordering::Release);
            return true;
        }
    }
    false
}

/// Lets a range that was excluded from `start` on count again. Before its memory is unmapped.
pub(crate) fn unexclude(start: usize) {
    let used = USED.load(Ordering::Acquire);
    if let Some(entry) =
        TABLE[..used].iter().find(|entry| entry.start.load(Ordering::Relaxed) == start)
    {
        entry.start.store(FREE, Ordering::Release);
    }
}

/// Calls `found` with start and end of each excluded range.
pub(super) fn for_each(found: &mut dyn FnMut(usize, usize)) {
    for entry in &TABLE[..USED.load(Ordering::Acquire)] {
        let start = entry.start.load(Ordering::Acquire);
        if start != FREE && start != TAKEN {
            found(start, start + entry.len.load(Ordering::Relaxed));
        }
    }
}
