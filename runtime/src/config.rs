//! Settings: the builder's, and the `MIGRT_*` variables that a launcher sets for each node.
//!
//! | variable | meaning |
//! |---|---|
//! | `MIGRT_CLUSTER` | folder with the identities `node-0`, `node-1`, … of a cluster on this machine |
//! | `MIGRT_NODE` | this node's number, 0 for the one that runs `main` |
//! | `MIGRT_NODES` | how many nodes `main` waits for |
//! | `MIGRT_JOIN` | address of node 0; without it node 0's address is read from the folder |
//! | `MIGRT_BIND` | address to listen on, loopback if not given |
//! | `MIGRT_WORKERS` | worker threads of this node |
//! | `MIGRT_SLOTS` | task slots that this node uses of its share, to see what a program does when they run out |
//! | `MIGRT_CHAOS` | `1`: move every mobile task at every suspension |
//! | `MIGRT_STRATEGY` | how tasks move if nothing else is asked for: `auto`, `stop-copy`, `pre-copy`, `post-copy` |
//! | `MIGRT_KEEP` | memory in which this node keeps pages of tasks that left, for their return: bytes, or with KiB, MiB, GiB; 256MiB, or an eighth of the memory if that is less; 0: none |
//! | `MIGRT_KEEP_FROM` | the pages of tasks that hold less are not kept; 256KiB |
//! | `MIGRT_CHECK_PAGES` | `1`: hash all pages of each task before and after it moves, and stop the node if they differ: for tests |
//! | `MIGRT_MOVE_RATE` | bytes per second at most that this node sends of moving tasks, such as `50MB`; `0`: no limit |
//! | `MIGRT_AUDIT` | `strict` (refuse a move that would take a node's address along), `warn`, `off` |
//! | `MIGRT_FAIL` | `POINT=kill` or `POINT=stop`, with `n1:` before it on node 1 only, with `@N` behind it the N-th time: for tests |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::strategy::Strategy;

/// The nodes of a cluster at most.
pub(crate) const NODES_MAX: u16 = 1024;

/// What a scan that finds node memory in a task about to leave does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audit {
    Off,
    Warn,
    Strict,
}

/// What `MIGRT_STRATEGY` may be.
const STRATEGIES: &str =
    "auto, auto:2ms (the longest pause, or in us), stop-copy, pre-copy or post-copy";

/// Everything that is settled before the runtime starts.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node: u16,
    pub(crate) nodes: u16,
    pub(crate) cluster_dir: Option<PathBuf>,
    pub(crate) join: Option<SocketAddr>,
    pub(crate) bind: SocketAddr,
    pub(crate) workers: usize,
    pub(crate) slots: Option<u32>,
    pub(crate) audit: Audit,
    pub(crate) strategy: Strategy,
    /// Bytes per second of moving tasks that leave this node.
    pub(crate) move_rate: Option<u64>,
    pub(crate) main_stack_len: usize,
    /// Bytes of departed tasks' pages that may be kept.
    pub(crate) keep: usize,
    /// Of tasks that hold so many.
    pub(crate) keep_from: usize,
    pub(crate) check_pages: bool,
}

