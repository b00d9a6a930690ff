//! Streams of post-copy after its head: chunks of pages to the target, requests and answers to the
//! source. On both, frames follow one another, each behind its length; the first opens the stream.

use std::sync::Arc;

use migrt_proto::NodeId;
use migrt_proto::transfer::{PAGE_FRAME_LEN_MAX, PageFrame, Section};

use super::found;
use super::lacking::{self, Lacking};
use super::serve;
use crate::net::BulkSink;

/// No chunk is longer.
const CHUNK_LEN_MAX: u64 = 8 << 20;

/// Gathers frames: four bytes of length, then the frame.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// Takes bytes up to the end of the next frame; the frame, once it is whole.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<PageFrame>, String> {
        let head = &mut self.0;
        let mut take = |upto: usize, head: &mut Vec<u8>| {
            let len = bytes.len().min(upto.saturating_sub(head.len()));
            head.extend_from_slice(&bytes[..len]);
            *bytes = &bytes[len..];
            head.len() >= upto
        };
        if !take(4, head) {
            return Ok(None);
        }
        let len = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        if len > PAGE_FRAME_LEN_MAX {
            return Err(format!("a frame of {len} bytes between pages"));
        }
        if !take(4 + len, head) {
            return Ok(None);
        }
        let frame = PageFrame::decode(&head[4..]).map_err(|e| e.to_string());
        head.clear();
        frame.map(Some)
    }
}

/// What is done with a chunk: its section, and its pages.
type Seen<'a> = dyn FnMut(&Section, &[u8]) -> Result<(), String> + 'a;

/// Gathers chunks: a section's head, then its pages.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    frames: Frames,
    /// The section whose pages come, and those that have.
    coming: Option<(Section, Vec<u8>)>,
}

impl Chunks {
    /// A stream that begins with this section.
    pub(super) fn begin(section: Section) -> Result<Chunks, String> {
        let mut chunks = Chunks::default();
        chunks.expect(section)?;
        Ok(chunks)
    }

    fn expect(&mut self, section: Section) -> Result<(), String> {
        let len = section.byte_count();
        if len > CHUNK_LEN_MAX || section.page_len as usize != migrt_iso::PAGE_LEN {
            return Err(format!("a chunk of {len} bytes, in pages of {}", section.page_len));
        }
        self.coming = Some((section, Vec::with_capacity(len as usize)));
        Ok(())
    }

    /// Takes bytes, and hands on each chunk that is whole.
    pub(super) fn take(&mut self, mut bytes: &[u8], seen: &mut Seen<'_>) -> Result<(), String> {
        loop {
            if let Some((section, pages)) = &mut self.coming {
                let len = bytes.len().min(section.byte_count() as usize - pages.len());
                pages.extend_from_slice(&bytes[..len]);
                bytes = &bytes[len..];
                if (pages.len() as u64) < section.byte_count() {
                    return Ok(());
                }
                seen(section, pages)?;
                self.coming = None;
            }
            match self.frames.take(&mut bytes)? {
                None => return Ok(()),
                Some(PageFrame::Section(section)) => self.expect(section)?,
                Some(_) => return Err("no section where one is to be".to_owned()),
            }
        }
    }
}

/// Target: a stream of chunks beside the one of the head, or after a break of the link.
struct More {
    lacking: Arc<Lacking>,
    chunks: Chunks,
}

/// Opens it. Chunks that nobody waits for any more are swallowed.
pub(crate) fn chunks(from: NodeId, section: Section) -> Result<Box<dyn BulkSink>, String> {
    match lacking::find(section.task, section.epoch, from) {
        Some(lacking) => {
            let mut more = More { lacking, chunks: Chunks::begin(section)? };
            // It may have no pages.
            more.chunk(&[])?;
            Ok(Box::new(more))
        }
        None => Ok(Box::new(Swallow)),
    }
}

impl BulkSink for More {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        let lacking = &self.lacking;
        self.chunks.take(bytes, &mut |section, pages| lacking.arrived(section, pages))
    }
    fn end(self: Box<Self>, _: bool) {}
}

/// Source: what the target asks for and has got.
struct Requests {
    from: NodeId,
    frames: Frames,
}

/// Opens it; `first` has opened the stream.
pub(crate) fn requests(from: NodeId, first: PageFrame) -> Result<Box<dyn BulkSink>, String> {
    let requests = Requests { from, frames: Frames::default() };
    requests.obey(first)?;
    Ok(Box::new(requests))
}

impl Requests {
    fn obey(&self, frame: PageFrame) -> Result<(), String> {
        match frame {
            PageFrame::Ask(ask) => match serve::find(ask.task, ask.epoch, self.from) {
                Some(serving) => serving.demanded(&ask.asks),
                None => found::find(self.from, ask),
            },
            PageFrame::Ack(ack) => {
                if let Some(serving) = serve::find(ack.task, ack.epoch, self.from) {
                    serving.acked(&ack.chunks);
                }
            }
            PageFrame::Section(_) | PageFrame::Want(_) | PageFrame::Have(_) => {
                return Err("something else where requests are to be".to_owned());
            }
        }
        Ok(())
    }
}

impl BulkSink for Requests {
    fn chunk(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(frame) = self.frames.take(&mut bytes)? {
            self.obey(frame)?;
        }
        Ok(())
    }
    fn end(self: Box<Self>, _: bool) {}
}

/// Opens a stream of bytes that are thrown away.
pub(crate) fn blank() -> Box<dyn BulkSink> {
    Box::new(Swallow)
}

/// Takes what nobody waits for.
pub(super) struct Swallow;

impl BulkSink for Swallow {
    fn chunk(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn end(self: Box<Self>, _: bool) {}
}
