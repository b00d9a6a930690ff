//! Is it movable? A frozen task is scanned for words that point into live node memory or into
//! another task's slots: such a word would dangle at the target (design 4, 8).
//!
//! ```text
//! registers, live stack   saved by the switch, from SP up to the runtime's first frames
//! thread-locals           the program's part of the task's TLS block
//! heap                    live blocks
//! ```
//!
//! The first hit refuses the move and names the frame, the thread-local or the block. What the scan
//! takes for a pointer may be a number that looks like one: that a *live* block must lie there makes
//! it rare. The words of the runtime's own first frames (the link to the worker's stack among them)
//! are set anew at each resume and not looked at.

use std::fmt;
use std::ops::Range;

use migrt_iso::{REGION_BASE, REGION_LEN, SlotId, pool};

use super::image;
use super::census_stub::{self as census, NodeMemory};
use crate::symbols;
use crate::task::header::Header;
use crate::task::tls::TlsLayout;

/// No node memory lies below: the program's image does, and small numbers.
const LOWEST: usize = 1 << 32;
const HIGHEST: usize = 1 << 47;

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
pub(crate) fn scan(header: &Header, slots: &[SlotId]) -> Option<Hit> {
    let sp = image::saved_sp(header);
    let tp = header.tp() as usize;
    let stack = (sp, header.root_sp.get());
    let hit = |place| move |(at, word)| Hit { place, at, word, stack, tp };
    if let Some(found) = find(sp..stack.1, slots) {
        return Some(hit(Place::Stack)(found));
    }
    let locals = TlsLayout::get().image_range(tp);
    if let Some(found) = find(locals, slots) {
        return Some(hit(Place::ThreadLocals)(found));
    }
    let mut found = None;
    header.prefix.arena().for_each_block(&mut |start, len| {
        if found.is_none() {
            found = find(start..start + len, slots);
        }
    });
    found.map(hit(Place::Heap))
}

/// The first word in `range` that points to somebody else's live memory.
fn find(range: Range<usize>, own: &[SlotId]) -> Option<(usize, usize)> {
    let mut at = range.start.next_multiple_of(8);
    while at + 8 <= range.end {
        // SAFETY: the range is the frozen task's memory, which the caller holds.
        let word = unsafe { (at as *const usize).read() };
        if word.wrapping_sub(LOWEST) < HIGHEST - LOWEST && is_foreign(word, own) {
            return Some((at, word));
        }
        at += 8;
    }
    None
}

#[inline]
fn is_foreign(word: usize, own: &[SlotId]) -> bool {
    if word.wrapping_sub(REGION_BASE) < REGION_LEN {
        let Some(slot) = SlotId::of_addr(word) else { return false };
        return !own.contains(&slot) && is_live_elsewhere(slot, word);
    }
    is_node(word)
}

#[cold]
fn is_node(word: usize) -> bool {
    census::is_node_memory(word).is_some()
}

/// Whether a word leads to something alive in a slot that is not the task's.
#[cold]
fn is_live_elsewhere(slot: SlotId, _word: usize) -> bool {
    let pool = pool::global();
    pool.is_used(slot) || pool.is_kept(slot)
}

impl Hit {
    /// What to tell the user.
    fn target(&self) -> String {
        let word = self.word;
        if word.wrapping_sub(REGION_BASE) < REGION_LEN {
            return format!("{word:#x}, in a slot of another task or of its remains");
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

    /// The function in whose frame the word lies: the nearest return address below it was pushed by
    /// a call out of that function.
    fn frame(&self) -> Option<&'static str> {
        let mut at = self.at & !7;
        while at > self.stack.0 {
            at -= 8;
            // SAFETY: between SP and the word: the frozen task's own stack.
            let word = unsafe { (at as *const usize).read() };
            if let Some(name) = symbols::name_of(word).filter(|_| is_after_call(word)) {
                return Some(name);
            }
        }
        // SAFETY: as above; the return address of the call that suspended lies at SP or above.
        symbols::name_of(unsafe { (self.stack.0 as *const usize).read() })
    }
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
                Some(name) => write!(f, "a word on its stack, in the frame of `{name}`, points to {target}"),
                None => write!(f, "a word on its stack points to {target}"),
            },
            Place::ThreadLocals => {
                write!(f, "a thread-local ({} bytes below the thread pointer) points to {target}", self.tp - self.at)
            }
            Place::Heap => {
                write!(f, "a word in its heap, at {:#x}, points to {target}", self.at)
            }
        }
    }
}
