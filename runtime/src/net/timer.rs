//! Timers of the net thread.
//!
//! QUIC moves its timers on with nearly every packet and almost never lets one expire. So a timer
//! that is moved to a *later* time keeps its place in the table and is put right when that place
//! fires: a spurious poll now and then instead of a table update per packet.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::rt::Shared;

/// A future that is done at its deadline, which may be moved.
pub(super) struct Sleep {
    exec: Arc<Shared>,
    deadline: Instant,
    armed: Option<Key>,
}

type Key = (Instant, u64);

/// All armed timers, soonest first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeMap<Key, Waker>,
    next_id: u64,
}

impl Timers {
    /// When the soonest timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.armed.first_key_value().map(|(key, _)| key.0)
    }

    /// Wakes the owners of all timers due at `now`.
    pub(super) fn fire(&mut self, now: Instant) {
        while let Some(entry) = self.armed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
        }
    }

    fn arm(&mut self, deadline: Instant, waker: Waker) -> Key {
        let key = (deadline, self.next_id);
        self.next_id += 1;
        self.armed.insert(key, waker);
        key
    }
}

impl Sleep {
    pub(super) fn new(exec: Arc<Shared>, deadline: Instant) -> Self {
        Self { exec, deadline, armed: None }
    }

    fn disarm(&mut self) {
        if let Some(key) = self.armed.take() {
            self.exec.timers().armed.remove(&key);
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.exec.now() >= self.deadline {
            self.disarm();
            return Poll::Ready(());
        }
        let mut timers = self.exec.timers();
        if let Some(key) = self.armed {
            if key.0 <= self.deadline
                && let Some(waker) = timers.armed.get_mut(&key)
            {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            timers.armed.remove(&key);
        }
        self.armed = Some(timers.arm(self.deadline, cx.waker().clone()));
        Poll::Pending
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_deadline(cx)
    }
}

impl quinn::AsyncTimer for Sleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_deadline(cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Runs `future` for at most `limit`; `None` if that was not enough.
pub(super) async fn timeout<F: Future>(
    exec: &super::rt::Exec,
    limit: std::time::Duration,
    future: F,
) -> Option<F::Output> {
    let mut sleep = Box::pin(exec.sleep(limit));
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Future::poll(sleep.as_mut(), cx).map(|()| None),
    })
    .await
}
