//! Finds and checks the layout of thread blocks, once per process.
//!
//! glibc publishes some offsets for debuggers (`_thread_db_*`, linked into each static program with
//! threads) and some through public symbols; the rest is checked by what it does: a block is made in
//! ordinary memory and libc asked about it.

use super::{HAS_WRFSBASE, Ordering, TCB_SPACE, TlsError, TlsLayout, get, offset, thread_pointer};

/// `HWCAP2_FSGSBASE`.
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// What the probe expects to find of its own in `.tdata`.
const MARK: u64 = 0x6d69_6772_745f_746c;

#[cfg(not(target_feature = "crt-static"))]
pub(super) fn layout() -> Result<TlsLayout, TlsError> {
    let _ = (
        MARK,
        TCB_SPACE,
        HWCAP2_FSGSBASE,
        &HAS_WRFSBASE,
        Ordering::Relaxed,
        get::<u8>,
        thread_pointer,
        offset::TID,
    );
    Err(TlsError::NotStatic)
}

#[cfg(target_feature = "crt-static")]
pub(super) fn layout() -> Result<TlsLayout, TlsError> {
    // SAFETY: reads the auxiliary vector.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    // Relaxed: a flag by itself; whoever misses it takes the slow way.
    HAS_WRFSBASE.store(hwcap2 & HWCAP2_FSGSBASE != 0, Ordering::Relaxed);
    let header = image::tls_header()?;
    checks::published_offsets()?;
    checks::own_thread()?;
    let layout = image::layout_of(&header)?;
    checks::made_block(&layout)?;
    Ok(layout)
}

#[cfg(target_feature = "crt-static")]
mod image {
    use super::*;
    use std::cell::Cell;

    /// The PT_TLS header of a program at a fixed address.
    pub(super) fn tls_header() -> Result<libc::Elf64_Phdr, TlsError> {
        // SAFETY: reads the auxiliary vector.
        let (table, count) =
            unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
        if table == 0 {
            return Err(TlsError::NoImage);
        }
        // SAFETY: the kernel mapped the program's own headers there, for good.
        let headers =
            unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count as usize) };
        // A fixed program is loaded where its headers say: its first segment holds them.
        let fixed = headers.iter().any(|h| {
            h.p_type == libc::PT_LOAD && (h.p_vaddr..h.p_vaddr + h.p_filesz).contains(&table)
        });
        if !fixed || headers.iter().any(|h| h.p_type == libc::PT_INTERP) {
            return Err(TlsError::NotStatic);
        }
        headers.iter().find(|h| h.p_type == libc::PT_TLS).copied().ok_or(TlsError::NoImage)
    }

    thread_local! {
        static MARKED: Cell<u64> = const { Cell::new(MARK) };
    }

    pub(super) fn layout_of(header: &libc::Elf64_Phdr) -> Result<TlsLayout, TlsError> {
        let align = header.p_align.max(1);
        // Variant II: the image ends at TP, pushed down so that its start keeps its own alignment.
        let image_len = header.p_memsz
            + (header.p_vaddr.wrapping_add(header.p_memsz).wrapping_neg() & (align - 1));
        // SAFETY: `.tdata` lies in a loaded segment of a fixed program, and nobody writes to it.
        let tdata = unsafe {
            std::slice::from_raw_parts(header.p_vaddr as *const u8, header.p_filesz as usize)
        };
        let tp = thread_pointer() as usize;
        let below = |address: usize| tp.wrapping_sub(address);
        // The linker's offset of one of our own variables must be the one that we compute.
        let mark = (image_len as usize).wrapping_sub(below(MARKED.with(|m| m.as_ptr() as usize)));
        if tdata.get(mark..mark + 8) != Some(&MARK.to_ne_bytes()) {
            return Err(TlsError::NoImage);
        }
        // SAFETY: each returns the address of a variable of the calling thread.
        let ctype_below = unsafe {
            [__ctype_b_loc(), __ctype_tolower_loc(), __ctype_toupper_loc()]
                .map(|at| below(at as usize))
        };
        let resolver: usize;
        // SAFETY: loads the constant offset of libc's thread-local from the program's own table.
        unsafe {
            std::arch::asm!("mov {}, qword ptr [rip + __libc_resp@GOTTPOFF]", out(reg) resolver,
                options(nostack, preserves_flags, readonly));
        }
        let layout = TlsLayout {
            tdata,
            image_len: image_len as usize,
            image_align: align.max(64) as usize,
            ctype_below,
            resolver_below: resolver.wrapping_neg(),
        };
        let inside = |&below: &usize| (1..=image_len as usize).contains(&below);
        if !layout.ctype_below.iter().all(inside) || !inside(&layout.resolver_below) {
            return Err(TlsError::NoImage);
        }
        Ok(layout)
    }

    unsafe extern "C" {
        fn __ctype_b_loc() -> *const *const u8;
        fn __ctype_tolower_loc() -> *const *const u8;
        fn __ctype_toupper_loc() -> *const *const u8;
    }
}

