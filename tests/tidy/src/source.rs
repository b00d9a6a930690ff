//! The repository's files, and the scanner that tells code from comments and strings.

use std::fs;
use std::path::{Path, PathBuf};

/// All text files of the repository.
#[derive(Debug)]
pub struct Tree {
    /// The repository's root.
    pub root: PathBuf,
    /// The files, sorted by path.
    pub files: Vec<Source>,
}

/// One text file.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path from the repository's root, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The text with comments, strings and characters blanked, line for line. For files that are
    /// not Rust, the text.
    pub code: String,
}

impl Tree {
    /// Reads the repository that this crate lies in.
    ///
    /// # Panics
    ///
    /// A file cannot be read.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .canonicalize()
            .expect("the repository's root is there");
        let mut files = Vec::new();
        walk(&root, &root, &mut files);
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Tree { root, files }
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| file.is_rust())
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    for item in fs::read_dir(folder).expect("folders of the repository can be read") {
        let path = item.expect("their items too").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || matches!(name.as_str(), "target" | ".git") {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path
                .strip_prefix(root)
                .expect("it is below the root")
                .to_string_lossy()
                .into_owned();
            files.push(Source::new(path, text));
        }
    }
}

impl Source {
    /// A file of this path and text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { blank(&text) } else { text.clone() };
        Source { path, text, code }
    }

    /// Whether this is a Rust file.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is tests: `tests.rs`, or in a `tests` folder that is not the root's.
    pub fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The line, from 0, where the file's tests begin, or the number of lines. Tests stand last in
    /// a file.
    pub fn tests_start(&self) -> usize {
        let lines: Vec<&str> = self.code.lines().collect();
        let is_start = |index: &usize| {
            let next = lines
                .iter()
                .skip(index + 1)
                .find(|line| !line.trim().is_empty() && !line.trim_start().starts_with("#["));
            lines[*index].trim_start().starts_with("#[cfg(")
                && lines[*index].contains("test")
                && next.is_some_and(|line| is_module(line))
        };
        (0..lines.len()).find(is_start).unwrap_or(lines.len())
    }

    /// The line, from 0, that the byte at `offset` of `code` lies in.
    pub fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count()
    }
}

fn is_module(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("mod ") && line.contains('{')
}

/// Blanks comments, strings and character literals, keeping every newline and every byte's place.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_end(bytes, at) {
            Some(end) => end,
            None => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// The end of the comment, string or character that begins at `at`, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    match rest {
        [b'/', b'/', ..] => {
            Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()))
        }
        [b'/', b'*', ..] => Some(at + block_comment_len(rest)),
        [b'"', ..] => Some(at + string_len(rest)),
        [b'r', b'"' | b'#', ..] if !is_word(bytes, at) || follows_prefix(bytes, at) => {
            raw_string_len(rest).map(|len| at + len)
        }
        [b'\'', ..] => char_len(rest).map(|len| at + len),
        _ => None,
    }
}

/// Whether the byte before `at` continues a word.
fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// Whether the byte before `at` is the `b` or `c` of `br"…"`.
fn follows_prefix(bytes: &[u8], at: usize) -> bool {
    at > 0 && matches!(bytes[at - 1], b'b' | b'c') && !is_word(bytes, at - 1)
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_len(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None; // A raw identifier.
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let found = rest[open + 1..].windows(close.len()).position(|window| window == close);
    Some(found.map_or(rest.len(), |found| open + 1 + found + close.len()))
}

/// The length of a character literal; `None` for a lifetime.
fn char_len(rest: &[u8]) -> Option<usize> {
    match rest {
        [_, b'\\', _, tail @ ..] => {
            tail.iter().position(|byte| *byte == b'\'').map(|found| found + 4)
        }
        _ => {
            let char_len = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()?
                .chars()
                .next()?
                .len_utf8();
            (rest.get(1 + char_len) == Some(&b'\'')).then_some(char_len + 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"a("b \" c")"#, "a(        )"),
            ("r#\"b \" c\"# d", "            d"),
            ("br\"x\\\" y", "b     y"),
            ("'a' 'b: &'c str", "    'b: &'c str"),
            (r"'\'' x", "     x"),
            ("'ü' x", "     x"),
            ("r#type", "r#type"),
        ] {
            let blanked = blank(text);
            assert_eq!(blanked.len(), text.len(), "{text}");
            assert_eq!(
                blanked.split_whitespace().collect::<Vec<_>>(),
                code.split_whitespace().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn tests_begin_at_their_module() {
        let text = "fn a() {}\n#[cfg(test)]\nfn helper() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(Source::new("a.rs", text).tests_start(), 4);
        assert_eq!(Source::new("a.rs", "fn a() {}\n").tests_start(), 1);
    }

    #[test]
    fn the_tree_holds_this_file() {
        assert!(Tree::read().rust().any(|file| file.path == "tests/tidy/src/source.rs"));
    }
}
