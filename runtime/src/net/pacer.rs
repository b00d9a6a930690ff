//! Turns of the bulk streams of one link, on the net thread. Who is next, `migrt_proto::pace` says.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use migrt_proto::Micros;
use migrt_proto::pace::{Limit, StreamKey, Take, Turns};

use super::rt::{Exec, lock};
use super::timer::Sleep;

/// The limit that all links of a node share, and its clock.
pub(super) struct Limiter {
    start: Instant,
    limit: Mutex<Limit>,
}

impl Limiter {
    pub(super) fn new(bytes_per_s: Option<u64>) -> Limiter {
        Limiter { start: Instant::now(), limit: Mutex::new(Limit::new(bytes_per_s)) }
    }

    fn now(&self) -> Micros {
        Micros(self.start.elapsed().as_micros() as u64)
    }

    fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at.0)
    }

    /// Bytes that go whatever the limit says.
    pub(super) fn charge(&self, len: usize) {
        let now = self.now();
        lock(&self.limit).charge(now, len);
    }

    /// The limit, in bytes per second.
    pub(super) fn bytes_per_s(&self) -> Option<u64> {
        lock(&self.limit).bytes_per_s()
    }
}

/// The turns of one link.
#[derive(Default)]
pub(super) struct Pacer(Mutex<State>);

#[derive(Default)]
struct State {
    turns: Turns,
    waiting: HashMap<StreamKey, Waker>,
    next: StreamKey,
}

impl State {
    fn tell(&mut self, head: Option<StreamKey>) {
        if let Some(waker) = head.and_then(|head| self.waiting.remove(&head)) {
            waker.wake();
        }
    }
}

impl Pacer {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// A name for a stream of this link.
    pub(super) fn name(&self) -> StreamKey {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// The stream's turn to hand over a piece of `len` bytes.
    pub(super) async fn turn<'a>(
        &'a self,
        (exec, limiter): (&Exec, &'a Limiter),
        stream: StreamKey,
        len: usize,
    ) -> Turn<'a> {
        self.state().turns.ask(stream);
        let turn = Turn { pacer: self, stream };
        let mut sleep = None;
        std::future::poll_fn(|cx| self.poll_turn(cx, limiter, stream, len, exec, &mut sleep)).await;
        turn
    }

    fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        limiter: &Limiter,
        stream: StreamKey,
        len: usize,
        exec: &Exec,
        sleep: &mut Option<Sleep>,
    ) -> Poll<()> {
        loop {
            let now = limiter.now();
            let mut state = self.state();
            let take = state.turns.take(now, stream, len, &mut lock(&limiter.limit));
            match take {
                Take::Yours => return Poll::Ready(()),
                Take::Wait => {
                    state.waiting.insert(stream, cx.waker().clone());
                    return Poll::Pending;
                }
                Take::Until(at) => {
                    drop(state);
                    let timer = sleep.insert(exec.sleep_until(limiter.instant(at)));
                    if Future::poll(Pin::new(timer), cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Messages are being written, and go first.
    pub(super) fn hold(&self) -> Hold<'_> {
        self.state().turns.hold(true);
        Hold(self)
    }
}

/// A stream's turn, or its place in the queue.
pub(super) struct Turn<'a> {
    pacer: &'a Pacer,
    stream: StreamKey,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.pacer.state();
        state.waiting.remove(&self.stream);
        let head = state.turns.done(self.stream);
        state.tell(head);
    }
}

/// While it lives no piece of bulk is handed over.
pub(super) struct Hold<'a>(&'a Pacer);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let head = state.turns.hold(false);
        state.tell(head);
    }
}
