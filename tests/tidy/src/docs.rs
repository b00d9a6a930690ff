//! Names in the docs: a file that is named exists, and an invariant that is cited is numbered in
//! `docs/invariants.md`.

use std::collections::BTreeSet;

use crate::{Finding, Source};

/// Where the invariants are numbered.
pub const INVARIANTS: &str = "docs/invariants.md";

/// Checks that the files which a Markdown file names in code spans exist: `folder/file.rs`,
/// `file.rs`, `folder/`.
pub fn check_paths(file: &Source, all: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for name in code_spans(line).filter(|span| looks_like_path(span, all)) {
                if !exists(name, &file.path, all) {
                    findings.push(Finding::at(
                        file,
                        index,
                        format!("`{name}` is named here and does not exist"),
                    ));
                }
            }
        }
    }
    findings
}

/// The texts between single backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn looks_like_path(span: &str, all: &[String]) -> bool {
    let plain = span.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
    let first = span.split('/').next().unwrap_or_default();
    let below_root = span.contains('/')
        && !first.is_empty()
        && all.iter().any(|path| path.starts_with(&format!("{first}/")));
    plain && !span.starts_with('/') && (span.ends_with(".rs") || below_root)
}

/// Whether a file or folder has this path, from the root or from the folder of the one who names
/// it, or ends in it.
fn exists(name: &str, from: &str, all: &[String]) -> bool {
    let name = name.trim_end_matches('/');
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is = |path: &str, name: &str| path == name || path.starts_with(&format!("{name}/"));
    all.iter().any(|path| {
        is(path, name)
            || is(path, &format!("{folder}/{name}"))
            || (name.ends_with(".rs") && path.ends_with(&format!("/{name}")))
    })
}

/// The numbers that `docs/invariants.md` defines: a line, heading, list item or table row that
/// begins with one.
pub fn defined_invariants(text: &str) -> BTreeSet<u32> {
    let begins = |line: &str| {
        citations(line.trim_start_matches(|c: char| !c.is_alphanumeric())).first().copied()
    };
    text.lines().filter_map(begins).filter(|(at, _)| *at == 0).map(|(_, number)| number).collect()
}

/// Checks that the invariants which a file's comments (or a Markdown file's text) cite are defined.
pub fn check_invariants(file: &Source, defined: &BTreeSet<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let text = if file.is_rust() { comment_of(line) } else { line };
        for (_, number) in citations(text) {
            if !defined.contains(&number) {
                findings.push(Finding::at(
                    file,
                    index,
                    format!("I{number} is not an invariant of {INVARIANTS}"),
                ));
            }
        }
    }
    findings
}

fn comment_of(line: &str) -> &str {
    line.find("//").map_or("", |at| &line[at..])
}

/// The words `I1`, `I2`, … of a text, with their places.
fn citations(text: &str) -> Vec<(usize, u32)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices('I') {
        let digits: &str =
            text[at + 1..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let alone = !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + 1 + digits.len()..].chars().next().is_some_and(is_word);
        if alone && let Ok(number) = digits.parse() {
            found.push((at, number));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_found(text: &str) -> Vec<usize> {
        let all =
            ["docs/a.md", "runtime/src/task/stack.rs", "runtime/iso/src/lib.rs"].map(String::from);
        check_paths(&Source::new("docs/a.md", text), &all)
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn files_that_are_not_there_are_found() {
        assert_eq!(paths_found("`runtime/src/task/heap.rs`"), [1]);
        assert_eq!(paths_found("a\n`heap.rs` and `runtime/attic/`"), [2, 2]);
    }

    #[test]
    fn files_that_are_there_and_other_spans_pass() {
        assert_eq!(
            paths_found(
                "`runtime/src/task/stack.rs`, `task/stack.rs`, `stack.rs`, `runtime/iso`, `a.md`"
            ),
            []
        );
        assert_eq!(
            paths_found(
                "`/proc/self/maps`, `fn a()`, `a/b`, `core::mem`\n```text\n`x/heap.rs`\n```"
            ),
            []
        );
    }

    #[test]
    fn invariants_are_defined_by_the_lines_that_begin_with_them() {
        let text = "# Invariants\n\n**I1** one task\n- I2: see I7\n| I3 | a slot |\n## I11 failed moves\nIn I9 too";
        assert_eq!(defined_invariants(text).into_iter().collect::<Vec<_>>(), [1, 2, 3, 11]);
    }

    #[test]
    fn a_citation_of_nothing_is_found() {
        let defined = BTreeSet::from([1, 2]);
        let lines = |path: &str, text: &str| {
            check_invariants(&Source::new(path, text), &defined)
                .iter()
                .map(|f| f.line)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines("a.rs", "// SAFETY: I3: this node owns it.\nlet I9 = 1; // I1, I2"), [1]);
        assert_eq!(lines("docs/b.md", "I2 and I12, but not AI3 or I4x"), [1]);
    }
}
