//! Whether Rust's allocations reach the router: a program may have a global allocator of its own.
//!
//! Asked by doing it: a task's block and heap are set up in a slot, the thread block is switched to
//! it, and a Rust allocation made. It must come from that heap.

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::ptr;

use migrt_iso::{SlotClass, pool};

use super::prefix::HeaderPrefix;
use super::tls::{TCB_SPACE, TlsLayout, thread_pointer, with_thread_pointer};

/// Bytes of a heap's first extent, as tasks have it.
const FIRST_EXTENT_LEN: usize = 256 << 10;

/// Whether a Rust allocation made in a mobile task lies in the task's heap. If not, the program has
/// a `#[global_allocator]` that goes its own way, and must not have mobile tasks.
///
/// Needs one slot of the task class, which it gives back; `None` if the node has none, or is no
/// program for mobile tasks at all ([`TlsLayout::probe`]).
pub fn probe_router() -> Option<bool> {
    let layout = TlsLayout::probe().ok()?;
    let slot = pool::global().take(SlotClass::TASK)?;
    let header = (slot.end() - size_of::<HeaderPrefix>()) & !(layout.image_align() - 1);
    let tp = (header - TCB_SPACE) as *mut u8;
    let prefix = HeaderPrefix::of(tp);
    let worker = thread_pointer();
    // SAFETY: I3: the slot is ours, just taken; header, block and heap lie in it without overlap. No
    // one runs on the block but the closure, which neither suspends nor unwinds.
    let routed = unsafe {
        prefix.write(HeaderPrefix::new());
        (*prefix).init_arena(slot.base(), FIRST_EXTENT_LEN);
        (*prefix).set_worker(worker, ptr::null());
        layout.init_block(
            tp,
            u32::MAX,
            slot.base() + FIRST_EXTENT_LEN..tp as usize - layout.image_len(),
        );
        let routed = with_thread_pointer(tp, || {
            let layout = Layout::new::<[u64; 6]>();
            let block = black_box(alloc(layout));
            let routed = slot.contains(block as usize);
            if !block.is_null() {
                dealloc(block, layout);
            }
            routed
        });
        (*prefix).destroy_arena();
        routed
    };
    pool::global().give_clean(slot);
    Some(routed)
}
