//! Is it movable? A frozen task is scanned for words that point into live node memory or into
//! another task's slots: such a word would dangle at the target (design 4, 8).
//!
//! ```text
//! registers, live stack   saved by the switch, from SP up to the runtime's first frames
//! thread-locals           the program's part of the task's TLS block
//! heap                    live blocks that these lead to
//! ```
//!
//! The first hit refuses the move and names the frame, the thread-local or the block. What the scan
//! takes for a pointer may be a number that looks like one: that a *live* block must lie there makes
//! it rare. The words of the runtime's own first frames (the link to the worker's stack among them)
//! are set anew at each resume and not looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use migrt_iso::arena::Arena;
use migrt_iso::{PAGE_LEN, REGION_BASE, REGION_LEN, SlotId, page, pool};

use super::image;
use crate::census::{self, NodeMemory};
use crate::symbols;
use crate::task::header::{Header, Layout};
use crate::task::parcel::State;
use crate::task::prefix::HeaderPrefix;
use crate::task::tls::TlsLayout;
use crate::task::{retire, stack};

/// No node memory lies below: the program's image does, and small numbers.
const LOWEST: usize = 1 << 32;
const HIGHEST: usize = 1 << 47;
/// Blocks from this length on are asked after rather than read.
const LONG: usize = 24 * PAGE_LEN;

/// So many bytes of a function are looked through for a jump into another.
const LONGEST_FUNCTION: usize = 4096;

/// Where a word was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Stack,
    ThreadLocals,
    Heap,
}

/// A word that would dangle elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    place: Place,
    at: usize,
    word: usize,
    /// The task's stack from SP, for naming frames.
    stack: (usize, usize),
    tp: usize,
}

/// Scans a frozen task; the first hit.
///
/// The heap is followed from the stack and the thread-locals, not read from end to end: a block that
/// only a static of this node reaches was left behind already, and what it points to is nothing to
/// the task.
pub(crate) fn scan(header: &Header, slots: &[SlotId]) -> Option<Hit> {
    let sp = image::saved_sp(header);
    let tp = header.tp() as usize;
    let stack = (sp, header.root_sp.get());
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    let slots = &slots[..];
    let mut trace = Trace::new(slots);
    let hit = |place| move |(at, word)| Hit { place, at, word, stack, tp };
    if let Some(found) = trace.find(sp..stack.1) {
        return Some(hit(Place::Stack)(found));
    }
    if let Some(found) = trace.find(TlsLayout::get().image_range(tp)) {
        return Some(hit(Place::ThreadLocals)(found));
    }
    // The handles of parcels that it holds are not seen as addresses.
    for arena in header.adopted() {
        trace.begin_parcel(arena, false);
    }
    trace.follow().map(hit(Place::Heap))
}

/// Scans a parcel that nobody changes now.
pub(crate) fn scan_parcel(header: &Header) -> Option<Hit> {
    let mut slots = vec![header.slot];
    header.prefix.arena().for_each_extent(&mut |slot| slots.push(slot));
    slots.sort_unstable();
    let mut trace = Trace::new(&slots);
    trace.sees_parcels = true;
    trace.begin_parcel(&header.prefix, true);
    let (at, word) = trace.follow()?;
    Some(Hit { place: Place::Heap, at, word, stack: (0, 0), tp: 0 })
}

/// Whether the stack or the thread-locals of a frozen task lead out of it.
pub(crate) fn roots_lead_out(header: &Header, slots: &[SlotId]) -> bool {
    let stack = image::saved_sp(header)..header.root_sp.get();
    let thread_locals = TlsLayout::get().image_range(header.tp() as usize);
    [stack, thread_locals].into_iter().any(|range| {
        let words = (range.start.next_multiple_of(8)..range.end & !7).step_by(8);
        // SAFETY: the frozen task's memory, which the caller holds.
        words.map(|at| unsafe { (at as *const usize).read() }).any(|word| may_lead_out(slots, word))
    })
}

