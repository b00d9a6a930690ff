//! Makes thread ids unique in the cluster.
//!
//! std numbers threads from 1 in each process, so two tasks born on two nodes would have one id.
//! std's reentrant locks (stdout's) and regex-automata's caches take equal ids for the same thread,
//! and let two in at once. So each node numbers from `node << 40`.
//!
//! std's counter has no name. [`shift`] finds it by watching: it makes ids be taken, by threads that
//! cannot start, and looks for the one word of the program's writable data that counts along.
//! regex-automata's counter is found by its name in the symbol table, if there is one.
//!
//! Relies on `ThreadId` being a counter in writable data, and refuses if not exactly one word fits.
//! Absent: ids that are indices (crate `thread_local`); those cannot be shifted.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// Position of the node's number in a thread id: leaves 2^40 threads to a node, and 2^24 nodes.
pub const NODE_SHIFT: u32 = 40;

/// What [`shift`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shifted {
    /// The first id std will give from now on is above this one.
    pub first_id: u64,
    /// Counters of regex-automata found and shifted. 0: the program has none, or is stripped.
    pub regex_counter_count: usize,
}

/// Moves the counters of thread ids into the range of `node` (its number in the cluster, from 1).
///
/// Takes about a millisecond, before the first task. The same node again changes nothing.
///
/// # Errors
///
/// [`ThreadIdError`]; ids are as before, and the node must not join a cluster.
pub fn shift(node: u32) -> Result<Shifted, ThreadIdError> {
    static DONE: Mutex<Option<(u32, Shifted)>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((earlier, shifted)) = *done {
        return if earlier == node {
            Ok(shifted)
        } else {
            Err(ThreadIdError::AlreadyShifted { earlier, node })
        };
    }
    if node == 0 || node >= 1 << (63 - NODE_SHIFT) {
        return Err(ThreadIdError::NodeOutOfRange { node });
    }
    let counter = find_std_counter()?;
    let first_id = u64::from(node) << NODE_SHIFT;
    counter.fetch_max(first_id, Ordering::SeqCst);
    if new_id() <= first_id {
        return Err(ThreadIdError::NoCounter { candidate_count: 0 });
    }
    let mut regex_counter_count = 0;
    for address in symbols::regex_counters() {
        // SAFETY: the address of a static `AtomicUsize` of this program.
        let counter = unsafe { AtomicUsize::from_ptr(address as *mut usize) };
        counter.fetch_max(first_id as usize, Ordering::SeqCst);
        regex_counter_count += 1;
    }
    let shifted = Shifted { first_id, regex_counter_count };
    *done = Some((node, shifted));
    Ok(shifted)
}

/// How often to look again when other threads take ids meanwhile.
const ATTEMPT_COUNT: usize = 20;
/// Ids taken while watching, in each attempt.
const STEP_COUNT: u64 = 4;

fn find_std_counter() -> Result<&'static AtomicU64, ThreadIdError> {
    let words = writable_words()?;
    let mut candidate_count = 0;
    for _ in 0..ATTEMPT_COUNT {
        let last = new_id();
        let mut candidates: Vec<&AtomicU64> =
            words.clone().map(word).filter(|w| value(w) == last).collect();
        for step in 1..=STEP_COUNT {
            take_id();
            candidates.retain(|w| value(w) == last + step);
        }
        // Exactly the next one: nobody else took an id meanwhile.
        candidate_count = candidates.len();
        if let ([counter], true) = (candidates.as_slice(), new_id() == last + STEP_COUNT + 1) {
            return Ok(counter);
        }
    }
    Err(ThreadIdError::NoCounter { candidate_count })
}

/// An id std gives to a new thread.
fn new_id() -> u64 {
    let text = match thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(|| format!("{:?}", thread::current().id()))
    {
        Ok(handle) => handle.join().unwrap_or_default(),
        Err(_) => String::new(),
    };
    text.bytes().filter(u8::is_ascii_digit).fold(0, |id, digit| id * 10 + u64::from(digit - b'0'))
}

/// Makes std take an id for a thread that cannot start: no address space is that big.
fn take_id() {
    if let Ok(handle) = thread::Builder::new().stack_size(1 << 47).spawn(|| ()) {
        let _ = handle.join();
    }
}

fn word(address: usize) -> &'static AtomicU64 {
    // SAFETY: an aligned word of the program's writable data, mapped for good. It may belong to
    // anybody, so it is only read, and atomically; the one that is written is std's own atomic.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

fn value(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}

/// The addresses of all aligned words in the program's writable segments.
fn writable_words() -> Result<impl Iterator<Item = usize> + Clone, ThreadIdError> {
    let segments = program_segments().into_iter().filter(|s| s.writable).map(|s| s.range);
    let segments: Vec<Range<usize>> = segments.collect();
    if segments.is_empty() {
        return Err(ThreadIdError::NoWritableData);
    }
    Ok(segments.into_iter().flat_map(|s| (s.start.next_multiple_of(8)..s.end & !7).step_by(8)))
}

