//! The program's own memory: its loaded segments, by its program headers.

use std::sync::OnceLock;

use super::scan::scan_words;
use super::{live, node_memory, stop};

/// Most segments of one kind; linkers make two or three.
const SEGMENTS_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Segments {
    writable: [(usize, usize); SEGMENTS_MAX],
    writable_count: usize,
    /// Lowest and highest address of the whole program.
    span: (usize, usize),
}

/// Start and length of each writable segment: `.data`, `.bss`, and what is read-only once linked.
pub(super) fn writable_segments() -> &'static [(usize, usize)] {
    let segments = segments();
    &segments.writable[..segments.writable_count]
}

/// Calls `found` with the address of each aligned word of the program's statics whose value is in
/// `low..high`. The census's own tables do not count. Others may write meanwhile.
pub(crate) fn for_each_image_word(low: usize, high: usize, found: &mut dyn FnMut(usize)) {
    let holes = [live::table(), stop::table(), node_memory::table()];
    for &(start, len) in writable_segments() {
        // SAFETY: writable segments are readable.
        unsafe {
            scan_words(start, len, low, high, &mut |at, _| {
                if !holes.iter().any(|&(hole, hole_len)| at.wrapping_sub(hole) < hole_len) {
                    found(at);
                }
            });
        }
    }
}

/// Whether `addr` lies in the program.
pub(super) fn contains(addr: usize) -> bool {
    let (low, high) = segments().span;
    (low..high).contains(&addr)
}

fn segments() -> &'static Segments {
    static SEGMENTS: OnceLock<Segments> = OnceLock::new();
    SEGMENTS.get_or_init(read)
}

fn read() -> Segments {
    // SAFETY: asks for what the kernel has put on the first stack.
    let at = unsafe { libc::getauxval(libc::AT_PHDR) } as *const libc::Elf64_Phdr;
    // SAFETY: as above.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) } as usize;
    assert!(!at.is_null(), "the kernel gave no AT_PHDR");
    // SAFETY: the program's own headers, mapped for as long as it runs.
    let headers = unsafe { std::slice::from_raw_parts(at, count) };
    // Where the headers say they are, against where they are: the distance the kernel chose.
    let bias = headers
        .iter()
        .find(|header| header.p_type == libc::PT_PHDR)
        .map_or(0, |header| (at as usize).wrapping_sub(header.p_vaddr as usize));
    let mut segments =
        Segments { writable: [(0, 0); SEGMENTS_MAX], writable_count: 0, span: (usize::MAX, 0) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        let start = bias.wrapping_add(header.p_vaddr as usize);
        let len = header.p_memsz as usize;
        segments.span = (segments.span.0.min(start), segments.span.1.max(start + len));
        if header.p_flags & libc::PF_W != 0 {
            assert!(segments.writable_count < SEGMENTS_MAX, "a program of many writable segments");
            segments.writable[segments.writable_count] = (start, len);
            segments.writable_count += 1;
        }
    }
    segments
}
