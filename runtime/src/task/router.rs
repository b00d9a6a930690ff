//! One `malloc` for Rust and C: task memory from the task's arena, node memory from mimalloc.
//!
//! ```text
//!   allocate   on a task's block? ── yes ─► its arena (slots from the pool, on the worker's block)
//!                                └── no ──► mimalloc
//!   free       address in the region? ─ no ──► node block: mimalloc, or, in a task, NodeFrees
//!                                     └ yes ─► own arena: free; another task's: its remote list
//! ```
//!
//! All sixteen names of libc's allocator are defined here, so that its `malloc.o` is never linked and
//! C code moves as Rust code does; Rust's `System` calls these too. They work before `main`. In a
//! program that is not static nothing is defined and libc's own allocator serves.
//!
//! Relies on mimalloc never being called on a task's block: it keeps its heap in thread-locals.

pub use super::prefix::{HeaderPrefix, NodeFrees};

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
mod route {
    use std::ptr;

    use libmimalloc_sys as mi;
    use migrt_iso::arena::Arena;
    use migrt_iso::{SlotClass, SlotId, in_region, pool};

    use crate::task::prefix::{HeaderPrefix, on_worker};

    /// What every block is aligned to; those of 16 bytes and more to 16.
    pub(super) const ALIGN_MIN: usize = 8;

    #[inline(always)]
    pub(super) fn alloc(len: usize, align: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        let block = if header.is_null() {
            // SAFETY: on an OS thread's block. Powers of two, checked by the callers.
            unsafe {
                if align <= ALIGN_MIN {
                    mi::mi_malloc(len)
                } else {
                    mi::mi_malloc_aligned(len, align)
                }
                .cast()
            }
        } else {
            // SAFETY: the running task owns its arena.
            unsafe { (*header).arena().alloc(len, align, &mut more) }
        };
        or_no_memory(block)
    }

    #[inline(always)]
    pub(super) fn alloc_zeroed(len: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        let block = if header.is_null() {
            // SAFETY: on an OS thread's block.
            unsafe { mi::mi_zalloc(len).cast() }
        } else {
            // SAFETY: the running task owns its arena.
            unsafe { (*header).arena().alloc_zeroed(len, ALIGN_MIN, &mut more) }
        };
        or_no_memory(block)
    }

