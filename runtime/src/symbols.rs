//! Names for addresses of this program, from its own symbol table: for messages only.
//!
//! Read from `/proc/self/exe` at the first question; a stripped program has none.

use std::fs;
use std::sync::OnceLock;

const SHT_SYMTAB: u32 = 2;
const SYMBOL_LEN: usize = 24;

struct Symbol {
    from: usize,
    len: usize,
    name: String,
}

/// The name of the function or static that contains `addr`. On a worker's side only: it allocates.
pub(crate) fn name_of(addr: usize) -> Option<&'static str> {
    static TABLE: OnceLock<Vec<Symbol>> = OnceLock::new();
    let table = TABLE.get_or_init(|| read().unwrap_or_default());
    let at = table.partition_point(|s| s.from <= addr).checked_sub(1)?;
    let symbol = &table[at];
    (addr < symbol.from + symbol.len.max(1)).then_some(symbol.name.as_str())
}

fn read() -> Option<Vec<Symbol>> {
    let elf = fs::read("/proc/self/exe").ok()?;
    let sections_at = word(&elf, 40, 8)?;
    let count = word(&elf, 60, 2)?;
    let section = |i: usize| elf.get(sections_at + i * 64..sections_at + i * 64 + 64);
    let contents = |s: &[u8]| {
        let from = word(s, 24, 8)?;
        elf.get(from..from.checked_add(word(s, 32, 8)?)?)
    };
    let table =
        (0..count).filter_map(section).find(|s| word(s, 4, 4) == Some(SHT_SYMTAB as usize))?;
    let names = contents(section(word(table, 40, 4)?)?)?;
    let mut symbols: Vec<Symbol> = contents(table)?
        .chunks_exact(SYMBOL_LEN)
        .filter_map(|s| {
            let name = names.get(word(s, 0, 4)?..)?;
            let name = std::str::from_utf8(&name[..name.iter().position(|&b| b == 0)?]).ok()?;
            let (from, len) = (word(s, 8, 8)?, word(s, 16, 8)?);
            // Functions and data objects.
            (from != 0 && matches!(s[4] & 15, 1 | 2)).then(|| Symbol {
                from,
                len,
                name: format!("{:#}", rustc_demangle::demangle(name)),
            })
        })
        .collect();
    symbols.sort_unstable_by_key(|s| s.from);
    Some(symbols)
}

fn word(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..len].copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    Some(usize::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    static LANDMARK: [u64; 4] = [7; 4];

    #[test]
    fn statics_and_functions_are_found_by_an_address_within() {
        let inside = &raw const LANDMARK[2] as usize;
        assert!(super::name_of(inside).unwrap().ends_with("LANDMARK"));
        assert!(super::name_of(super::read as *const () as usize + 1).unwrap().contains("read"));
        assert_eq!(super::name_of(8), None);
    }
}
