//! Sending a long frozen task: its pages are copied, looked through and sent piece by piece, so that
//! the wire carries some while others are copied, and each is touched once while the caches have it.
//!
//! ```text
//! freeze     registers, stack, thread-locals looked through                 (a hit refuses)
//! first      the task slot, until no free by others is under way in it
//! pieces     copy | look | send    copy | look | send    …
//! verdict    no word leads out: the stream is finished     else it is broken off, and the move refused
//! ```
//!
//! The end of the stream is the commit, so nothing is committed before the verdict. A word that only looks as if it led out has the whole frozen task scanned as at the freeze
//! of others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{Page, PageSet};
use migrt_proto::wire::{Refusal, ShipHeader, ShipSlot};
use migrt_proto::{Epoch, NodeId};

use super::audit::Suspects;
use super::image::{self, Image};
use super::remains::{Base, Parts};
use super::ship::{NO_SLOT, commit, head_of, manifest, prepare};
use super::{check, mobile, scan_words, slots_of};
use crate::cluster::Cluster;
use crate::config::Audit;
use crate::net::{BulkFeed, Part, Written};
use crate::task::header::Header;
use crate::task::record::TaskRef;
use crate::task::state::Phase;

/// Bytes that are copied, looked through and sent together: the caches hold some of these.
const PIECE_LEN: usize = 256 << 10;
/// Pieces that wait for the wire: enough that it never waits for the next.
const QUEUED: usize = 8;

