//! What is left to do when the launcher itself is killed (SIGKILL, out of memory).
//!
//! The kernel then kills the nodes, but neither what they have started nor the cluster's folder, in
//! which private keys lie. So a second process waits on a pipe from the launcher: it hears of each
//! group, and if the pipe ends without a word of farewell it clears away. It leads a group of its
//! own, so a Ctrl-C does not reach it.
//!
//! The words on the pipe are process numbers of four bytes; 0 says farewell.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// What the second process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    folder: PathBuf,
}

/// The launcher's end. Says farewell on drop.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts the second process.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub(super) fn start(folder: &Path) -> io::Result<Guard> {
        let mut child = Command::new("/proc/self/exe")
            .arg0("migrt")
            .arg("guard")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Guard { child, pipe })
    }

    /// Tells of a group to end.
    ///
    /// # Errors
    ///
    /// The second process is gone.
    pub(super) fn watch(&mut self, group: Pid) -> io::Result<()> {
        self.say(group.as_raw_nonzero().get())
    }

    fn say(&mut self, word: i32) -> io::Result<()> {
        self.pipe.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&word.to_ne_bytes()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.say(0);
        self.pipe = None;
        let _ = self.child.wait();
    }
}

/// The second process.
pub(crate) fn main(options: &Options) -> ExitCode {
    let mut groups = Vec::new();
    let mut input = io::stdin().lock();
    let mut word = [0; 4];
    while input.read_exact(&mut word).is_ok() {
        match Pid::from_raw(i32::from_ne_bytes(word)) {
            Some(group) => groups.push(group),
            None => return ExitCode::SUCCESS,
        }
    }
    for group in groups {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = std::fs::remove_dir_all(&options.folder);
    ExitCode::SUCCESS
}
