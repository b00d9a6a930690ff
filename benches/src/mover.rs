//! Who moves a working task there and back, and notes when.

use std::time::Duration;

use migrt::{JoinHandle, Method, MoveRecord, NodeId, Strategy};

use crate::clock::machine_ns;
use crate::load::{Done, Load, Wish, ask, work};
use crate::log::{self, Progress};

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// After a check, before what is measured next.
const SETTLE: Duration = Duration::from_millis(20);
/// How often it is asked whether all pages that follow a task are there, and for how long at most.
const FOLLOW: Duration = Duration::from_millis(2);
const FOLLOW_MAX: Duration = Duration::from_secs(20);

/// One move. Times are nanoseconds since the run began.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Begin and end of a time without a move, just before.
    pub rest: (u64, u64),
    pub ordered: u64,
    /// All pages were there, and `migrate_by` had returned.
    pub over: u64,
    pub record: MoveRecord,
    /// Sent by both nodes.
    pub byte_count: u64,
    /// CPU time of both nodes from the order to the end, in microseconds; the task's own work is in it.
    pub cpu_us: u64,
    /// How often the task had moved after it.
    pub moves: u64,
}

impl Hop {
    /// From the order to the end, in microseconds.
    pub fn total_us(&self) -> f64 {
        (self.over - self.ordered) as f64 / 1e3
    }

    /// When the task stood still and when it went on, by its own log.
    pub fn pause(&self, progress: &Progress) -> Option<(u64, u64)> {
        let arrival = progress.arrival(self.moves)?;
        let pause_ns = arrival.gap.max(self.record.pause_us * 1_000);
        Some((arrival.at.saturating_sub(pause_ns), arrival.at))
    }

    /// For how long, in microseconds: what the task saw, or the record if that is more. The task
    /// does not see what fell into a rest of its own; the record leaves out the wire.
    pub fn stood_us(&self, progress: &Progress) -> f64 {
        self.pause(progress)
            .map_or(self.record.pause_us as f64, |(from, to)| (to - from) as f64 / 1e3)
    }
}

pub struct Mover {
    task: JoinHandle<Result<Done, String>>,
    at: NodeId,
    since: u64,
    moves: u64,
}

impl Mover {
    /// Starts the task here. There is one at a time.
    pub fn start(load: Load) -> Result<Mover, Fault> {
        log::clear()?;
        let since = machine_ns();
        let at = migrt::here();
        let task = migrt::spawn_on(at, work(Load { since, ..load }));
        let mover = Mover { task, at, since, moves: 0 };
        mover.ask(Wish::GoOn)?;
        Ok(mover)
    }

    /// Has the task do something, and waits until it has.
    pub fn ask(&self, wish: Wish) -> Result<(), Fault> {
        let asked = migrt::spawn_on(self.at, ask(wish));
        loop {
            if asked.is_finished() {
                return Ok(asked.join()??);
            }
            // One that has ended never answers; `finish` tells why it has.
            if self.task.is_finished() {
                return Ok(());
            }
            migrt::sleep(Duration::from_millis(2));
        }
    }

    pub fn now(&self) -> u64 {
        machine_ns() - self.since
    }

    /// Watches it for so long where it is, then moves it to the other node. Its contents are checked
    /// after that, outside of what is measured.
    pub fn hop(&mut self, strategy: Strategy, rest: Duration) -> Result<Hop, Fault> {
        migrt::sleep(SETTLE);
        let bytes_before = bytes_shipped();
        let begin = self.now();
        migrt::sleep(rest);
        let end = self.now();
        let target = NodeId(1 - self.at.0);
        let (cpu_before, followed_before) = (cpu_us(), pages_followed());
        let ordered = self.now();
        if let Err(why) = self.task.migrate_by(target, strategy) {
            // It may have ended by a fault of its own, which says more.
            return Err(why.into());
        }
        let returned = self.now();
        self.at = target;
        self.moves += 1;
        let record = self.last_move()?;
        let mut over = returned.max(ordered + record.total_us * 1_000);
        if record.method == Method::PostCopy && record.sent_pages > record.rest_pages {
            over = self.followed(followed_before)?;
        }
        let cpu_us = cpu_us() - cpu_before;
        let record = self.last_move()?;
        let byte_count = bytes_shipped() - bytes_before;
        Ok(Hop { rest: (begin, end), ordered, over, record, byte_count, cpu_us, moves: self.moves })
    }

    fn last_move(&self) -> Result<MoveRecord, Fault> {
        Ok(self.task.info()?.last_move.ok_or("the task has no record of its move")?)
    }

    /// Waits until all pages that follow the task are there; when that was.
    fn followed(&self, before: u64) -> Result<u64, Fault> {
        let limit = self.now() + FOLLOW_MAX.as_nanos() as u64;
        while pages_followed() == before {
            if self.now() > limit {
                return Err("pages that are to follow the task do not come".into());
            }
            migrt::sleep(FOLLOW);
        }
        Ok(self.now())
    }

    /// Ends the task, which checks everything once more; what it did, over time.
    pub fn finish(self) -> Result<(Done, Progress), Fault> {
        self.ask(Wish::End)?;
        let done = self.task.join()??;
        Ok((done, Progress::read()?))
    }
}

/// Pages that have followed tasks; of one task they are counted when all are there.
fn pages_followed() -> u64 {
    let nodes = migrt::cluster_metrics();
    nodes.iter().map(|(_, metrics)| metrics.pages_pushed + metrics.pages_demanded).sum()
}

/// CPU time of all nodes, in microseconds.
fn cpu_us() -> u64 {
    migrt::cluster_metrics().iter().map(|(_, metrics)| metrics.cpu_us).sum()
}

/// Bytes sent by all nodes.
pub fn bytes_shipped() -> u64 {
    migrt::cluster_metrics().iter().map(|(_, metrics)| metrics.bytes_shipped).sum()
}
