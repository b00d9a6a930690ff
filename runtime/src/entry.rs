//! Entries: the functions that mobile tasks start in, found on every node by the hash of their
//! names.
//!
//! `#[migratable]` registers one [`Entry`] for each function, at link time, in [`ENTRIES`]; nothing
//! is registered by running code, so all nodes of one build have the same table before `main`. A
//! spawn ships an [`EntryId`] and encoded arguments; [`lookup`] finds the function; [`run_entry`]
//! decodes, runs and encodes in the task's own context. The names, not the addresses, go over the
//! wire. Relied on: linkme's section. Absent: panics are not caught here, they pass through to the
//! task that runs the entry; and nothing is allocated for the node here but the sorted table, which
//! [`check_duplicates`] makes at start. A table first made inside a task would lie in that task's
//! heap.

use std::fmt;
use std::sync::OnceLock;

mod call;

pub use call::{Argument, Call, Decoder, Encoder, EntryError, Output, run_entry};
pub use migrt_proto::EntryId;

/// A function that mobile tasks can start in.
#[derive(Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The path of the function, `crate::module::function`.
    pub name: &'static str,
    /// The hash of the name.
    pub id: EntryId,
    /// The source file that has the function.
    pub file: &'static str,
    /// Its line in that file.
    pub line: u32,
    /// Decodes the arguments, runs the body, encodes the result, all in the caller's context.
    /// Panics of the body pass through.
    pub run: fn(TakeArguments) -> Result<Vec<u8>, EntryError>,
}

/// Hands the encoded arguments of the current task to the visitor, once, and releases their memory
/// before it returns.
///
/// A plain function rather than a slice: while the body runs no frame of the task may hold a
/// pointer into the node's memory, and what this function knew is gone with its own frame.
pub type TakeArguments = fn(visit: &mut dyn FnMut(&[u8]));

/// All entries of the program, in the linker's order.
#[linkme::distributed_slice]
pub static ENTRIES: [Entry];

impl Entry {
    /// An entry as `#[migratable]` writes it.
    pub const fn new(
        name: &'static str,
        file: &'static str,
        line: u32,
        run: fn(TakeArguments) -> Result<Vec<u8>, EntryError>,
    ) -> Self {
        Entry { name, id: entry_id(name), file, line, run }
    }
}

/// The id of the entry called `name`: FNV-1a, 64 bits, the same in every build that has the name.
pub const fn entry_id(name: &str) -> EntryId {
    EntryId(fnv1a(FNV_START, name.as_bytes()))
}

/// The entry with this id, or `None` if this build lacks it.
pub fn lookup(id: EntryId) -> Option<&'static Entry> {
    let table = table();
    table.binary_search_by_key(&id, |entry| entry.id).ok().map(|at| table[at])
}

/// Checks that each id stands for one function. To be called at start, on the node's own thread: it
/// also makes the table.
///
/// # Errors
///
/// Two entries have one name, or two names have one hash. The error names both places.
pub fn check_duplicates() -> Result<(), DuplicateEntry> {
    first_duplicate(table())
}

/// One number for the whole table, for the hello of two nodes: equal names give equal hashes,
/// whatever the link order.
pub fn entries_hash() -> u64 {
    hash_of(table())
}

fn table() -> &'static [&'static Entry] {
    static TABLE: OnceLock<Vec<&'static Entry>> = OnceLock::new();
    TABLE.get_or_init(|| sorted(ENTRIES.iter().collect()))
}

fn sorted(mut entries: Vec<&'static Entry>) -> Vec<&'static Entry> {
    // By id, then by place, so that errors and the hash do not depend on the linker's order.
    entries.sort_unstable_by_key(|entry| (entry.id, entry.name, entry.file, entry.line));
    entries
}

fn first_duplicate(table: &[&'static Entry]) -> Result<(), DuplicateEntry> {
    match table.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(DuplicateEntry { first: pair[0], second: pair[1] }),
        None => Ok(()),
    }
}

fn hash_of(table: &[&'static Entry]) -> u64 {
    table.iter().fold(FNV_START, |hash, entry| fnv1a(hash, &entry.id.0.to_le_bytes()))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Two entries that other nodes could not tell apart.
#[derive(Debug, Clone, Copy)]
pub struct DuplicateEntry {
    first: &'static Entry,
    second: &'static Entry,
}

impl fmt::Display for DuplicateEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DuplicateEntry { first, second } = self;
        if first.name == second.name {
            write!(f, "two migratable functions are called `{}`", first.name)?;
        } else {
            write!(
                f,
                "the migratable functions `{}` and `{}` have the same hash {:#018x}",
                first.name, second.name, first.id.0
            )?;
        }
        write!(
            f,
            ": {}:{} and {}:{}; rename one of them",
            first.file, first.line, second.file, second.line
        )
    }
}

impl std::error::Error for DuplicateEntry {}

/// What `#[migrt::main(…)]` said; what it left out is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MainOptions {
    /// The number of worker threads of this node.
    pub workers: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: TakeArguments) -> Result<Vec<u8>, EntryError> {
        unreachable!("no test runs these entries")
    }

    fn entry(name: &'static str, file: &'static str, line: u32) -> &'static Entry {
        Box::leak(Box::new(Entry::new(name, file, line, never)))
    }

    #[test]
    fn ids_are_fnv1a_of_the_name() {
        // Test vectors of the hash's authors.
        assert_eq!(entry_id(""), EntryId(0xcbf2_9ce4_8422_2325));
        assert_eq!(entry_id("a"), EntryId(0xaf63_dc4c_8601_ec8c));
        assert_eq!(entry_id("foobar"), EntryId(0x8594_4171_f739_67e8));
    }

    #[test]
    fn two_of_one_name_are_an_error_that_names_both_places() {
        let table = sorted(vec![
            entry("app::f", "src/b.rs", 7),
            entry("app::g", "src/b.rs", 9),
            entry("app::f", "src/a.rs", 3),
        ]);
        let text = first_duplicate(&table).unwrap_err().to_string();
        assert_eq!(
            text,
            "two migratable functions are called `app::f`: src/a.rs:3 and src/b.rs:7; rename one of them"
        );
    }

    #[test]
    fn different_names_pass() {
        first_duplicate(&sorted(vec![
            entry("app::f", "src/a.rs", 3),
            entry("app::g", "src/a.rs", 9),
        ]))
        .unwrap();
    }

    #[test]
    fn the_hash_of_the_table_depends_on_names_and_not_on_order_or_place() {
        let (f, g) = (entry("app::f", "src/a.rs", 3), entry("app::g", "src/a.rs", 9));
        let moved = entry("app::f", "src/c.rs", 1);
        assert_eq!(hash_of(&sorted(vec![f, g])), hash_of(&sorted(vec![g, moved])));
        assert_ne!(hash_of(&sorted(vec![f, g])), hash_of(&sorted(vec![f])));
    }

    #[test]
    fn an_unknown_id_is_not_found() {
        assert!(lookup(EntryId(1)).is_none());
    }
}
