//! This process as a node: started once, in the order that the facts demand, and ended once.
//!
//! ```text
//! before any thread   secret (canary, pointer guard), region, thread layout, entries
//! then                thread ids, slots, workers, links to the others
//! node 0              starts the children, waits for all, runs `main` as a local task
//! the others          serve until node 0 says that the program is over
//! ```

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use migrt_iso::{Region, SlotClass};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::entry;
use crate::error::{Error, Kind, Result};
use crate::exec::idle::Idle;
use crate::exec::queue::{Exec, Shared};
use crate::exec::timer::Timers;
use crate::exec::worker::Worker;
use crate::machine::Image;
use crate::net::Identity;
use crate::task::record::TaskRef;
use crate::task::tls::TlsError;
use crate::task::{coro, spawn, thread_ids, tls};

/// How long node 0 waits for the other nodes to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long another node waits for node 0's address.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the program may take on the other nodes.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// See the module. One per process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    exec: Exec,
    pub(crate) cluster: Cluster,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

static NODE: OnceLock<Node> = OnceLock::new();
static STARTED: AtomicBool = AtomicBool::new(false);

/// The node of this process.
///
/// # Panics
/// If the runtime does not run.
pub(crate) fn node() -> &'static Node {
    NODE.get().expect(
        "the migrt runtime does not run in this process: put #[migrt::main] on main, \
         or call migrt::Builder::run",
    )
}

/// Whether there is a node in this process.
pub(crate) fn is_running() -> bool {
    NODE.get().is_some()
}

impl Node {
    pub(crate) fn exec(&self) -> &Exec {
        &self.exec
    }

    /// A thread that the end of the node waits for, unless it has begun.
    pub(crate) fn keep_thread(&self, thread: JoinHandle<()>) {
        if let Ok(mut threads) = self.threads.try_lock() {
            threads.push(thread);
        }
    }
}

/// Starts the node, runs `main` on node 0 (or serves), ends the node. Returns `main`'s result on
/// node 0; a node that serves exits the process.
pub(crate) fn run<T, F>(config: Config, children: u16, main: F) -> Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if STARTED.swap(true, Ordering::SeqCst) {
        return Err(Error::new(
            Kind::Start,
            "the migrt runtime was started twice in one process: call Builder::run once, in main",
        ));
    }
    crate::fail::arm(config.node)?;
    let mut config = config;
    let cluster_dir = match (&config.cluster_dir, children) {
        (None, 2..) => {
            config.nodes = children;
            Some(crate::launch::ClusterDir::create(children)?)
        }
        _ => None,
    };
    if let Some(dir) = &cluster_dir {
        config.cluster_dir = Some(dir.path().to_owned());
    }
    let identity = match &config.cluster_dir {
        None => None,
        Some(dir) => {
            let folder = dir.join(format!("node-{}", config.node));
            let identity = Identity::load(&folder)
                .map_err(|e| Error::with_source(Kind::Config, e.to_string(), e))?;
            Some(identity)
        }
    };
    prepare_process(&config, identity.as_ref())?;
    let serves = config.node != 0;
    let node = start_workers(config)?;
    let _warm = crate::warm::process();
    if let Some(identity) = identity {
        node.cluster.connect(&node.config, identity, |dir| {
            crate::launch::read_address(dir, ADDRESS_PATIENCE)
        })?;
    }
    crate::warm::on_node_start();
    crate::migrate::remains::start_collector().map_err(Error::from)?;
    if serves {
        serve(node);
    }
    let mut started = match &cluster_dir {
        Some(dir) => {
            let address = node.cluster.local_addr().expect("connected above");
            crate::launch::write_address(dir.path(), address)?;
            Some(crate::launch::Children::start(dir, node.config.nodes)?)
        }
        None => {
            if let (Some(dir), Some(address)) =
                (&node.config.cluster_dir, node.cluster.local_addr())
            {
                crate::launch::write_address(dir, address)?;
            }
            None
        }
    };
    let joined = wait_for_nodes(node, started.as_mut());
    let result = joined.and_then(|()| {
        let class = SlotClass::for_len(node.config.main_stack_len).unwrap_or(SlotClass::TASK);
        spawn::spawn_local(main, class).0.join().map_err(|error| match error {
            crate::JoinError::Panicked { .. } => Error::new(Kind::Join, format!("main: {error}")),
            other => other.into(),
        })
    });
    if let Some(children) = &started {
        children.expect_ends();
    }
    node.cluster.end("the program is over");
    if let Some(children) = &mut started {
        children.finish(END_PATIENCE);
    }
    drop(started);
    drop(cluster_dir);
    stop_workers(node);
    result
}

