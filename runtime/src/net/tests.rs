//! Tests of the wire: several nodes in one process, and one test with processes that are killed.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::*;
use rt::lock;

mod identity;
mod links;
mod pace;
mod process;
mod refusal;
mod traffic;

/// Only for a test that has failed: nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Up(u16),
    Down(u16, String),
    Failed(LinkError),
    Stranger(LinkError),
    Frame(u16, Vec<u8>),
    Bulk { peer: u16, header: Vec<u8>, len: usize, sum: u64, complete: bool },
}

/// A handler that writes everything down.
struct Probe {
    node: u16,
    refuse: Option<&'static str>,
    sink_limit: usize,
    log: Arc<Log>,
    on_frame: Mutex<Option<OnFrame>>,
    on_tick: Mutex<Option<OnTick>>,
    on_chunk: Arc<Mutex<Option<OnChunk>>>,
    net: Mutex<Option<Net>>,
}

type OnFrame = Box<dyn FnMut(&Net, u16, &[u8]) + Send>;
/// Sees each chunk of bulk: the stream's header, and the chunk's length.
type OnChunk = Box<dyn FnMut(&[u8], usize) + Send>;
type OnTick = Box<dyn FnMut() -> Option<Instant> + Send>;

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    signal: Condvar,
}

impl Log {
    fn push(&self, event: Event) {
        lock(&self.events).push(event);
        self.signal.notify_all();
    }

    /// Waits until `found` says something about all events so far.
    fn wait<T>(&self, mut found: impl FnMut(&[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut events = lock(&self.events);
        loop {
            if let Some(value) = found(&events) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail = &events[events.len().saturating_sub(5)..];
                panic!("waited in vain; {} events, the last: {tail:.200?}", events.len());
            }
            events = self.signal.wait_timeout(events, left).unwrap().0;
        }
    }

    fn wait_for(&self, event: &Event) {
        self.wait(|events| events.contains(event).then_some(()));
    }

    fn wait_down(&self, peer: u16) -> String {
        self.wait(|events| {
            events.iter().find_map(|event| match event {
                Event::Down(node, why) if *node == peer => Some(why.clone()),
                _ => None,
            })
        })
    }

    fn wait_failed(&self) -> LinkError {
        self.wait(|events| {
            events.iter().find_map(|event| match event {
                Event::Failed(error) => Some(error.clone()),
                _ => None,
            })
        })
    }

    fn wait_stranger(&self) -> LinkError {
        self.wait(|events| {
            events.iter().find_map(|event| match event {
                Event::Stranger(error) => Some(error.clone()),
                _ => None,
            })
        })
    }

    fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        lock(&self.events).iter().filter(|event| matches(event)).count()
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let events = lock(&self.events);
        let frame = |event: &Event| match event {
            Event::Frame(_, bytes) => Some(bytes.clone()),
            _ => None,
        };
        events.iter().filter_map(frame).collect()
    }
}

impl Handler for Probe {
    fn hello(&self) -> Vec<u8> {
        self.node.to_le_bytes().to_vec()
    }

    fn check_hello(&self, bytes: &[u8]) -> Result<u16, String> {
        match (self.refuse, <[u8; 2]>::try_from(bytes)) {
            (Some(why), _) => Err(why.to_owned()),
            (None, Ok(bytes)) => Ok(u16::from_le_bytes(bytes)),
            (None, Err(_)) => Err("not a hello".to_owned()),
        }
    }

    fn peer_up(&self, peer: u16, _addr: SocketAddr) {
        self.log.push(Event::Up(peer));
    }

    fn peer_down(&self, peer: u16, why: &str) {
        self.log.push(Event::Down(peer, why.to_owned()));
    }

    fn stranger(&self, error: &LinkError) {
        self.log.push(Event::Stranger(error.clone()));
    }

    fn link_failed(&self, error: &LinkError) {
        self.log.push(Event::Failed(error.clone()));
    }

    fn frame(&self, peer: u16, bytes: &[u8]) {
        if let Some(on_frame) = &mut *lock(&self.on_frame) {
            let net = lock(&self.net).clone().expect("set before frames come");
            on_frame(&net, peer, bytes);
        } else {
            self.log.push(Event::Frame(peer, bytes.to_vec()));
        }
    }

