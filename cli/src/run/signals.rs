//! Signals as events: blocked in every thread of this process, and read from a descriptor.
//!
//! A handler could not do what has to be done here (tell all nodes, wait, kill, remove the folder).
//! The nodes do not inherit the blocking: std clears the mask of a process that it starts.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// The signals that ask this process to end. Ctrl-Z is not among them: it pauses the launcher alone,
/// since a node that is paused for longer than its lease loses its tasks.
const TAKEN: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The descriptor to read them from.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Takes them; to be called before any thread is started.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub(super) fn take() -> io::Result<Signals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: makes the set an empty one; the further calls write to it and read it.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in TAKEN {
                // After `nohup` a hang-up is not for us.
                if signal != Signal::HUP || !is_ignored(signal) {
                    libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
                }
            }
            // Reading the terminal from the background is to be an error and not to stop us all. It
            // is blocked, but not read.
            let mut blocked = set;
            libc::sigaddset(blocked.as_mut_ptr(), libc::SIGTTIN);
            let failed =
                libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), std::ptr::null_mut());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made this descriptor just now and nobody else has it.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that has come, if one has.
    pub(super) fn next(&self) -> Option<Signal> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most `len` bytes to `info`, which is plain data.
        let (got, info) = unsafe {
            let got = libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), len);
            (got, info.assume_init())
        };
        if got != len as isize {
            return None;
        }
        TAKEN.into_iter().find(|signal| signal.as_raw() as u32 == info.ssi_signo)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; the kernel writes the action, which is plain data.
    unsafe {
        libc::sigaction(signal.as_raw(), std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
