//! The heap of a task whose pages are being copied while it runs: which of them it writes.
//!
//! Stack, thread-locals and header are not watched: they are written all the time and always go with
//! the frozen task; so do the headers of arenas that it has adopted. Heap slots come and go while rounds are under way; a slot that the task gives up
//! rests before anybody else uses it (`task::retire`) and is not watched any more by then.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrt_iso::track::Tracker;
use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::transfer::{PageSet, Run};

use super::later;
use super::remains::{addr_of, number_of};
use super::rounds::Checkpoint;
use crate::fail;

/// How long a departed task's pages are watched on: to end it takes the kernel milliseconds that the
/// hand-off needs.
const LINGER: Duration = Duration::from_millis(20);

/// Watches of tasks that have left. To end one takes the registration of its pages away, whoever has
/// made it: so nobody else may watch them, or wait for missing ones, before these have ended.
static LINGERING: Mutex<Vec<Arc<Watch>>> = Mutex::new(Vec::new());

fn lingering() -> MutexGuard<'static, Vec<Arc<Watch>>> {
    LINGERING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a watch a little later.
pub(super) fn end_later(watch: Arc<Watch>) {
    lingering().push(watch);
    let linger = if fail::dawdles("source.lingers") { Duration::from_secs(2) } else { LINGER };
    later::after(linger, || lingering().drain(..).for_each(|watch| watch.close()));
}

/// Ends those that linger in any of these slots now.
pub(super) fn end_lingering(slots: &[SlotId]) {
    // Held until they have ended: who comes second may watch pages too.
    let mut all = lingering();
    for watch in all.extract_if(.., |watch| slots.iter().any(|&slot| watch.has(slot))) {
        watch.close();
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    /// Slots and the watched part of each. Numbers, not addresses: these would be references to what
    /// the task leaves behind.
    watched: BTreeMap<SlotId, Run>,
    /// Nothing is watched any more, nor will be.
    closed: bool,
}

fn tracker() -> &'static Tracker {
    Tracker::global().expect("rounds begin only where pages can be tracked")
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task's slots now: new ones are watched, all their pages dirty.
    ///
    /// # Errors
    /// The kernel's word, or that the rounds are over.
    pub(super) fn sync(&self, stop: &Checkpoint) -> Result<(), String> {
        let mut state = self.lock();
        if state.closed {
            return Err("it was called off".to_owned());
        }
        let run_of = |slot| {
            let (addr, len) = stop.watched_part(slot);
            Run::new(number_of(addr), (len / PAGE_LEN) as u64)
        };
        let now: BTreeMap<SlotId, Run> =
            stop.slots.iter().map(|&slot| (slot, run_of(slot))).collect();
        let is_as_before = |of: &(&SlotId, &Run)| now.get(of.0) == Some(of.1);
        let gone: Vec<SlotId> =
            state.watched.iter().filter(|of| !is_as_before(of)).map(|of| *of.0).collect();
        gone.into_iter().for_each(|slot| state.drop_slot(slot));
        for (&slot, &range) in &now {
            if let Entry::Vacant(place) = state.watched.entry(slot) {
                let (addr, len) = place_of(range);
                tracker().watch_dirty(addr, len).map_err(|error| error.to_string())?;
                place.insert(range);
            }
        }
        Ok(())
    }

    /// The pages written since the last call; they are clean from now on.
    ///
    /// # Errors
    /// As for [`Watch::sync`].
    pub(crate) fn take_dirty(&self) -> Result<PageSet, String> {
        let state = self.lock();
        if state.closed {
            return Err("it was called off".to_owned());
        }
        let mut dirty = PageSet::new();
        for &run in state.watched.values() {
            let (addr, len) = place_of(run);
            tracker()
                .take_dirty(addr, len, &mut |run| {
                    dirty.insert(Run::new(number_of(run.addr), run.count as u64));
                })
                .map_err(|error| error.to_string())?;
        }
        Ok(dirty)
    }

    /// The watched pages that hold memory: those that a first [`Watch::take_dirty`] tells.
    pub(super) fn present(&self) -> PageSet {
        let mut present = PageSet::new();
        for &run in self.lock().watched.values() {
            let (addr, len) = place_of(run);
            page::present_runs(addr, len, &mut |run| {
                present.insert(Run::new(number_of(run.addr), run.count as u64));
            });
        }
        present
    }

    /// Whether pages of the slot are watched.
    pub(crate) fn has(&self, slot: SlotId) -> bool {
        self.lock().watched.contains_key(&slot)
    }

    /// The task has given the slot up.
    pub(crate) fn forget(&self, slot: SlotId) {
        self.lock().drop_slot(slot);
    }

    /// Ends all watching, for good.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let slots: Vec<SlotId> = state.watched.keys().copied().collect();
        slots.into_iter().for_each(|slot| state.drop_slot(slot));
    }
}

/// Address and length.
fn place_of(run: Run) -> (usize, usize) {
    (addr_of(run.first), run.count as usize * PAGE_LEN)
}

impl Slots {
    fn drop_slot(&mut self, slot: SlotId) {
        if let Some(run) = self.watched.remove(&slot) {
            let (addr, len) = place_of(run);
            if let Err(error) = tracker().unwatch(addr, len) {
                tracing::warn!(%error, "a range stays tracked; writes to it are slower");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}
