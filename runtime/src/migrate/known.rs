//! What the pages of a task that came here hash to, as long as it stays: so that it can leave again for
//! where it has been and bring only what it changed, without all of its pages being read while it stands
//! still.
//!
//! ```text
//! arrives   a little later its heap is watched, and hashed while it runs
//! writes    the kernel notes the page                                       (`watch`)
//! freezes   what was written since is known no longer                       [`Known::settle`]
//! ```
//!
//! A page is hashed after it was armed. So either its hash holds, or it is dirty (rule 1 of
//! `migrt_iso::track`). Only where the kernel notes writes by itself: elsewhere watched memory breaks
//! system calls, and a task is hashed at its freeze.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrt_iso::track::Tracker;
use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{Page, PageHash, PageSet};
use migrt_proto::{NodeId, TaskId};

use super::pages::run_of;
use super::rounds::Checkpoint;
use super::watch::{self, Watch};
use super::{Manifest, hash, later, mobile};
use crate::cluster::cluster;
use crate::task::record::TaskRef;

/// Tasks that stay for less are not worth it.
const STAYS: Duration = Duration::from_millis(40);
/// Shorter ones are hashed at their freeze.
const LONG: u64 = 1 << 20;
/// Pages hashed while whoever freezes the task has to wait: some 20 us.
const BATCH: usize = 64;
/// The target was not asked in vain if it had one page in so many.
const WORTH_IT: u64 = 8;
/// Nodes that a task remembers.
const VISITED_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) watch: Arc<Watch>,
    place: Checkpoint,
    /// No more pages are hashed. Set before the lock is asked for, so that nobody waits for all of them.
    is_settled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Ascending.
    hashes: Vec<(Page, PageHash)>,
    /// Written since, or given up.
    void: PageSet,
    gone: BTreeSet<SlotId>,
    is_watching: bool,
}

/// The task has come here from `from`.
pub(super) fn arrived(record: &TaskRef, manifest: &Manifest, from: NodeId) {
    let body = mobile(record);
    let mut journey = body.journey();
    journey.visited = manifest.visited.iter().copied().filter(|&node| node != from).collect();
    journey.visited.push(from);
    let surplus = journey.visited.len().saturating_sub(VISITED_MAX);
    journey.visited.drain(..surplus);
    let (live, same) =
        journey.arrival.as_ref().map_or((0, 0), |arrival| (arrival.live_pages, arrival.same_pages));
    journey.futile = match manifest.has_asked {
        true if same * WORTH_IT < live => manifest.futile + 1,
        true => 0,
        false => manifest.futile,
    };
    let length = live * PAGE_LEN as u64;
    let is_worth_it = length >= LONG
        && crate::node::node().config.keep > 0
        && Tracker::global().is_some_and(Tracker::is_async);
    let header = body.header().filter(|header| is_worth_it && !header.is_parcel());
    let Some(header) = header else { return };
    let place = Checkpoint::of_slots(header);
    let known = Arc::new(Known {
        watch: Arc::default(),
        place,
        is_settled: AtomicBool::new(false),
        state: Mutex::default(),
    });
    journey.known = Some(known.clone());
    drop(journey);
    let task = body.id;
    later::after(STAYS, move || begin(known, task));
}

/// The task has stayed for a while.
fn begin(known: Arc<Known>, task: TaskId) {
    let Some(record) = cluster().resident(task) else { return };
    let body = mobile(&record);
    let is_it = body.any_journey().is_some_and(|journey| {
        let is_its = journey.known.as_ref().is_some_and(|its| Arc::ptr_eq(its, &known));
        is_its && journey.order.is_none()
    });
    if !is_it {
        return;
    }
    if body.is_lacking() {
        return later::after(STAYS, move || begin(known, task));
    }
    drop(record);
    if let Err(why) = known.hash_all() {
        tracing::debug!(%task, why, "its pages are not watched");
    }
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::SeqCst)
    }

    fn settled(&self) -> MutexGuard<'_, State> {
        self.is_settled.store(true, Ordering::SeqCst);
        self.state()
    }

    fn hash_all(&self) -> Result<(), String> {
        watch::end_lingering(&self.place.slots);
        let mut state = self.state();
        if self.is_settled() {
            return Ok(());
        }
        let slots = self.place.slots.iter().filter(|slot| !state.gone.contains(slot));
        let place = Checkpoint { slots: slots.copied().collect(), ..self.place.clone() };
        self.watch.sync(&place)?;
        state.is_watching = true;
        let pages = self.watch.take_dirty()?;
        drop(state);
        let mut left = pages.pages().peekable();
        while left.peek().is_some() {
            // Locked: who has settled this may give the slots away, and pages in them become guards.
            if self.is_settled() {
                return Ok(());
            }
            let mut state = self.state();
            if self.is_settled() {
                return Ok(());
            }
            state.hashes.extend(left.by_ref().take(BATCH).map(|page| (page, hash::of(page))));
        }
        Ok(())
    }

    /// The task is frozen: what was written is void. From now on nothing is hashed.
    pub(super) fn settle(&self) {
        let mut state = self.settled();
        if state.is_watching {
            match self.watch.take_dirty() {
                Ok(dirty) => state.void.add_all(&dirty),
                Err(_) => state.hashes.clear(),
            }
        }
    }

    /// Others watch from now on with what watched so far, if anything did; `dirty` is what they have found
    /// written.
    pub(super) fn hand_over(&self) -> Option<Arc<Watch>> {
        let state = self.settled();
        state.is_watching.then(|| self.watch.clone())
    }

    /// These were written.
    pub(super) fn void(&self, pages: &PageSet) {
        self.state().void.add_all(pages);
    }

    /// The task has given the slot up.
    pub(crate) fn forget(&self, slot: SlotId) {
        let mut state = self.state();
        state.gone.insert(slot);
        state.void.insert(run_of(slot));
        self.watch.forget(slot);
    }

    /// Nothing is watched any more.
    pub(super) fn close(&self) {
        drop(self.settled());
        self.watch.close();
    }

    /// The task is another node's: as [`close`](Self::close), with time.
    pub(super) fn close_later(&self) {
        let state = self.settled();
        match state.is_watching {
            true => watch::end_later(self.watch.clone()),
            false => self.watch.close(),
        }
    }

    /// To look hashes up.
    pub(super) fn read(&self) -> Reading<'_> {
        Reading(self.state())
    }
}

/// Hashes that hold.
pub(super) struct Reading<'a>(MutexGuard<'a, State>);

/// Looks hashes up in ascending order of pages.
pub(super) struct Cursor<'a> {
    state: &'a State,
    at: usize,
}

impl Reading<'_> {
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { state: &self.0, at: 0 }
    }
}

impl Cursor<'_> {
    /// What the page hashes to, if that is known. The pages asked for ascend.
    pub(super) fn get(&mut self, page: Page) -> Option<PageHash> {
        let rest = &self.state.hashes[self.at..];
        // Mostly the very next one.
        self.at += match rest.first() {
            Some(first) if first.0 >= page => 0,
            _ => rest.partition_point(|entry| entry.0 < page),
        };
        let found = self.state.hashes.get(self.at).filter(|entry| entry.0 == page)?;
        self.at += 1;
        (!self.state.void.contains(page)).then_some(found.1)
    }
}
