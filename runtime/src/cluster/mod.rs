//! The driver of the protocols: one [`Core`] per node, the threads that feed it, and what it orders.
//!
//! Any thread may tell the core something. What it answers goes into one queue; the thread that
//! finds nobody working on the queue works it off, in order, outside the lock. So orders are carried
//! out one after the other without a thread of their own, and carrying one out may tell the core
//! something again.
//!
//! [`driver`] carries out, [`link`] is what the wire calls, [`ask`] what handles call, [`home`] what
//! the end of a task calls, [`metrics`] counts, [`hot`] knows what tasks touch first, [`channels`] has the queues of channels.

pub(crate) mod ask;
mod channels;
mod driver;
pub(crate) mod home;
mod hot;
mod link;
pub(crate) mod metrics;
mod parcels;
mod residents;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use migrt_iso::SlotId;
use migrt_proto::channel::ChannelAnswer;
use migrt_proto::transfer::LinkRate;
use migrt_proto::wire::{Answer, Outcome, StreamHead};
use migrt_proto::{Action, Core, Epoch, Incarnation, Micros, NodeId, Place, TaskId, Token};

use self::residents::Residents;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::migrate::arrive::Arrival;
use crate::net::{BulkFeed, Hurry, Identity, Net, NetConfig, Part};
use crate::task::join::Waker;
use crate::task::record::TaskRef;

/// How long a node tries to join before it gives up.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long a node that is told of the program's end waits for node 0 to close the link.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(100);

/// What came for one who waits under a token.
#[derive(Debug)]
pub(crate) enum Reply {
    Joined(Option<Outcome>),
    Answered(Answer),
    Metrics(metrics::Metrics),
    Channel(ChannelAnswer),
    /// The node that was to reply is gone.
    Nobody,
}

#[derive(Debug)]
struct Wait {
    waker: Waker,
    reply: Option<Reply>,
    /// The node asked, for replies that its death settles.
    of: Option<NodeId>,
}

#[derive(Debug)]
struct Desk {
    core: Core,
    orders: VecDeque<Action>,
    /// Some thread works the queue off.
    busy: bool,
    /// The deadline that the net thread knows of.
    deadline: Option<Micros>,
    /// The lease as `fence` knows it.
    lease: Option<Micros>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    start: Instant,
    me: NodeId,
    expected: u16,
    /// Task slots that are used of what is granted.
    slot_limit: Option<u32>,
    desk: Mutex<Desk>,
    net: OnceLock<Net>,
    /// The mobile tasks that are here.
    residents: Residents,
    arrivals: Mutex<HashMap<(TaskId, Epoch), Arc<Arrival>>>,
    /// Arrivals of which the homes may not know yet, and slots that those tasks have given up since: a
    /// source in doubt could still go on with its copy in them (I3). A task that comes and goes has
    /// more than one.
    unsettled: Mutex<BTreeMap<(TaskId, Epoch), Vec<SlotId>>>,
    rates: Mutex<HashMap<NodeId, LinkRate>>,
    /// The nodes that can serve faults on missing pages, by their hellos.
    can_follow: Mutex<BTreeSet<NodeId>>,
    hot: hot::Profiles,
    channels: channels::Queues,
    waits: Mutex<HashMap<Token, Wait>>,
    token: AtomicU64,
    pub(crate) metrics: metrics::Counters,
    /// The live members, this node included.
    members: Mutex<Vec<NodeId>>,
    /// The nodes with a link to this one, and (on node 0) those that have links to all others.
    linked: Mutex<BTreeSet<NodeId>>,
    meshed: Mutex<BTreeSet<NodeId>>,
    link_error: Mutex<Option<String>>,
    /// The last link that failed, for good or not.
    last_failure: Mutex<Option<String>>,
    end: (Mutex<Option<i32>>, Condvar),
}

