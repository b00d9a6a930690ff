//! The two files that a user names, looked at before anything is started.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::format::Format;

/// A file that can be sorted.
#[derive(Debug)]
pub struct Input {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes.
    pub len: u64,
    /// Bytes of the sorted file: one more if the last line lacks its newline.
    pub sorted_len: u64,
}

/// Looks at the input.
///
/// # Errors
/// It is missing, no regular file, unreadable, or ends within a record.
pub fn inspect_input(path: &Path, format: Format) -> Result<Input, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "the input {shown} does not exist: correct --input, or leave it out to sort a file that is made"
            )
        }
        _ => {
            format!("the input {shown} cannot be opened: {error}; make it readable or name another")
        }
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!(
            "the input {shown} is {}: write its content to a file first, parts of which can be \
             read by different nodes",
            kind(&metadata)
        ));
    }
    let file = File::open(path).map_err(failed)?;
    let len = metadata.len();
    let mut sorted_len = len;
    match format {
        Format::Records { len: record, .. } => {
            let over = len % u64::from(record);
            if over > 0 {
                return Err(format!(
                    "the input {shown} has {len} bytes, {over} over {} whole records of {record}: \
                     it is truncated, or --records is not its record length",
                    len / u64::from(record)
                ));
            }
        }
        Format::Lines => {
            let mut last = [b'\n'];
            if len > 0 {
                file.read_exact_at(&mut last, len - 1).map_err(failed)?;
            }
            sorted_len += u64::from(last != *b"\n");
        }
    }
    Ok(Input { path: path.canonicalize().map_err(failed)?, len, sorted_len })
}

/// Looks at an input that a user has named: as [`inspect_input`], and there is something to sort.
///
/// # Errors
/// As there, or it is empty.
pub fn inspect_named_input(path: &Path, format: Format) -> Result<Input, String> {
    let input = inspect_input(path, format)?;
    if input.len == 0 {
        return Err(format!(
            "the input {} is empty, there is nothing to sort: see that whatever writes it has done \
             so, or name another",
            path.display()
        ));
    }
    Ok(input)
}

/// Looks at where the output goes and gives its absolute path. `input` must be another file.
///
/// # Errors
/// The folder is missing, there is something else than a file, or it is the input.
pub fn inspect_output(path: &Path, input: Option<&Input>) -> Result<PathBuf, String> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(format!("the output {shown} is {}: name a file", kind(&metadata)));
        }
        Ok(metadata) => {
            let same =
                |other: Metadata| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
            if input.is_some_and(|input| fs::metadata(&input.path).is_ok_and(same)) {
                return Err(format!(
                    "the output {shown} is the input itself: name another file, and rename it \
                     when you have looked at it"
                ));
            }
            // Through a symbolic link, so that the file is replaced and not the link.
            return path.canonicalize().map_err(|error| format!("the output {shown}: {error}"));
        }
        Err(_) => {}
    }
    let Some(name) = path.file_name() else {
        return Err(format!("the output {shown} has no file name: name a file"));
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|error| {
        format!(
            "the output's folder {} cannot be used: {error}; make it or name another",
            folder.display()
        )
    })?;
    Ok(folder.join(name))
}

fn kind(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "no regular file" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::TempFolder;

    #[test]
    fn bad_files_are_named_with_cause_and_next_step() {
        let folder = TempFolder::create_named("files").unwrap();
        let file = folder.path().join("f");
        fs::write(&file, [b'x'; 250]).unwrap();
        let records = Format::Records { len: 100, key: 10 };
        let truncated = inspect_input(&file, records).unwrap_err();
        assert!(truncated.contains("50 over 2 whole records"), "{truncated}");
        let missing = inspect_input(&folder.path().join("none"), records).unwrap_err();
        assert!(missing.contains("none does not exist"), "{missing}");
        assert!(inspect_input(folder.path(), records).unwrap_err().contains("is a folder"));
        let input = inspect_input(&file, Format::Lines).unwrap();
        assert_eq!((input.len, input.sorted_len), (250, 251));

        let link = folder.path().join("g");
        fs::hard_link(&file, &link).unwrap();
        for same in [&file, &link] {
            let error = inspect_output(same, Some(&input)).unwrap_err();
            assert!(error.contains("is the input itself"), "{error}");
        }
        assert!(inspect_output(folder.path(), Some(&input)).unwrap_err().contains("a folder"));
        let nowhere = inspect_output(&folder.path().join("x/y"), Some(&input)).unwrap_err();
        assert!(nowhere.contains("folder") && nowhere.contains("make it"), "{nowhere}");
        assert_eq!(
            inspect_output(&folder.path().join("h"), Some(&input)).unwrap().file_name().unwrap(),
            "h"
        );
    }

    #[test]
    fn an_empty_file_is_a_file_but_none_to_name() {
        let folder = TempFolder::create_named("empty").unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "").unwrap();
        for format in [Format::Lines, Format::Records { len: 100, key: 10 }] {
            let input = inspect_input(&file, format).unwrap();
            assert_eq!((input.len, input.sorted_len), (0, 0));
            let why = inspect_named_input(&file, format).unwrap_err();
            assert!(why.contains("is empty") && why.contains("name another"), "{why}");
        }
    }
}
