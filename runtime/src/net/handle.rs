//! `Net`: the handle by which any thread of the node uses the wire, and the net thread's main.
//!
//! Every request is a command in one queue, in order, so a frame and a shipment queued by one
//! thread begin in that order too.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use quinn::Runtime as _;
use quinn::{Endpoint, EndpointConfig, ServerConfig};

use super::bulk::{self, BULK_HEADER_LEN_MAX, BulkDone, DoneGuard, Part};
use super::error::NetError;
use super::feed::{self, BulkFeed};
use super::framing::FRAME_LEN_MAX;
use super::handler::Handler;
use super::identity::Identity;
use super::peers::Hub;
use super::rt::{Exec, Turn, lock};
use super::socket::widen;
use super::spin::DUE;
use super::tls::Crypto;
use super::transport;

/// How a node's wire is set up.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Who this node is.
    pub identity: Identity,
    /// Where it listens; port 0 takes any free one. Loopback unless told otherwise.
    pub bind: SocketAddr,
    /// How long the net thread looks for work before it sleeps. Zero turns it off, as a machine
    /// with one core does by itself.
    pub spin: Duration,
    /// Bytes per second that go out in bulk streams, to all peers together; `None`: no limit. Frames,
    /// and streams with a priority, go whatever it says.
    pub bulk_limit: Option<u64>,
}

impl NetConfig {
    /// Loopback, any port, a short spin.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            spin: Duration::from_micros(30),
            bulk_limit: None,
        }
    }
}

/// A node's wire. Clones share it; when the last is dropped the wire closes by itself.
#[derive(Clone)]
pub struct Net {
    owner: Arc<Owner>,
}

/// Exists once per wire outside the net thread.
struct Owner {
    shared: Arc<Shared>,
}

struct Shared {
    exec: Exec,
    addr: SocketAddr,
    packed: Arc<(AtomicU64, AtomicU64)>,
    /// How long the net thread spins as a rule.
    spin: Duration,
    /// How many want it to spin for longer.
    hurries: AtomicU32,
    queue: Mutex<Queue>,
    ended: Mutex<bool>,
    ended_signal: Condvar,
}

/// An answer is due without which a task stands still. To be woken for it would take as long as half of a short
/// pause.
pub struct Hurry(Arc<Shared>);

impl fmt::Debug for Hurry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hurry")
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.hurries.fetch_sub(1, Ordering::SeqCst);
        self.0.choose_spin();
    }
}

impl Shared {
    /// A hint: who comes last need not be right.
    fn choose_spin(&self) {
        let is_due = self.hurries.load(Ordering::SeqCst) > 0 && !self.spin.is_zero();
        self.exec.set_spin(if is_due { DUE } else { self.spin });
    }
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    closed: bool,
}

enum Command {
    Frame { peer: u16, frame: Vec<u8> },
    Bulk { peer: u16, header: Vec<u8>, parts: Vec<Part>, done: DoneGuard },
    Feed { peer: u16, header: Vec<u8>, queue: feed::Queue, priority: i32, done: DoneGuard },
    Dial(SocketAddr),
    StopDialling(SocketAddr),
    Forget { peer: u16, why: String },
    Run(Box<dyn FnOnce() + Send>),
    Close(String),
}

impl Net {
    /// Binds the port and starts the net thread.
    ///
    /// # Errors
    /// If the port is taken or not to be had, or the identity cannot be used.
    pub fn start(config: NetConfig, handler: Arc<dyn Handler>) -> Result<Self, NetError> {
        let crypto = Crypto::new(&config.identity).map_err(|cause| NetError::Tls { cause })?;
        Self::start_with(config, crypto, handler)
    }

    pub(super) fn start_with(
        config: NetConfig,
        crypto: Crypto,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, NetError> {
        let socket = bind(config.bind)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if cores > 1 { config.spin } else { Duration::ZERO };
        let (exec, poll) = Exec::new(spin).map_err(system("make an epoll instance"))?;
        let socket = exec.wrap_udp_socket(socket).map_err(system("set up the UDP socket"))?;
        let segmented = socket.max_transmit_segments() > 1;
        let addr = socket.local_addr().map_err(system("ask for the bound address"))?;

        let mut endpoint_config = EndpointConfig::default();
        endpoint_config
            .max_udp_payload_size(transport::RECEIVE_PAYLOAD_MAX)
            .expect("the limit is above QUIC's minimum");
        let server = ServerConfig::with_crypto(crypto.server.clone());
        let runtime = Arc::new(exec.clone());
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint_config, Some(server), socket, runtime)
                .map_err(system("set up QUIC"))?;

        let who = (config.identity.node(), random_run()?);
        let bulk = (segmented, config.bulk_limit);
        let hub = Hub::new(exec.clone(), handler, who, endpoint, crypto, bulk);
        let shared = Arc::new(Shared {
            exec,
            addr,
            packed: hub.packed.clone(),
            spin,
            hurries: AtomicU32::new(0),
            queue: Mutex::default(),
            ended: Mutex::new(false),
            ended_signal: Condvar::new(),
        });
        let thread_shared = shared.clone();
        crate::thread::start("migrt-net", move || thread_main(&thread_shared, Arc::new(hub), poll))
            .map_err(system("start the net thread"))?;
        Ok(Self { owner: Arc::new(Owner { shared }) })
    }