impl Config {
    /// Reads the variables over what the program asked for.
    pub(crate) fn from_env(
        asked_workers: Option<usize>,
        asked_rate: Option<u64>,
        asked_strategy: Option<Strategy>,
    ) -> Result<Config> {
        let workers = match var::<usize>("MIGRT_WORKERS", "a number of threads from 1 to 512")? {
            Some(workers) => Some(workers),
            None => asked_workers,
        };
        if let Some(workers) = workers.filter(|w| !(1..=512).contains(w)) {
            let wanted = "a number of threads from 1 to 512";
            return Err(bad("MIGRT_WORKERS", wanted, &workers.to_string()));
        }
        let node = var::<u16>("MIGRT_NODE", "a node number, 0 for the one that runs main")?;
        let nodes = var::<u16>("MIGRT_NODES", "a number of nodes from 1 to 1024")?.unwrap_or(1);
        if !(1..=NODES_MAX).contains(&nodes) {
            let wanted = "a number of nodes from 1 to 1024";
            return Err(bad("MIGRT_NODES", wanted, &nodes.to_string()));
        }
        if let Some(node) = node.filter(|&n| n >= NODES_MAX) {
            return Err(bad("MIGRT_NODE", "a node number below 1024", &node.to_string()));
        }
        match std::env::var("MIGRT_CHAOS").ok().as_deref() {
            None | Some("0" | "1") => {}
            Some(other) => return Err(bad("MIGRT_CHAOS", "0 or 1", other)),
        }
        let audit = match std::env::var("MIGRT_AUDIT").ok().as_deref() {
            None | Some("strict") => Audit::Strict,
            Some("warn") => Audit::Warn,
            Some("off") => Audit::Off,
            Some(other) => return Err(bad("MIGRT_AUDIT", "off, warn or strict", other)),
        };
        let strategy = match std::env::var("MIGRT_STRATEGY").ok() {
            None => asked_strategy.unwrap_or_default(),
            Some(text) => {
                Strategy::parse(&text).ok_or_else(|| bad("MIGRT_STRATEGY", STRATEGIES, &text))?
            }
        };
        let move_rate = match std::env::var("MIGRT_MOVE_RATE").ok() {
            None => asked_rate,
            Some(text) => Some(parse_rate(&text).ok_or_else(|| {
                bad("MIGRT_MOVE_RATE", "bytes per second, such as 50MB or 0 for no limit", &text)
            })?),
        };
        let config = Config {
            node: node.unwrap_or(0),
            nodes,
            cluster_dir: std::env::var_os("MIGRT_CLUSTER").map(PathBuf::from),
            join: var("MIGRT_JOIN", "an address such as 10.0.0.1:7000")?,
            bind: var("MIGRT_BIND", "an address such as 10.0.0.1:7000")?
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            workers: workers.unwrap_or_else(default_workers),
            slots: var("MIGRT_SLOTS", "a number of task slots")?,
            audit,
            strategy,
            move_rate: move_rate.filter(|&rate| rate > 0),
            main_stack_len: 16 << 20,
            keep: size("MIGRT_KEEP")?.unwrap_or_else(default_keep),
            keep_from: size("MIGRT_KEEP_FROM")?.unwrap_or(256 << 10).max(1),
            check_pages: switch("MIGRT_CHECK_PAGES")?,
        };
        if node.is_some() && config.cluster_dir.is_none() {
            return Err(Error::new(
                Kind::Config,
                "MIGRT_NODE is set but MIGRT_CLUSTER is not: a node of a cluster needs the folder \
                 with its identity; start the program by `migrt run`, or unset MIGRT_NODE to run alone",
            ));
        }
        Ok(config)
    }
}

/// See `MIGRT_KEEP`.
fn default_keep() -> usize {
    let pages = rustix::system::sysinfo();
    let memory = pages.totalram as usize * pages.mem_unit as usize;
    (256 << 20).min(memory / 8)
}

fn switch(name: &str) -> Result<bool> {
    match std::env::var(name).ok().as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(bad(name, "0 or 1", other)),
    }
}

/// A number of bytes.
fn size(name: &str) -> Result<Option<usize>> {
    let Some(text) = var::<String>(name, "a size such as 256MiB")? else { return Ok(None) };
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let found = units.iter().find_map(|&(unit, shift)| {
        let number = text.strip_suffix(unit)?.parse::<usize>().ok()?;
        number.checked_mul(1 << shift)
    });
    found.map(Some).ok_or_else(|| bad(name, "a size such as 256MiB", &text))
}

/// One worker per core that this process may use.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes: a whole number, with `KB`, `MB` or `GB` behind it.
fn parse_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("", 1)];
    let (number, unit) =
        units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

fn var<T: FromStr>(name: &str, wanted: &str) -> Result<Option<T>> {
    match std::env::var(name) {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(bad(name, wanted, "not text")),
        Ok(text) => text.trim().parse().map(Some).map_err(|_| bad(name, wanted, &text)),
    }
}

fn bad(name: &str, wanted: &str, found: &str) -> Error {
    Error::new(
        Kind::Config,
        format!("{name} is to be {wanted}, but is {found:?}: correct or unset it and start again"),
    )
}

#[cfg(test)]
mod tests {
    use super::parse_rate;

    #[test]
    fn a_rate_is_a_number_with_or_without_a_unit() {
        let cases = [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("64KB", Some(64_000)),
            (" 50 MB ", Some(50_000_000)),
            ("2GB", Some(2_000_000_000)),
            ("", None),
            ("MB", None),
            ("1.5MB", None),
            ("-1", None),
            ("50MiB/s", None),
            ("99999999999GB", None),
        ];
        for (text, rate) in cases {
            assert_eq!(parse_rate(text), rate, "{text:?}");
        }
    }
}
