//! This program as it is loaded: how it was linked, a hash of what must be equal on all nodes, and
//! which functions libc chose for this CPU.
//!
//! Read from memory, not from the file: the file may have been replaced since. Relied on: AT_PHDR,
//! and that segments without PF_W are mapped as they are. A debugger's breakpoints are in the code
//! and so in the hash.

use std::fmt::Write;
use std::sync::OnceLock;

use super::Hash;

/// What a program's own `.cargo/config.toml` needs, so that its code lies at one address everywhere.
pub const CONFIG_LINES: &str = r#"[build]
target = "x86_64-unknown-linux-gnu"

[target.x86_64-unknown-linux-gnu]
rustflags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]
rustdocflags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]
"#;

/// The running program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Image {
    /// It has no interpreter: no shared library is part of it.
    pub static_linked: bool,
    /// The kernel chose its address.
    pub position_independent: bool,
    /// Hash over the loaded read-only segments and their places.
    pub build_hash: [u8; 16],
    /// Hash over the functions that libc chose for this CPU.
    pub ifunc_targets: u64,
    /// How many these are.
    pub ifunc_count: usize,
    /// Bytes that `build_hash` covers.
    pub read_only_len: usize,
    /// Lowest and highest address of the program.
    pub span: (usize, usize),
}

impl Image {
    /// The running program. Hashed at the first call (milliseconds), then remembered.
    pub fn this() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(Image::read)
    }

    /// Whether its code lies at one address on all nodes, so that tasks can leave it.
    #[must_use]
    pub fn is_static_fixed(&self) -> bool {
        self.static_linked && !self.position_independent
    }

    /// Why this program cannot be a node of a cluster, and what to do; `None` if it can.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if self.is_static_fixed() {
            return None;
        }
        let found = match (self.static_linked, self.position_independent) {
            (true, _) => "static, but position-independent",
            (false, true) => "dynamic and position-independent",
            (false, false) => "dynamic",
        };
        let mut text = format!(
            "this program is linked {found}, so its code lies elsewhere on every node and no task can \
             move. Build it with these lines in its .cargo/config.toml:\n\n{CONFIG_LINES}"
        );
        if std::env::var_os("RUSTFLAGS").is_some() {
            let _ = write!(text, "\nand without RUSTFLAGS, which is set here and replaces them.");
        }
        Some(text)
    }

    fn read() -> Image {
        let headers = program_headers();
        // Where the headers say they are, against where they are: the distance the kernel chose.
        let bias = headers
            .iter()
            .find(|header| header.p_type == libc::PT_PHDR)
            .map_or(0, |header| (headers.as_ptr() as usize).wrapping_sub(header.p_vaddr as usize));
        let mut hash = Hash::new();
        let mut read_only_len = 0;
        let mut span = (usize::MAX, 0);
        for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
            let start = bias.wrapping_add(header.p_vaddr as usize);
            span = (span.0.min(start), span.1.max(start + header.p_memsz as usize));
            if header.p_flags & libc::PF_W != 0 || header.p_flags & libc::PF_R == 0 {
                continue;
            }
            // Another place is another build, unless the kernel has chosen it.
            hash.word(header.p_vaddr);
            // SAFETY: the kernel has mapped this segment readable, nobody unmaps or writes it, and
            // p_filesz bytes of it come from the file.
            let bytes =
                unsafe { std::slice::from_raw_parts(start as *const u8, header.p_filesz as usize) };
            hash.bytes(bytes);
            read_only_len += bytes.len();
        }
        let mut build_hash = [0; 16];
        let [low, high] = hash.finish();
        build_hash[..8].copy_from_slice(&low.to_le_bytes());
        build_hash[8..].copy_from_slice(&high.to_le_bytes());
        let (ifunc_targets, ifunc_count) = ifunc_targets();
        Image {
            static_linked: !headers.iter().any(|header| header.p_type == libc::PT_INTERP),
            position_independent: elf_type(span.0, headers) != ET_EXEC,
            build_hash,
            ifunc_targets,
            ifunc_count,
            read_only_len,
            span,
        }
    }
}

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: reads the vector that the kernel gave to this process.
    let (at, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if at == 0 {
        return &[];
    }
    // SAFETY: the kernel says that `count` headers lie at `at`; they are part of the image and never
    // unmapped.
    unsafe { std::slice::from_raw_parts(at as *const libc::Elf64_Phdr, count as usize) }
}