/// Words of a heap that looked as if they led out of it, when its pages were copied.
///
/// A page says nothing of which blocks are alive and reached, so a word seen there only means that
/// [`scan`] has to look.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    words: BTreeSet<usize>,
}

impl Suspects {
    /// More are not told apart.
    const COUNT_MAX: usize = 4096;

    /// Looks through a copy, at `copy`, of whole pages at `addr`; what was seen there before is void.
    pub(crate) fn look(&mut self, own: &[SlotId], addr: usize, copy: usize, len: usize) {
        let void: Vec<usize> = self.words.range(addr..addr + len).copied().collect();
        void.iter().for_each(|word| {
            self.words.remove(word);
        });
        let note = &mut |at, word| {
            if self.words.len() < Suspects::COUNT_MAX && may_lead_out(own, word) {
                self.words.insert(addr + (at - copy));
            }
        };
        // SAFETY: whole pages, copied or the frozen task's own.
        unsafe { census::scan_words(copy, len, LOWEST, HIGHEST, note) };
    }

    /// Whether one of them lies in a live block of the frozen task, or there are too many to tell.
    pub(crate) fn any_alive(&self, header: &Header) -> bool {
        let mut own = super::slots_of(header);
        own.sort_unstable();
        let is_own = |at| SlotId::of_addr(at).is_some_and(|slot| own.binary_search(&slot).is_ok());
        // SAFETY: the task's own slots; nobody changes its heaps while it is frozen.
        let is_alive = |&at: &usize| is_own(at) && unsafe { Arena::live_block_at(at) }.is_some();
        self.words.len() >= Suspects::COUNT_MAX || self.words.iter().any(is_alive)
    }
}

fn may_lead_out(own: &[SlotId], word: usize) -> bool {
    if word.wrapping_sub(LOWEST) >= HIGHEST - LOWEST {
        return false;
    }
    if word.wrapping_sub(REGION_BASE) >= REGION_LEN {
        return is_node(word);
    }
    SlotId::of_addr(word).is_some_and(|slot| !own.contains(&slot) && is_live_elsewhere(slot))
}

/// The walk over what a task can reach.
struct Trace<'a> {
    /// Its slots, ascending.
    own: &'a [SlotId],
    seen: Seen<'a>,
    /// Blocks that were reached and not read yet.
    work: Vec<(usize, usize)>,
    /// The handle of a parcel, whose address is inverted, leads out too.
    sees_parcels: bool,
}

