//! Who works: a few lanes for each node, each a local task that starts one mobile task after the
//! other on its node and waits for it.
//!
//! So each node always has something to do and never more than a few tasks' memory in use,
//! and a node that is slower takes fewer. A task that was lost with its node is started again: it
//! writes the same bytes to the same place, so it may run twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migrt::{JoinError, JoinHandle, NodeId, Output};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::interrupt;
use crate::mover::List;
use crate::progress::Progress;

/// Tasks under way for each worker thread: one runs, others are ready when it ends.
const LANES_PER_WORKER: usize = 3;
/// How often a job is started again after a node died.
const TRIES: usize = 3;
/// How often progress and Ctrl-C are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The nodes and how many tasks each of them gets at a time.
#[derive(Debug)]
pub struct Crew {
    lanes: Vec<NodeId>,
}

/// Jobs to do, results so far, and the first failure; looked at by all lanes.
struct Board<J, T> {
    jobs: VecDeque<(usize, J)>,
    results: Vec<Option<T>>,
    bytes: u64,
    failure: Option<String>,
}

impl Crew {
    /// All live nodes, with `worker_count` worker threads each.
    pub fn new(worker_count: usize) -> Crew {
        let nodes = migrt::nodes();
        let lane_count = nodes.len() * worker_count * LANES_PER_WORKER;
        Crew { lanes: nodes.into_iter().cycle().take(lane_count).collect() }
    }

    /// How many tasks are under way at a time.
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// Runs a task for each job and gives their results in order. `start` spawns one on a node;
    /// `len` is a job's share of the progress; tasks are entered in `list` to be moved.
    ///
    /// # Errors
    /// The first failure of a task, or Ctrl-C.
    pub fn run<J, T>(
        &self,
        jobs: Vec<J>,
        progress: &mut Progress,
        list: Option<&List>,
        len: fn(&J) -> u64,
        start: fn(NodeId, J) -> JoinHandle<Result<T, String>>,
    ) -> Result<Vec<T>, String>
    where
        J: Clone + Send + 'static,
        T: Send + Serialize + DeserializeOwned + 'static,
    {
        let results = jobs.iter().map(|_| None).collect();
        let jobs = jobs.into_iter().enumerate().collect();
        let board = Arc::new(Mutex::new(Board { jobs, results, bytes: 0, failure: None }));
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|&node| {
                let (board, list) = (board.clone(), list.cloned());
                migrt::spawn(move || lane(&board, node, list.as_ref(), len, start))
            })
            .collect();
        while !lanes.iter().all(|lane| lane.is_finished()) {
            migrt::sleep(LOOK_EVERY);
            let mut board = board.lock().unwrap();
            progress.add(std::mem::take(&mut board.bytes));
            if let Err(why) = interrupt::check() {
                board.failure = Some(why);
            }
        }
        for lane in lanes {
            lane.join().map_err(|error| error.to_string())?;
        }
        let mut board = board.lock().unwrap();
        progress.add(std::mem::take(&mut board.bytes));
        match board.failure.take() {
            Some(why) => Err(why),
            None => Ok(board.results.drain(..).map(|r| r.expect("every job was done")).collect()),
        }
    }
}

/// Does jobs until there are none or one has failed.
fn lane<J, T>(
    board: &Mutex<Board<J, T>>,
    node: NodeId,
    list: Option<&List>,
    len: fn(&J) -> u64,
    start: fn(NodeId, J) -> JoinHandle<Result<T, String>>,
) where
    J: Clone,
    T: Serialize + DeserializeOwned + 'static,
{
    loop {
        let (index, job) = {
            let mut board = board.lock().unwrap();
            match board.jobs.pop_front() {
                Some(next) if board.failure.is_none() => next,
                _ => return,
            }
        };
        let bytes = len(&job);
        let result = do_job(node, job, list, start);
        let mut board = board.lock().unwrap();
        match result {
            Ok(done) => {
                board.results[index] = Some(done);
                board.bytes += bytes;
            }
            Err(why) => {
                board.failure.get_or_insert(why);
            }
        }
    }
}

/// Starts a task for the job and waits for it; again elsewhere if its node died.
fn do_job<J, T>(
    node: NodeId,
    job: J,
    list: Option<&List>,
    start: fn(NodeId, J) -> JoinHandle<Result<T, String>>,
) -> Result<T, String>
where
    J: Clone,
    Result<T, String>: Output,
    T: 'static,
{
    let mut tries = 1;
    loop {
        let handle = start(live(node), job.clone());
        let (handle, entered) = match list {
            Some(list) => {
                let (handle, second) = twice(handle);
                (handle, Some(list.enter(second)))
            }
            None => (handle, None),
        };
        let outcome = handle.join();
        drop(entered);
        match outcome {
            Ok(result) => return result,
            Err(JoinError::Lost { .. } | JoinError::NotStarted { .. })
                if tries < TRIES && interrupt::signal().is_none() =>
            {
                tries += 1;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The node, or another one if it died.
fn live(node: NodeId) -> NodeId {
    let nodes = migrt::nodes();
    if nodes.contains(&node) { node } else { nodes[usize::from(node.0) % nodes.len()] }
}

/// A handle is plain data, so a copy can be made of it: one to join, one to move the task with.
fn twice<R>(handle: JoinHandle<R>) -> (JoinHandle<R>, JoinHandle<R>) {
    let bytes = postcard::to_allocvec(&handle).expect("a handle is plain data");
    (postcard::from_bytes(&bytes).expect("encoded above"), handle)
}
