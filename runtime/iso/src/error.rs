//! What the kernel refused: the call, where, and why.

use std::fmt;

use crate::sys::{self, Errno};

/// A call about memory that the kernel refused. Small and free of allocation, since it may rise while
/// a task's memory is in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Name of the call.
    pub call: &'static str,
    /// Address it was about; 0 if about none.
    pub addr: usize,
    /// Length in bytes.
    pub len: usize,
    /// The kernel's error number.
    pub errno: i32,
}

impl KernelError {
    pub(crate) fn new(call: &'static str, addr: usize, len: usize, errno: Errno) -> KernelError {
        KernelError { call, addr, len, errno }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KernelError { call, addr, len, errno } = *self;
        write!(f, "{call}({addr:#x}, {len:#x}) failed: {}", sys::describe(errno))
    }
}

impl std::error::Error for KernelError {}

impl From<KernelError> for std::io::Error {
    fn from(error: KernelError) -> std::io::Error {
        std::io::Error::from_raw_os_error(error.errno)
    }
}
