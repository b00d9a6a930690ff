//! The sending end of one bulk stream: parts become pieces, and each piece waits for its turn.

use std::sync::Arc;

use bytes::Bytes;
use migrt_proto::pace::StreamKey;
use quinn::{SendStream, StoppedError, WriteError};

use super::bulk::Part;
use super::fault::describe;
use super::framing::prefix;
use super::link::Link;
use super::peers::Hub;

/// Parts up to this long are gathered into one piece.
const GATHER_PART_MAX: usize = 16 << 10;
/// Bytes that are handed over at a time: what a message, or another stream, may have to wait for.
pub(super) const PIECE_LEN: usize = 64 << 10;

/// See the module.
pub(super) struct BulkWriter {
    hub: Arc<Hub>,
    link: Arc<Link>,
    stream: SendStream,
    name: StreamKey,
    /// Ahead of others, and of the limit.
    is_urgent: bool,
}

impl BulkWriter {
    /// Opens a stream over `link` that begins with `header`.
    pub(super) async fn open(
        hub: &Arc<Hub>,
        link: &Arc<Link>,
        header: &[u8],
        priority: i32,
        parts: Vec<Part>,
    ) -> Result<BulkWriter, String> {
        let stream = link.conn.open_uni().await.map_err(|error| describe(&error))?;
        if priority != 0 {
            // Fails only if the stream is closed, which the first write then reports.
            let _ = stream.set_priority(priority);
        }
        let (hub, link, name) = (hub.clone(), link.clone(), link.pacer.name());
        let mut writer = BulkWriter { hub, link, stream, name, is_urgent: priority > 0 };
        let mut start = Vec::with_capacity(header.len() + GATHER_PART_MAX);
        start.extend_from_slice(&prefix(header.len()));
        start.extend_from_slice(header);
        writer.write_behind(start, parts).await?;
        Ok(writer)
    }

    /// Writes parts, short ones gathered.
    pub(super) async fn write(&mut self, parts: Vec<Part>) -> Result<(), String> {
        self.write_behind(Vec::new(), parts).await
    }

    async fn write_behind(
        &mut self,
        mut gathered: Vec<u8>,
        parts: Vec<Part>,
    ) -> Result<(), String> {
        for part in parts {
            if part.bytes().len() <= GATHER_PART_MAX {
                gathered.extend_from_slice(part.bytes());
                if gathered.len() >= PIECE_LEN {
                    self.hand_over(std::mem::take(&mut gathered).into()).await?;
                }
                continue;
            }
            if !gathered.is_empty() {
                self.hand_over(std::mem::take(&mut gathered).into()).await?;
            }
            match part {
                Part::Owned(bytes) => self.hand_over_all(bytes.into()).await?,
                Part::Lent(bytes) => self.hand_over_all(bytes).await?,
                // Each piece is copied to a block of its length at most: those of one length are used
                // again and again, while longer ones would be new memory each time.
                Part::Shared(owner) => {
                    for piece in (*owner).as_ref().chunks(PIECE_LEN) {
                        self.hand_over(Bytes::copy_from_slice(piece)).await?;
                    }
                }
            }
        }
        if !gathered.is_empty() {
            self.hand_over_all(gathered.into()).await?;
        }
        Ok(())
    }

    async fn hand_over_all(&mut self, mut bytes: Bytes) -> Result<(), String> {
        while bytes.len() > PIECE_LEN {
            let piece = bytes.split_to(PIECE_LEN);
            self.hand_over(piece).await?;
        }
        self.hand_over(bytes).await
    }

    /// Hands one piece to the transport, in its turn.
    async fn hand_over(&mut self, piece: Bytes) -> Result<(), String> {
        let (hub, len) = (&self.hub, piece.len());
        let turn = match self.is_urgent {
            true => {
                hub.limiter.charge(len);
                None
            }
            false => Some(self.link.pacer.turn((&hub.exec, &hub.limiter), self.name, len).await),
        };
        let written = self.stream.write_chunk(piece).await;
        drop(turn);
        written.map_err(|error| match error {
            WriteError::Stopped(_) => "the peer broke it off".to_owned(),
            WriteError::ConnectionLost(error) => describe(&error),
            other => other.to_string(),
        })
    }

    /// Breaks the stream off.
    pub(super) fn reset(&mut self, code: quinn::VarInt) {
        // Fails only if it is closed already.
        let _ = self.stream.reset(code);
    }

    /// Nothing follows: waits until the peer's transport has acknowledged all.
    pub(super) async fn finish(mut self) -> Result<(), String> {
        // Fails only if the stream is closed, which `stopped` then reports.
        let _ = self.stream.finish();
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("the peer broke it off".to_owned()),
            Err(StoppedError::ConnectionLost(error)) => Err(describe(&error)),
            Err(other) => Err(other.to_string()),
        }
    }
}