    /// The address the node listens on, with the port it got.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.owner.shared.addr
    }

    /// Bytes of bulk that were packed so far: before and after.
    #[must_use]
    pub fn packed(&self) -> (u64, u64) {
        let (before, after) = &*self.owner.shared.packed;
        // Relaxed: counters.
        (before.load(Ordering::Relaxed), after.load(Ordering::Relaxed))
    }

    /// Dials `addr`, and again whenever the link is lost, until [`forget`](Self::forget),
    /// [`stop_dialling`](Self::stop_dialling), a refusal, or an orderly close by the peer.
    pub fn dial(&self, addr: SocketAddr) {
        self.push(Command::Dial(addr));
    }

    /// Dials `addr` no more; a link that is up stays.
    pub fn stop_dialling(&self, addr: SocketAddr) {
        self.push(Command::StopDialling(addr));
    }

    /// Sends one control message. Frames to one peer arrive in the order of the calls. A frame to
    /// a peer that is not up is dropped, as is one not yet sent when the link is lost: the
    /// protocols above send again.
    ///
    /// # Panics
    /// If the frame is longer than [`FRAME_LEN_MAX`].
    pub fn send(&self, peer: u16, frame: Vec<u8>) {
        assert!(frame.len() <= FRAME_LEN_MAX, "a frame has at most {FRAME_LEN_MAX} bytes");
        self.push(Command::Frame { peer, frame });
    }

    /// Ships `parts`, after `header`, on a stream of their own. `done` is called once, on the net
    /// thread (on the caller's if the wire is closed), when the peer's transport has acknowledged
    /// everything or the shipment is broken off; it is not evidence that the peer has used it.
    ///
    /// # Panics
    /// If the header is longer than [`BULK_HEADER_LEN_MAX`].
    pub fn send_bulk(&self, peer: u16, header: Vec<u8>, parts: Vec<Part>, done: BulkDone) {
        assert!(
            header.len() <= BULK_HEADER_LEN_MAX,
            "a bulk header has at most {BULK_HEADER_LEN_MAX} bytes"
        );
        self.push(Command::Bulk { peer, header, parts, done: DoneGuard::new(done) });
    }

    /// Opens a stream of its own to `peer` that is written piece by piece. `done` is as for
    /// [`send_bulk`](Self::send_bulk).
    ///
    /// # Panics
    /// If the header is longer than [`BULK_HEADER_LEN_MAX`].
    #[must_use]
    pub fn open_bulk(&self, peer: u16, header: Vec<u8>, done: BulkDone) -> BulkFeed {
        self.open_bulk_at(peer, header, 0, done)
    }

    /// As [`open_bulk`](Self::open_bulk); of streams that have something to send, those of the highest
    /// priority go first. Others have 0.
    ///
    /// # Panics
    /// As [`open_bulk`](Self::open_bulk).
    #[must_use]
    pub fn open_bulk_at(
        &self,
        peer: u16,
        header: Vec<u8>,
        priority: i32,
        done: BulkDone,
    ) -> BulkFeed {
        assert!(
            header.len() <= BULK_HEADER_LEN_MAX,
            "a bulk header has at most {BULK_HEADER_LEN_MAX} bytes"
        );
        let shared = self.owner.shared.clone();
        let (feed, queue) = feed::feed(move |f| shared.push(Command::Run(f)));
        self.push(Command::Feed { peer, header, queue, priority, done: DoneGuard::new(done) });
        feed
    }

    /// Ends the link to `peer`, telling it `why`, and dials it no more. It may dial again itself:
    /// the hello is where a dead node is refused.
    pub fn forget(&self, peer: u16, why: impl Into<String>) {
        self.push(Command::Forget { peer, why: why.into() });
    }

    /// Runs `f` on the net thread in its next turn; drops it if the wire is closed.
    pub fn run_soon(&self, f: Box<dyn FnOnce() + Send>) {
        self.push(Command::Run(f));
    }

    /// As long as the answer is kept, the net thread looks for work for longer before it sleeps.
    pub fn hurry(&self) -> Hurry {
        let shared = self.owner.shared.clone();
        shared.hurries.fetch_add(1, Ordering::SeqCst);
        shared.choose_spin();
        Hurry(shared)
    }

    /// Whether the caller runs on the net thread.
    #[must_use]
    pub fn is_net_thread(&self) -> bool {
        self.owner.shared.exec.is_current()
    }

    /// Closes the wire in good order: what was queued is sent (for at most one second), peers are
    /// told `text`, and the net thread ends. Returns when it has; on the net thread at once.
    pub fn close(self, text: &str) {
        self.push(Command::Close(text.to_owned()));
        if self.is_net_thread() {
            return;
        }
        let shared = &self.owner.shared;
        let mut ended = lock(&shared.ended);
        while !*ended {
            ended =
                shared.ended_signal.wait(ended).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn push(&self, command: Command) {
        self.owner.shared.push(command);
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("addr", &self.owner.shared.addr).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.push(Command::Close("its process let go of the wire".to_owned()));
    }
}

impl Shared {
    fn push(&self, command: Command) {
        {
            let mut queue = lock(&self.queue);
            if queue.closed {
                // Dropped outside the lock: a shipment's `done` may call back into here.
                drop(queue);
                drop(command);
                return;
            }
            queue.commands.push(command);
        }
        self.exec.notify();
    }
}

/// The net thread.
fn thread_main(shared: &Arc<Shared>, hub: Arc<Hub>, poll: mio::Poll) {
    hub.exec.spawn(hub.clone().accept());
    let exec = hub.exec.clone();
    let mut driver = Driver { shared, hub, tick: None };
    if let Err(error) = exec.run(poll, &mut driver) {
        tracing::error!(%error, "the net thread cannot poll; the node is cut off");
    }
    drop(driver);
    let left = {
        let mut queue = lock(&shared.queue);
        queue.closed = true;
        std::mem::take(&mut queue.commands)
    };
    drop(left);
    *lock(&shared.ended) = true;
    shared.ended_signal.notify_all();
}

/// What the net thread does in each turn beside its tasks.
struct Driver<'a> {
    shared: &'a Shared,
    hub: Arc<Hub>,
    tick: Option<Instant>,
}

