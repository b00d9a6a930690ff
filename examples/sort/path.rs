//! A path as an argument of a task: any bytes, not only text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// An absolute path that means the same file on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPath(Vec<u8>);

impl SharedPath {
    /// Takes the bytes of a path.
    pub fn new(path: &Path) -> SharedPath {
        SharedPath(path.as_os_str().as_bytes().to_vec())
    }

    /// The path again.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}
