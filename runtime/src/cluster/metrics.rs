//! What the node counts, for its program and its peers.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migrt_iso::{SlotClass, pool};
use migrt_proto::transfer::MissingCounts;
use migrt_proto::wire::MoveRecord;
use migrt_proto::{Epoch, NodeId, TaskId};
use serde::{Deserialize, Serialize};

use super::{Cluster, Reply, channels, cluster};
use crate::exec::door::exec;
use crate::net::Net;
use crate::task::current::{self, wait_until};

/// Pauses kept per node.
const PAUSES: usize = 65_536;
/// Times of faults kept per node.
const FAULTS: usize = 4_096;
/// Records of moves kept per node.
const MOVES: usize = 1024;
const KIND_ASK: u16 = 1;
const KIND_REPLY: u16 = 2;
/// The sender has links to all nodes of the start.
pub(super) const KIND_MESHED: u16 = 3;

/// Counts of one node since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Tasks that left.
    pub moves_out: u64,
    /// Tasks that arrived.
    pub moves_in: u64,
    /// Moves that were asked for and did not happen.
    pub moves_refused: u64,
    /// Bytes of pages sent.
    pub bytes_shipped: u64,
    /// Pages sent.
    pub pages_shipped: u64,
    /// Microseconds from suspension at the source until running here, of the last 65,536 arrivals;
    /// what the wire took on the way is not in it.
    pub pauses_us: Vec<u32>,
    /// The last 1,024 arrivals.
    pub moves: Vec<MoveRecord>,
    /// CPU time of the process in microseconds.
    pub cpu_us: u64,
    /// Mobile tasks that ended here.
    pub tasks_ended: u64,
    /// Pages that tasks which came by post-copy touched before they were here, and that were asked for.
    pub demand_faults: u64,
    /// Microseconds from touching such a page until the task went on, of the last 4,096.
    pub faults_us: Vec<u32>,
    /// Pages that came after such tasks: by the push, and because they were asked for.
    pub pages_pushed: u64,
    /// As `pages_pushed`, for those that were asked for or came along with them.
    pub pages_demanded: u64,
    /// Pages that came twice.
    pub pages_doubled: u64,
    /// Pages of tasks that came here which were not sent, because this node had kept them.
    pub pages_same: u64,
    /// Bytes of departed tasks' pages that this node keeps now.
    pub bytes_kept: u64,
    /// Bytes that left packed, since the link was slow: what they were before.
    pub packed_from_bytes: u64,
    /// And what was sent of them.
    pub packed_to_bytes: u64,
    /// Slots of the region that this node owns.
    pub slots_owned: u64,
    /// Slots that hold something: a stack, a heap, a parcel, copies of pages; or that rest after a task
    /// that travelled. Those that workers keep warm for the next tasks are not among them.
    pub slots_in_use: u64,
}

/// The target has installed so many sections of the rounds of a task.
const KIND_ROUND: u16 = 4;

/// The last so many of some times.
#[derive(Debug, Default)]
struct Ring<const MAX: usize> {
    kept: Vec<u32>,
    /// The oldest one, once it is full.
    next: usize,
}

