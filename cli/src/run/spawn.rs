//! Starting the process of one node.
//!
//! Each node leads a process group, so that what it starts can be ended with it and a Ctrl-C at the
//! terminal reaches the launcher alone; and it asks the kernel to be killed when the launcher dies,
//! by whatever cause.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// What every node runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Plan {
    /// Starts it with these variables. To be called on the main thread: the kernel's promise to kill
    /// the node is tied to the thread that started it.
    ///
    /// # Errors
    ///
    /// A text with the cause and what to do.
    pub(super) fn start(
        &self,
        node: u16,
        variables: Vec<(&'static str, String)>,
        stdin: Stdio,
    ) -> Result<Child, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(variables);
        // An address left over in this shell would lead the nodes into another cluster.
        command.env_remove("MIGRT_JOIN");
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let launcher = std::process::id();
        // SAFETY: `tie` does system calls only, which is all that may be done between fork and exec.
        unsafe { command.pre_exec(move || tie(launcher)) };
        command.spawn().map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::ENOEXEC) => {
                    "it is no program of this machine's kind; build it for x86-64 Linux"
                }
                Some(libc::ENOENT) => {
                    "its interpreter is missing; see its first line, or `file` on it"
                }
                Some(libc::EAGAIN) => "too many processes; end some, or raise `ulimit -u`",
                Some(libc::EMFILE | libc::ENFILE) => "too many open files; raise `ulimit -n`",
                _ => "correct that and start again",
            };
            format!(
                "node {node} cannot be started from {}: {error}; {advice}",
                self.program.display()
            )
        })
    }
}

/// The child's last steps before it becomes the program.
fn tie(launcher: u32) -> io::Result<()> {
    // A shell that starts a launcher in the background has these ignored, and it would be inherited.
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: sets no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The launcher may have died before the kernel knew.
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
    if parent == launcher { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}
