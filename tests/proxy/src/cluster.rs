//! A program's nodes, each started as a process of its own, with a [`Hub`] between them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use migrt::launch::ClusterDir;
use migrt_test_node::{Ended, Run};

use crate::{Hub, Profile};

/// How long node 0 may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long the other nodes may go on after node 0 has ended.
const LAST: Duration = Duration::from_secs(10);

/// A cluster whose nodes reach each other through a hub only.
///
/// Nobody watches the processes: that one has ended is learnt from its lease, as between machines.
///
/// # Examples
/// ```no_run
/// use migrt_test_proxy::{Cluster, Profile};
///
/// let cluster = Cluster::through_proxies(3, 42, Profile::ROUGH);
/// let nodes = cluster.start("program", &["argument"], &[]);
/// nodes.zero().line("moving");
/// cluster.hub().cut(1, 2);
/// nodes.end()[0].expect(0, &["all well"]);
/// ```
#[derive(Debug)]
pub struct Cluster {
    nodes: u16,
    seed: u64,
    dir: ClusterDir,
    hub: Hub,
    since: Instant,
}

/// The processes, node 0 first. Killed on drop.
#[derive(Debug)]
pub struct Nodes {
    runs: Vec<Run>,
}

impl Cluster {
    /// Makes certificates and hub of a cluster of `nodes`. If the test panics the seed is printed.
    ///
    /// # Panics
    /// If there is no room for its folder or sockets.
    #[must_use]
    pub fn through_proxies(nodes: u16, seed: u64, profile: Profile) -> Cluster {
        let dir = ClusterDir::create(nodes).expect("a folder for certificates");
        let hub = Hub::start(seed, nodes, profile).expect("sockets");
        Cluster { nodes, seed, dir, hub, since: Instant::now() }
    }

    /// What is between the nodes.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Starts `program` on all nodes.
    ///
    /// # Panics
    /// If it cannot be started or node 0 does not listen.
    #[must_use]
    pub fn start(&self, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Nodes {
        let mut runs = vec![self.start_node(0, program, arguments, variables)];
        self.hub.found(0, self.address_of_zero());
        runs.extend((1..self.nodes).map(|n| self.start_node(n, program, arguments, variables)));
        Nodes { runs }
    }

    fn start_node(
        &self,
        node: u16,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Run {
        let mut command = Command::new(program);
        command.args(arguments).env_remove("MIGRT_FAIL").env_remove("RUST_BACKTRACE");
        command.envs(self.dir.env(node, self.nodes));
        command.env("MIGRT_BIND", Hub::place(node).to_string());
        // Node 0 does not read it.
        command.env("MIGRT_JOIN", self.hub.alias(0).to_string());
        command.envs(variables.iter().copied());
        Run::start_command(command)
    }

    fn address_of_zero(&self) -> SocketAddr {
        let until = Instant::now() + START;
        loop {
            let text = std::fs::read_to_string(self.dir.path().join("address"));
            if let Some(address) = text.ok().and_then(|text| text.parse().ok()) {
                return address;
            }
            assert!(Instant::now() < until, "node 0 has not written its address");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let after = self.since.elapsed().as_millis();
            eprintln!("seed {} after {after} ms: {:?}", self.seed, self.hub.counts());
        }
    }
}

impl Nodes {
    /// Another time limit for all, from now on.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Nodes {
        Nodes { runs: self.runs.into_iter().map(|run| run.limit(limit)).collect() }
    }

    /// Node 0, which runs `main`.
    #[must_use]
    pub fn zero(&self) -> &Run {
        &self.runs[0]
    }

    /// The process of any node.
    #[must_use]
    pub fn node(&self, node: u16) -> &Run {
        &self.runs[usize::from(node)]
    }

    /// Waits until all have ended.
    ///
    /// # Panics
    /// If node 0 takes longer than its limit, or another one ten seconds longer than node 0.
    #[must_use]
    pub fn end(self) -> Vec<Ended> {
        let mut runs = self.runs.into_iter();
        let zero = runs.next().expect("node 0").end();
        let mut ended = vec![zero];
        ended.extend(runs.map(|run| run.limit(LAST).end()));
        ended
    }
}
