//! Frees from afar: any thread may free any block; the owner does it in truth, later.
//!
//! The list is a Treiber stack of which everything is taken at once, so no pop can see a node come
//! back (no ABA). The link is the block's first word: the block still counts as live, nobody else
//! writes it. The race that remains is the caller's: a push while the task is being copied away
//! would stay at the source, so whoever freezes a task first shuts out those who free into it.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Arena, DoneSlots};

impl Arena {
    /// Frees a block of any heap of this process, from any thread; the owner takes it back when it
    /// next grows, or by [`drain_remote`](Self::drain_remote). Never blocks.
    ///
    /// # Safety
    ///
    /// - `ptr` is a live block of a heap whose task is on this node, and nobody uses it any more
    /// - that task is not being copied away meanwhile
    pub unsafe fn free_remote(ptr: *mut u8) {
        // SAFETY: the caller's promise.
        let arena = unsafe { Arena::arena_of(ptr) };
        // SAFETY: the heap is alive as one of its blocks is; only this atomic field is touched.
        let remote: &AtomicUsize = unsafe { &(*arena).remote };
        // Relaxed: only compared; the exchange below checks it.
        let mut head = remote.load(Ordering::Relaxed);
        loop {
            // SAFETY: the block is at least a word long, aligned, and the caller's alone.
            unsafe { ptr.cast::<usize>().write(head) };
            // Release: the link, and all uses of the block, come before the owner's swap.
            match remote.compare_exchange_weak(
                head,
                ptr as usize,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Where the head of the list of remote frees lies: a word that others write while the owner does
    /// not run.
    #[must_use]
    pub fn remote_list_addr(&self) -> usize {
        &raw const self.remote as usize
    }

    /// Whether blocks wait to be taken back.
    #[must_use]
    pub fn has_remote_frees(&self) -> bool {
        // Relaxed: a hint.
        self.remote.load(Ordering::Relaxed) != 0
    }

    /// Takes back all blocks that others freed. Extents that empty go to `done`.
    ///
    /// # Safety
    ///
    /// - the caller is the heap's owner
    pub unsafe fn drain_remote(&self, done: &mut DoneSlots<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.take_remote_frees() };
        if self.sweep_due.get() {
            self.sweep(done);
        }
    }

    /// # Safety
    ///
    /// - the caller is the heap's owner
    pub(super) unsafe fn take_remote_frees(&self) {
        // Acquire pairs with the release in `free_remote`.
        let mut at = self.remote.swap(0, Ordering::Acquire);
        while at != 0 {
            // SAFETY: the link was written before the block was pushed.
            let next = unsafe { (at as *const usize).read() };
            // SAFETY: whoever pushed the block gave it up.
            unsafe { self.free_block(at) };
            at = next;
        }
    }
}
