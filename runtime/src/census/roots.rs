//! Where a pointer could be, outside the region: all that the threads of this process can reach.
//!
//! ```text
//!   image        writable segments of the program
//!   registers    of each stopped thread: integers, then vectors
//!   stacks       from 128 bytes below rsp up to the thread's struct pthread, thread-locals included
//!   blocks       live blocks of the node's allocator; what is freed does not count
//!   mappings     all other private writable memory: brk, alternate stacks in use, others' mmaps
//! ```
//!
//! Conservative: what is not understood counts. So a stack is only cut at rsp if it is surely one: a
//! guard below it, the thread's block above. A worker in a task has its own stack suspended in
//! `resume`; where, the task's parent link says ([`TaskSight`]), or else the whole stack counts.
//!
//! Relied on: nobody else runs (`stop`). Allocates nothing, takes no lock. Absent: the region;
//! memory that is shared with other processes or read-only; the kernel's copies of pointers.

use std::arch::asm;

use migrt_iso::{PAGE_LEN, in_region, page, raw};

use super::maps::{Kind, Mapping, for_each_mapping};
use super::stop::StoppedThread;
use super::{exclude, image, live, node_memory, stop};

/// What a range of roots belongs to. Threads by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The program's statics.
    Image,
    /// A thread's registers.
    Registers(i32),
    /// A thread's own stack and thread-locals; not a task's.
    Stack(i32),
    /// One live block of the node's allocator.
    Block,
    /// Any other memory.
    Mapping,
}

/// What the census cannot know of threads that run tasks. Both are called while threads are stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskSight {
    /// The worker's thread block, of a mobile task's.
    pub(crate) worker_tp: fn(usize) -> usize,
    /// The stack pointer of the worker's own stack, of a thread whose `rsp` lies in the region; `None`
    /// if unknown.
    pub(crate) worker_rsp: fn(&StoppedThread) -> Option<usize>,
}

/// Beyond this length only pages that hold memory are visited.
const SPARSE: usize = 64 << 10;
/// The allocator's memory comes and goes in such units.
const MI_SLICE: usize = 64 << 10;
/// Mappings of this length and more are taken for reserved rather than used.
const VAST: usize = 8 << 30;
/// Bytes below rsp that a function may use.
const RED_ZONE: usize = 128;
/// From a thread's TP to the end of its stack's mapping, at most; the mapping ends with the page.
const TCB_LEN: usize = 0xA00;

const MAPPINGS_MAX: usize = 1 << 16;
const HOLES_MAX: usize = 4096;

/// Memory for [`for_each_root_range`], made before threads are stopped.
#[derive(Debug)]
pub(crate) struct Scratch {
    tables: *mut Tables,
    sight: TaskSight,
    caller_from: Option<usize>,
}

struct Tables {
    text: [u8; 32 << 10],
    mappings: [Mapping; MAPPINGS_MAX],
    mapping_count: usize,
    /// Sorted ranges that are no roots: start, end.
    holes: [(usize, usize); HOLES_MAX],
    hole_count: usize,
}

// SAFETY: owns its tables.
unsafe impl Send for Scratch {}

impl Scratch {
    /// `None`: no memory.
    pub(crate) fn new(sight: TaskSight) -> Option<Scratch> {
        let _ = image::writable_segments();
        let _ = std::is_x86_feature_detected!("avx2");
        let tables = raw::map(size_of::<Tables>())? as *mut Tables;
        Some(Scratch { tables, sight, caller_from: None })
    }

    /// Has the calling thread's stack count from `addr` on only, and its registers not: for a caller
    /// whose own frames hold what it looks for. `addr` is that of a local variable of a frame that
    /// knew nothing yet.
    pub(crate) fn set_caller_from(&mut self, addr: usize) {
        self.caller_from = Some(addr);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and the tables end with their owner.
        unsafe { raw::unmap(self.tables as usize, size_of::<Tables>()) };
    }
}

