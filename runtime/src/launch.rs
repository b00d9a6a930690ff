//! A cluster on this machine: a throw-away CA, and one child process per further node.
//!
//! ```text
//! node 0 (this process)          node 1 … n-1 (children, same program, same arguments)
//!   makes the folder               read MIGRT_CLUSTER/node-i
//!   listens, writes `address`      read `address`, dial node 0
//!   starts the children            serve until the end
//! ```
//!
//! The folder holds private keys: it is readable by its owner only and removed at the end.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Kind, Result};
use crate::net::Identity;

/// The file in a cluster's folder that tells where node 0 listens.
const ADDRESS_FILE: &str = "address";

/// A folder with a fresh CA and an identity for each of `nodes` nodes. Removed on drop.
#[derive(Debug)]
pub struct ClusterDir {
    path: PathBuf,
}

impl ClusterDir {
    /// Makes the folder in the system's temporary folder.
    ///
    /// # Errors
    /// The folder cannot be made or written to; the error names it.
    pub fn create(nodes: u16) -> Result<ClusterDir> {
        let name = format!("migrt-{}-{:08x}", std::process::id(), nonce());
        let path = std::env::temp_dir().join(name);
        let failed = |error: std::io::Error, path: &Path| {
            Error::with_source(
                Kind::Start,
                format!(
                    "the cluster's folder {} cannot be made: {error}; \
                     free space or set TMPDIR to a folder that can be written",
                    path.display()
                ),
                error,
            )
        };
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(e, &path))?;
        let dir = ClusterDir { path };
        let ca = Identity::new_cluster()
            .map_err(|e| Error::with_source(Kind::Start, e.to_string(), e))?;
        for node in 0..nodes {
            let node_dir = dir.path.join(format!("node-{node}"));
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&node_dir)
                .map_err(|e| failed(e, &node_dir))?;
            ca.issue(node)
                .and_then(|identity| identity.save(&node_dir))
                .map_err(|e| Error::with_source(Kind::Start, e.to_string(), e))?;
        }
        Ok(dir)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The variables that make a process node `node` of this cluster.
    #[must_use]
    pub fn env(&self, node: u16, nodes: u16) -> Vec<(&'static str, String)> {
        vec![
            ("MIGRT_CLUSTER", self.path.display().to_string()),
            ("MIGRT_NODE", node.to_string()),
            ("MIGRT_NODES", nodes.to_string()),
        ]
    }
}

impl Drop for ClusterDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn nonce() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.subsec_nanos() ^ (d.as_secs() as u32).rotate_left(16))
}

/// Node 0 tells the others on this machine where it listens.
pub(crate) fn write_address(cluster: &Path, address: SocketAddr) -> Result<()> {
    let path = cluster.join(ADDRESS_FILE);
    let fresh = cluster.join("address.new");
    fs::write(&fresh, address.to_string()).and_then(|()| fs::rename(&fresh, &path)).map_err(|e| {
        Error::with_source(
            Kind::Start,
            format!("node 0's address cannot be written to {}: {e}", path.display()),
            e,
        )
    })
}

/// Waits for node 0's address.
pub(crate) fn read_address(cluster: &Path, patience: Duration) -> Result<SocketAddr> {
    let path = cluster.join(ADDRESS_FILE);
    let until = Instant::now() + patience;
    loop {
        if let Some(address) = fs::read_to_string(&path).ok().and_then(|t| t.parse().ok()) {
            return Ok(address);
        }
        if Instant::now() > until {
            return Err(Error::new(
                Kind::Start,
                format!(
                    "node 0 has not written its address to {} in {} s: it did not start, or on \
                     another machine; set MIGRT_JOIN to its address",
                    path.display(),
                    patience.as_secs()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The further nodes that this process started; killed on drop if they still run.
#[derive(Debug)]
pub(crate) struct Children {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    children: Mutex<Vec<(u16, Child)>>,
    /// The program is over: from now on nodes may end.
    ending: AtomicBool,
}

/// What a process that was killed has sent lies in our socket by now; it is to be read before the
/// process is declared dead.
const LAST_WORDS: Duration = Duration::from_millis(50);

impl Children {
    /// Starts nodes `1..nodes` of this very program with its own arguments, and a thread that waits
    /// for their ends.
    pub(crate) fn start(cluster: &ClusterDir, nodes: u16) -> Result<Children> {
        let shared = Shared { children: Mutex::new(Vec::new()), ending: AtomicBool::new(false) };
        let children = Children { shared: Arc::new(shared) };
        let program = std::env::current_exe().map_err(Error::from)?;
        for node in 1..nodes {
            let mut command = Command::new(&program);
            command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
            command.envs(cluster.env(node, nodes));
            let child = command.spawn().map_err(|e| {
                Error::with_source(
                    Kind::Start,
                    format!("node {node} cannot be started from {}: {e}", program.display()),
                    e,
                )
            })?;
            children.shared.children.lock().unwrap().push((node, child));
        }
        let shared = children.shared.clone();
        crate::thread::start("migrt-children", move || shared.watch()).map_err(|e| {
            Error::with_source(Kind::Start, format!("no thread to watch the nodes: {e}"), e)
        })?;
        Ok(children)
    }

    /// A child that has ended already, and how.
    pub(crate) fn ended(&mut self) -> Option<(u16, String)> {
        self.shared.children.lock().unwrap().iter_mut().find_map(|(node, child)| {
            match child.try_wait() {
                Ok(Some(status)) => Some((*node, status.to_string())),
                _ => None,
            }
        })
    }

    /// Nodes may end from now on.
    pub(crate) fn expect_ends(&self) {
        self.shared.ending.store(true, Ordering::SeqCst);
    }

    /// Waits for all to end; those that do not are killed.
    pub(crate) fn finish(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        for (_, child) in self.shared.children.lock().unwrap().iter_mut() {
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Shared {
    /// Tells the cluster of every child that ends, so that nobody waits for its lease to run out.
    fn watch(&self) {
        let mut running: Vec<(u16, OwnedFd)> = self
            .children
            .lock()
            .unwrap()
            .iter()
            .filter_map(|(node, child)| {
                let pid = Pid::from_child(child);
                Some((*node, pidfd_open(pid, PidfdFlags::empty()).ok()?))
            })
            .collect();
        while !running.is_empty() {
            let mut polled: Vec<PollFd<'_>> =
                running.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
            if poll(&mut polled, None).is_err() {
                continue;
            }
            let over: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(polled);
            std::thread::sleep(LAST_WORDS);
            let mut at = over.iter();
            running.retain(|(node, _)| {
                let over = *at.next().expect("one for each");
                if over && !self.ending.load(Ordering::SeqCst) {
                    self.report(*node);
                }
                !over
            });
        }
    }

    fn report(&self, node: u16) {
        let status = self.children.lock().unwrap().iter_mut().find_map(|(of, child)| {
            (*of == node).then(|| child.try_wait().ok().flatten()).flatten()
        });
        let how = status.map_or_else(|| "unknown how".to_owned(), |s| s.to_string());
        if crate::cluster::cluster().process_exited(node) {
            // One write, so that it is not mixed with what others say.
            let text = format!("migrt: node n{node} has ended ({how}); what ran there is lost\n");
            eprint!("{text}");
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.expect_ends();
        for (_, child) in self.shared.children.lock().unwrap().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