/// Sends a long frozen task; `shipped` is its base as soon as the target can be ready.
///
/// # Errors
/// There is no slot for the copy, or no wire; or a word leads out of the task.
pub(super) fn ship(
    cluster: &'static Cluster,
    (task, header): (&TaskRef, &Header),
    (epoch, to): (Epoch, NodeId),
    shipped: &mut Option<Arc<Base>>,
) -> Result<(), Refusal> {
    let body = mobile(task);
    prepare(header);
    let (mut copier, image, first);
    loop {
        // Whatever the target has kept is too little to be worth another way.
        let found = image::of(header, &PageSet::new());
        copier = Copier::new(header, &found);
        let mut parts = Vec::new();
        copier.copy_slot(&found.slots[0], &mut |piece| {
            parts.extend(piece);
            Ok(())
        })?;
        copier.note();
        // A free by others is carried out here or kept for the task's return, but never goes along.
        if copier.base.word(header.prefix.arena().remote_list_addr()) == Some(0) {
            (image, first) = (found, parts);
            break;
        }
        body.drain_frees(header);
    }
    let page_count = image.page_count();
    let mut manifest = manifest(body);
    manifest.report.stop_copy(page_count as u64);
    check::take(&mut manifest, header);
    let ship = ShipHeader {
        task: body.id,
        epoch,
        slots: image.slots,
        page_len: PAGE_LEN as u32,
        extra: postcard::to_stdvec(&manifest).expect("plain data encodes"),
    };
    let rest = ship.slots[1..].to_vec();
    let head = head_of(ship).map_err(failed)?;
    let byte_count = page_count * PAGE_LEN + head.len();
    let id = body.id;
    // Why this end breaks the stream off, the core hears from here.
    let is_broken_here = Arc::new(AtomicBool::new(false));
    let is_known = is_broken_here.clone();
    let feed = cluster.open_bulk(to, head, move |result| {
        if let Err(why) = result
            && !is_known.load(Ordering::SeqCst)
        {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
    });
    let feed = feed.ok_or_else(|| failed("this node is alone"))?;
    let mut sender = Sender { feed, queued: VecDeque::new() };
    let sent =
        sender.send(first).and_then(|()| send_rest(task, header, &mut copier, &rest, &mut sender));
    if let Err(why) = sent {
        is_broken_here.store(true, Ordering::SeqCst);
        return Err(why);
    }
    copier.note();
    *shipped = Some(Arc::new(copier.base));
    cluster.metrics.shipped(page_count, byte_count);
    if let Err(why) = commit(cluster, (id, epoch), to) {
        is_broken_here.store(true, Ordering::SeqCst);
        return Err(failed(why));
    }
    sender.feed.finish();
    Ok(())
}

/// Copies and sends the slots behind the first, and looks whether a word leads out of the task.
fn send_rest(
    task: &TaskRef,
    header: &Header,
    copier: &mut Copier,
    rest: &[ShipSlot],
    sender: &mut Sender,
) -> Result<(), Refusal> {
    for slot in rest {
        copier.copy_slot(slot, &mut |piece| {
            is_still_frozen(task)?;
            sender.send(piece)
        })?;
    }
    is_still_frozen(task)?;
    if copier.is_looking && copier.suspects.any_alive(header) {
        scan_words(mobile(task), header)?;
    }
    Ok(())
}

/// A move that is called off lets the task go on: there is nothing more to copy then.
fn is_still_frozen(task: &TaskRef) -> Result<(), Refusal> {
    match task.state.phase() {
        Phase::Frozen => Ok(()),
        _ => Err(failed("it was called off")),
    }
}

fn failed(why: impl Into<String>) -> Refusal {
    Refusal::ShipFailed { why: why.into() }
}

/// What is done with a piece that was copied.
type Seen<'a> = dyn FnMut(Vec<Part>) -> Result<(), Refusal> + 'a;

/// Copies pages into a base and looks through them.
struct Copier {
    base: Base,
    /// Copies that the base does not list yet.
    pages: Vec<(Page, Page)>,
    own: Vec<SlotId>,
    suspects: Suspects,
    is_looking: bool,
    /// Bytes not copied yet.
    left: usize,
}

impl Copier {
    fn new(header: &Header, image: &Image) -> Copier {
        Copier {
            base: Base::default(),
            pages: Vec::new(),
            own: slots_of(header),
            suspects: Suspects::default(),
            // A parcel was looked through, if need be, before it was frozen for this.
            is_looking: crate::node::node().config.audit != Audit::Off && !header.is_parcel(),
            left: image.page_count() * PAGE_LEN,
        }
    }

    /// Copies the pages of a slot; `seen` gets them piece by piece.
    fn copy_slot(&mut self, item: &ShipSlot, seen: &mut Seen<'_>) -> Result<(), Refusal> {
        let base = SlotId::from_raw(item.slot.0).expect("a slot of this node").base();
        let mut parts = Parts::lent();
        let mut byte_count = 0;
        for run in &item.runs {
            let mut from = base + run.first as usize * PAGE_LEN;
            let end = from + run.count as usize * PAGE_LEN;
            while from < end {
                let len = (end - from).min(PIECE_LEN - byte_count);
                self.copy(from, len, &mut parts)?;
                (from, byte_count) = (from + len, byte_count + len);
                if byte_count == PIECE_LEN {
                    seen(std::mem::take(&mut parts.list))?;
                    byte_count = 0;
                }
            }
        }
        seen(parts.list)
    }

    fn copy(&mut self, from: usize, len: usize, parts: &mut Parts) -> Result<(), Refusal> {
        let Copier { base, pages, own, suspects, .. } = self;
        let look = &mut |from, copy, len| suspects.look(own, from, copy, len);
        let seen: &mut dyn FnMut(usize, usize, usize) =
            if self.is_looking { look } else { &mut |_, _, _| () };
        let copied = base.copy_new(from, len, self.left, (parts, pages), seen);
        self.left -= len;
        copied.ok_or_else(|| failed(NO_SLOT))
    }

    fn note(&mut self) {
        self.base.note(std::mem::take(&mut self.pages));
    }
}

/// The stream, and the pieces that wait for it.
struct Sender {
    feed: BulkFeed,
    queued: VecDeque<Written>,
}

impl Sender {
    fn send(&mut self, piece: Vec<Part>) -> Result<(), Refusal> {
        if self.queued.len() == QUEUED
            && let Some(oldest) = self.queued.pop_front()
        {
            // The stream is broken off, and whoever did that has told why.
            oldest.recv().map_err(|_| failed("the stream was broken off"))?;
        }
        self.queued.push_back(self.feed.push(piece));
        Ok(())
    }
}