impl<'a> Trace<'a> {
    fn new(own: &'a [SlotId]) -> Trace<'a> {
        Trace { own, seen: Seen::new(own), work: Vec::new(), sees_parcels: false }
    }

    /// The block with the value of a parcel is reached, if there is one and it is not known to be clean.
    fn begin_parcel(&mut self, arena: &HeaderPrefix, even_if_clean: bool) {
        // SAFETY: a header, of which the prefix is the first field.
        let header = unsafe { &*std::ptr::from_ref(arena).cast::<Header>() };
        let Some(head) = header.parcel.keep() else { return };
        if even_if_clean || head.state() != State::Clean {
            let _ = self.leads_out(std::ptr::from_ref(head) as usize);
        }
    }

    /// Reads what was reached; the first word that leads out.
    fn follow(&mut self) -> Option<(usize, usize)> {
        while let Some((start, len)) = self.work.pop() {
            if let Some(found) = self.find_in_block(start, len) {
                return Some(found);
            }
        }
        None
    }

    /// The first word in `range` that points to somebody else's live memory.
    fn find(&mut self, range: Range<usize>) -> Option<(usize, usize)> {
        let mut first = None;
        let look = &mut |at, word| {
            if first.is_none() && self.leads_out(word) {
                first = Some((at, word));
            }
        };
        let len = range.end.saturating_sub(range.start);
        // SAFETY: the range is the frozen task's memory, which the caller holds.
        unsafe { census::scan_words(range.start, len, LOWEST, HIGHEST, look) };
        if first.is_none() && self.sees_parcels {
            let words = (range.start.next_multiple_of(8)..range.end & !7).step_by(8);
            // SAFETY: as above.
            let mut words = words.map(|at| (at, unsafe { (at as *const usize).read() }));
            first = words.find(|&(_, word)| is_handle(word));
        }
        first
    }

    /// The same in a block of the heap. Of a long one only the pages that were touched are read: the
    /// others would become present by reading them.
    fn find_in_block(&mut self, start: usize, len: usize) -> Option<(usize, usize)> {
        if len < LONG {
            return self.find(start..start + len);
        }
        let (mut runs, end) = (Vec::new(), start + len);
        let first = start & !(PAGE_LEN - 1);
        page::present_runs(first, end.next_multiple_of(PAGE_LEN) - first, &mut |run| {
            runs.push(run.addr.max(start)..(run.addr + run.byte_len()).min(end));
        });
        runs.into_iter().find_map(|range| self.find(range))
    }

    /// Whether a word that may be an address leads out of the task; if it leads to a block of the
    /// task, that is read later.
    fn leads_out(&mut self, word: usize) -> bool {
        if word.wrapping_sub(REGION_BASE) >= REGION_LEN {
            return is_node(word);
        }
        let Some(slot) = SlotId::of_addr(word) else { return false };
        let Ok(index) = self.own.binary_search(&slot) else {
            return is_live_elsewhere(slot);
        };
        if self.seen.is_new(index, word)
            // SAFETY: the task's own slot; nobody changes the arena while the task is frozen.
            && let Some((start, len)) = unsafe { Arena::live_block_at(word) }
            && self.seen.mark(index, start)
        {
            self.work.push((start, len));
        }
        false
    }
}

/// Which blocks were reached: a bit for each 16 bytes of a slot, made when first needed.
struct Seen<'a> {
    slots: &'a [SlotId],
    bits: Vec<Vec<u64>>,
}

impl<'a> Seen<'a> {
    fn new(slots: &'a [SlotId]) -> Seen<'a> {
        Seen { slots, bits: vec![Vec::new(); slots.len()] }
    }

    fn place(&mut self, index: usize, addr: usize) -> (usize, u64) {
        let slot = self.slots[index];
        if self.bits[index].is_empty() {
            self.bits[index] = vec![0; slot.len() / 16 / 64];
        }
        let granule = (addr - slot.base()) / 16;
        (granule / 64, 1 << (granule % 64))
    }

    /// Whether no block is known to begin exactly here.
    fn is_new(&mut self, index: usize, addr: usize) -> bool {
        let (word, bit) = self.place(index, addr);
        self.bits[index][word] & bit == 0
    }

    /// Marks a block's start; `true` if it was not yet.
    fn mark(&mut self, index: usize, start: usize) -> bool {
        let (word, bit) = self.place(index, start);
        let old = self.bits[index][word];
        self.bits[index][word] = old | bit;
        old & bit == 0
    }
}

/// Whether the word is the address of a header, inverted.
fn is_handle(word: usize) -> bool {
    (!word).wrapping_sub(REGION_BASE) < REGION_LEN
        && SlotId::of_addr(!word).is_some_and(|slot| Layout { slot }.header() as usize == !word)
}

#[cold]
fn is_node(word: usize) -> bool {
    census::is_node_memory(word).is_some()
}

/// Whether something is alive in a slot that is not the task's: remains that are reached, a local task on the stack that
/// it is, or a heap. Slots that rest, and those that workers keep warm, are in use and hold nothing.
#[cold]
fn is_live_elsewhere(slot: SlotId) -> bool {
    let pool = pool::global();
    // Held so that no stack comes or goes: the first page of one is its guard.
    let stacks = stack::registry();
    if !pool.is_used(slot) {
        return pool.is_kept(slot) && !super::remains::shelf::has(slot);
    }
    if super::remains::is_copies(slot) || retire::is_resting(slot) {
        return false;
    }
    match stacks.contains(&slot) {
        true => stack::has_tenant(slot),
        // SAFETY: no stack of a local task, so its first page is no guard.
        false => unsafe { Arena::of_slot(slot) }.is_some(),
    }
}

impl Hit {
    /// What a parcel has that leads out of it.
    pub(crate) fn in_parcel(&self) -> String {
        if is_handle(self.word) {
            return "another parcel is in it".to_owned();
        }
        format!("a word of its value, at {:#x}, points to {}", self.at, self.target())
    }

