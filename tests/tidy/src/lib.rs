//! Checks of the repository's own text: layers, unsafe notes, shape of files, words, names in the
//! docs.
//!
//! Each check is a function from a text to findings and is tested here on planted violations;
//! `tests/tree.rs` runs all of them over the repository. They read text by a small scanner, not by
//! a compiler: enough to keep honest people honest. Absent: formatting and lints, which rustfmt and
//! clippy do better.

pub mod docs;
pub mod layers;
pub mod shape;
pub mod source;
pub mod unsafe_notes;
pub mod words;

pub use source::{Source, Tree};

/// One violation, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, from the repository's root.
    pub path: String,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl Finding {
    /// A finding in line `index`, counted from 0.
    pub fn at(source: &Source, index: usize, text: impl Into<String>) -> Self {
        Finding { path: source.path.clone(), line: index + 1, text: text.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}