impl Cluster {
    pub(crate) fn new(config: &Config) -> Cluster {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let incarnation = Incarnation(now.map_or(1, |d| d.as_micros() as u64));
        let me = NodeId(config.node);
        let core = Core::new(migrt_proto::Config::new(Place::new(me, incarnation), config.nodes));
        Cluster {
            start: Instant::now(),
            me,
            expected: config.nodes,
            slot_limit: config.slots,
            desk: Mutex::new(Desk {
                core,
                orders: VecDeque::new(),
                busy: false,
                deadline: None,
                lease: None,
            }),
            net: OnceLock::new(),
            residents: Residents::default(),
            arrivals: Mutex::new(HashMap::new()),
            unsettled: Mutex::default(),
            rates: Mutex::new(HashMap::new()),
            can_follow: Mutex::default(),
            hot: hot::Profiles::default(),
            channels: channels::Queues::default(),
            waits: Mutex::new(HashMap::new()),
            token: AtomicU64::new(1),
            metrics: metrics::Counters::default(),
            members: Mutex::new(vec![me]),
            linked: Mutex::new(BTreeSet::new()),
            meshed: Mutex::new(BTreeSet::new()),
            link_error: Mutex::new(None),
            last_failure: Mutex::new(None),
            end: (Mutex::new(None), Condvar::new()),
        }
    }

