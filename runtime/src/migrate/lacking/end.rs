//! How it ends: all pages are here, nobody needs the rest, or the source is gone.

use std::sync::Arc;

use migrt_iso::missing::Missing as Kernel;
use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{HotPage, Page, Run};

use super::Lacking;
use super::state::{Stage, State};
use crate::fail;
use crate::migrate::pages::span_of;
use crate::migrate::remains::number_of;
use crate::migrate::{head, sleepers, untied};
use crate::task::body::Doom;
use crate::task::join::Waker;
use crate::task::libc_buffers;
use crate::task::parcel::came;
use crate::task::record::TaskRef;

/// Whose pages were missing: a task, or a parcel that was lent to one.
struct Tenant {
    record: Option<TaskRef>,
    holder: Option<TaskRef>,
}

impl Tenant {
    /// Of a parcel that was lent: it lacks nothing any more.
    fn came(self) {
        if let (Some(parcel), Some(holder)) = (self.record, self.holder)
            && came(&parcel, &holder)
        {
            untied(&holder);
        }
    }
}

impl Lacking {
    /// If all pages are here: nothing is awaited any more, and the task is as free as any.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        if state.stage != Stage::Installed || !state.missing.is_whole() || state.is_settling {
            return;
        }
        state.is_settling = true;
        drop(state);
        fail::point("target.whole");
        // The core first: as soon as the task is free it may be frozen (rule 13 of the hand-off).
        self.cluster.tell(|core, now| core.whole(now, self.task, self.epoch));
        let mut state = self.state();
        if state.stage != Stage::Installed {
            return;
        }
        let tenant = self.give_up(&mut state);
        let counts = state.missing.counts();
        let first = std::mem::take(&mut state.first);
        drop(state);
        self.leave_table();
        tracing::debug!(task = %self.task, ?counts, "whole");
        self.cluster.metrics.followed(self.task, counts);
        self.tell_first(&first);
        if let Some(body) = tenant.record.as_ref().and_then(|record| record.mobile())
            && let Some(arrival) = &mut body.journey().arrival
        {
            arrival.faults = counts.demand_faults + counts.shared_faults;
        }
        match tenant {
            Tenant { record: Some(task), holder: None } => untied(&task),
            lent => lent.came(),
        }
    }

    /// A parcel that lacks pages is `holder`'s to use from now on. `false`: all of it is here.
    ///
    /// # Errors
    /// So many of its pages are lost.
    pub(crate) fn lend(self: &Arc<Lacking>, holder: &TaskRef) -> Result<bool, u64> {
        let mut state = self.state();
        if state.stage == Stage::Over {
            return Ok(false);
        }
        if state.doom.is_some() {
            return Err(state.missing.pages().len());
        }
        holder.mobile().expect("only mobile tasks are lent parcels").lend(self.clone());
        state.holder = Some(holder.clone());
        Ok(true)
    }

    /// Which pages the task has waited for first.
    fn tell_first(&self, first: &[Page]) {
        let first: Vec<HotPage> =
            first.iter().filter_map(|&page| head::hot_page(&self.slots, page)).collect();
        if !first.is_empty() {
            self.cluster.touched_first(self.entry, self.source, &first);
        }
    }

    /// Ends the ranges: pages that are missing still are zeros from now on. Gives whose they are.
    fn give_up(&self, state: &mut State) -> Tenant {
        state.stage = Stage::Over;
        state.unregister_all();
        if let Some(feed) = state.requests.take() {
            feed.finish();
        }
        let tenant = Tenant { record: state.record.take(), holder: state.holder.take() };
        if let Some(body) = tenant.record.as_ref().and_then(|record| record.mobile()) {
            body.set_lacking(None);
        }
        tenant
    }

    /// The copy, or the task, needs no page any more. How many were missing.
    pub(crate) fn close(&self) -> u64 {
        let mut state = self.state();
        let count = state.missing.pages().len();
        let tenant = self.give_up(&mut state);
        let waiters = std::mem::take(&mut state.waiters);
        state.hurry = None;
        let first = std::mem::take(&mut state.first);
        drop(state);
        self.tell_first(&first);
        self.leave_table();
        sleepers::wake();
        drop(waiters);
        tenant.came();
        count
    }

    /// The source is gone for good. Whether every page is here all the same.
    pub(crate) fn source_lost(&self) -> bool {
        self.is_whole() || {
            let node = self.source;
            self.doom(|missing_pages| Doom::SourceLost { node, missing_pages });
            false
        }
    }

    /// The task is not to run on.
    pub(super) fn doom(&self, why: impl FnOnce(u64) -> Doom) {
        let mut state = self.state();
        let lost = state.missing.source_lost();
        let wakers = state.take_wakers(&lost.wake);
        // A parcel's pages are lost to its holder.
        let record = state.holder.clone().or_else(|| state.record.clone());
        let doom = why(lost.missing_count);
        state.doom = Some(doom.clone());
        drop(state);
        if let Some(record) = record {
            record.mobile().expect("only mobile tasks move").set_doom(doom);
            crate::exec::door::wake(record);
        }
        sleepers::wake();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn forget(&self, slot: SlotId) {
        let mut state = self.state();
        let kernel = Kernel::global().expect("a range is registered");
        let ranges = std::mem::take(&mut state.ranges);
        for range in ranges {
            let (addr, len) = span_of(range);
            if slot.contains(addr) {
                let ended = kernel.unregister(addr, len);
                assert!(ended.is_ok(), "a range cannot be unregistered: {ended:?}");
                libc_buffers::ranges_ended(1);
            } else {
                state.ranges.push(range);
            }
        }
        let whole = Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64);
        let dead = state.missing.pages().within(whole);
        let wake = state.missing.dead(&dead);
        let wakers = state.take_wakers(&wake);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.settle();
    }
}
