//! Every `unsafe` block and `unsafe impl` has a `SAFETY:` note: on its line, in the four lines
//! above, or in the comment that ends there.
//!
//! clippy asks for the same where it sees the code; it does not see what this build's `cfg` leaves
//! out.

use crate::{Finding, Source};

/// How far above its block a note may stand, in lines.
const REACH: usize = 4;

/// Checks one Rust file.
pub fn check(file: &Source) -> Vec<Finding> {
    let text: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (offset, _) in file.code.match_indices("unsafe") {
        let line = file.line_of(offset);
        if needs_note(&file.code, offset) && !has_note(&text, line) {
            findings.push(Finding::at(file, line, "unsafe without a `// SAFETY:` note that names an invariant (docs/invariants.md) or the reason"));
        }
    }
    findings
}

fn needs_note(code: &str, offset: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, after) = (&code[..offset], &code[offset + "unsafe".len()..]);
    if before.chars().next_back().is_some_and(is_word) || after.chars().next().is_some_and(is_word)
    {
        return false;
    }
    let next = after.trim_start();
    next.starts_with('{')
        || next.strip_prefix("impl").is_some_and(|rest| !rest.starts_with(is_word))
}

fn has_note(text: &[&str], line: usize) -> bool {
    let first = line.saturating_sub(REACH);
    if text[first..=line].iter().any(|line| line.contains("SAFETY:")) {
        return true;
    }
    // A longer comment that ends within reach.
    let mut at = first;
    while text[at].trim_start().starts_with("//") {
        if text[at].contains("SAFETY:") {
            return true;
        }
        if at == 0 {
            break;
        }
        at -= 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, lines: &[usize]) {
        let found: Vec<usize> =
            check(&Source::new("a.rs", text)).iter().map(|finding| finding.line).collect();
        assert_eq!(found, lines, "{text}");
    }

    #[test]
    fn blocks_and_impls_without_a_note_are_found() {
        check_text("let a = unsafe { b() };", &[1]);
        check_text("\nunsafe\n{ b() }", &[2]);
        check_text("unsafe impl Send for A {}", &[1]);
        check_text("// SAFETY: far away.\n\n\n\n\nunsafe { b() }", &[6]);
    }

    #[test]
    fn a_note_near_by_is_enough() {
        check_text("// SAFETY: I3.\nunsafe { b() }", &[]);
        check_text("unsafe { b() } // SAFETY: I3.", &[]);
        check_text(
            "// SAFETY: one\n// two\n// three\n// four\n// five\n// six\nlet a =\n    unsafe { b() };",
            &[],
        );
    }

    #[test]
    fn other_uses_of_the_word_need_none() {
        check_text(
            "unsafe fn a() {}\n#[unsafe(no_mangle)]\nunsafe extern \"C\" {}\n// unsafe {\n\"unsafe {\"; not_unsafe {}",
            &[],
        );
    }
}