impl<const MAX: usize> Ring<MAX> {
    fn push(&mut self, value: u32) {
        if self.kept.len() < MAX {
            self.kept.push(value);
        } else {
            self.kept[self.next] = value;
            self.next = (self.next + 1) % MAX;
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    moves_out: AtomicU64,
    moves_in: AtomicU64,
    moves_refused: AtomicU64,
    bytes_shipped: AtomicU64,
    pages_shipped: AtomicU64,
    tasks_ended: AtomicU64,
    demand_faults: AtomicU64,
    pages_pushed: AtomicU64,
    pages_demanded: AtomicU64,
    pages_doubled: AtomicU64,
    pages_same: AtomicU64,
    pauses_us: Mutex<Ring<PAUSES>>,
    faults_us: Mutex<Ring<FAULTS>>,
    moves: Mutex<VecDeque<MoveRecord>>,
}

impl Counters {
    pub(crate) fn left(&self) {
        self.moves_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn shipped(&self, pages: usize, bytes: usize) {
        self.pages_shipped.fetch_add(pages as u64, Ordering::Relaxed);
        self.bytes_shipped.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.moves_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn arrived(&self, record: &MoveRecord) {
        let pause_us = u32::try_from(record.pause_us).unwrap_or(u32::MAX);
        let mut moves = self.moves.lock().unwrap();
        if moves.len() >= MOVES {
            moves.pop_front();
        }
        moves.push_back(record.clone());
        drop(moves);
        self.moves_in.fetch_add(1, Ordering::Relaxed);
        self.pages_same.fetch_add(record.same_pages, Ordering::Relaxed);
        self.pauses_us.lock().unwrap().push(pause_us);
    }

    /// A task has waited for a missing page.
    pub(crate) fn waited(&self, took: Duration) {
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.faults_us.lock().unwrap().push(took_us);
    }

    /// All pages of a task that came by post-copy are here.
    pub(crate) fn followed(&self, task: TaskId, counts: MissingCounts) {
        let mut moves = self.moves.lock().unwrap();
        if let Some(record) = moves.iter_mut().rev().find(|record| record.task == task) {
            record.faults = counts.demand_faults + counts.shared_faults;
        }
        drop(moves);
        self.demand_faults.fetch_add(counts.demand_faults, Ordering::Relaxed);
        self.pages_pushed.fetch_add(counts.by_push, Ordering::Relaxed);
        self.pages_demanded.fetch_add(counts.by_demand, Ordering::Relaxed);
        self.pages_doubled.fetch_add(counts.duplicates, Ordering::Relaxed);
    }

    pub(crate) fn task_ended(&self) {
        self.tasks_ended.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, packed: (u64, u64)) -> Metrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (slots_owned, slots_in_use) = count_slots();
        Metrics {
            moves_out: get(&self.moves_out),
            moves_in: get(&self.moves_in),
            moves_refused: get(&self.moves_refused),
            bytes_shipped: get(&self.bytes_shipped),
            pages_shipped: get(&self.pages_shipped),
            pauses_us: self.pauses_us.lock().unwrap().kept.clone(),
            moves: self.moves.lock().unwrap().iter().cloned().collect(),
            cpu_us: process_cpu_us(),
            tasks_ended: get(&self.tasks_ended),
            demand_faults: get(&self.demand_faults),
            faults_us: self.faults_us.lock().unwrap().kept.clone(),
            pages_pushed: get(&self.pages_pushed),
            pages_demanded: get(&self.pages_demanded),
            pages_doubled: get(&self.pages_doubled),
            pages_same: get(&self.pages_same),
            bytes_kept: crate::migrate::remains::shelf::byte_count(),
            packed_from_bytes: packed.0,
            packed_to_bytes: packed.1,
            slots_owned,
            slots_in_use,
        }
    }
}

/// Slots that the node owns, and of these the ones in use.
fn count_slots() -> (u64, u64) {
    let pool = pool::global();
    let (owned, free) = SlotClass::all().fold((0, 0), |(owned, free), class| {
        (owned + u64::from(pool.owned_count(class)), free + u64::from(pool.free_count(class)))
    });
    (owned, owned.saturating_sub(free + exec().warm_count()))
}

fn process_cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// The counts of this node.
#[must_use]
pub fn metrics() -> Metrics {
    current::decode(&current::on_worker(|_| current::encode(&cluster().read_metrics())))
}

/// The counts of all live nodes, this one included, by node. A node that dies meanwhile is left out.
#[must_use]
pub fn cluster_metrics() -> Vec<(NodeId, Metrics)> {
    let mut all = Vec::new();
    for node in crate::nodes() {
        let mut question = None;
        let found = wait_until(|waker| {
            let cluster = cluster();
            if node == cluster.me() {
                return Some(Some(current::encode(&cluster.read_metrics())));
            }
            let reply =
                cluster.poll_reply(&mut question, waker, Some(node), |core, now, token| {
                    core.send_custom(now, node, KIND_ASK, token.0.to_le_bytes().to_vec());
                })?;
            Some(match reply {
                Reply::Metrics(metrics) => Some(current::encode(&metrics)),
                _ => None,
            })
        });
        all.extend(found.map(|metrics| (node, current::decode(&metrics))));
    }
    all
}

impl Cluster {
    fn read_metrics(&self) -> Metrics {
        self.metrics.read(self.net.get().map_or((0, 0), Net::packed))
    }

    /// Tells the source of an arriving task how many sections of its rounds are here, and whether pages
    /// may follow it.
    pub(crate) fn tell_round(
        &'static self,
        source: NodeId,
        (task, epoch): (TaskId, Epoch),
        sections: u32,
        can_follow: bool,
    ) {
        let notice = (task, epoch, sections, can_follow);
        let bytes = postcard::to_stdvec(&notice).expect("plain numbers encode");
        self.tell(|core, now| core.send_custom(now, source, KIND_ROUND, bytes));
    }

    fn round_installed(
        &self,
        from: NodeId,
        (task, epoch): (TaskId, Epoch),
        sections: u32,
        can_follow: bool,
    ) {
        let record = self.resident(task);
        let body = record.as_ref().and_then(|record| record.mobile());
        if let Some(copying) = body.and_then(|body| body.any_journey()?.copying.clone())
            && (copying.target, copying.epoch) == (from, epoch)
        {
            copying.installed(sections, can_follow);
        }
    }

    pub(super) fn custom(&'static self, from: NodeId, kind: u16, bytes: &[u8]) {
        match (kind, bytes.split_first_chunk::<8>()) {
            (KIND_ASK, Some((token, _))) => {
                let mut reply = token.to_vec();
                let metrics = self.read_metrics();
                reply.extend(postcard::to_stdvec(&metrics).expect("plain numbers encode"));
                self.tell(|core, now| core.send_custom(now, from, KIND_REPLY, reply));
            }
            (KIND_REPLY, Some((token, rest))) => {
                if let Ok(metrics) = postcard::from_bytes(rest) {
                    let token = migrt_proto::Token(u64::from_le_bytes(*token));
                    self.reply(token, Reply::Metrics(metrics));
                }
            }
            (KIND_ROUND, _) => {
                let Ok((task, epoch, sections, can_follow)) = postcard::from_bytes(bytes) else {
                    return;
                };
                self.round_installed(from, (task, epoch), sections, can_follow);
            }
            (super::hot::KIND_HOT, _) => self.hot_told(from, bytes),
            (channels::KIND_ASK, _) => self.channel_ask_came(from, bytes),
            (channels::KIND_ANSWER, _) => self.channel_answer_came(from, bytes),
            (KIND_MESHED, _) => {
                self.meshed.lock().unwrap().insert(from);
            }
            _ => tracing::warn!(from = from.0, kind, "a message of an unknown kind"),
        }
    }
}
