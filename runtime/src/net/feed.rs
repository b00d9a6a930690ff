//! Bulk streams that are written piece by piece, as what is to be sent comes to be known: the rounds
//! of a task's pages while it runs.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use quinn::VarInt;

use super::bulk::{DoneGuard, Part};
use super::link::Link;
use super::peers::Hub;
use super::rt::lock;
use super::writer::BulkWriter;

const RESET_CALLED_OFF: VarInt = VarInt::from_u32(2);

/// The writing end. Dropped without [`finish`](Self::finish) it breaks the stream off.
pub struct BulkFeed {
    state: Arc<Mutex<State>>,
    /// Has the net thread look at the queue.
    nudge: Box<dyn Fn() + Send + Sync>,
}

/// Tells when a piece was handed to the transport, by its value; an error if it never was.
pub type Written = Receiver<()>;

/// What is to be written, and who is told when it was.
type Piece = (Vec<Part>, SyncSender<()>);

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    end: Option<End>,
    /// The stream is over: pieces are dropped.
    over: bool,
    writer: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Finished,
    CalledOff,
}

/// The net thread's end of a feed.
pub(super) struct Queue(Arc<Mutex<State>>);

/// A feed and its other end. `run` has the net thread run a closure; it is called after each change.
pub(super) fn feed(
    run: impl Fn(Box<dyn FnOnce() + Send>) + Send + Sync + 'static,
) -> (BulkFeed, Queue) {
    let state = Arc::new(Mutex::new(State::default()));
    let seen = state.clone();
    let nudge = Box::new(move || {
        let seen = seen.clone();
        run(Box::new(move || wake(&seen)));
    });
    (BulkFeed { state: state.clone(), nudge }, Queue(state))
}

/// Wakes whoever waits for a piece; on the net thread.
fn wake(state: &Mutex<State>) {
    let writer = lock(state).writer.take();
    if let Some(writer) = writer {
        writer.wake();
    }
}

impl BulkFeed {
    /// Queues a piece. What it refers to may change when it is written, or the stream is broken off.
    pub fn push(&self, parts: Vec<Part>) -> Written {
        let (sender, written) = sync_channel(1);
        let mut state = lock(&self.state);
        if !state.over {
            state.pieces.push_back((parts, sender));
        }
        drop(state);
        (self.nudge)();
        written
    }

    /// Nothing follows.
    pub fn finish(self) {
        lock(&self.state).end = Some(End::Finished);
    }
}

impl Drop for BulkFeed {
    fn drop(&mut self) {
        lock(&self.state).end.get_or_insert(End::CalledOff);
        (self.nudge)();
    }
}

impl fmt::Debug for BulkFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkFeed").field("pieces", &lock(&self.state).pieces.len()).finish()
    }
}

impl Queue {
    fn poll_next(&self, cx: &Context<'_>) -> Poll<Result<Piece, End>> {
        let mut state = lock(&self.0);
        match (state.pieces.pop_front(), state.end) {
            // Called off: what is queued is not sent any more.
            (_, Some(End::CalledOff)) => Poll::Ready(Err(End::CalledOff)),
            (Some(piece), _) => Poll::Ready(Ok(piece)),
            (None, Some(end)) => Poll::Ready(Err(end)),
            (None, None) => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.over = true;
        let pieces = std::mem::take(&mut state.pieces);
        drop(state);
        drop(pieces);
    }
}

/// Sends the pieces of one feed over `link`.
pub(super) async fn send(
    hub: Arc<Hub>,
    link: Arc<Link>,
    header: Vec<u8>,
    queue: Queue,
    priority: i32,
    done: DoneGuard,
) {
    let result = send_pieces(&hub, &link, &header, queue, priority).await;
    hub.touch();
    done.call(result.map_err(|why| format!("shipment to n{}: {why}", link.peer)));
}

async fn send_pieces(
    hub: &Arc<Hub>,
    link: &Arc<Link>,
    header: &[u8],
    queue: Queue,
    priority: i32,
) -> Result<(), String> {
    let mut writer = BulkWriter::open(hub, link, header, priority, Vec::new()).await?;
    let mut broken = pin!(writer.broken());
    loop {
        // Heard while there is nothing to write too: what was written may never have been taken.
        let next = poll_fn(|cx| match broken.as_mut().poll(cx) {
            Poll::Ready(why) => Poll::Ready(Err(why)),
            Poll::Pending => queue.poll_next(cx).map(Ok),
        });
        match next.await? {
            Ok((piece, written)) => {
                writer.write(piece).await?;
                // Nobody may be listening any more.
                let _ = written.try_send(());
            }
            Err(End::Finished) => break,
            Err(End::CalledOff) => {
                writer.reset(RESET_CALLED_OFF);
                return Err("it was called off".to_owned());
            }
        }
    }
    writer.finish().await
}