#[cfg(target_feature = "crt-static")]
mod checks {
    use super::*;

    /// A field's `{ bits, count, offset }`, as libc describes it to debuggers.
    type Description = [u32; 3];

    unsafe extern "C" {
        static _thread_db_sizeof_pthread: u32;
        static _thread_db_pthread_tid: Description;
        static _thread_db_pthread_list: Description;
        static _thread_db_pthread_specific: Description;
        static _thread_db_pthread_dtvp: Description;
        static _thread_db_pthread_cancelhandling: Description;
        static __rseq_offset: isize;
        fn __pthread_getattr_np(
            thread: *mut u8,
            attributes: *mut libc::pthread_attr_t,
        ) -> libc::c_int;
    }

    fn same(what: &'static str, expected: usize, found: usize) -> Result<(), TlsError> {
        if expected == found {
            return Ok(());
        }
        Err(TlsError::Mismatch { what, expected: expected as u64, found: found as u64 })
    }

    pub(super) fn published_offsets() -> Result<(), TlsError> {
        const { assert!(offset::PTHREAD_LEN <= TCB_SPACE) };
        // SAFETY: constants of libc.
        let (len, tid, list, specific, dtv, cancel, rseq) = unsafe {
            (
                _thread_db_sizeof_pthread,
                _thread_db_pthread_tid[2],
                _thread_db_pthread_list[2],
                _thread_db_pthread_specific[2],
                _thread_db_pthread_dtvp[2],
                _thread_db_pthread_cancelhandling[2],
                __rseq_offset,
            )
        };
        same("the length of struct pthread", offset::PTHREAD_LEN, len as usize)?;
        same("the offset of tid", offset::TID, tid as usize)?;
        same("the offset of list", offset::LIST, list as usize)?;
        same("the offset of specific", offset::SPECIFIC, specific as usize)?;
        same("the offset of dtv", offset::DTV, dtv as usize)?;
        same("the offset of cancelhandling", offset::CANCEL_HANDLING, cancel as usize)?;
        // Zero where the kernel or a tunable has no restartable sequences: then nobody looks.
        if rseq != 0 {
            same("the offset of the rseq area", offset::RSEQ, rseq as usize)?;
        }
        Ok(())
    }

    pub(super) fn own_thread() -> Result<(), TlsError> {
        let tp = thread_pointer();
        // SAFETY: fields of the calling thread's own block.
        unsafe {
            let own = tp as usize;
            same("the self pointer at 0", own, get(tp, offset::TCB))?;
            same("tid", libc::gettid() as usize, get::<u32>(tp, offset::TID) as usize)?;
            same("the low byte of the canary", 0, get::<u8>(tp, offset::CANARY) as usize)?;
            same(
                "the robust list's head",
                own + offset::ROBUST_HEAD,
                get(tp, offset::ROBUST_HEAD),
            )?;
            same(
                "the robust list's offset",
                -32isize as usize,
                get(tp, offset::ROBUST_FUTEX_OFFSET),
            )?;
            same(
                "the first block of specifics",
                own + offset::SPECIFIC_FIRST_BLOCK,
                get(tp, offset::SPECIFIC),
            )?;
        }
        Ok(())
    }

    /// Makes a block in ordinary memory and asks libc for its stack.
    pub(super) fn made_block(layout: &TlsLayout) -> Result<(), TlsError> {
        let align = layout.image_align;
        let mut memory = vec![0u8; layout.image_len + align + TCB_SPACE];
        let first = memory.as_mut_ptr().wrapping_add(layout.image_len);
        let tp = first.wrapping_add(first.align_offset(align));
        let stack = 0x10_0000usize..0x18_0000;
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::zeroed();
        let (mut low, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: the block is whole and ours. With the caller's own tid, because libc asks the
        // kernel for that thread's CPU set.
        let code = unsafe {
            layout.init_block(tp, libc::gettid() as u32, stack.clone());
            __pthread_getattr_np(tp, attributes.as_mut_ptr())
        };
        same("the answer of pthread_getattr_np", 0, code as usize)?;
        // SAFETY: filled in by the call above.
        unsafe {
            libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut len);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        same("the stack's lower end", stack.start, low as usize)?;
        same("the stack's length", stack.len(), len)
    }
}
