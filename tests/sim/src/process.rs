//! The model of a driver: one process with its core, its tasks (a task is a counter that grows), and its slots.

use std::collections::{BTreeMap, BTreeSet};

use migrt_proto::{
    Config, Core, Epoch, Fault, Micros, NodeId, Place, TaskId, Token, wire::SlotGrant,
};

use crate::net::ConnId;

/// A task as it is here, or frozen here, or on its way.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) epoch: Epoch,
    pub(crate) steps: u64,
    pub(crate) goal: u64,
    pub(crate) slot: u32,
    pub(crate) frozen: bool,
    /// A freeze was ordered.
    pub(crate) freezing: bool,
    pub(crate) cancel: bool,
    /// The home knows that it is here: what it frees may be used by tasks that leave.
    pub(crate) settled: bool,
    /// The move that is being made of it.
    pub(crate) plan: Option<Plan>,
    /// Its pages that are still at the source of the move that brought it here, one bit each.
    pub(crate) missing: u8,
    pub(crate) source: Option<Place>,
    /// It does not run, and is ended by the task that waits for it.
    pub(crate) is_parcel: bool,
    /// A parcel that it is to take.
    pub(crate) wants: Option<TaskId>,
    /// What is in each of its pages: the number of the last step that wrote there, or `GONE`.
    pub(crate) pages: [u32; PAGES],
}

/// Pages of a task. Step `n` writes page `n % PAGES`.
pub(crate) const PAGES: usize = 6;
/// There is nothing in a page.
pub(crate) const GONE: u32 = u32::MAX;

/// A move as its driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) epoch: Epoch,
    pub(crate) to: NodeId,
    pub(crate) lazy: bool,
    /// The stream of its rounds: the link, where to, and when what was sent last arrives.
    pub(crate) stream: Option<(ConnId, Place, u64)>,
}

/// A task on its way here.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) local: Local,
    pub(crate) conn: ConnId,
    /// Something of it lies in its slot already.
    pub(crate) is_written: bool,
    /// All of it has come.
    pub(crate) is_whole: bool,
    pub(crate) is_ready: bool,
}

impl Local {
    /// The page that a task cannot return without.
    pub(crate) const LAST_PAGE: u8 = 1 << 5;

    pub(crate) fn is_runnable(&self) -> bool {
        !self.frozen
    }

    pub(crate) fn lacks(&self, page: usize) -> bool {
        self.missing & 1 << page != 0
    }

    /// A page that is here and does not hold what the task's last step on it has written.
    pub(crate) fn wrong_page(&self) -> Option<usize> {
        let (pages, steps) = (PAGES as u64, self.steps);
        let last_step = |page| steps.checked_sub(page).map_or(0, |past| steps - past % pages);
        (0..PAGES).find(|&page| {
            !self.lacks(page) && u64::from(self.pages[page]) != last_step(page as u64)
        })
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) core: Core,
    pub(crate) tasks: BTreeMap<TaskId, Local>,
    pub(crate) arriving: BTreeMap<TaskId, Arrival>,
    /// Copies of tasks that run elsewhere and lack pages there.
    pub(crate) serving: BTreeMap<TaskId, (Epoch, Local)>,
    /// Tasks spawned here and neither detached nor taken.
    pub(crate) spawned: BTreeSet<TaskId>,
    pub(crate) waits: BTreeMap<Token, (TaskId, &'static str)>,
    pub(crate) next_token: u64,
    pub(crate) linked: BTreeMap<NodeId, ConnId>,
    pub(crate) paused_until: u64,
    pub(crate) wake_at: u64,
    pub(crate) fault: Fault,
    grants: Vec<SlotGrant>,
    free: Vec<u32>,
    /// Slots of ended tasks whose stay here the home does not know of yet.
    unsettled: BTreeMap<(TaskId, Epoch), u32>,
}

/// Task slots are of this class.
const TASK_CLASS: u8 = 4;

impl Process {
    pub(crate) fn new(place: Place, expected_nodes: u16, try_limit: u64, fault: Fault) -> Process {
        let mut config = Config::new(place, expected_nodes);
        config.try_limit = Micros(try_limit);
        config.fault = fault;
        Process {
            core: Core::new(config),
            tasks: BTreeMap::new(),
            arriving: BTreeMap::new(),
            serving: BTreeMap::new(),
            spawned: BTreeSet::new(),
            waits: BTreeMap::new(),
            next_token: 0,
            linked: BTreeMap::new(),
            paused_until: 0,
            wake_at: u64::MAX,
            fault,
            grants: Vec::new(),
            free: Vec::new(),
            unsettled: BTreeMap::new(),
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.core.me()
    }

    /// Whether mobile tasks may run here: what a worker checks before each resume.
    pub(crate) fn may_run(&self, now: u64) -> bool {
        let leased = match self.core.lease_until() {
            Some(until) => now < until.0 || self.fault == Fault::NeverFence,
            None => self.place().node == NodeId::STARTING,
        };
        leased && now >= self.paused_until
    }

    pub(crate) fn token(&mut self, task: TaskId, what: &'static str) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waits.insert(token, (task, what));
        token
    }

    pub(crate) fn grant(&mut self, slots: &[SlotGrant]) {
        self.grants.extend(slots.iter().filter(|grant| grant.class == TASK_CLASS));
    }

    pub(crate) fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let grant = self.grants.iter_mut().find(|grant| grant.count > 0)?;
        (grant.first, grant.count) = (grant.first + 1, grant.count - 1);
        Some(grant.first - 1)
    }

    /// The task has ended: its slot belongs to this node, and may leave it once the home knows that it was here.
    pub(crate) fn free_slot(&mut self, task: TaskId, local: &Local) {
        if local.settled {
            self.free.push(local.slot);
        } else {
            self.unsettled.insert((task, local.epoch), local.slot);
        }
    }

    pub(crate) fn settled(&mut self, task: TaskId, epoch: Epoch) {
        self.free.extend(self.unsettled.remove(&(task, epoch)));
        if let Some(local) = self.tasks.get_mut(&task).filter(|local| local.epoch == epoch) {
            local.settled = true;
        }
    }

    /// Whether something other than `task` lies in `slot` here.
    pub(crate) fn is_slot_taken(&self, task: TaskId, slot: u32) -> bool {
        let arriving = self.arriving.iter().map(|(task, arrival)| (task, &arrival.local));
        let serving = self.serving.iter().map(|(task, (_, local))| (task, local));
        let mut all = self.tasks.iter().chain(arriving).chain(serving);
        all.any(|(other, local)| *other != task && local.slot == slot)
    }
}