    /// Carries out what a fresh core orders (node 0: its slots). Called once the node is published.
    pub(crate) fn begin(&'static self) {
        self.tell(|_, _| ());
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    fn now(&self) -> Micros {
        Micros(self.start.elapsed().as_micros() as u64)
    }

    /// Tells the core something and sees that its orders are carried out.
    pub(crate) fn tell<R>(&'static self, event: impl FnOnce(&mut Core, Micros) -> R) -> R {
        let now = self.now();
        let mut desk = self.desk.lock().unwrap();
        let result = event(&mut desk.core, now);
        while let Some(order) = desk.core.poll_action() {
            desk.orders.push_back(order);
        }
        let lease = desk.core.lease_until();
        if lease != desk.lease {
            desk.lease = lease;
            crate::fence::set_lease(
                lease.map(|until| Duration::from_micros(until.0.saturating_sub(now.0))),
            );
        }
        let deadline = desk.core.next_deadline();
        let sooner = match (deadline, desk.deadline) {
            (Some(new), Some(known)) => new < known,
            (Some(_), None) => true,
            (None, _) => false,
        };
        desk.deadline = deadline;
        if desk.busy {
            return result;
        }
        desk.busy = true;
        while let Some(order) = desk.orders.pop_front() {
            drop(desk);
            self.carry_out(order);
            desk = self.desk.lock().unwrap();
        }
        desk.busy = false;
        drop(desk);
        if sooner
            && let Some(net) = self.net.get()
            && !net.is_net_thread()
        {
            // The net thread asks for the deadline after each turn with a closure in it.
            net.run_soon(Box::new(|| ()));
        }
        result
    }

    /// Tells the core something from which no order and no deadline can follow: one lock, no clock.
    pub(crate) fn tell_only<R>(&self, event: impl FnOnce(&mut Core) -> R) -> R {
        event(&mut self.desk.lock().unwrap().core)
    }

    /// Looks something up in the core without telling it anything.
    fn look<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.desk.lock().unwrap().core)
    }

    /// Listens, and dials node 0, whose address `find` knows if the settings do not.
    pub(crate) fn connect(
        &'static self,
        config: &Config,
        identity: Identity,
        find: impl FnOnce(&Path) -> Result<SocketAddr>,
    ) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::new(Kind::Start, e.to_string());
        let cluster_id = identity.cluster_id();
        let mut net_config = NetConfig::new(identity);
        net_config.bind = config.bind;
        net_config.bulk_limit = config.move_rate;
        let handler = Arc::new(link::Link::new(self, cluster_id));
        let net = Net::start(net_config, handler).map_err(|e| failed(&e))?;
        let _ = self.net.set(net.clone());
        if self.me != NodeId::STARTING {
            let address = match (config.join, &config.cluster_dir) {
                (Some(address), _) => address,
                (None, Some(dir)) => find(dir)?,
                (None, None) => return Err(failed(&"MIGRT_JOIN is not set: node 0's address")),
            };
            net.dial(address);
        }
        Ok(())
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.net.get().map(Net::local_addr)
    }

    /// The live members, this node included, ascending.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        self.members.lock().unwrap().clone()
    }

    /// The nodes that node 0 waits for: those that have not joined, or not linked up with all others.
    pub(crate) fn missing(&self) -> Vec<u16> {
        let members = self.members();
        let meshed = self.meshed.lock().unwrap();
        let is_missing = |&n: &u16| {
            let node = NodeId(n);
            !members.contains(&node) || (node != self.me && !meshed.contains(&node))
        };
        (0..self.expected).filter(is_missing).collect()
    }

    /// A link came up: once there is one to every node of the start, node 0 hears of it.
    fn link_up(&'static self, peer: NodeId) {
        let mut linked = self.linked.lock().unwrap();
        linked.insert(peer);
        let all = linked.len() + 1 >= usize::from(self.expected);
        drop(linked);
        if all && self.me != NodeId::STARTING {
            self.tell(|core, now| {
                core.send_custom(now, NodeId::STARTING, metrics::KIND_MESHED, Vec::new());
            });
        }
    }

    /// Why the last link that did not come up did not.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap().clone()
    }

    /// Why a link to a node did not come up, if that is final.
    pub(crate) fn link_error(&self) -> Option<String> {
        self.link_error.lock().unwrap().clone()
    }

    /// The task has given up slots, of which pages may be watched. It is asked which only if there are any such: to
    /// walk along the slots of a long heap takes longer than all else that a parcel needs.
    pub(crate) fn unwatch(&self, task: TaskId, slots: impl FnOnce(&mut dyn FnMut(SlotId))) {
        let record = self.resident(task);
        let body = record.as_ref().and_then(|record| record.mobile());
        let Some(journey) = body.and_then(|body| body.any_journey()) else { return };
        let (copying, known) = (journey.copying.clone(), journey.known.clone());
        drop(journey);
        if copying.is_none() && known.is_none() {
            return;
        }
        slots(&mut |slot| {
            copying.iter().for_each(|copying| copying.watch.forget(slot));
            known.iter().for_each(|known| known.forget(slot));
        });
    }

    pub(crate) fn resident(&self, task: TaskId) -> Option<TaskRef> {
        self.residents.get(task)
    }

    /// Calls `look` with the mobile tasks that are here; none comes or goes meanwhile.
    pub(crate) fn hold_residents<R>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = &TaskRef>) -> R,
    ) -> R {
        self.residents.hold(look)
    }

    /// Sends pages; `done` hears when they have arrived or why not.
    pub(crate) fn send_bulk(
        &self,
        to: NodeId,
        header: Vec<u8>,
        parts: Vec<Part>,
        done: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        match self.net.get() {
            Some(net) => net.send_bulk(to.0, header, parts, Box::new(done)),
            None => done(Err("this node is alone".to_owned())),
        }
    }

    /// Opens a stream of pages that is written as they come to be known; `done` as for
    /// [`send_bulk`](Self::send_bulk). `None`: this node is alone.
    pub(crate) fn open_bulk(
        &self,
        to: NodeId,
        header: Vec<u8>,
        done: impl FnOnce(Result<(), String>) + Send + 'static,
    ) -> Option<BulkFeed> {
        Some(self.net.get()?.open_bulk(to.0, header, Box::new(done)))
    }

    /// As [`open_bulk`](Self::open_bulk), ahead of what other streams have to send.
    pub(crate) fn open_urgent(
        &self,
        to: NodeId,
        header: Vec<u8>,
        done: impl FnOnce(Result<(), String>) + Send + 'static,
    ) -> Option<BulkFeed> {
        Some(self.net.get()?.open_bulk_at(to.0, header, 1, Box::new(done)))
    }

    /// Sends bytes to `to` that are thrown away there; how long it took until all had been acknowledged.
    fn send_blank(&self, to: NodeId, bytes: Vec<u8>) -> std::result::Result<Duration, String> {
        let mut head = Vec::new();
        StreamHead::Blank.encode(&mut head);
        let (sender, done) = std::sync::mpsc::sync_channel(1);
        let since = Instant::now();
        let part = Part::Lent(bytes.into());
        self.send_bulk(to, head, vec![part], move |result| _ = sender.send(result));
        let result = done.recv().unwrap_or_else(|_| Err("the wire was closed".to_owned()));
        result.map(|()| since.elapsed())
    }

    /// Answers of a hand-off are due at once: see [`Net::hurry`].
    pub(crate) fn hurry(&self) -> Option<Hurry> {
        Some(self.net.get()?.hurry())
    }

    /// Does `deed` on the net thread, soon; not at all if this node is alone.
    pub(crate) fn soon(&self, deed: impl FnOnce() + Send + 'static) {
        if let Some(net) = self.net.get() {
            net.run_soon(Box::new(deed));
        }
    }

    /// Whether there is a link to `node`.
    pub(crate) fn is_linked(&self, node: NodeId) -> bool {
        self.linked.lock().unwrap().contains(&node)
    }

    /// Whether the caller is the net thread.
    pub(crate) fn is_net_thread(&self) -> bool {
        self.net.get().is_some_and(Net::is_net_thread)
    }

    /// How fast pages get to `node`, as last measured.
    pub(crate) fn link_rate(&self, node: NodeId) -> LinkRate {
        const UNKNOWN: LinkRate = LinkRate { bytes_per_s: 500 << 20, fixed: Micros(250) };
        self.rates.lock().unwrap().get(&node).copied().unwrap_or(UNKNOWN)
    }

    /// Whether pages may follow a task there: it can serve faults on missing ones.
    pub(crate) fn can_follow(&self, node: NodeId) -> bool {
        self.can_follow.lock().unwrap().contains(&node)
    }

    /// By its hello.
    fn note_can_follow(&self, node: NodeId, can_fault: bool) {
        let mut can_follow = self.can_follow.lock().unwrap();
        match can_fault {
            true => can_follow.insert(node),
            false => can_follow.remove(&node),
        };
    }

    /// Pages got there at this rate.
    pub(crate) fn note_rate(&self, node: NodeId, rate: LinkRate) {
        self.rates.lock().unwrap().insert(node, rate);
    }

    /// Keeps a slot that a task has given up back if its arrival here is not settled; `false`: it is free.
    pub(crate) fn quarantine(&self, task: TaskId, slot: SlotId) -> bool {
        let mut unsettled = self.unsettled.lock().unwrap();
        let mut arrivals = unsettled.range_mut((task, Epoch(0))..=(task, Epoch(u32::MAX)));
        arrivals.next_back().map(|arrival| arrival.1.push(slot)).is_some()
    }

    pub(crate) fn expect_arrival(&self, task: TaskId, epoch: Epoch, arrival: Arc<Arrival>) {
        self.arrivals.lock().unwrap().insert((task, epoch), arrival);
    }

    pub(crate) fn arrival(&self, task: TaskId, epoch: Epoch) -> Option<Arc<Arrival>> {
        self.arrivals.lock().unwrap().get(&(task, epoch)).cloned()
    }

    pub(crate) fn forget_arrival(&self, task: TaskId, epoch: Epoch) {
        self.arrivals.lock().unwrap().remove(&(task, epoch));
    }

    /// Node 0: the process of `node` is known to have ended. Whether it was a live member.
    pub(crate) fn process_exited(&'static self, node: u16) -> bool {
        self.tell(|core, now| {
            let place = core.members().map(|member| member.place).find(|p| p.node == NodeId(node));
            if let Some(place) = place {
                core.process_exited(now, place);
            }
            place.is_some()
        })
    }

    fn next_token(&self) -> Token {
        Token(self.token.fetch_add(1, Ordering::Relaxed))
    }

    /// Node 0: the program is over. Tells the others and closes the links.
    pub(crate) fn end(&'static self, text: &str) {
        if let Some(net) = self.net.get() {
            self.tell(|core, now| core.shutdown(now, text));
            net.clone().close(text);
        }
    }

    /// Another node: sleeps until the program is over; the exit code.
    pub(crate) fn wait_for_end(&self) -> i32 {
        let over = |end: &mut Option<i32>| end.is_none();
        let end = self.end.0.lock().unwrap();
        let (end, _) = self.end.1.wait_timeout_while(end, JOIN_PATIENCE, over).unwrap();
        if end.is_none() && !self.look(Core::is_serving) {
            let why = self.last_failure.lock().unwrap().take();
            let why = why.unwrap_or_else(|| "node 0 does not answer".to_owned());
            let text = format!(
                "migrt: node {} cannot join: {why} (tried for {} s)\n",
                self.me,
                JOIN_PATIENCE.as_secs()
            );
            eprint!("{text}");
            return 1;
        }
        let end = self.end.1.wait_while(end, over).unwrap();
        end.expect("waited for")
    }

    /// The program is over, and this node has heard of it; node 0 waits until it knows that it has, which takes a
    /// moment (acknowledgements are not sent at once), and closes the link then. Not waited for for long.
    pub(crate) fn wait_for_goodbye(&self) {
        let until = Instant::now() + GOODBYE_PATIENCE;
        while self.is_linked(NodeId::STARTING) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// For the bench: sends bytes to a node, which throws them away, over the wire that tasks take. Holds up
/// the calling worker.
///
/// # Errors
/// There is no link.
#[doc(hidden)]
pub fn wire_blank(to: NodeId, bytes: Vec<u8>) -> std::result::Result<Duration, String> {
    cluster().send_blank(to, bytes)
}

/// The cluster as this node sees it.
pub(crate) fn cluster() -> &'static Cluster {
    &crate::node::node().cluster
}
