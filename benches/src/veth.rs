//! `--veth`: the nodes, and the two ends of the bare wire, each in a network namespace of their own, with a veth pair of
//! MTU 1500 between them.
//!
//! This process makes the namespaces and starts the same command in both: node 0, which measures, and node 1. The bare
//! wire's other end is started by node 0 and goes to node 1's namespace. Needs root and `ip`; nothing is left behind.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use migrt::launch::ClusterDir;
use migrt_test_netns::{MTU, Side, Veth, inside};

use crate::Fault;

/// Where the bare wire's other end goes, for node 0.
const PLACE: &str = "MIGRT_BENCH_PLACE";
/// The address that an end of the bare wire binds.
const ADDRESS: &str = "MIGRT_BENCH_ADDRESS";

/// Whether this process was started in a namespace.
pub fn is_inside() -> bool {
    std::env::var_os(ADDRESS).is_some()
}

/// What the figures are of, for the title of a report.
pub fn title() -> String {
    if is_inside() { format!("veth, MTU {MTU}: ") } else { String::new() }
}

/// The address of this end of the bare wire.
pub fn address() -> IpAddr {
    let told = std::env::var(ADDRESS).ok().and_then(|text| text.parse().ok());
    told.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Runs this very command in the namespaces; whether node 0 ended well.
pub fn run() -> Result<bool, Fault> {
    let veth = Veth::new().map_err(|why| format!("--veth: {why}"))?;
    let dir = ClusterDir::create(2)?;
    let mut nodes = Nodes(Vec::new());
    for side in [Side::Zero, Side::One] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        veth.node(&dir, side, &mut command);
        command.env(ADDRESS, side.address().to_string()).env(PLACE, veth.place(Side::One));
        nodes.0.push(inside(&veth.place(side), move || command.spawn())?);
    }
    Ok(nodes.0[0].wait()?.success())
}

/// Ended on drop: node 1 is over when node 0 is.
struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Starts the bare wire's other end: at the other end of the pair, or beside this process.
pub fn start_peer(mut command: Command) -> io::Result<Child> {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return command.spawn() };
    command.env(ADDRESS, Side::One.address().to_string());
    inside(&place, move || command.spawn())
}
