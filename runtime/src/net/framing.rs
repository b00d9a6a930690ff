//! Messages on a QUIC stream: a little-endian `u32` length, then as many bytes.
//!
//! A length is compared with its limit before anything is allocated for it, and memory grows with
//! the bytes that really come, so that a length alone costs nothing. A message that lies whole in
//! one packet, as most do, is handed out from there without a copy.

use quinn::{Chunk, ReadError, RecvStream};

/// Longest control message, in bytes.
pub const FRAME_LEN_MAX: usize = 64 << 20;

pub(super) const PREFIX_LEN: usize = 4;

/// Reads messages from one stream.
pub(super) struct FrameReader {
    stream: RecvStream,
    chunk: Option<Chunk>,
    /// How much of `chunk` is used up.
    used: usize,
    /// A message that came in pieces, with its prefix.
    partial: Vec<u8>,
    /// Where the current message lies: in `partial` or in `chunk`.
    current: Current,
}

#[derive(Clone, Copy)]
enum Current {
    None,
    Partial,
    Chunk { start: usize, end: usize },
}

/// Why no message could be read.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The peer announced a message longer than allowed.
    Oversize { len: usize, limit: usize },
    /// The stream ended inside a message.
    Truncated,
    /// The stream or its connection is lost.
    Read(ReadError),
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, chunk: None, used: 0, partial: Vec::new(), current: Current::None }
    }

    /// Goes on to the next message, of at most `limit` bytes; false at the stream's end.
    pub(super) async fn advance(&mut self, limit: usize) -> Result<bool, FrameError> {
        if matches!(self.current, Current::Partial) {
            self.partial.clear();
            // A single huge message must not keep its memory for ever.
            self.partial.shrink_to(1 << 20);
        }
        self.current = Current::None;
        loop {
            if let Some(current) = self.take_from_chunk(limit)? {
                self.current = current;
                return Ok(true);
            }
            // Not kept while it waits: it is part of a batch of packets, and whatever else has come with
            // them stays in memory for as long. If that was a task's pages, they would look like
            // references to what the task has left.
            self.chunk = None;
            self.chunk =
                self.stream.read_chunk(usize::MAX, true).await.map_err(FrameError::Read)?;
            self.used = 0;
            if self.chunk.is_none() {
                return if self.partial.is_empty() {
                    Ok(false)
                } else {
                    Err(FrameError::Truncated)
                };
            }
        }
    }

    /// The message that [`advance`](Self::advance) found.
    pub(super) fn frame(&self) -> &[u8] {
        match (self.current, &self.chunk) {
            (Current::Partial, _) => &self.partial[PREFIX_LEN..],
            (Current::Chunk { start, end }, Some(chunk)) => &chunk.bytes[start..end],
            _ => &[],
        }
    }

    /// The bytes after the current message that have come already, and the stream for the rest.
    pub(super) fn rest(&mut self) -> (&[u8], &mut RecvStream) {
        let rest = self.chunk.as_ref().map_or(&[][..], |chunk| &chunk.bytes[self.used..]);
        (rest, &mut self.stream)
    }

    /// The stream, behind the bytes that have come; these are dropped.
    pub(super) fn rest_of_stream(&mut self) -> &mut RecvStream {
        self.chunk = None;
        self.current = Current::None;
        &mut self.stream
    }

    /// Uses up what is left of the chunk; the next message's place if it is complete.
    fn take_from_chunk(&mut self, limit: usize) -> Result<Option<Current>, FrameError> {
        let Some(chunk) = &self.chunk else {
            return Ok(None);
        };
        let bytes = &chunk.bytes;
        if self.partial.is_empty() {
            let start = self.used + PREFIX_LEN;
            if let Some(prefix) = bytes.get(self.used..start) {
                let end = start + length(prefix, limit)?;
                if end <= bytes.len() {
                    self.used = end;
                    return Ok(Some(Current::Chunk { start, end }));
                }
            }
        }
        while self.used < bytes.len() {
            let want = match self.partial.get(..PREFIX_LEN) {
                None => PREFIX_LEN,
                Some(prefix) => PREFIX_LEN + length(prefix, limit)?,
            };
            let take = (want - self.partial.len()).min(bytes.len() - self.used);
            self.partial.extend_from_slice(&bytes[self.used..self.used + take]);
            self.used += take;
            if self.is_complete(limit)? {
                return Ok(Some(Current::Partial));
            }
        }
        Ok(None)
    }

    fn is_complete(&self, limit: usize) -> Result<bool, FrameError> {
        match self.partial.get(..PREFIX_LEN) {
            None => Ok(false),
            Some(prefix) => Ok(self.partial.len() == PREFIX_LEN + length(prefix, limit)?),
        }
    }
}

/// The prefix of a message of `len` bytes.
pub(super) fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    u32::try_from(len).expect("lengths are checked when a message is handed in").to_le_bytes()
}

fn length(prefix: &[u8], limit: usize) -> Result<usize, FrameError> {
    let bytes: [u8; PREFIX_LEN] = prefix.try_into().expect("a prefix has four bytes");
    let len = u32::from_le_bytes(bytes) as usize;
    if len > limit { Err(FrameError::Oversize { len, limit }) } else { Ok(len) }
}
