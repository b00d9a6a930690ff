//! One `malloc` for Rust and C: task memory from the task's arena, node memory from mimalloc.
//!
//! ```text
//!   allocate   on a task's block? ── yes ─► its arena (slots from the pool, on the worker's block)
//!                                └── no ──► mimalloc
//!   free       address in the region? ─ no ──► node block: mimalloc, or, in a task, NodeFrees
//!                                     └ yes ─► own arena: free; another task's: its remote list
//! ```
//!
//! All sixteen names of libc's allocator lead here (`malloc_names`), so its `malloc.o` is never linked
//! and C code moves as Rust code does; Rust's `System` calls these too. In a program that is not
//! static they are not defined and libc's own allocator serves.
//!
//! Relies on mimalloc never being called on a task's block: it keeps its heap in thread-locals.

pub use super::prefix::NodeFrees;

impl NodeFrees {
    /// Frees what the tasks of a worker have left here. On the worker's own block, between tasks;
    /// one load if there is nothing.
    #[inline]
    pub fn drain(&self) {
        if !self.is_empty() {
            self.drain_all();
        }
    }

    #[cold]
    fn drain_all(&self) {
        let mut block = self.take();
        while !block.is_null() {
            // SAFETY: `push` put the link there, and gave us the block.
            let next = unsafe { block.cast::<*mut u8>().read() };
            // SAFETY: a node block that nobody uses; an OS thread's block is current.
            unsafe { node::free(block) };
            block = next;
        }
    }
}

/// The node's allocator.
#[cfg(target_feature = "crt-static")]
mod node {
    use libmimalloc_sys as mi;

    /// Of a block that has been noted as dead.
    pub(super) unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { mi::mi_free(block.cast()) };
    }
}

#[cfg(not(target_feature = "crt-static"))]
mod node {
    pub(super) unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(block.cast()) };
    }
}

#[cfg(target_feature = "crt-static")]
pub(super) mod route {
    use std::ptr;

    use libmimalloc_sys as mi;
    use migrt_iso::arena::Arena;
    use migrt_iso::{SlotClass, SlotId, in_region, pool};

    use crate::census::live;
    use crate::task::prefix::{HeaderPrefix, on_worker};

    /// What every block is aligned to; those of 16 bytes and more to 16.
    pub(in crate::task) const ALIGN_MIN: usize = 8;

    #[inline(always)]
    pub(in crate::task) fn alloc(len: usize, align: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        let block = if header.is_null() {
            // SAFETY: on an OS thread's block. Powers of two, checked by the callers.
            unsafe { node_alloc(len, align) }
        } else if is_on_node_heap(header) {
            // SAFETY: on the worker's block; `align` is a power of two, checked by the callers.
            on_worker(|| unsafe { node_alloc(len, align) })
        } else {
            // SAFETY: the running task owns its arena.
            unsafe { (*header).arena().alloc(len, align, &mut more) }
        };
        or_no_memory(block)
    }

    #[inline(always)]
    pub(in crate::task) fn alloc_zeroed(len: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        let block = if header.is_null() {
            let len = len.max(live::GRAIN);
            // SAFETY: on an OS thread's block; the new block is the allocator's own.
            unsafe {
                let block: *mut u8 = mi::mi_zalloc(len).cast();
                live::born(block, len);
                block
            }
        } else if is_on_node_heap(header) {
            on_worker(|| {
                // SAFETY: on the worker's block.
                let block = unsafe { node_alloc(len, ALIGN_MIN) };
                if !block.is_null() {
                    // SAFETY: as long as was asked for.
                    unsafe { block.write_bytes(0, len) };
                }
                block
            })
        } else {
            // SAFETY: the running task owns its arena.
            unsafe { (*header).arena().alloc_zeroed(len, ALIGN_MIN, &mut more) }
        };
        or_no_memory(block)
    }

    /// Whether the running mobile task allocates node memory at this moment.
    #[inline(always)]
    fn is_on_node_heap(header: *mut HeaderPrefix) -> bool {
        // SAFETY: the running task's header.
        unsafe { (*header).is_on_node_heap() }
    }

    /// A node block, noted as live.
    ///
    /// # Safety
    ///
    /// On an OS thread's block; `align` is a power of two.
    #[inline(always)]
    unsafe fn node_alloc(len: usize, align: usize) -> *mut u8 {
        // From 16 bytes on the allocator aligns to 16 by itself.
        let len = len.max(live::GRAIN);
        // SAFETY: the caller's promise; the new block is the allocator's own.
        unsafe {
            let block: *mut u8 = if align <= live::GRAIN {
                mi::mi_malloc(len)
            } else {
                mi::mi_malloc_aligned(len, align)
            }
            .cast();
            live::born(block, len);
            block
        }
    }

