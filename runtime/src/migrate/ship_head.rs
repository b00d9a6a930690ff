//! Post-copy: the head of a frozen task is copied and sent, with word of what follows it.
//!
//! ```text
//! without rounds    [ head | manifest: all that is missing ]                     [ chunk ] …
//! after rounds      [ round ] … [ announced: these will follow ]   [ head | manifest: others that follow too ]   [ chunk ] …
//! ```
//!
//! After rounds the target has most pages, some of them in an older version. It lets those go that follow: the
//! announced ones while the task runs still, the few that were written since as the head begins. What was
//! sent in rounds and not written since is there, and counts as sent.

use migrt_iso::PAGE_LEN;
use migrt_proto::transfer::{Push, Section, SectionKind};
use migrt_proto::{Epoch, NodeId};

use super::check;
use super::copying::Copying;
use super::head::{self, Split};
use super::pages::runs_of;
use super::remains::{Base, Parts, number_of};
use super::rounds::{Checkpoint, Sent, by_slot};
use super::serve::{self, Checked, Serving};
use super::ship::{commit, manifest, prepare};
use crate::cluster::Cluster;
use crate::config::Audit;
use crate::task::header::Header;
use crate::task::record::TaskRef;

/// Ships the head of a frozen task, and makes everything ready to push the rest. `rounds` have sent some
/// of it before.
///
/// # Errors
/// There is no slot for the copies, or no wire.
pub(super) fn ship(
    cluster: &'static Cluster,
    (task, header): (&TaskRef, &Header),
    (epoch, to): (Epoch, NodeId),
    rounds: Option<&Copying>,
) -> Result<(), String> {
    prepare(header);
    let body = task.mobile().expect("only mobile tasks move");
    let hot = cluster.hot(header.entry.id);
    let mut work = rounds.map(Copying::work);
    let offer = body.journey().offer.clone();
    let Packed { split, sent, mut base, parts } = loop {
        let (split, sent, base) = match (rounds, &mut work) {
            (Some(rounds), Some(work)) => {
                let (split, sent) = work.last_split(rounds, header, &hot)?;
                (split, sent, std::mem::take(&mut work.base))
            }
            _ => {
                let same = offer.as_ref().map(|offer| offer.same()).unwrap_or_default();
                (head::split(header, &same, &hot), Sent::default(), Base::default())
            }
        };
        if let Some(offer) = offer.as_ref().filter(|_| rounds.is_some()) {
            // What was written since it was found to be the same is open, and comes.
            let open = split.head.union(&split.missing);
            offer.sends(&open, &open);
            offer.end(&Checkpoint::of(header).live);
        }
        let same = offer.as_ref().map(|offer| offer.same()).unwrap_or_default();
        let packed = pack(split, sent, base, same.len())?;
        // As for other shipments: a free by others never goes along.
        let mut lists = header.arenas().map(|arena| arena.arena().remote_list_addr());
        let is_bare = |list| {
            let head = packed.base.word(list);
            head.map_or(same.contains(number_of(list)), |head| head == 0)
        };
        if lists.all(is_bare) {
            break packed;
        }
        body.drain_frees(header);
        if let Some(work) = &mut work {
            work.base = packed.base;
        } else {
            super::compare(body);
        }
    };
    let Split { slots, head, missing, live_pages } = split;
    let mut manifest = manifest(body);
    manifest.report.post_copy(head.len(), missing.len());
    if let Some(offer) = &offer {
        base.note_same(manifest.keeps(offer, &slots));
    }
    if let Some(work) = &work {
        manifest.report.after_rounds(&work.rounds.record(), live_pages, missing.len());
    }
    manifest.missing = by_slot(&slots, &missing.difference(&sent.announced));
    manifest.missing.retain(|item| !item.runs.is_empty());
    manifest.missing_count = missing.len();
    check::take(&mut manifest, header);
    let same = offer.as_ref().map(|offer| offer.same()).unwrap_or_default();
    let section = Section {
        task: header.id,
        epoch,
        kind: SectionKind::Head,
        slots: by_slot(&slots, &head),
        zero: by_slot(&slots, &sent.dead),
        page_len: PAGE_LEN as u32,
        extra: postcard::to_stdvec(&manifest).expect("plain data encodes"),
    };
    let page_count = head.len() as usize;
    let task = serve::Leaving { record: task.clone(), epoch, to, slots };
    let served = serve::Served {
        old: missing.intersection(&sent.known),
        push: Push::over(missing, same, serve::LIMITS),
        base,
        audit: match crate::node::node().config.audit {
            Audit::Off => Checked::All,
            // A parcel was looked through, or need not be.
            _ if header.is_parcel() => Checked::All,
            // A short heap was scanned whole.
            _ if rounds.is_none() && !is_long(header) => Checked::All,
            _ => Checked::Pages,
        },
    };
    let stream = work.as_mut().and_then(|work| work.feed.take());
    drop(work);
    commit(cluster, (header.id, epoch), to)?;
    Serving::begin_stream(cluster, task, served, (section, parts), stream)?;
    if let Some(rounds) = rounds {
        rounds.hurry(cluster);
    }
    cluster.metrics.shipped(page_count, page_count * PAGE_LEN);
    Ok(())
}

/// Heaps from this length on are looked through as they are sent, not at the freeze.
const LONG_HEAP: usize = 2 << 20;

/// Whether to scan the task's heap at the freeze would take too long.
pub(super) fn is_long(header: &Header) -> bool {
    // Not by its pages: to count these takes long for a long heap.
    let mut len = 0;
    header.prefix.arena().for_each_extent(&mut |slot| len += slot.len());
    len > LONG_HEAP
}

/// The head, copied.
struct Packed {
    split: Split,
    sent: Sent,
    base: Base,
    parts: Parts,
}

/// Copies the head of a frozen task, and takes room for the copies of what follows; and of the `same` pages that
/// the target has, in case it turns out that it has not.
fn pack(split: Split, sent: Sent, mut base: Base, same: u64) -> Result<Packed, String> {
    const NO_SLOT: &str = "this node has no slot left to copy the task's pages to";
    let mut parts = Parts::lent();
    let mut left = split.head.len() as usize * PAGE_LEN;
    for item in by_slot(&split.slots, &split.head) {
        for run in runs_of(&item) {
            base.add(run, left, &mut parts).ok_or(NO_SLOT)?;
            left -= run.count as usize * PAGE_LEN;
        }
    }
    // The head's copies lie in a short slot, which may be warm; these in long ones.
    let new = split.missing.difference(&sent.known);
    base.reserve((new.len() + same) as usize * PAGE_LEN).ok_or(NO_SLOT)?;
    Ok(Packed { split, sent, base, parts })
}
