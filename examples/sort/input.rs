//! Reading a part of the input: whole records, or the lines that begin in a range.
//!
//! A file is open only while it is read: an open file keeps a task on its node.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::Format;
use crate::path::SharedPath;

/// Bytes read at a time to find the end of a line that leaves its range.
const BEYOND_LEN: usize = 64 << 10;

/// Whole items of the input, and where the first of them begins. Read into again and again.
#[derive(Debug, Default)]
pub struct Part {
    /// The items one after the other; lines all end in a newline, even a last one that had none.
    pub data: Vec<u8>,
    /// Offset in the file of the first byte of `data`.
    pub base: u64,
}

/// Reads the items that begin in `range` of a file of `len` bytes.
///
/// # Errors
/// The file cannot be opened or read, or became shorter; the text names it.
pub fn read(
    path: &SharedPath,
    format: Format,
    len: u64,
    range: (u64, u64),
    part: &mut Part,
) -> Result<(), String> {
    let result = File::open(path.as_path()).and_then(|file| match format {
        Format::Records { .. } => {
            part.base = range.0;
            part.data.resize((range.1 - range.0) as usize, 0);
            file.read_exact_at(&mut part.data, range.0)
        }
        Format::Lines => read_lines(&file, len, range, part),
    });
    result.map_err(|error| failed(path, range.0, &error))
}

/// Reads pieces of a file one after the other into `data`.
///
/// # Errors
/// As for [`read`].
pub fn read_pieces(
    path: &SharedPath,
    pieces: &[(u64, u64)],
    data: &mut Vec<u8>,
) -> Result<(), String> {
    let total: u64 = pieces.iter().map(|(start, end)| end - start).sum();
    if total > u64::from(u32::MAX) {
        return Err(format!(
            "a bucket of {total} bytes is too long to be sorted at once: choose a smaller \
             --bucket-size"
        ));
    }
    let file = File::open(path.as_path()).map_err(|error| failed(path, 0, &error))?;
    data.resize(total as usize, 0);
    let mut rest = &mut data[..];
    for &(start, end) in pieces {
        let (piece, behind) = rest.split_at_mut((end - start) as usize);
        file.read_exact_at(piece, start).map_err(|error| failed(path, start, &error))?;
        rest = behind;
    }
    Ok(())
}

fn read_lines(file: &File, len: u64, (start, end): (u64, u64), part: &mut Part) -> io::Result<()> {
    // The byte before tells whether a line begins at `start`.
    let from = start.saturating_sub(1);
    let data = &mut part.data;
    data.resize((end - from) as usize, 0);
    file.read_exact_at(data, from)?;
    let skip = match start {
        0 => Some(0),
        _ => data.iter().position(|&b| b == b'\n').map(|newline| newline + 1),
    };
    let Some(skip) = skip.filter(|&skip| skip < data.len()) else {
        // No line begins here.
        data.clear();
        part.base = end;
        return Ok(());
    };
    // What lies beyond the range ends with the line that left it.
    let mut at = end;
    while !data.ends_with(b"\n") {
        let known = data.len();
        let more = (BEYOND_LEN as u64).min(len - at);
        if more == 0 {
            data.push(b'\n');
            break;
        }
        data.resize(known + more as usize, 0);
        file.read_exact_at(&mut data[known..], at)?;
        at += more;
        if let Some(newline) = data[known..].iter().position(|&b| b == b'\n') {
            data.truncate(known + newline + 1);
        }
        if data.len() as u64 >= u64::from(u32::MAX) {
            return Err(io::Error::other("a line is longer than 4 GiB"));
        }
    }
    data.drain(..skip);
    part.base = from + skip as u64;
    Ok(())
}

fn failed(path: &SharedPath, offset: u64, error: &io::Error) -> String {
    let path = path.as_path().display();
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return format!(
            "{path} became shorter while it was sorted: let the program that writes it finish, \
             then sort again"
        );
    }
    format!(
        "{path} cannot be read at byte {offset}: {error}; it must be readable under this path on \
         every node"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, cut: u64) {
        let path = std::env::temp_dir().join(format!("migrt-sort-input-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let shared = SharedPath::new(&path);
        let len = text.len() as u64;
        let (mut whole, mut part) = (Vec::new(), Part::default());
        for (start, end) in crate::plan::cut(len, Format::Lines, cut) {
            read(&shared, Format::Lines, len, (start, end), &mut part).unwrap();
            assert!(part.data.is_empty() || part.data.ends_with(b"\n"));
            assert!(part.data.is_empty() || part.base == whole.len() as u64, "{text:?} {cut}");
            whole.extend_from_slice(&part.data);
        }
        std::fs::remove_file(&path).unwrap();
        let mut expected = text.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            expected.push('\n');
        }
        assert_eq!(String::from_utf8(whole).unwrap(), expected, "cut every {cut}");
    }

    #[test]
    fn every_line_is_in_one_part_wherever_the_cuts_are() {
        let long = "x".repeat(200_000);
        for text in ["", "\n", "a", "a\n", "\n\n\n", "ab\n\ncd\nefghij\nk", "abcdefghijkl", "a\n\n"]
        {
            (1..=text.len() as u64 + 1).for_each(|cut| check(text, cut));
        }
        for cut in [10_000, 65_536, 199_999, 200_000, 200_001, 200_002] {
            check(&format!("a\n{long}\nb\n{long}"), cut);
        }
    }

    #[test]
    fn a_file_that_shrank_is_named() {
        let path = std::env::temp_dir().join(format!("migrt-sort-short-{}", std::process::id()));
        std::fs::write(&path, [0; 100]).unwrap();
        let format = Format::Records { len: 100, key: 10 };
        let part = &mut Part::default();
        let error = read(&SharedPath::new(&path), format, 200, (0, 200), part).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("became shorter") && error.contains("migrt-sort-short"), "{error}");
    }
}
