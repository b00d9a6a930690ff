//! Files that are being written: each under a temporary name, removed unless it became whole.
//!
//! ```text
//! .G.PID.parts   the partitioned input   removed at the end
//! .G.PID.whole   the output so far       checked, synced, renamed to G; removed if that never comes
//! ```
//!
//! Both are given their full length at the start, so a full disk is noticed before any work is
//! done, and tasks on all nodes write their parts at offsets of their own. What was under the
//! output's name stays there until the rename. Only an end without warning (SIGKILL, power) leaves
//! temporary files behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use crate::path::SharedPath;

/// Bytes that a task collects before it opens the file to write them.
const BATCH_LEN: usize = 128 << 10;

/// A file of a known length that is removed when dropped.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    /// Removed, or renamed.
    gone: bool,
}

impl TempFile {
    /// Makes the file, with room for `len` bytes.
    ///
    /// # Errors
    /// It exists, the folder cannot be written to, or the disk has no room.
    pub fn create(path: PathBuf, len: u64) -> Result<TempFile, String> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| {
            format!(
                "{} cannot be made: {error}; choose an output in a folder that can be written to",
                path.display()
            )
        })?;
        let temp = TempFile { path, gone: false };
        reserve(&file, len).map_err(|error| {
            let folder = temp.path.parent().unwrap_or(Path::new("/"));
            format!(
                "{} has no room for {} MiB: {error}; free space there or choose another folder \
                 (by --output, or by TMPDIR for a file that is made; sorting needs twice the \
                 size of the input beside the output)",
                folder.display(),
                len.div_ceil(1 << 20)
            )
        })?;
        Ok(temp)
    }

    /// For tasks.
    pub fn shared(&self) -> SharedPath {
        SharedPath::new(&self.path)
    }

    /// Gives the file, now whole, its name; its bytes are on the disk already.
    ///
    /// # Errors
    /// The system refuses; the file is removed then.
    pub fn rename(mut self, to: &Path) -> Result<(), String> {
        if let Ok(old) = fs::metadata(to) {
            // As if the old file had been written to. Not being allowed to is no reason to fail.
            let _ = fs::set_permissions(&self.path, old.permissions());
        }
        fs::rename(&self.path, to).map_err(|error| {
            format!("the sorted file cannot be renamed to {}: {error}", to.display())
        })?;
        self.gone = true;
        // The new name survives a power cut; a file system that cannot do that is no reason to fail.
        let _ = to.parent().map(|folder| File::open(folder).and_then(|folder| folder.sync_all()));
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.gone {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A folder for files that were made to be thrown away; removed when dropped unless kept.
#[derive(Debug)]
pub struct TempFolder {
    path: PathBuf,
    keep: bool,
}

impl TempFolder {
    /// Makes it in the system's temporary folder.
    ///
    /// # Errors
    /// That cannot be written to.
    pub fn create(keep: bool) -> Result<TempFolder, String> {
        TempFolder::create_in(std::env::temp_dir(), "sort", keep)
    }

    /// One for a test.
    #[cfg(test)]
    pub fn create_named(name: &str) -> Result<TempFolder, String> {
        TempFolder::create_in(std::env::temp_dir(), name, false)
    }

    fn create_in(parent: PathBuf, name: &str, keep: bool) -> Result<TempFolder, String> {
        let path = parent.join(format!("migrt-{name}-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            format!(
                "the temporary folder {} cannot be made: {error}; set TMPDIR to a folder that can \
                 be written to",
                path.display()
            )
        })?;
        Ok(TempFolder { path, keep })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The temporary name of kind `kind` beside an output.
pub fn temp_name(output: &Path, kind: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(format!(".{}.{kind}", std::process::id()));
    output.with_file_name(name)
}

/// Writes stretches of a file, in batches; the file is open only while a batch is written.
#[derive(Debug)]
pub struct PartWriter {
    path: SharedPath,
    at: u64,
    batch: Vec<u8>,
}

impl PartWriter {
    /// Begins at the front.
    pub fn new(path: SharedPath) -> PartWriter {
        PartWriter { path, at: 0, batch: Vec::with_capacity(BATCH_LEN) }
    }

    /// Writes what is left and goes on at an offset.
    ///
    /// # Errors
    /// As for [`PartWriter::put`].
    pub fn seek(&mut self, at: u64) -> Result<(), String> {
        self.flush()?;
        self.at = at;
        Ok(())
    }

    /// Appends; tells whether a batch was written.
    ///
    /// # Errors
    /// The file cannot be written; the text names it.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let full = self.batch.len() + bytes.len() > BATCH_LEN;
        if full {
            self.flush()?;
        }
        self.batch.extend_from_slice(bytes);
        Ok(full)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// As for [`PartWriter::put`].
    pub fn flush(&mut self) -> Result<(), String> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let path = self.path.as_path();
        let written = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.write_all_at(&self.batch, self.at));
        written.map_err(|error| {
            format!(
                "{} cannot be written at byte {}: {error}; it must be writable under this path on \
                 every node",
                path.display(),
                self.at
            )
        })?;
        self.at += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

/// Takes the room from the disk; where a file system cannot, the file only gets its length.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if len == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(len),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_appears_whole_or_not_at_all() {
        let folder = TempFolder::create_named("whole").unwrap();
        let output = folder.path().join("out");
        fs::write(&output, "old").unwrap();
        let temp = TempFile::create(temp_name(&output, "part"), 6).unwrap();
        PartWriter::new(temp.shared()).put(b"lost").unwrap();
        drop(temp);
        assert_eq!(fs::read(&output).unwrap(), b"old", "not renamed: as it was");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing left behind");

        let temp = TempFile::create(temp_name(&output, "part"), 6).unwrap();
        let mut writer = PartWriter::new(temp.shared());
        for (at, bytes) in [(3, b"def"), (0, b"abc")] {
            writer.seek(at).unwrap();
            writer.put(bytes).unwrap();
        }
        writer.flush().unwrap();
        temp.rename(&output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), b"abcdef");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_disk_without_room_is_named_and_nothing_stays() {
        let path = std::env::temp_dir().join(format!("migrt-sort-full-{}", std::process::id()));
        let error = TempFile::create(path.clone(), 1 << 60).unwrap_err();
        assert!(error.contains("has no room for") && error.contains("free space"), "{error}");
        assert!(!path.exists());
    }
}
