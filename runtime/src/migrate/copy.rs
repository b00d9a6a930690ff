//! What an arriving task has taken of this node so far: slots, and what it left here before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use migrt_iso::pool::{self, Conflict};
use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{PageSet, Run, Section, SectionKind};
use migrt_proto::wire::ShipSlot;
use migrt_proto::{SlotRef, TaskId};

use super::installer::{self, Installer};
use super::lacking::Lacking;
use super::over::Over;
use super::pages::pages_of;
use super::remains::shelf::{self, Shelved};
use super::remains::{self, Kept, Merge, number_of};
use super::{plan, watch};
use crate::cluster::Cluster;
use crate::net::Hurry;
use crate::task::mobile;
use crate::task::promise::SlotPromise;

/// How long an arriving task waits for the release of its own old copy.
const RELEASE_PATIENCE: Duration = Duration::from_millis(50);

/// What has been taken for the copy so far.
#[derive(Debug, Default)]
pub(super) struct Copy {
    /// Slots that were adopted, the task slot first.
    pub(super) slots: Vec<SlotId>,
    /// Under which name it would have left remains here.
    pub(super) remains: Option<TaskId>,
    /// What the task left here when it was here before.
    pub(super) kept: Option<Kept>,
    /// The same, once pages come over it.
    pub(super) merge: Option<Merge>,
    /// What was kept for its return, since nothing here reaches it.
    pub(super) shelved: Option<Shelved>,
    /// The same, once pages come over it.
    pub(super) over: Option<Over>,
    /// Pages that the source took for kept, and that have not come instead.
    pub(super) lost: PageSet,
    /// How many there were.
    pub(super) lost_count: u64,
    /// Another task has left something where this one is to lie.
    meets_remains: bool,
    /// The stream has ended: what is lost is all that is awaited.
    pub(super) is_streamed: bool,
    /// Of the slot of a task that has not started.
    pub(super) promise: Option<SlotPromise>,
    /// Rounds have brought pages.
    has_rounds: bool,
    /// The last of them may come at any time.
    hurry: Option<Hurry>,
    /// Pages that rounds have said will follow, and of which nothing is here.
    announced: PageSet,
    /// Post-copy: what follows.
    pub(super) lacking: Option<Arc<Lacking>>,
}

impl Copy {
    /// Of a task that may have been here before, and would have left remains under this name.
    pub(super) fn of(name: TaskId) -> Copy {
        let kept = remains::take(name);
        let shelved = if kept.is_none() { shelf::take(name) } else { None };
        Copy { kept, shelved, remains: Some(name), ..Copy::default() }
    }

    /// The slots are another node's, and stay so; remains stay remains.
    pub(super) fn undo(self) {
        if let Some(lacking) = &self.lacking {
            lacking.close();
        }
        let kept = self.kept.or(self.merge.map(Merge::undo));
        let shelved = self.shelved.or(self.over.map(Over::undo));
        let has = |slots: Option<&Vec<SlotId>>, slot: SlotId| {
            slots.is_some_and(|all| all.contains(&slot))
        };
        for slot in self.slots {
            let is_kept = has(kept.as_ref().map(|kept| &kept.slots), slot)
                || has(shelved.as_ref().map(|shelved| &shelved.slots), slot);
            if !is_kept {
                pool::global().release(slot);
            }
        }
        if let Some(kept) = kept {
            remains::put_back(kept);
        }
        if let Some(shelved) = shelved {
            shelf::put_back(shelved);
        }
    }

    /// The last section has named all pages that come; these do not, since the source takes them for
    /// kept. `told` is one hash of all their hashes.
    pub(super) fn keep(&mut self, same: PageSet, told: u128) {
        if let Some(over) = &mut self.over {
            self.lost = over.settle(&same, told, &self.slots);
        } else if self.merge.as_mut().is_none_or(|merge| !merge.keep(&same, told)) {
            self.lost = same;
        }
        self.lost_count = self.lost.len();
    }

    /// Whether it cannot come for what another task has left here.
    pub(super) fn meets_remains(&self) -> bool {
        self.meets_remains
    }

    /// Takes the slots of a section that are not taken yet, and prepares the first.
    pub(super) fn take(&mut self, section: &Section) -> Result<(), String> {
        let is_first = self.slots.is_empty();
        for (at, item) in section.slots.iter().enumerate() {
            let slot = SlotId::from_raw(item.slot.0)
                .ok_or_else(|| format!("{:#x} is no slot", item.slot.0))?;
            if self.slots.contains(&slot) {
                continue;
            }
            if is_first && at == 0 && slot.class() < crate::task::header::TASK_CLASS {
                return Err(format!("{slot} is too short for a task slot"));
            }
            self.take_over(slot, self.remains.unwrap_or(section.task))?;
            self.slots.push(slot);
        }
        if is_first
            && let Some(&slot) = self.slots.first()
            && !mobile::install_guard(slot)
        {
            return Err(format!("the guard of {slot} cannot be installed"));
        }
        // The slots are taken: whoever left them here has been let go, with what watches them.
        watch::end_lingering(&self.slots);
        if let Some(kept) = self.kept.take() {
            if !is_first {
                self.kept = Some(kept);
                return Err("remains turned up in the middle of a shipment".to_owned());
            }
            let mut merge = Merge::new(kept);
            if section.kind != SectionKind::Rest && section.kind != SectionKind::Head {
                // The task runs still, and there is time; the node may write to what is not copied yet.
                merge.copy_all();
            }
            self.merge = Some(merge);
        }
        if let Some(shelved) = self.shelved.take() {
            if !is_first {
                self.shelved = Some(shelved);
                return Err("remains turned up in the middle of a shipment".to_owned());
            }
            self.over = Some(Over::new(shelved));
        }
        if let Some(over) = &mut self.over {
            for list in [&section.slots, &section.zero] {
                over.writes(&pages_of(list).ok_or("a section names pages that are none")?);
            }
        }
        Ok(())
    }

