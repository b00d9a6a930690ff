//! What an address is, asked while everybody runs: node memory, and of which kind.
//!
//! A word of a task is mostly no address at all, so three questions come first that cost a few loads:
//! the map of live blocks, the allocator's own, and a bit per 16 MiB that anything was mapped in. Then
//! a list of mappings is looked at. If it lacks the address, the kernel is asked whether the page is
//! mapped, and if so the list is read again. So it is when it is old and there are many questions.
//!
//! Live blocks are exact. What was unmapped less than [`FRESH`] ago may still be reported, and a new
//! mapping in 16 MiB that were empty may be missed as long.

use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use migrt_iso::{PAGE_LEN, in_region, raw};

use super::maps::{Kind, Mapping, for_each_mapping};
use super::{image, live};

/// Memory of this node alone: it does not move with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeMemory {
    /// A live block of the node's allocator: start and length.
    Block { start: usize, len: usize },
    /// The stack or the thread-locals of an OS thread, as far as can be told: a mapping above a guard.
    Stack,
    /// Any other mapping: files, others' anonymous memory, brk.
    Mapping,
}

/// How long the list is believed, in nanoseconds.
const FRESH: i64 = 50_000_000;

/// With an old list the kernel is asked so many times for nothing before the list is read: together
/// about as dear.
const VAIN_MAX: u32 = 256;
static ASKED_IN_VAIN: AtomicU32 = AtomicU32::new(0);

/// A bit stands for this many bytes.
const GRANULE_SHIFT: u32 = 24;
const WORDS: usize = 1 << (47 - GRANULE_SHIFT - 6);

/// Where anything was mapped when a list was read, image and region aside. Bits are only ever set.
static USED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// When the list was read last, by the coarse clock; 0: never.
static READ_AT: AtomicI64 = AtomicI64::new(0);
static LIST: RwLock<Vec<Mapping>> = RwLock::new(Vec::new());

/// What node memory `addr` lies in. `None`: the program's image, the region, the kernel's pages, free
/// memory of the allocator, guards, and what is no memory.
///
/// Costs 10 to 20 ns for words that are none. On an OS thread's block; may allocate, so not while threads are stopped. A block that another
/// thread frees meanwhile may be reported or not.
pub(crate) fn is_node_memory(addr: usize) -> Option<NodeMemory> {
    if addr < PAGE_LEN || addr >> 47 != 0 || in_region(addr) || image::contains(addr) {
        return None;
    }
    if let Some((start, len)) = live::block_of(addr) {
        return Some(NodeMemory::Block { start, len });
    }
    let is_fresh = now() - READ_AT.load(Ordering::Acquire) < FRESH;
    if is_fresh && !is_in_use(addr) || live::is_of_allocator(addr) {
        return None;
    }
    if is_fresh {
        let list = LIST.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(answer) = look_up(&list, addr) {
            return answer;
        }
    }
    if !is_mapped(addr) {
        if !is_fresh && ASKED_IN_VAIN.fetch_add(1, Ordering::Relaxed) % VAIN_MAX == VAIN_MAX - 1 {
            read_again(&mut LIST.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
        }
        return None;
    }
    let mut list = LIST.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    read_again(&mut list);
    look_up(&list, addr).flatten()
}

/// Where the bits lie: start and length.
pub(super) fn table() -> (usize, usize) {
    (USED.as_ptr() as usize, size_of_val(&USED))
}

fn is_in_use(addr: usize) -> bool {
    let granule = addr >> GRANULE_SHIFT;
    USED[granule / 64].load(Ordering::Relaxed) >> (granule % 64) & 1 == 1
}

fn read_again(list: &mut Vec<Mapping>) {
    list.clear();
    // Not longer: what is called from here would leave its words deeper than `clear_stack` reaches.
    let mut text = [0; 4 << 10];
    let whole = for_each_mapping(&mut text, &mut |mapping| {
        // Not asked about; and the list would lead to whatever a task leaves where a mapping begins.
        if in_region(mapping.start) {
            return true;
        }
        list.push(mapping);
        let is_asked_about =
            mapping.readable && !image::contains(mapping.start) && mapping.end >> 47 == 0;
        if is_asked_about {
            for granule in mapping.start >> GRANULE_SHIFT..=(mapping.end - 1) >> GRANULE_SHIFT {
                USED[granule / 64].fetch_or(1 << (granule % 64), Ordering::Relaxed);
            }
        }
        true
    });
    // Release: pairs with the load above, after which the bits are read.
    READ_AT.store(if whole { now() } else { 0 }, Ordering::Release);
}

/// Milliseconds' worth of precision, for the price of a few loads. Nanoseconds.
fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// `None`: nothing is known to be there.
fn look_up(mappings: &[Mapping], addr: usize) -> Option<Option<NodeMemory>> {
    let index = mappings.partition_point(|mapping| mapping.end <= addr);
    let mapping = mappings.get(index).filter(|mapping| mapping.start <= addr)?;
    let above_guard =
        index > 0 && mappings[index - 1].end == mapping.start && !mappings[index - 1].readable;
    Some(match mapping.kind {
        Kind::Kernel => None,
        _ if !mapping.readable => None,
        Kind::MainStack => Some(NodeMemory::Stack),
        Kind::Anonymous if above_guard && mapping.writable => Some(NodeMemory::Stack),
        Kind::Anonymous if live::is_map(addr) => None,
        Kind::Anonymous | Kind::File => Some(NodeMemory::Mapping),
    })
}

/// Whether anything is mapped at `addr`.
fn is_mapped(addr: usize) -> bool {
    let mut resident = 0u8;
    let page = addr & !(PAGE_LEN - 1);
    let args = [page, PAGE_LEN, &raw mut resident as usize, 0, 0, 0];
    // SAFETY: asks about one page; the kernel writes one byte.
    unsafe { raw::syscall(libc::SYS_mincore, args) == 0 }
}