    /// # Safety
    ///
    /// On an OS thread's block; `block` is a live node block that nobody uses.
    #[inline(always)]
    unsafe fn node_free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            live::died(block);
            clear_if_told(block);
            mi::mi_free(block.cast());
        }
    }

    /// Empties a block that is about to be freed, if this thread is one that does (`census::stale`).
    ///
    /// # Safety
    ///
    /// As for `node_free`.
    #[inline(always)]
    unsafe fn clear_if_told(block: *mut u8) {
        if crate::census::is_clearing() && !block.is_null() {
            // SAFETY: a live block of the allocator's: as long as it says.
            unsafe { block.write_bytes(0, mi::mi_usable_size(block.cast())) };
        }
    }

    /// Not the allocator's own: while bytes move from block to block both are live.
    ///
    /// # Safety
    ///
    /// On an OS thread's block; `block` is a live node block and the caller's.
    unsafe fn node_realloc(block: *mut u8, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            let had = mi::mi_usable_size(block.cast());
            if len <= had && len.max(live::GRAIN) >= had / 2 {
                return block;
            }
            let moved = node_alloc(len, ALIGN_MIN);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, had.min(len));
                node_free(block);
            }
            moved
        }
    }

    /// # Safety
    ///
    /// `block` is null or was allocated here, and nobody uses it.
    #[inline(always)]
    pub(in crate::task) unsafe fn free(block: *mut u8) {
        if block.is_null() {
            return;
        }
        let header = HeaderPrefix::current();
        if in_region(block as usize) {
            // SAFETY: the caller's promise: a live block of some arena.
            unsafe { free_in_region(header, block) };
        } else if header.is_null() {
            // SAFETY: a node block, on an OS thread's block.
            unsafe { node_free(block) };
        } else {
            // SAFETY: a node block, freed in a task.
            unsafe { free_later(header, block) };
        }
    }

    #[inline(always)]
    unsafe fn free_in_region(header: *mut HeaderPrefix, block: *mut u8) {
        // SAFETY: a block of an arena leads to it; the arena is the running task's own, or gets the
        // block on its list.
        unsafe {
            let owner = Arena::arena_of(block);
            if ptr::eq(owner.cast(), header) {
                (*owner).free(block, &mut done);
            } else {
                // Of a task that has left, this notes the free for its return (`migrate::remains`).
                Arena::free_remote(block);
            }
        }
    }

    #[cold]
    unsafe fn free_later(header: *mut HeaderPrefix, block: *mut u8) {
        // SAFETY: the running task's header; the worker that it names waits for it.
        match unsafe { (*header).node_frees().as_ref() } {
            // SAFETY: a node block that nobody uses. It is dead from now on, not once it is freed.
            Some(frees) => unsafe {
                live::died(block);
                frees.push(block);
            },
            // SAFETY: as above, on the worker's block.
            None => on_worker(|| unsafe { node_free(block) }),
        }
    }

    /// # Safety
    ///
    /// `block` was allocated here and is the caller's; `len` is not 0.
    pub(in crate::task) unsafe fn realloc(block: *mut u8, len: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        // SAFETY: the caller's promise; each way is for its own kind of block.
        unsafe {
            if !in_region(block as usize) {
                if header.is_null() {
                    return or_no_memory(node_realloc(block, len));
                }
            } else if ptr::eq(Arena::arena_of(block).cast(), header) {
                return or_no_memory(
                    (*header).arena().realloc(block, len, ALIGN_MIN, &mut more, &mut done),
                );
            }
            let moved = alloc(len, ALIGN_MIN);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, usable_len(block).min(len));
                free(block);
            }
            moved
        }
    }

    /// # Safety
    ///
    /// `block` was allocated here and is live.
    pub(in crate::task) unsafe fn usable_len(block: *mut u8) -> usize {
        // SAFETY: the caller's promise. mimalloc finds it from the address, without thread-locals.
        unsafe {
            if in_region(block as usize) {
                Arena::usable_size(block)
            } else {
                mi::mi_usable_size(block.cast())
            }
        }
    }

    /// A slot for the running task's arena.
    #[cold]
    fn more(class: SlotClass) -> Option<SlotId> {
        // SAFETY: asked by the running task's arena alone.
        let wants_empty = unsafe { &*HeaderPrefix::current() }.wants_empty.get();
        let taken = on_worker(|| pool::global().take(class));
        if let Some(slot) = taken.filter(|_| wants_empty && class <= pool::WARM_CLASS_MAX) {
            // SAFETY: taken just now (I3).
            unsafe { migrt_iso::page::discard(slot.base(), slot.len()) };
        }
        taken
    }

    /// A slot that the running task's arena no longer needs.
    #[cold]
    fn done(slot: SlotId) {
        let header = HeaderPrefix::current();
        // SAFETY: a slot comes back from the arena of the running task alone.
        let header = unsafe { &*header };
        on_worker(|| header.take_back(slot));
    }

    #[inline(always)]
    fn or_no_memory(block: *mut u8) -> *mut u8 {
        if block.is_null() {
            set_errno(libc::ENOMEM);
        }
        block
    }

    #[cold]
    #[inline(never)]
    pub(in crate::task) fn set_errno(code: libc::c_int) {
        // SAFETY: the running thread's or task's own variable.
        unsafe { libc::__errno_location().write(code) };
    }
}
