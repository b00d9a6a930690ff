//! What an arriving task has taken of this node so far: slots, and what it left here before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use migrt_iso::SlotId;
use migrt_iso::pool::{self, Conflict};
use migrt_proto::TaskId;
use migrt_proto::transfer::Section;

use super::lacking::Lacking;
use super::remains::{self, Kept, Merge};
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
    /// Of the slot of a task that has not started.
    pub(super) promise: Option<SlotPromise>,
    /// Post-copy: what follows.
    pub(super) lacking: Option<Arc<Lacking>>,
}

impl Copy {
    /// The slots are another node's, and stay so; remains stay remains.
    pub(super) fn undo(self) {
        if let Some(lacking) = &self.lacking {
            lacking.close();
        }
        let kept = self.kept.or(self.merge.map(Merge::undo));
        for slot in self.slots {
            if kept.as_ref().is_none_or(|kept| !kept.slots.contains(&slot)) {
                pool::global().release(slot);
            }
        }
        if let Some(kept) = kept {
            remains::put_back(kept);
        }
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
            take_over(slot, self.remains.unwrap_or(section.task), &mut self.kept)?;
            self.slots.push(slot);
        }
        if is_first
            && let Some(&slot) = self.slots.first()
            && !mobile::install_guard(slot)
        {
            return Err(format!("the guard of {slot} cannot be installed"));
        }
        if let Some(kept) = self.kept.take() {
            if !is_first {
                self.kept = Some(kept);
                return Err("remains turned up in the middle of a shipment".to_owned());
            }
            self.merge = Some(Merge::new(kept));
        }
        Ok(())
    }

    /// The last section names all slots of the task: others were given up meanwhile, nothing of it
    /// lives in them.
    pub(super) fn drop_others(&mut self, section: &Section) {
        let is_named = |slot: &SlotId| section.slots.iter().any(|item| item.slot.0 == slot.raw());
        let dropped: Vec<SlotId> = self.slots.extract_if(.., |slot| !is_named(slot)).collect();
        for slot in dropped {
            if let Some(merge) = &mut self.merge {
                merge.slots().retain(|&kept| kept != slot);
            }
            pool::global().release(slot);
        }
        if let Some(merge) = &mut self.merge {
            for slot in merge.slots().extract_if(.., |slot| !is_named(slot)) {
                pool::global().unkeep(slot);
            }
        }
    }
}

/// Adopts a slot. A task that comes back at once may find its old copy still here, its release
/// ordered but not carried out yet by the thread that works on it: that is waited for. Another
/// task's remains are looked at again: mostly nothing reaches them any more.
fn take_over(slot: SlotId, task: TaskId, kept: &mut Option<Kept>) -> Result<(), String> {
    let patience = Instant::now() + RELEASE_PATIENCE;
    let mut collected = false;
    loop {
        let adopted = match kept {
            Some(kept) if kept.slots.contains(&slot) => pool::global().adopt_over_remains(slot),
            _ => pool::global().adopt(slot),
        };
        match adopted {
            Ok(()) => return Ok(()),
            Err(Conflict::InUse(_)) if Instant::now() < patience => std::thread::yield_now(),
            Err(Conflict::Remains(_)) if kept.is_none() && Instant::now() < patience => {
                // Its own, kept just now, or another's.
                *kept = remains::take(task);
                if kept.is_none() && !std::mem::replace(&mut collected, true) {
                    remains::collect_if_due();
                }
            }
            Err(Conflict::Remains(_)) if !std::mem::replace(&mut collected, true) => {
                remains::collect_if_due();
            }
            Err(conflict) => return Err(conflict.to_string()),
        }
    }
}