/// Calls `visit` with owner, start and length of each range of roots. All are readable, some begin
/// and end at odd addresses. `false`: something could not be seen, so nothing may be concluded from
/// what was not found.
///
/// To be called inside `with_stopped_threads`, on the thread that stops. `visit` neither allocates
/// nor locks.
#[inline(never)]
pub(crate) fn for_each_root_range(
    stopped: &[StoppedThread],
    scratch: &mut Scratch,
    visit: &mut dyn FnMut(Root, usize, usize),
) -> bool {
    let mut saved = [0usize; 6];
    let rsp: usize;
    let fs_base: usize;
    // SAFETY: stores the registers that a callee keeps for its callers, and reads two more.
    unsafe {
        asm!(
            "mov [{saved}], rbx", "mov [{saved} + 8], rbp", "mov [{saved} + 16], r12",
            "mov [{saved} + 24], r13", "mov [{saved} + 32], r14", "mov [{saved} + 40], r15",
            "mov {rsp}, rsp", "mov {fs}, fs:[0]",
            saved = in(reg) saved.as_mut_ptr(), rsp = out(reg) rsp, fs = out(reg) fs_base,
            options(nostack, preserves_flags),
        );
    }
    let sight = scratch.sight;
    let caller = StoppedThread {
        tid: stop::own_tid(),
        rsp: scratch.caller_from.unwrap_or(rsp),
        fs_base,
        registers: std::ptr::null(),
        vectors: (0, 0),
        alternate_stack: own_alternate_stack(),
    };
    if scratch.caller_from.is_none() {
        visit(Root::Registers(caller.tid), saved.as_ptr() as usize, size_of_val(&saved));
    }
    let own_tables = (scratch.tables as usize, scratch.tables as usize + size_of::<Tables>());
    // SAFETY: mapped by `new`, all zeros are valid (`Kind::Anonymous` is 0), and borrowed with
    // `scratch`.
    let tables = unsafe { &mut *scratch.tables };
    if !tables.read_mappings() {
        return false;
    }
    tables.hole_count = 0;
    let mut fits = tables.add_common_holes(own_tables);
    // The caller's too: when it was stopped by others, a frame with all its registers was left there.
    for thread in stopped.iter().chain([&caller]) {
        let (start, len) = thread.alternate_stack;
        fits &= len == 0 || tables.add_hole(start, start + len);
    }
    tables.sort_holes();
    for &(start, len) in image::writable_segments() {
        tables.visit_between_holes(Root::Image, start, start + len, visit);
    }
    live::for_each_live(&mut |start, len| {
        if !tables.is_in_hole(start, start + len) {
            visit_present(Root::Block, start, start + len, visit);
        }
    });
    // From here on the image and what is visited as a stack is no mapping.
    for &(start, len) in image::writable_segments() {
        fits &= tables.add_hole(start & !(PAGE_LEN - 1), (start + len).next_multiple_of(PAGE_LEN));
    }
    for thread in stopped {
        visit(Root::Registers(thread.tid), thread.registers as usize, size_of::<[usize; 16]>());
        visit(Root::Registers(thread.tid), thread.vectors.0, thread.vectors.1);
        fits &= tables.visit_stacks(thread, sight, visit);
    }
    fits &= tables.visit_stacks(&caller, sight, visit);
    tables.sort_holes();
    for index in 0..tables.mapping_count {
        let mapping = tables.mappings[index];
        if is_candidate(&mapping) {
            tables.visit_between_holes(Root::Mapping, mapping.start, mapping.end, visit);
        }
    }
    fits
}

/// The calling thread's alternate signal stack, which it is not on.
fn own_alternate_stack() -> (usize, usize) {
    // SAFETY: zeros are a valid value.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    let args = [0, &raw mut stack as usize, 0, 0, 0, 0];
    // SAFETY: asks only; the kernel fills the value in.
    let is_there = unsafe { raw::syscall(libc::SYS_sigaltstack, args) } == 0
        && stack.ss_flags & libc::SS_DISABLE == 0;
    if is_there { (stack.ss_sp as usize, stack.ss_size) } else { (0, 0) }
}

fn is_candidate(mapping: &Mapping) -> bool {
    mapping.readable && mapping.writable && mapping.private && !in_region(mapping.start)
}

impl Tables {
    fn read_mappings(&mut self) -> bool {
        let Tables { text, mappings, mapping_count, .. } = self;
        *mapping_count = 0;
        for_each_mapping(text, &mut |mapping| {
            if in_region(mapping.start) {
                return true;
            }
            if *mapping_count == MAPPINGS_MAX {
                return false;
            }
            mappings[*mapping_count] = mapping;
            *mapping_count += 1;
            true
        })
    }

    fn add_common_holes(&mut self, own_tables: (usize, usize)) -> bool {
        let mut fits = self.add_hole(own_tables.0, own_tables.1);
        for (start, len) in [live::table(), stop::table(), node_memory::table()] {
            fits &= self.add_hole(start, start + len);
        }
        live::for_each_map(&mut |map, _| fits &= self.add_hole(map, map + live::MAP_LEN));
        exclude::for_each(&mut |start, end| fits &= self.add_hole(start, end));
        fits
    }

    fn add_hole(&mut self, start: usize, end: usize) -> bool {
        let fits = self.hole_count < HOLES_MAX;
        if fits {
            self.holes[self.hole_count] = (start, end);
            self.hole_count += 1;
        }
        fits
    }

    /// In place: nothing may be allocated.
    fn sort_holes(&mut self) {
        self.holes[..self.hole_count].sort_unstable();
    }

