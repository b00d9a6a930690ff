//! Bulk streams: pages, one QUIC stream for each shipment.
//!
//! A stream of its own keeps a large shipment from holding up control frames and other shipments.
//! It begins with a header, framed like a control message, and goes on with blocks of bytes, plain or
//! packed, to its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn::{ReadError, VarInt};

use super::fault::describe;
use super::framing::{FrameError, FrameReader};
use super::handler::BulkSink;
use super::link::Link;
use super::peers::Hub;
use super::unpack::Unpacker;
use super::writer::BulkWriter;

/// Longest header of a bulk stream, in bytes.
pub const BULK_HEADER_LEN_MAX: usize = 1 << 20;

/// Called once when a shipment is over: `Ok` when the peer's transport has acknowledged every
/// byte (which does not say that the peer's sink liked them).
pub type BulkDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A run of bytes to ship.
pub enum Part {
    /// Given away: sent without another copy.
    Owned(Vec<u8>),
    /// Kept unchanged by its owner until it was written: copied once, piece by piece, as the peer takes
    /// it.
    Shared(Box<dyn AsRef<[u8]> + Send + Sync>),
    /// Kept unchanged by its owner until the value is dropped, which is when the peer's transport has
    /// acknowledged it or the stream was broken off: sent without another copy.
    Lent(Bytes),
}

const STOP_REFUSED: VarInt = VarInt::from_u32(1);

impl Part {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(owner) => (**owner).as_ref(),
            Self::Lent(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Part {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} bytes)", self.bytes().len())
    }
}

/// Calls `done` exactly once, also when the net thread ends before the shipment does.
pub(super) struct DoneGuard(Option<BulkDone>);

impl DoneGuard {
    pub(super) fn new(done: BulkDone) -> Self {
        Self(Some(done))
    }

    pub(super) fn call(mut self, result: Result<(), String>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for DoneGuard {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err("this node's wire was closed".to_owned()));
        }
    }
}

/// Sends one shipment over `link`.
pub(super) async fn send(
    hub: Arc<Hub>,
    link: Arc<Link>,
    header: Vec<u8>,
    parts: Vec<Part>,
    done: DoneGuard,
) {
    let _flushing = Flushing::new(hub.clone());
    let result = send_stream(&hub, &link, &header, parts).await;
    hub.touch();
    done.call(result.map_err(|why| format!("shipment to n{}: {why}", link.peer)));
}

async fn send_stream(
    hub: &Arc<Hub>,
    link: &Arc<Link>,
    header: &[u8],
    parts: Vec<Part>,
) -> Result<(), String> {
    BulkWriter::open(hub, link, header, 0, parts).await?.finish().await
}

/// Takes bulk streams of `link` until it is lost.
pub(super) async fn accept(hub: Arc<Hub>, link: Arc<Link>) {
    while let Ok(stream) = link.conn.accept_uni().await {
        let (hub, link) = (hub.clone(), link.clone());
        hub.exec.clone().spawn(async move {
            if let Err(why) = receive(&hub, &link, FrameReader::new(stream)).await {
                tracing::warn!(peer = link.peer, why, "a bulk stream was broken off");
            }
        });
    }
}

async fn receive(hub: &Hub, link: &Link, mut reader: FrameReader) -> Result<(), String> {
    match reader.advance(BULK_HEADER_LEN_MAX).await {
        Ok(true) => {}
        Ok(false) | Err(FrameError::Truncated) => return Err("it ended inside its header".into()),
        Err(FrameError::Oversize { len, limit }) => {
            let _ = reader.rest().1.stop(STOP_REFUSED);
            return Err(format!("its header of {len} bytes is over the limit of {limit}"));
        }
        Err(FrameError::Read(error)) => return Err(error.to_string()),
    }
    // QUIC hands out what it has received of a connection that has ended, too. The protocols above were told that
    // nothing comes of it any more (rule 16 of the hand-off).
    if link.has_ended() {
        return Err("its link was given up".into());
    }
    hub.touch();
    let mut sink = SinkGuard(Some(hub.handler.bulk_open(link.peer, reader.frame())));
    let mut blocks = Unpacker::default();
    let mut result = blocks.take(reader.rest().0, &mut |bytes| sink.chunk(bytes));
    // The stream may stay open for long, and what came beside its first bytes with it.
    let stream = reader.rest_of_stream();
    while result.is_ok() {
        // An array of empty buffers of the type that quinn wants.
        let mut bufs: [_; 32] = Default::default();
        let count = match stream.read_chunks(&mut bufs).await {
            Ok(Some(count)) => count,
            Ok(None) => {
                hub.touch();
                if !blocks.is_at_end() {
                    return Err("it ended inside a block".to_owned());
                }
                sink.end(true);
                return Ok(());
            }
            Err(error) => {
                hub.touch();
                return Err(match error {
                    ReadError::ConnectionLost(error) => describe(&error),
                    other => other.to_string(),
                });
            }
        };
        hub.touch();
        let mut chunks = bufs[..count].iter();
        result = chunks.try_for_each(|chunk| blocks.take(chunk, &mut |bytes| sink.chunk(bytes)));
    }
    let _ = stream.stop(STOP_REFUSED);
    result
}

/// Tells the sink of the end also when the task is dropped.
struct SinkGuard(Option<Box<dyn BulkSink>>);

impl SinkGuard {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.0 {
            Some(sink) if !bytes.is_empty() => sink.chunk(bytes),
            _ => Ok(()),
        }
    }

    fn end(mut self, complete: bool) {
        if let Some(sink) = self.0.take() {
            sink.end(complete);
        }
    }
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        if let Some(sink) = self.0.take() {
            sink.end(false);
        }
    }
}

/// Counts a shipment among those that an orderly close waits for.
struct Flushing(Arc<Hub>);

impl Flushing {
    fn new(hub: Arc<Hub>) -> Self {
        hub.shipments.fetch_add(1, Ordering::Relaxed);
        Self(hub)
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        self.0.shipments.fetch_sub(1, Ordering::Relaxed);
    }
}
