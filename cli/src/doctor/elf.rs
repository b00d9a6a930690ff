//! A program file: how it is linked and which build it is.
//!
//! Reads the few headers of the ELF format that this needs, checks every offset, and knows x86-64
//! alone. Absent: anything about how the file would run; `migrt::machine` looks at what is loaded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What a program file says of itself.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// It lies at a fixed address.
    pub(super) fixed: bool,
    /// The loader that it asks for; static programs have none.
    pub(super) interpreter: Option<String>,
    /// The linker's build id, as hexadecimal digits.
    pub(super) build_id: Option<String>,
    /// Bytes of the table of entries; `None` if it has no such table.
    pub(super) entries_len: Option<u64>,
}

/// The section in which linkme gathers `migrt`'s entries.
const ENTRIES_SECTION: &[u8] = b"linkme_ENTRIES";
const FILE_LEN_MAX: u64 = 4 << 30;

impl Program {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A text that names the cause and what to do.
    pub(super) fn read(path: &Path) -> Result<Program, String> {
        let open = |path| {
            let mut bytes = Vec::new();
            File::open(path)?.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
            io::Result::Ok(bytes)
        };
        let bytes = open(path).map_err(|error| format!("{error}; give the path of a program"))?;
        Program::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Program, String> {
        if bytes.starts_with(b"#!") {
            return Err("a script; give the program that it starts".into());
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err("not a Linux program (no ELF header); give the path of a built program, \
                        such as target/x86_64-unknown-linux-gnu/release/app"
                .into());
        }
        let file = Reader(bytes);
        file.program()
            .ok_or_else(|| "a truncated or damaged ELF file; build it again".into())
            .and_then(|program| {
                program.ok_or_else(|| "not for x86-64 Linux; migrt runs there alone".into())
            })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&self, at: u64, len: u64) -> Option<&'a [u8]> {
        self.0.get(usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?)
    }

    fn number<const LEN: usize>(&self, at: u64) -> Option<u64> {
        let mut word = [0; 8];
        word[..LEN].copy_from_slice(self.slice(at, LEN as u64)?);
        Some(u64::from_le_bytes(word))
    }

    /// `None` if it is cut off, `Some(None)` if it is for another machine.
    fn program(&self) -> Option<Option<Program>> {
        const ET_EXEC: u64 = 2;
        const ET_DYN: u64 = 3;
        const X86_64: u64 = 62;
        let (class, order) = (self.number::<1>(4)?, self.number::<1>(5)?);
        let (kind, machine) = (self.number::<2>(16)?, self.number::<2>(18)?);
        if (class, order, machine) != (2, 1, X86_64) || ![ET_EXEC, ET_DYN].contains(&kind) {
            return Some(None);
        }
        let mut program = Program { fixed: kind == ET_EXEC, ..Program::default() };
        self.segments(&mut program)?;
        self.sections(&mut program)?;
        Some(Some(program))
    }

    fn segments(&self, program: &mut Program) -> Option<()> {
        const PT_INTERP: u64 = 3;
        const PT_NOTE: u64 = 4;
        let (table, len, count) =
            (self.number::<8>(32)?, self.number::<2>(54)?, self.number::<2>(56)?);
        for index in 0..count {
            let header = table.checked_add(index * len)?;
            let content = || {
                self.slice(
                    self.number::<8>(header.checked_add(8)?)?,
                    self.number::<8>(header + 32)?,
                )
            };
            match self.number::<4>(header)? {
                PT_INTERP => {
                    let text = String::from_utf8_lossy(content()?);
                    program.interpreter = Some(text.trim_end_matches('\0').to_owned());
                }
                PT_NOTE if program.build_id.is_none() => program.build_id = build_id(content()?),
                _ => {}
            }
        }
        Some(())
    }

    fn sections(&self, program: &mut Program) -> Option<()> {
        let (table, len) = (self.number::<8>(40)?, self.number::<2>(58)?);
        let (count, names) = (self.number::<2>(60)?, self.number::<2>(62)?);
        if table == 0 || count == 0 {
            // A stripped table: the entries are there, but nothing tells where.
            return Some(());
        }
        let header = |index: u64| table.checked_add(index * len);
        let names = self.number::<8>(header(names)?.checked_add(24)?)?;
        for index in 0..count {
            let header = header(index)?;
            let name = names.checked_add(self.number::<4>(header)?)?;
            let wanted = ENTRIES_SECTION.len() as u64 + 1;
            let is_it = self
                .slice(name, wanted)
                .is_some_and(|text| text.strip_prefix(ENTRIES_SECTION) == Some(&[0]));
            if is_it {
                program.entries_len = Some(self.number::<8>(header.checked_add(32)?)?);
            }
        }
        Some(())
    }
}

/// The GNU build id among the notes of a segment.
fn build_id(notes: &[u8]) -> Option<String> {
    const NT_GNU_BUILD_ID: u64 = 3;
    let notes = Reader(notes);
    let mut at = 0;
    loop {
        let (name_len, len, kind) =
            (notes.number::<4>(at)?, notes.number::<4>(at + 4)?, notes.number::<4>(at + 8)?);
        let name = notes.slice(at + 12, name_len)?;
        let start = at + 12 + name_len.next_multiple_of(4);
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            let id = notes.slice(start, len)?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        at = start + len.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn this_program_is_static_and_fixed() {
        let program = Program::parse(&own()).unwrap();
        assert!(program.fixed, "{program:?}");
        assert_eq!(program.interpreter, None);
    }

    #[test]
    fn a_position_independent_program_and_its_interpreter_are_seen() {
        let shell = std::fs::read("/bin/sh").unwrap();
        let program = Program::parse(&shell).unwrap();
        assert!(!program.fixed, "{program:?}");
        assert!(program.interpreter.unwrap().contains("ld-linux"));
        assert!(program.build_id.is_some_and(|id| id.len() == 40));
    }

    #[test]
    fn what_is_no_program_is_refused_by_name() {
        let refused = |bytes: &[u8]| Program::parse(bytes).unwrap_err();
        assert!(refused(b"").contains("not a Linux program"));
        assert!(refused(b"#!/bin/sh\n").contains("a script"));
        assert!(refused(b"\x7fELF").contains("truncated"));
        let mut other = own();
        other[18] = 183;
        assert!(refused(&other).contains("not for x86-64"));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic() {
        let whole = own();
        for len in (0..200).chain([1000, 5000, whole.len() / 2]) {
            let _ = Program::parse(&whole[..len.min(whole.len())]);
        }
        // Each byte of the header, and of the first program headers, turned about.
        let mut head = whole[..4096.min(whole.len())].to_vec();
        for at in 4..head.len().min(1024) {
            let kept = head[at];
            for byte in [0, 0x7f, 0xff] {
                head[at] = byte;
                let _ = Program::parse(&head);
            }
            head[at] = kept;
        }
    }
}
