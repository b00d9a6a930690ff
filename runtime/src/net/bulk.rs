//! Bulk streams: pages, one QUIC stream for each shipment.
//!
//! A stream of its own keeps a large shipment from holding up control frames and other shipments.
//! It begins with a header, framed like a control message, and goes on with raw bytes to its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn::{ReadError, SendStream, StoppedError, VarInt, WriteError};

use super::fault::describe;
use super::framing::{FrameError, FrameReader, prefix};
use super::handler::BulkSink;
use super::link::Link;
use super::peers::Hub;

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

/// Parts up to this long are gathered into one write.
const GATHER_PART_MAX: usize = 16 << 10;
const GATHER_MAX: usize = 64 << 10;
/// Bytes of a long part that are written at a time.
const WRITE_LEN: usize = 64 << 10;

const STOP_REFUSED: VarInt = VarInt::from_u32(1);

impl Part {
    fn bytes(&self) -> &[u8] {
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
    let result = send_stream(&link, header, parts).await;
    hub.touch();
    done.call(result.map_err(|why| format!("shipment to n{}: {why}", link.peer)));
}

async fn send_stream(link: &Link, header: Vec<u8>, parts: Vec<Part>) -> Result<(), String> {
    let mut stream = open_stream(link).await?;
    let mut start = Vec::with_capacity(header.len() + GATHER_PART_MAX);
    start.extend_from_slice(&prefix(header.len()));
    start.extend_from_slice(&header);
    write_gathered(&mut stream, start, parts).await.map_err(write_failed)?;
    // Fails only if the stream is closed, which `stopped` then reports.
    let _ = stream.finish();
    stream_ended(&mut stream).await
}

pub(super) async fn open_stream(link: &Link) -> Result<SendStream, String> {
    link.conn.open_uni().await.map_err(|error| describe(&error))
}

pub(super) fn write_failed(error: WriteError) -> String {
    match error {
        WriteError::Stopped(_) => "the peer broke it off".to_owned(),
        WriteError::ConnectionLost(error) => describe(&error),
        other => other.to_string(),
    }
}

/// Waits until the peer's transport has acknowledged all of a finished stream.
pub(super) async fn stream_ended(stream: &mut SendStream) -> Result<(), String> {
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("the peer broke it off".to_owned()),
        Err(StoppedError::ConnectionLost(error)) => Err(describe(&error)),
        Err(other) => Err(other.to_string()),
    }
}

/// Writes parts, short ones gathered.
pub(super) async fn write_parts(
    stream: &mut SendStream,
    parts: Vec<Part>,
) -> Result<(), WriteError> {
    write_gathered(stream, Vec::new(), parts).await
}

async fn write_gathered(
    stream: &mut SendStream,
    mut gathered: Vec<u8>,
    parts: Vec<Part>,
) -> Result<(), WriteError> {
    for part in parts {
        if part.bytes().len() <= GATHER_PART_MAX {
            gathered.extend_from_slice(part.bytes());
            if gathered.len() >= GATHER_MAX {
                stream.write_chunk(std::mem::take(&mut gathered).into()).await?;
            }
            continue;
        }
        if !gathered.is_empty() {
            stream.write_chunk(std::mem::take(&mut gathered).into()).await?;
        }
        match part {
            Part::Owned(bytes) => stream.write_chunk(bytes.into()).await?,
            Part::Lent(bytes) => stream.write_chunk(bytes).await?,
            // Each write is copied to a block of its length at most: those of one length are used
            // again and again, while longer ones would be new memory each time.
            Part::Shared(owner) => {
                for piece in (*owner).as_ref().chunks(WRITE_LEN) {
                    stream.write_all(piece).await?;
                }
            }
        }
    }
    if !gathered.is_empty() {
        stream.write_chunk(gathered.into()).await?;
    }
    Ok(())
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
    hub.touch();
    let mut sink = SinkGuard(Some(hub.handler.bulk_open(link.peer, reader.frame())));
    let (first, stream) = reader.rest();
    let mut result = sink.chunk(first);
    while result.is_ok() {
        // An array of empty buffers of the type that quinn wants.
        let mut bufs: [_; 32] = Default::default();
        let count = match stream.read_chunks(&mut bufs).await {
            Ok(Some(count)) => count,
            Ok(None) => {
                hub.touch();
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
        result = bufs[..count].iter().try_for_each(|bytes| sink.chunk(bytes));
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
