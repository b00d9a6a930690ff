//! How the net thread sleeps until a deadline that is nearer than a millisecond.
//!
//! `epoll_wait` counts in milliseconds and rounds up; QUIC paces and detects loss in microseconds
//! on a fast link. A `timerfd` in the same poll has the kernel's own resolution. Far deadlines go
//! by the poll's timeout, which costs no extra system call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Deadlines nearer than this are worth the extra system call.
const NEAR: Duration = Duration::from_millis(10);

/// A one-shot high-resolution timer inside the poll.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered, so expiries need not be read away; setting it again starts afresh.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Prepares for a sleep until `deadline` and returns the timeout to give to the poll.
    pub(super) fn arm(&self, deadline: Option<Instant>) -> io::Result<Option<Duration>> {
        let Some(deadline) = deadline else {
            return Ok(None);
        };
        let wait = deadline.saturating_duration_since(Instant::now());
        if wait.is_zero() || wait >= NEAR {
            return Ok(Some(wait));
        }
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(Some(NEAR))
    }
}
