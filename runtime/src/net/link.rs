//! One connection to one peer, from the handshake to its loss.
//!
//! ```text
//! connect | accept  ->  TLS  ->  hellos  ->  accepts  ->  up  ->  lost
//!                        |         |           |
//!                        certificate refused   duplicate
//!                                  hello refused
//! ```
//!
//! Each side opens one control stream and sends its hello as the first message; nothing else of a
//! peer is read before. A side that likes the other's hello answers with an empty message, one
//! that does not closes the connection with its reason, which the other side gets to see. The link
//! is up when both have accepted.
//!
//! Two nodes that dial each other at once make two connections. The node with the lower number
//! decides: it accepts only one, and the other node takes whatever was accepted. So both end with
//! the same one and no frame is lost on the other. A new connection takes the place of an old one
//! only if the peer's process is another than before (each process draws a random *run* number).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError, SendStream, WriteError};

use super::bulk;
use super::fault::{CLOSE_PROTOCOL, Outcome, describe, failed, lost, unreachable_peer};
use super::framing::{FRAME_LEN_MAX, FrameError, FrameReader, prefix};
use super::greet::greet;
use super::pacer::Pacer;
use super::peers::Hub;
use super::rt::lock;
use super::timer::timeout;

/// Hellos must be through in this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames up to this long are gathered into one write.
const GATHER_FRAME_MAX: usize = 16 << 10;

/// Ahead of all bulk streams, urgent ones too.
const FRAME_PRIORITY: i32 = 2;

/// A connection whose peer is known.
pub(super) struct Link {
    pub(super) peer: u16,
    pub(super) conn: Connection,
    run: u64,
    up: AtomicBool,
    ended: AtomicBool,
    out: Mutex<Outbox>,
    /// The turns of its bulk streams.
    pub(super) pacer: Pacer,
}

#[derive(Default)]
struct Outbox {
    frames: Vec<Vec<u8>>,
    finish: bool,
    finished: bool,
    writer: Option<Waker>,
}

impl Link {
    pub(super) fn new(peer: u16, conn: Connection, run: u64) -> Self {
        Self {
            peer,
            conn,
            run,
            up: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            out: Mutex::default(),
            pacer: Pacer::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether this is the same process of the peer as at the other end of `other`.
    pub(super) fn is_same_run(&self, other: &Self) -> bool {
        self.run == other.run
    }

    /// Marks the link as over; true for the first caller only.
    pub(super) fn set_ended(&self) -> bool {
        !self.ended.swap(true, Ordering::Relaxed)
    }

    /// Queues a frame; the writer sends all that a turn has queued in one go.
    pub(super) fn push(&self, frame: Vec<u8>) {
        let mut out = lock(&self.out);
        out.frames.push(frame);
        if let Some(writer) = out.writer.take() {
            writer.wake();
        }
    }

    /// Lets the writer end when it has sent everything.
    pub(super) fn finish(&self) {
        let mut out = lock(&self.out);
        out.finish = true;
        if let Some(writer) = out.writer.take() {
            writer.wake();
        }
    }

    /// Whether everything queued before [`finish`](Self::finish) has been acknowledged.
    pub(super) fn is_finished(&self) -> bool {
        lock(&self.out).finished || self.has_ended()
    }
}

/// Leads one connection through its life, its handshake taking at most `limit`. Calls the handler.
pub(super) async fn run(
    hub: &Arc<Hub>,
    addr: SocketAddr,
    connecting: Connecting,
    limit: Duration,
) -> Outcome {
    let Some(connected) = timeout(&hub.exec, limit, connecting).await else {
        return unreachable_peer(addr, describe(&ConnectionError::TimedOut));
    };
    let conn = match connected {
        Ok(conn) => conn,
        Err(error) => return failed(addr, &error, None),
    };
    let greeting = timeout(&hub.exec, HELLO_TIMEOUT, greet(hub, addr, conn)).await;
    let (link, tx, mut reader) = match greeting {
        Some(Ok(greeted)) => greeted,
        Some(Err(outcome)) => return outcome,
        None => {
            return unreachable_peer(addr, "it did not say hello in time".to_owned());
        }
    };
    let peer = link.peer;
    link.up.store(true, Ordering::Relaxed);
    hub.touch();
    hub.handler.peer_up(peer, link.conn.remote_address());
    hub.exec.spawn(write(link.clone(), tx));
    hub.exec.spawn(bulk::accept(hub.clone(), link.clone()));
    let (why, orderly) = read(hub, &link, &mut reader).await;
    hub.end(&link, &why);
    Outcome::Lost { peer, orderly }
}

/// Hands frames to the handler until the link is lost; says why it was, and whether the peer
/// closed it in good order.
async fn read(hub: &Hub, link: &Link, reader: &mut FrameReader) -> (String, bool) {
    loop {
        match reader.advance(FRAME_LEN_MAX).await {
            Ok(true) => {
                // The link may have been given up while its bytes were on the way.
                if link.has_ended() {
                    return ("it was given up".to_owned(), false);
                }
                hub.touch();
                hub.handler.frame(link.peer, reader.frame());
            }
            // The peer has said all it has to say, and closes next.
            Ok(false) => return lost(&link.conn.closed().await),
            Err(FrameError::Read(quinn::ReadError::ConnectionLost(error))) => return lost(&error),
            Err(error) => {
                let why = match error {
                    FrameError::Oversize { len, limit } => {
                        format!("a frame of {len} bytes is over the limit of {limit}")
                    }
                    FrameError::Truncated => "the control stream ended inside a frame".to_owned(),
                    FrameError::Read(error) => error.to_string(),
                };
                link.conn.close(CLOSE_PROTOCOL, why.as_bytes());
                return (why, false);
            }
        }
    }
}

/// Sends queued frames; ends with the link or when told to finish.
async fn write(link: Arc<Link>, mut tx: SendStream) {
    // What bulk has handed over already goes after what is written here.
    let _ = tx.set_priority(FRAME_PRIORITY);
    while let Some(frames) = next_frames(&link).await {
        let _hold = link.pacer.hold();
        if write_frames(&mut tx, frames).await.is_err() {
            // The reader sees the loss too and reports it.
            return;
        }
    }
    let _ = tx.finish();
    let _ = tx.stopped().await;
    lock(&link.out).finished = true;
}

async fn next_frames(link: &Link) -> Option<Vec<Vec<u8>>> {
    std::future::poll_fn(|cx| {
        let mut out = lock(&link.out);
        if !out.frames.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut out.frames)));
        }
        if out.finish || link.has_ended() {
            return Poll::Ready(None);
        }
        out.writer = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

async fn write_frames(tx: &mut SendStream, frames: Vec<Vec<u8>>) -> Result<(), WriteError> {
    let mut gathered = Vec::new();
    for frame in frames {
        gathered.extend_from_slice(&prefix(frame.len()));
        if frame.len() <= GATHER_FRAME_MAX {
            gathered.extend_from_slice(&frame);
        } else {
            tx.write_chunk(std::mem::take(&mut gathered).into()).await?;
            tx.write_chunk(frame.into()).await?;
        }
    }
    if !gathered.is_empty() {
        tx.write_chunk(gathered.into()).await?;
    }
    Ok(())
}
