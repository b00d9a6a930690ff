//! The sending end of one bulk stream: parts become pieces, each piece a block, packed if that pays
//! (`migrt_proto::pack`), and each block waits for its turn (`migrt_proto::pace`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use migrt_proto::pace::StreamKey;
use migrt_proto::pack::{BLOCK_LEN_MAX, BlockHead, HEAD_LEN_MAX, Packing, Plan, SAMPLE_LEN};
use quinn::{SendStream, StoppedError, WriteError};

use super::bulk::Part;
use super::fault::describe;
use super::framing::prefix;
use super::link::Link;
use super::peers::Hub;
use super::transport;

/// Parts up to this long are gathered into one piece.
const GATHER_PART_MAX: usize = 16 << 10;
/// Bytes that are handed over at a time: what a message, or another stream, may have to wait for.
const PIECE_LEN: usize = 64 << 10;
/// Shorter pieces are not packed.
const PACKED_MIN: usize = 1 << 10;

const _: () = assert!(PIECE_LEN + GATHER_PART_MAX <= BLOCK_LEN_MAX);

/// See the module.
pub(super) struct BulkWriter {
    hub: Arc<Hub>,
    link: Arc<Link>,
    stream: SendStream,
    name: StreamKey,
    /// Ahead of others, and of the limit.
    is_urgent: bool,
    /// What opens the stream, until it goes with the first block.
    start: Bytes,
    packing: Packing,
    /// Where blocks are packed; used again for each.
    packed: Vec<u8>,
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
        let start = [&prefix(header.len()), header].concat().into();
        let is_urgent = priority > 0;
        let (packing, packed) = (Packing::new(), Vec::new());
        let mut writer = BulkWriter { hub, link, stream, name, is_urgent, start, packing, packed };
        writer.write(parts).await?;
        if !writer.start.is_empty() {
            writer.hand_over(Bytes::new()).await?;
        }
        Ok(writer)
    }

    /// Writes parts, short ones gathered.
    pub(super) async fn write(&mut self, parts: Vec<Part>) -> Result<(), String> {
        let mut gathered = Vec::new();
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

    /// How many bytes a second the link carries, by what its transport has seen, or may carry.
    fn link_bytes_per_s(&self) -> u64 {
        let path = self.link.conn.stats().path;
        let under_way = path.cwnd.min(transport::SEND_WINDOW);
        let rtt_us = u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        let carries = under_way.saturating_mul(1_000_000) / rtt_us;
        carries.min(self.hub.limiter.bytes_per_s().unwrap_or(u64::MAX))
    }

    /// Packs bytes into `packed`; how many nanoseconds that took.
    fn pack(&mut self, plain: &[u8]) -> u64 {
        let since = Instant::now();
        self.packed.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
        let len = lz4_flex::block::compress_into(plain, &mut self.packed);
        self.packed.truncate(len.expect("there is room for the worst"));
        u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The head and the bytes of a block.
    fn block(&mut self, piece: Bytes) -> (Bytes, Bytes) {
        let mut head = Vec::with_capacity(HEAD_LEN_MAX);
        if piece.len() >= PACKED_MIN {
            let link = self.link_bytes_per_s();
            let mut plan = self.packing.plan(link);
            if plan == Plan::Sample {
                let sample = &piece[..piece.len().min(SAMPLE_LEN)];
                let ns = self.pack(sample);
                plan = self.packing.sampled(link, sample.len(), self.packed.len(), ns);
            }
            if plan == Plan::Pack {
                let ns = self.pack(&piece);
                if self.packing.packed(piece.len(), self.packed.len(), ns) {
                    let (len, plain_len) = (self.packed.len(), piece.len());
                    self.hub.packed.0.fetch_add(plain_len as u64, Ordering::Relaxed);
                    self.hub.packed.1.fetch_add(len as u64, Ordering::Relaxed);
                    BlockHead::Packed { len, plain_len }.encode(&mut head);
                    return (head.into(), Bytes::copy_from_slice(&self.packed));
                }
            }
        }
        if !piece.is_empty() {
            BlockHead::Plain { len: piece.len() }.encode(&mut head);
        }
        (head.into(), piece)
    }

    /// Hands one piece to the transport, in its turn.
    async fn hand_over(&mut self, piece: Bytes) -> Result<(), String> {
        let (head, body) = self.block(piece);
        let (hub, len) = (&self.hub, head.len() + body.len());
        let mut chunks = [std::mem::take(&mut self.start), head, body];
        let turn = match self.is_urgent {
            true => {
                hub.limiter.charge(len);
                None
            }
            false => Some(self.link.pacer.turn((&hub.exec, &hub.limiter), self.name, len).await),
        };
        let written = self.stream.write_all_chunks(&mut chunks).await;
        drop(turn);
        written.map_err(|error| match error {
            WriteError::Stopped(_) => "the peer broke it off".to_owned(),
            WriteError::ConnectionLost(error) => describe(&error),
            other => other.to_string(),
        })
    }

    /// Ends when the peer breaks the stream off, or the link is lost: why.
    pub(super) fn broken(&self) -> impl Future<Output = String> + 'static {
        let stopped = self.stream.stopped();
        async move { ended(stopped.await).err().unwrap_or_else(|| "it is over".to_owned()) }
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
        ended(self.stream.stopped().await)
    }
}

/// How a stream ended.
fn ended(how: Result<Option<quinn::VarInt>, StoppedError>) -> Result<(), String> {
    match how {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("the peer broke it off".to_owned()),
        Err(StoppedError::ConnectionLost(error)) => Err(describe(&error)),
        Err(other) => Err(other.to_string()),
    }
}
