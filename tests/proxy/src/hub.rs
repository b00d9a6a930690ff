//! The switch between all nodes of a cluster.
//!
//! Each node has one *alias*, a socket of the hub: the address by which all others know it. A node
//! is told by where its packets come from: node i listens on the loopback address [`Hub::place`]
//! gives it. So packets to an alias need no other mark, and the addresses that nodes tell each other
//! (where they saw a peer's packets come from) are aliases too: no link gets around the hub.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::wire::Wire;
use crate::{Counts, Lane, Profile, socket};

/// See the module.
#[derive(Debug)]
pub struct Hub {
    wire: Arc<Wire>,
    aliases: Vec<Arc<UdpSocket>>,
    /// Where the nodes listen, as far as it is known.
    known: Arc<Mutex<Vec<Option<SocketAddr>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    /// Starts the hub of nodes `0..nodes`, all links of this profile.
    ///
    /// # Errors
    /// There are no sockets left.
    pub fn start(seed: u64, nodes: u16, profile: Profile) -> io::Result<Hub> {
        let aliases = (0..nodes).map(|_| socket::open()).collect::<io::Result<Vec<_>>>()?;
        let wire = Arc::new(Wire::start(seed, profile));
        let known = Arc::new(Mutex::new(vec![None; usize::from(nodes)]));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for to in 0..nodes {
            for from in (0..nodes).filter(|from| *from != to) {
                wire.know(Lane { from, to });
            }
            let (running, aliases, known) = (wire.clone(), aliases.clone(), known.clone());
            let front = aliases[usize::from(to)].clone();
            threads.push(socket::listen(front, stop.clone(), move |bytes, sender| {
                let Some(from) = node_at(sender, nodes).filter(|from| *from != to) else { return };
                let target = {
                    let mut known = known.lock().unwrap();
                    known[usize::from(from)] = Some(sender);
                    known[usize::from(to)]
                };
                // QUIC repeats what came before the hub knew where to send it.
                if let Some(target) = target {
                    running.take(Lane { from, to }, bytes, &aliases[usize::from(from)], target);
                }
            }));
        }
        Ok(Hub { wire, aliases, known, stop, threads })
    }

    /// Where node `node` has to listen (`MIGRT_BIND`).
    #[must_use]
    pub fn place(node: u16) -> SocketAddr {
        SocketAddr::from((ip_of(node), 0))
    }

    /// The address by which the others know `node`.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn alias(&self, node: u16) -> SocketAddr {
        self.aliases[usize::from(node)].local_addr().expect("it is bound")
    }

    /// Tells where a node listens that is dialled before it has sent anything.
    ///
    /// # Panics
    /// If that is not its place.
    pub fn found(&self, node: u16, addr: SocketAddr) {
        assert_eq!(addr.ip(), Hub::place(node).ip(), "node {node} listens elsewhere");
        self.known.lock().unwrap()[usize::from(node)] = Some(addr);
    }

    /// Makes all lanes like this, from now on.
    pub fn set_profile(&self, profile: Profile) {
        self.wire.set_profile(profile, |_| true, true);
    }

    /// Makes both directions between two nodes like this, from now on.
    pub fn set_link_profile(&self, a: u16, b: u16, profile: Profile) {
        self.wire.set_profile(profile, between(a, b), false);
    }

    /// Nothing passes between two nodes any more.
    pub fn cut(&self, a: u16, b: u16) {
        self.wire.set_cut(true, between(a, b));
    }

    /// Nothing passes in one direction any more.
    pub fn cut_lane(&self, from: u16, to: u16) {
        self.wire.set_cut(true, |lane| lane == Lane { from, to });
    }

    /// Cuts a node off from all others.
    pub fn cut_off(&self, node: u16) {
        self.wire.set_cut(true, |lane| lane.from == node || lane.to == node);
    }

    /// Both directions between two nodes carry again.
    pub fn mend(&self, a: u16, b: u16) {
        self.wire.set_cut(false, between(a, b));
    }

    /// Everything carries again.
    pub fn mend_all(&self) {
        self.wire.set_cut(false, |_| true);
    }

    /// Counts of one direction.
    #[must_use]
    pub fn lane_counts(&self, from: u16, to: u16) -> Counts {
        self.wire.counts(|lane| lane == Lane { from, to })
    }

    /// Counts of all.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.wire.counts(|_| true)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn between(a: u16, b: u16) -> impl Fn(Lane) -> bool {
    move |lane| (lane.from, lane.to) == (a, b) || (lane.from, lane.to) == (b, a)
}

/// Nodes listen on 127.77.x.y, each on its own address.
fn ip_of(node: u16) -> IpAddr {
    let [high, low] = node.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 77, high, low))
}

fn node_at(addr: SocketAddr, nodes: u16) -> Option<u16> {
    let IpAddr::V4(ip) = addr.ip() else { return None };
    let [127, 77, high, low] = ip.octets() else { return None };
    Some(u16::from_be_bytes([high, low])).filter(|node| *node < nodes)
}