    /// Whether pages may follow the task: missing ones can be served here, and it does not come over its
    /// own remains, which are compared with all of its pages.
    pub(super) fn can_follow(&self) -> bool {
        self.merge.is_none() && plan::can_fault()
    }

    /// A section of rounds: what it brings is here, what it clears will follow or is dead.
    pub(super) fn announce(
        &mut self,
        cluster: &'static Cluster,
        section: &Section,
    ) -> Result<(), String> {
        const BAD: &str = "a section names pages that are none";
        let is_ours = |item: &ShipSlot| self.slots.iter().any(|slot| slot.raw() == item.slot.0);
        if !section.zero.iter().all(is_ours) {
            return Err("a section clears pages of another task".to_owned());
        }
        self.has_rounds = true;
        if self.hurry.is_none() {
            self.hurry = cluster.hurry();
        }
        self.let_go(&section.zero)?;
        self.announced.add_all(&pages_of(&section.zero).ok_or(BAD)?);
        if !self.announced.is_empty() {
            self.announced.remove_all(&pages_of(&section.slots).ok_or(BAD)?);
        }
        Ok(())
    }

    /// Checks that pages that follow lie where pages of the task can lie, and gives up what rounds have
    /// brought of them, or the task has left there: be it zeros, which nobody keeps, a page that is there is
    /// not fetched on a fault. Remains stay as they are: the node uses them, and all pages come before the
    /// task runs.
    fn let_go(&self, pages: &[ShipSlot]) -> Result<(), String> {
        let task_slot = self.slots.first().map(|slot| SlotRef(slot.raw()));
        if (self.has_rounds || self.over.is_some()) && self.merge.is_none() {
            installer::clear(task_slot, pages, None)
        } else {
            Installer::new(task_slot, pages).map(drop)
        }
    }

    /// Behind the head: what follows it, `listed` by it or announced by rounds. Nothing of that is here
    /// afterwards.
    pub(super) fn missing(&self, head: &Section, listed: &[ShipSlot]) -> Result<PageSet, String> {
        const BAD: &str = "a head names pages that are none";
        let is_ours = |item: &ShipSlot| self.slots.iter().any(|slot| slot.raw() == item.slot.0);
        if !listed.iter().all(is_ours) {
            return Err("a head names missing pages of another task".to_owned());
        }
        self.let_go(listed)?;
        let mut missing = PageSet::new();
        for slot in &self.slots {
            let whole = Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64);
            missing.add_all(&self.announced.within(whole));
        }
        if !missing.is_empty() {
            missing.remove_all(&pages_of(&head.slots).ok_or(BAD)?);
            missing.remove_all(&pages_of(&head.zero).ok_or(BAD)?);
        }
        missing.add_all(&pages_of(listed).ok_or(BAD)?);
        Ok(missing)
    }

    /// The last section names all slots of the task: others were given up meanwhile, nothing of it
    /// lives in them.
    pub(super) fn drop_others(&mut self, section: &Section) {
        let is_named = |slot: &SlotId| section.slots.iter().any(|item| item.slot.0 == slot.raw());
        let dropped: Vec<SlotId> = self.slots.extract_if(.., |slot| !is_named(slot)).collect();
        for slot in dropped {
            if let Some(merge) = &mut self.merge {
                merge.drop_slots(|&kept| kept != slot);
            }
            pool::global().release(slot);
        }
        if let Some(merge) = &mut self.merge {
            for slot in merge.drop_slots(is_named) {
                pool::global().unkeep(slot);
            }
        }
        if let Some(over) = &mut self.over {
            over.drop_slots(is_named);
        }
    }

    /// Adopts a slot. A task that comes back at once may find its old copy still here, its release
    /// ordered but not carried out yet by the thread that works on it: that is waited for. Another
    /// task's remains are looked at soon: mostly nothing reaches them any more.
    fn take_over(&mut self, slot: SlotId, task: TaskId) -> Result<(), String> {
        let patience = Instant::now() + RELEASE_PATIENCE;
        loop {
            let adopted = match self.is_own(slot) {
                true => pool::global().adopt_over_remains(slot),
                false => pool::global().adopt(slot),
            };
            match adopted {
                Ok(()) => return Ok(()),
                Err(Conflict::InUse(_)) if Instant::now() < patience => std::thread::yield_now(),
                Err(Conflict::Remains(_)) if shelf::drop_slot_of_other(slot, task) => {}
                Err(Conflict::Remains(_))
                    if !self.has_old()
                        && !remains::are_of_other(slot, task)
                        && Instant::now() < patience =>
                {
                    // Its own, kept just now.
                    self.kept = remains::take(task);
                    if self.kept.is_none() {
                        self.shelved = shelf::take(task);
                    }
                }
                Err(conflict) => {
                    if matches!(conflict, Conflict::Remains(_)) {
                        self.meets_remains = true;
                        remains::look_soon();
                    }
                    return Err(conflict.to_string());
                }
            }
        }
    }

    /// Whether there is anything of the task here from before, not written over yet.
    fn has_old(&self) -> bool {
        self.kept.is_some() || self.shelved.is_some() || self.over.is_some() || self.merge.is_some()
    }

    /// Whether the slot holds what the task has left here.
    fn is_own(&self, slot: SlotId) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.slots.contains(&slot))
            || self.shelved.as_ref().is_some_and(|shelved| shelved.slots.contains(&slot))
            || self.over.as_ref().is_some_and(|over| over.has(slot))
    }
}