struct Segment {
    range: Range<usize>,
    writable: bool,
}

/// The program's own loaded segments, less what is read-only after relocation.
fn program_segments() -> Vec<Segment> {
    // SAFETY: reads the auxiliary vector.
    let (table, count) =
        unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if table == 0 {
        return Vec::new();
    }
    // SAFETY: the kernel mapped the program's headers there, for good.
    let headers =
        unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count as usize) };
    // Zero in a fixed program.
    let bias = headers
        .iter()
        .find(|h| h.p_type == libc::PT_PHDR)
        .map_or(0, |h| table.wrapping_sub(h.p_vaddr));
    let loads = headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
    loads
        .map(|h| {
            let start = bias.wrapping_add(h.p_vaddr) as usize;
            Segment {
                range: start..start + h.p_memsz as usize,
                writable: h.p_flags & libc::PF_W != 0,
            }
        })
        .collect()
}

mod symbols {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const SHT_SYMTAB: u32 = 2;
    const STT_OBJECT: u8 = 1;

    /// Addresses of the statics `COUNTER` of regex-automata's pool (and of old regex's), each a
    /// `usize`. Empty if the program has none, or no symbols, or moves at start.
    pub(super) fn regex_counters() -> Vec<usize> {
        read().unwrap_or_default()
    }

    fn read() -> Option<Vec<usize>> {
        if cfg!(not(target_feature = "crt-static")) {
            return None;
        }
        let file = File::open("/proc/self/exe").ok()?;
        let at = |offset: u64, len: u64| -> Option<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(len).ok()?];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Some(bytes)
        };
        let header = at(0, size_of::<libc::Elf64_Ehdr>() as u64)?;
        let (sections_at, count) = (u64_at(&header, 40)?, u16_at(&header, 60)?);
        let sections = at(sections_at, u64::from(count) * 64)?;
        let section = |i: usize| sections.get(i * 64..i * 64 + 64);
        let table =
            (0..count.into()).filter_map(section).find(|s| u32_at(s, 4) == Some(SHT_SYMTAB))?;
        let names = section(u32_at(table, 40)? as usize)?;
        let contents = |s: &[u8]| at(u64_at(s, 24)?, u64_at(s, 32)?);
        let (symbols, names) = (contents(table)?, contents(names)?);
        let found = symbols.chunks_exact(24).filter_map(|s| {
            let is_word = s[4] & 15 == STT_OBJECT && u64_at(s, 16)? == 8;
            let name = names.get(u32_at(s, 0)? as usize..)?;
            let name = &name[..name.iter().position(|&b| b == 0)?];
            (is_word && is_regex_counter(name)).then_some(u64_at(s, 8)? as usize)
        });
        Some(found.filter(|address| address % 8 == 0).collect())
    }

    /// Both manglings spell a path as lengths and names.
    fn is_regex_counter(name: &[u8]) -> bool {
        let has = |part: &[u8]| name.windows(part.len()).any(|w| w == part);
        name.starts_with(b"_")
            && (has(b"14regex_automata") || has(b"5regex"))
            && has(b"4pool")
            && has(b"7COUNTER")
    }

    fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
        Some(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
    }

    fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
    }

    fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_counter_of_either_mangling_is_known_and_nothing_else() {
            use super::is_regex_counter as check;
            assert!(check(b"_ZN14regex_automata4util4pool5inner7COUNTER17h0123456789abcdefE"));
            assert!(check(b"_RNvNtNtNtCs1_14regex_automata4util4pool5inner7COUNTER"));
            assert!(!check(b"_ZN14regex_automata4util4pool5inner9THREAD_ID17h0123456789abcdefE"));
            assert!(!check(b"_ZN3abc4pool7COUNTER17h0123456789abcdefE"));
        }
    }
}

/// Why thread ids could not be made unique in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThreadIdError {
    /// Not exactly one word of the program's data counts threads.
    NoCounter {
        /// How many did, at the last look.
        candidate_count: usize,
    },
    /// The program's writable data could not be found.
    NoWritableData,
    /// 0, or too big a number for a node.
    NodeOutOfRange {
        /// The number given.
        node: u32,
    },
    /// The process already has the range of another node.
    AlreadyShifted {
        /// The number of the first call.
        earlier: u32,
        /// The number of this one.
        node: u32,
    },
}

impl fmt::Display for ThreadIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThreadIdError::NoCounter { candidate_count } => write!(
                f,
                "found {candidate_count} words that count threads, not 1: thread ids would not be unique in the cluster; \
                 build with Rust 1.95, and let migrt start before other threads do"
            ),
            ThreadIdError::NoWritableData => {
                f.write_str("the program's headers name no writable data")
            }
            ThreadIdError::NodeOutOfRange { node } => {
                write!(f, "node {node} has no range of thread ids")
            }
            ThreadIdError::AlreadyShifted { earlier, node } => {
                write!(
                    f,
                    "this process numbers its threads as node {earlier} and cannot become node {node}"
                )
            }
        }
    }
}

impl std::error::Error for ThreadIdError {}
