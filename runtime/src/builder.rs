//! How a program starts the runtime: [`Builder`], and what `#[migrt::main]` expands to.

use std::process::{ExitCode, Termination};

use crate::config::Config;
use crate::entry::MainOptions;
use crate::error::Result;
use crate::node;
use crate::strategy::Strategy;

/// Settings of the runtime, and its start.
///
/// # Examples
/// ```
/// let sum = migrt::Builder::new().workers(2).run(|| {
///     let tasks: Vec<_> = (0..10u64).map(|i| migrt::spawn(move || i * i)).collect();
///     tasks.into_iter().map(|t| t.join().unwrap()).sum::<u64>()
/// });
/// assert_eq!(sum.unwrap(), 285);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    workers: Option<usize>,
    local_nodes: u16,
    move_rate: Option<u64>,
    strategy: Option<Strategy>,
}

impl Builder {
    /// The defaults: one node, one worker per core.
    #[must_use]
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Worker threads of each node. `MIGRT_WORKERS` overrules it.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Builder {
        self.workers = Some(workers);
        self
    }

    /// Bytes per second at most that each node sends of tasks that move, to all others together. Messages
    /// between tasks and nodes, and pages that a task waits for, go first and whatever the limit says;
    /// the latter count. A task that stands still for longer than ten seconds on its way goes on where it
    /// was, so a limit has to let its pages pass in that time. 0 means no limit, which is the default. `MIGRT_MOVE_RATE` overrules it.
    ///
    /// # Examples
    /// ```no_run
    /// # fn work() {}
    /// migrt::Builder::new().move_rate(50_000_000).run(work)?;
    /// # Ok::<(), migrt::Error>(())
    /// ```
    #[must_use]
    pub fn move_rate(mut self, bytes_per_s: u64) -> Builder {
        self.move_rate = Some(bytes_per_s);
        self
    }

    /// Nodes of a cluster on this machine: this process is node 0 and starts the others as children,
    /// from this very program with the same arguments. They never reach `main`'s closure.
    ///
    /// Ignored if this process was itself started as a node of a cluster (`migrt run`).
    #[must_use]
    pub fn local_nodes(mut self, nodes: u16) -> Builder {
        self.local_nodes = nodes;
        self
    }

    /// How tasks move that are asked to without a strategy of their own ([`crate::set_strategy`]): the
    /// default is [`Strategy::Auto`]. `MIGRT_STRATEGY` overrules it.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Builder {
        self.strategy = Some(strategy);
        self
    }

    /// Starts the runtime. On node 0 runs `main` as a local task and returns its result; on any
    /// other node serves until the program is over, and then exits the process.
    ///
    /// What stands before this call runs on every node; it must not start threads.
    ///
    /// # Errors
    /// The runtime cannot start: a wrong setting, a machine or build that cannot do it, nodes that
    /// do not join. `main` panicked.
    pub fn run<T, F>(self, main: F) -> Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let config = Config::from_env(self.workers, self.move_rate, self.strategy)?;
        node::run(config, self.local_nodes, main)
    }
}

/// `#[migrt::main]`: runs the user's `main`, prints its error, gives its exit code.
pub fn main<T: Termination + 'static>(options: MainOptions, user_main: fn() -> T) -> ExitCode {
    let mut builder = Builder::new();
    if let Some(workers) = options.workers {
        builder = builder.workers(workers);
    }
    // The code is made on the task: a `Termination` need not be `Send`.
    match builder.run(move || user_main().report()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