impl Driver<'_> {
    fn obey(&self, command: Command) {
        let hub = &self.hub;
        match command {
            Command::Frame { peer, frame } => {
                if let Some(link) = hub.link(peer) {
                    link.push(frame);
                }
            }
            Command::Bulk { peer, header, parts, done } => match hub.link(peer) {
                Some(link) => {
                    hub.exec.spawn(bulk::send(hub.clone(), link, header, parts, done));
                }
                None => {
                    hub.touch();
                    done.call(Err(format!("there is no link to n{peer}")));
                }
            },
            Command::Feed { peer, header, queue, priority, done } => match hub.link(peer) {
                Some(link) => {
                    hub.exec.spawn(feed::send(hub.clone(), link, header, queue, priority, done));
                }
                None => {
                    hub.touch();
                    done.call(Err(format!("there is no link to n{peer}")));
                }
            },
            Command::Dial(addr) => hub.dial(addr),
            Command::StopDialling(addr) => hub.stop_dialling(addr),
            Command::Forget { peer, why } => hub.forget(peer, &why),
            Command::Run(f) => {
                hub.touch();
                f();
            }
            Command::Close(text) => hub.close(text),
        }
    }
}

impl Turn for Driver<'_> {
    fn begin(&mut self) {
        let commands = std::mem::take(&mut lock(&self.shared.queue).commands);
        for command in commands {
            self.obey(command);
        }
    }

    fn end(&mut self) {
        let due = self.tick.is_some_and(|tick| tick <= Instant::now());
        if self.hub.take_touched() || due {
            self.tick = self.hub.handler.tick();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.tick
    }
}

fn bind(addr: SocketAddr) -> Result<UdpSocket, NetError> {
    let socket = UdpSocket::bind(addr).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => NetError::AddrInUse { addr },
        _ => NetError::Bind { addr, source },
    })?;
    widen(&socket);
    Ok(socket)
}

fn random_run() -> Result<u64, NetError> {
    let mut bytes = [0; 8];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| NetError::System {
        what: "draw random bytes",
        source: io::ErrorKind::Unsupported.into(),
    })?;
    Ok(u64::from_le_bytes(bytes))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::System { what, source }
}
