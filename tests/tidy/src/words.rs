//! Words that have no place in the tree: places of one machine, registries, and code that is not
//! there yet.

use crate::{Finding, Source};

/// Texts that tie a file to one machine. Cut in two so that this file is clean.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("127.0.0.1", ":808"),
];

/// Code that promises instead of doing.
const PROMISES: &[&str] = &["todo!", "unimplemented!", "#[ignore"];

/// The one source that packages may come from.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// Checks any file.
pub fn check(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if let Some(place) = PLACES.iter().find(|place| names_place(line, place)) {
            findings.push(Finding::at(
                file,
                index,
                format!(
                    "`{place}` is a place of one machine: leave it out, or ask the environment"
                ),
            ));
        }
        if file.path.ends_with("Cargo.lock") && line.starts_with("source = ") && line != REGISTRY {
            findings.push(Finding::at(file, index, "packages come from crates.io"));
        }
    }
    if file.is_rust() {
        for (index, line) in file.code.lines().enumerate() {
            if let Some(promise) = PROMISES.iter().find(|promise| line.contains(*promise)) {
                findings.push(Finding::at(
                    file,
                    index,
                    format!("`{promise}` is a promise: write it now, or leave it out"),
                ));
            }
        }
    }
    findings
}

/// Whether a line has this text other than as the tail of a longer path.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !place.starts_with('/')
            || before.is_none_or(|c| !c.is_alphanumeric() && !"_-.}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str, lines: &[usize]) {
        let found: Vec<usize> =
            check(&Source::new(path, text)).iter().map(|finding| finding.line).collect();
        assert_eq!(found, lines, "{path}: {text}");
    }

    #[test]
    fn places_of_one_machine_are_found_in_any_file() {
        check_text("README.md", concat!("a\ncd /ho", "me/me/migrt"), &[2]);
        check_text("a.rs", concat!("// see /wo", "rk/x"), &[1]);
        check_text(".ci/run", "cd target/work/x", &[]);
    }

    #[test]
    fn promises_are_found_in_code_and_not_in_text() {
        check_text(
            "a.rs",
            "fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\n#[ignore = \"slow\"]",
            &[1, 2, 3],
        );
        check_text("a.rs", "// todo!()\n\"todo!\"", &[]);
        check_text("README.md", "no todo! in here", &[]);
    }

    #[test]
    fn packages_of_another_registry_are_found() {
        check_text(
            "Cargo.lock",
            &format!("{REGISTRY}\nsource = \"git+https://example.org/a\""),
            &[2],
        );
    }
}