    fn is_in_hole(&self, start: usize, end: usize) -> bool {
        let holes = &self.holes[..self.hole_count];
        let after = holes.partition_point(|hole| hole.0 <= start);
        after > 0 && end <= holes[after - 1].1
    }

    fn mapping_of(&self, addr: usize) -> Option<usize> {
        let mappings = &self.mappings[..self.mapping_count];
        let index = mappings.partition_point(|mapping| mapping.end <= addr);
        mappings.get(index).filter(|mapping| mapping.start <= addr).map(|_| index)
    }

    /// The thread's own stack, or what is known of it.
    fn visit_stacks(
        &mut self,
        thread: &StoppedThread,
        sight: TaskSight,
        visit: &mut dyn FnMut(Root, usize, usize),
    ) -> bool {
        let root = Root::Stack(thread.tid);
        let tp = if in_region(thread.fs_base) {
            (sight.worker_tp)(thread.fs_base)
        } else {
            thread.fs_base
        };
        let (alternate, alternate_len) = thread.alternate_stack;
        let rsp = if in_region(thread.rsp) {
            (sight.worker_rsp)(thread)
        } else if thread.rsp.wrapping_sub(alternate) < alternate_len {
            // In a handler of its own; what it interrupted is not known.
            let live = (thread.rsp - RED_ZONE).max(alternate);
            visit_present(root, live, alternate + alternate_len, visit);
            None
        } else {
            Some(thread.rsp)
        };
        let Some(index) = self.mapping_of(rsp.unwrap_or(tp)) else { return false };
        let mapping = self.mappings[index];
        let is_main = mapping.kind == Kind::MainStack;
        let has_guard = index > 0
            && self.mappings[index - 1].end == mapping.start
            && !self.mappings[index - 1].readable;
        let lowest = rsp.map_or(mapping.start, |rsp| rsp - RED_ZONE).max(mapping.start);
        let has_tp = (lowest..mapping.end).contains(&tp);
        let is_stack = is_main || has_guard && has_tp;
        if !is_stack {
            // No stack that we know. If it is private memory it counts whole, as a mapping.
            return is_candidate(&mapping);
        }
        let end = match is_main {
            true => mapping.end,
            false => (tp + TCB_LEN).next_multiple_of(PAGE_LEN).min(mapping.end),
        };
        visit_present(root, lowest, end, visit);
        self.add_hole(mapping.start, end)
    }

    /// The parts of `start..end` that are in no hole and not the allocator's.
    fn visit_between_holes(
        &self,
        root: Root,
        start: usize,
        end: usize,
        visit: &mut dyn FnMut(Root, usize, usize),
    ) {
        let mut at = start;
        for &(hole_start, hole_end) in &self.holes[..self.hole_count] {
            if hole_end <= at {
                continue;
            }
            if hole_start >= end {
                break;
            }
            if hole_start > at {
                visit_foreign(root, at, hole_start, visit);
            }
            at = hole_end;
        }
        if at < end {
            visit_foreign(root, at, end, visit);
        }
    }
}

/// Leaves out the allocator's memory: its blocks are visited one by one.
fn visit_foreign(root: Root, start: usize, end: usize, visit: &mut dyn FnMut(Root, usize, usize)) {
    if end - start >= VAST {
        let (first, last) = (start & !(PAGE_LEN - 1), end.next_multiple_of(PAGE_LEN));
        page::present_runs(first, last - first, &mut |run| {
            visit_slices(root, run.addr.max(start), run.end().min(end), visit);
        });
    } else {
        visit_slices(root, start, end, visit);
    }
}

fn visit_slices(root: Root, start: usize, end: usize, visit: &mut dyn FnMut(Root, usize, usize)) {
    let mut foreign_from = start;
    let mut at = start;
    while at < end {
        let next = ((at / MI_SLICE + 1) * MI_SLICE).min(end);
        if live::is_of_allocator(at) {
            visit_present(root, foreign_from, at, visit);
            foreign_from = next;
        }
        at = next;
    }
    visit_present(root, foreign_from, end, visit);
}

/// Without pages that hold nothing, if there may be many.
fn visit_present(root: Root, start: usize, end: usize, visit: &mut dyn FnMut(Root, usize, usize)) {
    if start >= end {
        return;
    }
    if end - start <= SPARSE && root == Root::Block {
        visit(root, start, end - start);
        return;
    }
    let (first, last) = (start & !(PAGE_LEN - 1), end.next_multiple_of(PAGE_LEN));
    page::present_runs(first, last - first, &mut |run| {
        let (from, to) = (run.addr.max(start), run.end().min(end));
        visit(root, from, to - from);
    });
}