/// The `e_type` of the loaded ELF header, which every linker puts at the image's start. A program
/// without one there is taken for position-independent: the answer that refuses.
fn elf_type(start: usize, headers: &[libc::Elf64_Phdr]) -> u16 {
    let at = headers.as_ptr() as usize;
    if headers.is_empty() || start >= at {
        return ET_DYN;
    }
    // SAFETY: the program headers lie behind `start` in the same image, so at least the ELF header's
    // 64 bytes are mapped there.
    let header = unsafe { &*(start as *const libc::Elf64_Ehdr) };
    let is_elf = header.e_ident[..4] == *b"\x7fELF" && start + header.e_phoff as usize == at;
    if is_elf { header.e_type } else { ET_DYN }
}

/// Hash and number of the functions that IRELATIVE relocations resolved to.
fn ifunc_targets() -> (u64, usize) {
    let (start, end): (usize, usize);
    // Weak, and by way of the GOT: only the linker of a static program makes these symbols.
    // SAFETY: loads two addresses; no memory, no stack.
    unsafe {
        std::arch::asm!(
            ".weak __rela_iplt_start",
            ".weak __rela_iplt_end",
            "mov {start}, qword ptr [rip + __rela_iplt_start@GOTPCREL]",
            "mov {end}, qword ptr [rip + __rela_iplt_end@GOTPCREL]",
            start = out(reg) start,
            end = out(reg) end,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    let count = end.saturating_sub(start) / size_of::<libc::Elf64_Rela>();
    if start == 0 || count == 0 {
        return (0, 0);
    }
    // SAFETY: the linker's symbols enclose the table, which is in a read-only segment.
    let table = unsafe { std::slice::from_raw_parts(start as *const libc::Elf64_Rela, count) };
    let mut hash = Hash::new();
    for relocation in table {
        // SAFETY: libc wrote the resolved address here before `main` and nobody writes again; the
        // word is in the image of a program at a fixed address.
        let target = unsafe { (relocation.r_offset as *const u64).read() };
        hash.word(relocation.r_offset);
        hash.word(target);
    }
    (hash.finish()[0], count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "MIGRT_TEST_PRINT_IMAGE";

    fn print() -> String {
        let image = Image::this();
        format!("image {:x?} {:x} {}", image.build_hash, image.ifunc_targets, image.ifunc_count)
    }

    #[test]
    fn the_tests_are_static_at_a_fixed_address_and_have_chosen_functions() {
        let image = Image::this();
        assert!(image.is_static_fixed(), "{image:?}");
        assert_eq!(image.refusal(), None);
        assert!(image.ifunc_count > 10, "{image:?}");
        let here = print as *const () as usize;
        assert!((image.span.0..image.span.1).contains(&here), "{image:x?}");
        assert!(image.read_only_len > 100_000, "{image:?}");
    }

    #[test]
    fn two_processes_of_one_build_have_the_same_hashes() {
        if std::env::var_os(CHILD).is_some() {
            println!("{}", print());
            return;
        }
        let path = concat!(module_path!(), "::two_processes_of_one_build_have_the_same_hashes");
        let child = Command::new(std::env::current_exe().unwrap())
            .args([path.split_once("::").unwrap().1, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8(child.stdout).unwrap();
        assert!(text.contains(&print()), "{} is not in {text}", print());
    }

    #[test]
    fn other_builds_are_refused_with_the_lines_to_add() {
        for (static_linked, position_independent) in [(false, true), (true, true), (false, false)] {
            let image = Image { static_linked, position_independent, ..Image::this().clone() };
            let text = image.refusal().unwrap();
            assert!(text.contains("relocation-model=static"), "{text}");
        }
    }
}
