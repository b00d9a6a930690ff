//! Which task opened which descriptor: the counting behind `libc_pins`.
//!
//! A descriptor belongs to its process, so the task that holds one must not move: each open one
//! counts in the header's `fd_pins`, and a table from descriptor to task finds the header again when
//! anybody closes it.
//!
//! ```text
//!   fd ──► CHUNKS[fd / 512] ──► chunk[fd % 512] = !TP of the task, 0 = not a task's
//! ```
//!
//! Chunks are made when a task first opens a descriptor in their range, so a program without such
//! tasks pays one load per call. Entries are inverted so that no scan takes them for pointers into
//! the task. Absent: which calls open and close.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::prefix::{HeaderPrefix, on_worker};
use super::tls::thread_pointer;

const CHUNK_LEN: usize = 512;
const CHUNK_COUNT: usize = 2048;

type Chunk = [AtomicUsize; CHUNK_LEN];

/// Descriptors above 2^20 are not counted; the usual limit of a process is that or less.
static CHUNKS: [AtomicPtr<Chunk>; CHUNK_COUNT] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CHUNK_COUNT];

/// Counts a descriptor that has just been opened, if a mobile task did it. Takes the result of the
/// call and gives it back; a negative one is a failure and counts nothing.
pub fn note_open(fd: c_int) -> c_int {
    let header = HeaderPrefix::current();
    let is_new = fd >= 0;
    if is_new && header.is_null() {
        // A number whose closing was not seen may be left over from a task.
        note_close(fd);
    } else if is_new && let Some(entry) = entry_or_make(fd) {
        let former = entry.swap(!(thread_pointer() as usize), Ordering::AcqRel);
        // SAFETY: the running task's header.
        unsafe { (*header).fd_pins.fetch_add(1, Ordering::Relaxed) };
        unpin(former);
    }
    fd
}

/// Says that a descriptor is about to be closed. Before the call: afterwards the number may already
/// be somebody else's.
pub fn note_close(fd: c_int) {
    if let Some(entry) = entry(fd)
        && entry.load(Ordering::Relaxed) != 0
    {
        // AcqRel: with the swap in `note_open`, so that exactly one side counts down.
        unpin(entry.swap(0, Ordering::AcqRel));
    }
}

/// As [`note_close`] for all descriptors from `first` to `last`.
pub fn note_close_range(first: u32, last: u32) {
    let in_use =
        CHUNKS.iter().enumerate().filter(|(_, chunk)| !chunk.load(Ordering::Acquire).is_null());
    for (i, _) in in_use {
        let base = (i * CHUNK_LEN) as u32;
        for fd in base.max(first)..=(base + CHUNK_LEN as u32 - 1).min(last) {
            note_close(fd as c_int);
        }
    }
}

/// Calls `found` for each descriptor that the task with its block at `tp` has open.
pub fn for_each_fd_of(tp: *mut u8, found: &mut dyn FnMut(c_int)) {
    for (i, chunk) in CHUNKS.iter().enumerate() {
        // SAFETY: Acquire pairs with the making of the chunk, which is never freed.
        let Some(chunk) = (unsafe { chunk.load(Ordering::Acquire).as_ref() }) else {
            continue;
        };
        for (j, entry) in chunk.iter().enumerate() {
            if entry.load(Ordering::Relaxed) == !(tp as usize) {
                found((i * CHUNK_LEN + j) as c_int);
            }
        }
    }
}

/// Forgets the descriptors of a task that ends with some still open: its header goes away.
pub fn forget_fds_of(tp: *mut u8) {
    // SAFETY: the header of a task that still exists.
    if unsafe { (*HeaderPrefix::of(tp)).fd_pins.load(Ordering::Relaxed) } != 0 {
        for_each_fd_of(tp, &mut note_close);
    }
}

/// Counts down for what an entry held.
fn unpin(entry: usize) {
    if entry != 0 {
        let header = HeaderPrefix::of((!entry) as *mut u8);
        // SAFETY: a pinned task does not leave, and one that ends clears its entries first.
        unsafe { (*header).fd_pins.fetch_sub(1, Ordering::Relaxed) };
    }
}

fn entry(fd: c_int) -> Option<&'static AtomicUsize> {
    let fd = usize::try_from(fd).ok()?;
    // SAFETY: Acquire pairs with the making of the chunk, which is never freed.
    let chunk = unsafe { CHUNKS.get(fd / CHUNK_LEN)?.load(Ordering::Acquire).as_ref() }?;
    Some(&chunk[fd % CHUNK_LEN])
}

fn entry_or_make(fd: c_int) -> Option<&'static AtomicUsize> {
    if let Some(entry) = entry(fd) {
        return Some(entry);
    }
    let place = CHUNKS.get(usize::try_from(fd).ok()? / CHUNK_LEN)?;
    // Node memory, so on the worker's block. No room: the descriptor stays uncounted.
    // SAFETY: zeros are a valid chunk.
    on_worker(|| unsafe {
        let chunk: *mut Chunk = libc::calloc(1, size_of::<Chunk>()).cast();
        let made =
            place.compare_exchange(ptr::null_mut(), chunk, Ordering::AcqRel, Ordering::Acquire);
        if made.is_err() {
            libc::free(chunk.cast());
        }
    });
    entry(fd)
}