    /// # Safety
    ///
    /// `block` is null or was allocated here, and nobody uses it.
    #[inline(always)]
    pub(super) unsafe fn free(block: *mut u8) {
        if block.is_null() {
            return;
        }
        let header = HeaderPrefix::current();
        if in_region(block as usize) {
            // SAFETY: the caller's promise: a live block of some arena.
            unsafe { free_in_region(header, block) };
        } else if header.is_null() {
            // SAFETY: a node block, on an OS thread's block.
            unsafe { mi::mi_free(block.cast()) };
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
                Arena::free_remote(block);
            }
        }
    }

    #[cold]
    unsafe fn free_later(header: *mut HeaderPrefix, block: *mut u8) {
        // SAFETY: the running task's header; the worker that it names waits for it.
        match unsafe { (*header).node_frees().as_ref() } {
            // SAFETY: a node block that nobody uses.
            Some(frees) => unsafe { frees.push(block) },
            // SAFETY: as above, on the worker's block.
            None => on_worker(|| unsafe { mi::mi_free(block.cast()) }),
        }
    }

    /// # Safety
    ///
    /// `block` was allocated here and is the caller's; `len` is not 0.
    pub(super) unsafe fn realloc(block: *mut u8, len: usize) -> *mut u8 {
        let header = HeaderPrefix::current();
        // SAFETY: the caller's promise; each way is for its own kind of block.
        unsafe {
            if !in_region(block as usize) {
                if header.is_null() {
                    return or_no_memory(mi::mi_realloc(block.cast(), len).cast());
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
    pub(super) unsafe fn usable_len(block: *mut u8) -> usize {
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
        on_worker(|| pool::global().take(class))
    }

    /// A slot that the running task's arena no longer needs.
    #[cold]
    fn done(slot: SlotId) {
        on_worker(|| pool::global().give(slot));
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
    pub(super) fn set_errno(code: libc::c_int) {
        // SAFETY: the running thread's or task's own variable.
        unsafe { libc::__errno_location().write(code) };
    }
}

/// The names. Each is documented by C and POSIX; said here is only what differs.
#[cfg(target_feature = "crt-static")]
mod names {
    use std::ffi::{c_int, c_void};
    use std::ptr;

    use libmimalloc_sys as mi;

    use super::route::{self, ALIGN_MIN, set_errno};
    use crate::task::prefix::on_worker;

    const PAGE: usize = migrt_iso::PAGE_LEN;

    #[unsafe(no_mangle)]
    extern "C" fn malloc(len: usize) -> *mut c_void {
        route::alloc(len, ALIGN_MIN).cast()
    }

    #[unsafe(no_mangle)]
    extern "C" fn calloc(count: usize, len: usize) -> *mut c_void {
        match count.checked_mul(len) {
            Some(len) => route::alloc_zeroed(len).cast(),
            None => no_memory(),
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(block: *mut c_void) {
        // SAFETY: C's promise is the one asked for.
        unsafe { route::free(block.cast()) };
    }

    /// A length of 0 frees, as in glibc.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(block: *mut c_void, len: usize) -> *mut c_void {
        if block.is_null() {
            return malloc(len);
        }
        // SAFETY: C's promise is the one asked for.
        unsafe {
            if len == 0 {
                route::free(block.cast());
                return ptr::null_mut();
            }
            route::realloc(block.cast(), len).cast()
        }
    }

    /// An alignment that is no power of two is rounded up to one, as in glibc.
    #[unsafe(no_mangle)]
    extern "C" fn memalign(align: usize, len: usize) -> *mut c_void {
        match align.checked_next_power_of_two() {
            Some(align) => route::alloc(len, align.max(ALIGN_MIN)).cast(),
            None => invalid(),
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn aligned_alloc(align: usize, len: usize) -> *mut c_void {
        if align.is_power_of_two() { memalign(align, len) } else { invalid() }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(
        place: *mut *mut c_void,
        align: usize,
        len: usize,
    ) -> c_int {
        if !align.is_power_of_two() || align < size_of::<usize>() {
            return libc::EINVAL;
        }
        // SAFETY: the caller's own errno, which this function must leave alone.
        let errno = unsafe { *libc::__errno_location() };
        let block = memalign(align, len);
        if block.is_null() {
            set_errno(errno);
            return libc::ENOMEM;
        }
        // SAFETY: C's promise.
        unsafe { place.write(block) };
        0
    }

    #[unsafe(no_mangle)]
    extern "C" fn valloc(len: usize) -> *mut c_void {
        memalign(PAGE, len)
    }

    #[unsafe(no_mangle)]
    extern "C" fn pvalloc(len: usize) -> *mut c_void {
        match len.max(1).checked_next_multiple_of(PAGE) {
            Some(len) => memalign(PAGE, len),
            None => no_memory(),
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
        if block.is_null() {
            return 0;
        }
        // SAFETY: C's promise.
        unsafe { route::usable_len(block.cast()) }
    }

    /// Gives free node memory back to the system. Says 1 ("some was"), which it cannot know.
    #[unsafe(no_mangle)]
    extern "C" fn malloc_trim(_keep: usize) -> c_int {
        // SAFETY: on the worker's block.
        on_worker(|| unsafe { mi::mi_collect(true) });
        1
    }

    /// glibc's tunables mean nothing here: says 0, "not set".
    #[unsafe(no_mangle)]
    extern "C" fn mallopt(_option: c_int, _value: c_int) -> c_int {
        0
    }

    /// This allocator keeps none of glibc's counts, so all of them are 0.
    #[unsafe(no_mangle)]
    extern "C" fn mallinfo() -> libc::mallinfo {
        // SAFETY: integers only.
        unsafe { std::mem::zeroed() }
    }

    /// As `mallinfo`.
    #[unsafe(no_mangle)]
    extern "C" fn mallinfo2() -> libc::mallinfo2 {
        // SAFETY: integers only.
        unsafe { std::mem::zeroed() }
    }

    /// Writes a document of the right form without any heaps in it.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc_info(options: c_int, file: *mut libc::FILE) -> c_int {
        if options != 0 {
            return libc::EINVAL;
        }
        // SAFETY: C's promise: an open stream.
        match unsafe { libc::fputs(c"<malloc version=\"1\"></malloc>\n".as_ptr(), file) } {
            libc::EOF => -1,
            _ => 0,
        }
    }

    /// The node allocator's statistics, on stderr.
    #[unsafe(no_mangle)]
    extern "C" fn malloc_stats() {
        // SAFETY: on the worker's block; null is for stderr.
        on_worker(|| unsafe { mi::mi_stats_print(ptr::null_mut()) });
    }

    #[cold]
    fn no_memory() -> *mut c_void {
        set_errno(libc::ENOMEM);
        ptr::null_mut()
    }

    #[cold]
    fn invalid() -> *mut c_void {
        set_errno(libc::EINVAL);
        ptr::null_mut()
    }
}