    fn bulk_open(&self, peer: u16, header: &[u8]) -> Box<dyn BulkSink> {
        let header = header.to_vec();
        Box::new(Sink {
            peer,
            header,
            len: 0,
            sum: 0,
            limit: self.sink_limit,
            on_chunk: self.on_chunk.clone(),
            log: self.log.clone(),
        })
    }

    fn tick(&self) -> Option<Instant> {
        lock(&self.on_tick).as_mut().and_then(|on_tick| on_tick())
    }
}

struct Sink {
    peer: u16,
    header: Vec<u8>,
    len: usize,
    sum: u64,
    limit: usize,
    on_chunk: Arc<Mutex<Option<OnChunk>>>,
    log: Arc<Log>,
}

impl BulkSink for Sink {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.len += bytes.len();
        if let Some(on_chunk) = &mut *lock(&self.on_chunk) {
            on_chunk(&self.header, bytes.len());
            return Ok(());
        }
        self.sum = checksum(self.sum, bytes);
        if self.len > self.limit { Err("too much".to_owned()) } else { Ok(()) }
    }

    fn end(self: Box<Self>, complete: bool) {
        let Self { peer, header, len, sum, .. } = *self;
        self.log.push(Event::Bulk { peer, header, len, sum, complete });
    }
}

/// Depends on the order of the bytes.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte))
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A node under test; its wire closes when it is dropped.
struct Node {
    probe: Arc<Probe>,
    log: Arc<Log>,
    net: Net,
}

impl Node {
    fn start(ca: &ClusterCa, node: u16) -> Self {
        Self::start_as(ca, node, |_| ())
    }

    fn start_as(ca: &ClusterCa, node: u16, change: impl FnOnce(&mut Probe)) -> Self {
        Self::start_with(ca, node, None, change)
    }

    fn start_with(
        ca: &ClusterCa,
        node: u16,
        bulk_limit: Option<u64>,
        change: impl FnOnce(&mut Probe),
    ) -> Self {
        let config = NetConfig { bulk_limit, ..NetConfig::new(ca.issue(node).unwrap()) };
        let probe = Self::probe(node, change);
        let net = Net::start(config, probe.clone()).unwrap();
        Self::of(probe, net)
    }

    fn probe(node: u16, change: impl FnOnce(&mut Probe)) -> Arc<Probe> {
        let mut probe = Probe {
            node,
            refuse: None,
            sink_limit: usize::MAX,
            log: Arc::default(),
            on_frame: Mutex::default(),
            on_tick: Mutex::default(),
            on_chunk: Arc::default(),
            net: Mutex::default(),
        };
        change(&mut probe);
        Arc::new(probe)
    }

    fn of(probe: Arc<Probe>, net: Net) -> Self {
        *lock(&probe.net) = Some(net.clone());
        let log = probe.log.clone();
        Self { probe, log, net }
    }

    fn addr(&self) -> SocketAddr {
        self.net.local_addr()
    }

    fn send_bulk(&self, peer: u16, header: &[u8], parts: Vec<Part>) -> Receipt {
        let receipt = Receipt::default();
        let sent = receipt.clone();
        let done = Box::new(move |result| {
            *lock(&sent.0.0) = Some(result);
            sent.0.1.notify_all();
        });
        self.net.send_bulk(peer, header.to_vec(), parts, done);
        receipt
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The probe holds the net, and the net the probe.
        lock(&self.probe.net).take();
    }
}

type Slot = (Mutex<Option<Result<(), String>>>, Condvar);

/// What `done` of a shipment was called with.
#[derive(Clone, Default)]
struct Receipt(Arc<Slot>);

impl Receipt {
    fn wait(&self) -> Result<(), String> {
        let slot = lock(&self.0.0);
        let (slot, _) =
            self.0.1.wait_timeout_while(slot, PATIENCE, |result| result.is_none()).unwrap();
        slot.clone().expect("done is called")
    }
}

fn cluster() -> ClusterCa {
    Identity::new_cluster().unwrap()
}

/// Two nodes, n0 and n1, with a link that is up.
fn pair() -> (Node, Node) {
    let ca = cluster();
    linked(Node::start(&ca, 0), Node::start(&ca, 1))
}

fn linked(a: Node, b: Node) -> (Node, Node) {
    b.net.dial(a.addr());
    a.log.wait_for(&Event::Up(b.probe.node));
    b.log.wait_for(&Event::Up(a.probe.node));
    (a, b)
}