    /// What to tell the user.
    fn target(&self) -> String {
        let word = self.word;
        if word.wrapping_sub(REGION_BASE) < REGION_LEN {
            return format!(
                "{word:#x}, in a slot of another task or of its remains, or of a parcel"
            );
        }
        match census::is_node_memory(word) {
            Some(NodeMemory::Block { start, len }) => {
                format!("{word:#x}, in a block of {len} bytes at {start:#x} of this node's heap")
            }
            Some(NodeMemory::Stack) => format!("{word:#x}, on an OS thread's stack"),
            Some(NodeMemory::Mapping) => format!("{word:#x}, in a mapping of this node"),
            None => format!("{word:#x}"),
        }
    }

    /// The function in whose frame the word lies: from where the task is suspended upward, each return
    /// address was pushed by a call of the function below. What else looks like one was left by calls
    /// that have returned.
    fn frame(&self) -> Option<&'static str> {
        let (sp, end) = self.stack;
        // SAFETY: from SP to the stack's base: the frozen task's own stack.
        let word = |at: usize| unsafe { (at as *const usize).read() };
        // The switch has left the place where it goes on at SP.
        let mut function = symbols::name_of(word(sp))?;
        for at in (sp + 8..self.at & !7).step_by(8) {
            let Some(caller) = symbols::name_of(word(at)).filter(|_| is_after_call(word(at)))
            else {
                continue;
            };
            let calls = |at| calls_by_name(word(at), function);
            // A call through a pointer may be of any function, if no other calls it by name.
            if calls(at) || !is_by_name(word(at)) && !(at + 8..end).step_by(8).any(calls) {
                function = caller;
            }
        }
        Some(function)
    }
}

fn is_by_name(addr: usize) -> bool {
    // SAFETY: as in `is_after_call`.
    (unsafe { ((addr - 5) as *const u8).read() }) == 0xe8
}

/// Whether a direct call of `function` ends at `addr`, or of one that ends by jumping there.
fn calls_by_name(addr: usize, function: &str) -> bool {
    if symbols::name_of(addr).is_none() || !is_by_name(addr) {
        return false;
    }
    // SAFETY: code of this program, as its symbols say.
    let byte = |at: usize| unsafe { (at as *const u8).read() };
    let target = |end: usize| {
        let distance = i32::from_le_bytes(std::array::from_fn(|i| byte(end - 4 + i)));
        end.wrapping_add_signed(distance as isize)
    };
    let called = target(addr);
    let Some(name) = symbols::name_of(called) else { return false };
    name == function
        || (called..called + LONGEST_FUNCTION)
            .take_while(|&at| symbols::name_of(at) == Some(name))
            .any(|at| byte(at) == 0xe9 && symbols::name_of(target(at + 5)) == Some(function))
}

/// Whether a call instruction ends at `addr` (direct, or indirect of the usual lengths).
fn is_after_call(addr: usize) -> bool {
    // SAFETY: `addr` lies within a function of the image (the caller looked it up), code before it
    // is readable.
    let byte = |back: usize| unsafe { ((addr - back) as *const u8).read() };
    byte(5) == 0xe8 || (2..=7).any(|back| byte(back) == 0xff)
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target();
        match self.place {
            Place::Stack => match self.frame() {
                Some(name) => {
                    write!(f, "a word on its stack, in the frame of `{name}`, points to {target}")
                }
                None => write!(f, "a word on its stack points to {target}"),
            },
            Place::ThreadLocals => {
                write!(
                    f,
                    "a thread-local ({} bytes below the thread pointer) points to {target}",
                    self.tp - self.at
                )
            }
            Place::Heap => {
                write!(f, "a word in its heap, at {:#x}, points to {target}", self.at)
            }
        }
    }
}