/// What must happen before any other thread exists.
fn prepare_process(config: &Config, identity: Option<&Identity>) -> Result<()> {
    let start = |text: String| Error::new(Kind::Start, text);
    if config.cluster_dir.is_some()
        && let Some(why) = Image::this().refusal()
    {
        return Err(start(why));
    }
    if let Some(identity) = identity {
        // SAFETY: called from main before the runtime has started a thread; it refuses otherwise.
        unsafe { crate::task::cluster_secret::install(identity.secret()) }
            .map_err(|e| Error::with_source(Kind::Start, e.to_string(), e))?;
    }
    Region::reserve().map_err(|e| start(e.to_string()))?;
    match tls::TlsLayout::probe() {
        // It runs alone, with closures; a call of a `#[migratable]` function is told why it is none.
        Err(TlsError::NotStatic) => {}
        other => _ = other.map_err(|e| start(e.to_string()))?,
    }
    coro::saved_sp_word();
    entry::check_duplicates().map_err(|e| start(e.to_string()))?;
    if config.node > 0 {
        thread_ids::shift(u32::from(config.node)).map_err(|e| start(e.to_string()))?;
    }
    crate::task::panic_hook::install();
    crate::overflow::install();
    crate::migrate::fault::install();
    crate::fence::watch_continue();
    crate::census::install().map_err(Error::from)?;
    crate::clock::measure();
    Ok(())
}

/// Spares at most: tasks that were out of their faults and then came to wait for a lock, all at once.
const SPARE_COUNT: usize = 32;

fn start_workers(config: Config) -> Result<&'static Node> {
    let count = config.workers + SPARE_COUNT;
    let mut deques: Vec<_> =
        (0..count).map(|_| crossbeam_deque::Worker::<TaskRef>::new_fifo()).collect();
    let shared = deques
        .iter()
        .map(|deque| Shared {
            stealer: deque.stealer(),
            inbox: crossbeam_queue::SegQueue::new(),
            parker: Default::default(),
            running: Default::default(),
            warm_stacks: Default::default(),
            warm_slots: Default::default(),
        })
        .collect();
    let workers = config.workers;
    let mut spares = deques.split_off(workers);
    spares.reverse();
    let exec = Exec {
        injector: crossbeam_deque::Injector::new(),
        woken: crossbeam_queue::SegQueue::new(),
        shared,
        active: AtomicUsize::new(workers),
        spares: Mutex::new(spares),
        idle: Idle::new(workers),
        timers: Timers::new(),
        stop: AtomicBool::new(false),
    };
    let cluster = Cluster::new(&config);
    let node = Node { config, exec, cluster, threads: Mutex::new(Vec::new()) };
    assert!(NODE.set(node).is_ok(), "STARTED lets one caller through");
    let node = NODE.get().expect("set above");
    node.cluster.begin();
    let mut threads = node.threads.lock().unwrap();
    for (index, deque) in deques.into_iter().enumerate() {
        let exec = &node.exec;
        let thread = crate::thread::start(format!("migrt-worker-{index}"), move || {
            Worker::new(exec, index, deque).run();
        })
        .map_err(|e| {
            Error::with_source(Kind::Start, format!("worker {index} cannot be started: {e}"), e)
        })?;
        threads.push(thread);
    }
    let exec = &node.exec;
    let ticker = crate::thread::start("migrt-ticker", move || crate::exec::ticker::run(exec))
        .map_err(|e| {
            Error::with_source(Kind::Start, format!("the ticker cannot be started: {e}"), e)
        })?;
    threads.push(ticker);
    drop(threads);
    Ok(node)
}

fn wait_for_nodes(node: &Node, mut children: Option<&mut crate::launch::Children>) -> Result<()> {
    let until = std::time::Instant::now() + JOIN_PATIENCE;
    loop {
        let missing = node.cluster.missing();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some((child, status)) = children.as_mut().and_then(|c| c.ended()) {
            return Err(Error::new(
                Kind::Start,
                format!("node {child} ended before it joined ({status}): see its message above"),
            ));
        }
        if let Some(why) = node.cluster.link_error() {
            return Err(Error::new(Kind::Cluster, why));
        }
        if std::time::Instant::now() > until {
            let last = node.cluster.last_failure();
            let last = last.map_or_else(String::new, |why| format!(" (last trouble: {why})"));
            return Err(Error::new(
                Kind::Start,
                format!(
                    "nodes {missing:?} have not joined in {} s: look at their output, \
                     and check that they can reach this one{last}",
                    JOIN_PATIENCE.as_secs()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A node other than 0: runs what comes to it until the program ends.
fn serve(node: &'static Node) -> ! {
    let code = node.cluster.wait_for_end();
    stop_workers(node);
    node.cluster.wait_for_goodbye();
    std::process::exit(code)
}

fn stop_workers(node: &Node) {
    node.exec.stop.store(true, Ordering::SeqCst);
    for shared in &node.exec.shared {
        shared.parker.unpark();
    }
    for thread in node.threads.lock().unwrap().drain(..) {
        // A worker that still runs a task that never suspends is left behind: the process ends.
        let until = std::time::Instant::now() + Duration::from_millis(500);
        while !thread.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
    node.exec.timers.clear();
}
