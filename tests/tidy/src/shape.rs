//! The shape of a file: it begins by saying what it is, it is short, and it lifts a lint only with
//! a reason.

use crate::{Finding, Source};

/// The most lines a file may have, tests aside. The aim is 400.
pub const LINES_MAX: usize = 500;

/// Checks that a Rust file's first line is a `//!` sentence.
pub fn check_head(file: &Source) -> Vec<Finding> {
    match file.text.lines().next() {
        Some(line) if line.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty()) => {
            Vec::new()
        }
        _ => vec![Finding::at(
            file,
            0,
            "a file begins with `//!`: what it is, what it relies on, what is absent",
        )],
    }
}

/// Checks the length of a Rust file.
pub fn check_length(file: &Source) -> Vec<Finding> {
    let lines = file.tests_start();
    if file.is_tests() || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![Finding::at(
        file,
        lines - 1,
        format!(
            "{lines} lines before the tests, {LINES_MAX} are the most: split the file along its nouns"
        ),
    )]
}

/// Checks that each `#[allow]` and `#[expect]` of a Rust file has a reason.
pub fn check_reasons(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for attribute in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for (offset, _) in file.code.match_indices(attribute) {
            let rest = &file.code[offset..];
            let end = rest.find(']').unwrap_or(rest.len());
            if !rest[..end].contains("reason =") {
                findings.push(Finding::at(
                    file,
                    file.line_of(offset),
                    "a lint is lifted with a reason: add `reason = \"…\"`",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(text: &str) -> Source {
        Source::new("a.rs", text)
    }

    #[test]
    fn a_file_without_a_head_is_found() {
        assert_eq!(check_head(&rust("use a;\n//! Late.")).len(), 1);
        assert_eq!(check_head(&rust("//!\n//! Empty first.")).len(), 1);
        assert_eq!(check_head(&rust("")).len(), 1);
        assert_eq!(check_head(&rust("//! What it is.")), []);
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_are_not_counted() {
        let body = "fn a() {}\n".repeat(LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert_eq!(check_length(&rust(&format!("{body}{tests}"))), []);
        assert_eq!(check_length(&rust(&format!("{body}\n{tests}"))).len(), 1);
        assert_eq!(check_length(&Source::new("a/src/b/tests.rs", format!("{body}\n"))), []);
    }

    #[test]
    fn a_lint_lifted_without_reason_is_found() {
        assert_eq!(check_reasons(&rust("#[allow(dead_code)]\nfn a() {}")).len(), 1);
        assert_eq!(check_reasons(&rust("#![expect(\n    dead_code,\n)]")).len(), 1);
        assert_eq!(
            check_reasons(&rust(
                "#[allow(\n    dead_code,\n    reason = \"x\"\n)]\n// #[allow(b)]"
            )),
            []
        );
    }
}
