//! One node's part of the conversation: connects members, courier, hand-off, home and dealer.
//!
//! Frames from this node to itself take the same way as all others, minus the link, so a task whose home is its
//! source or target follows the same rules. `frames` decides who gets a frame, `life` what an
//! admission and a death mean for the other parts, `tasks` is the driver's side.

mod frames;
mod life;
mod tasks;

use std::collections::{BTreeMap, VecDeque};

use core::fmt;

pub use tasks::TryJoin;

use crate::{
    action::{Action, Cx, Fault, Item, Out},
    courier::Courier,
    death::Deaths,
    home::Home,
    id::{Epoch, NodeId, Place, TaskId, Token},
    member::{HEARTBEAT_EVERY, JOIN_LIMIT, Members},
    migrate::{TRY_LIMIT, handoff::Handoff},
    slots::Dealer,
    time::Micros,
    wire::{Ask, Frame, MemberInfo, WireError},
};

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This process. Each start of a node needs a new incarnation.
    pub place: Place,
    /// Nodes (this one included) among whom the starting node shares the region. Others do not look at it.
    pub expected_nodes: u16,
    /// See [`TRY_LIMIT`], the usual value.
    pub try_limit: Micros,
    /// For the simulator.
    #[doc(hidden)]
    pub fault: Fault,
}

impl Config {
    /// The usual values for `place` in a cluster of `expected_nodes`.
    pub fn new(place: Place, expected_nodes: u16) -> Config {
        Config { place, expected_nodes, try_limit: TRY_LIMIT, fault: Fault::None }
    }
}

/// One node's protocol state. After every call, carry out the actions until [`Core::poll_action`] gives `None`.
///
/// The order of actions matters: `Thaw` comes after the frames that announce it. A driver may give the frames to its
/// sending thread and go on, as long as that thread keeps their order.
#[derive(Debug)]
pub struct Core {
    members: Members,
    courier: Courier,
    deaths: Deaths,
    handoff: Handoff,
    home: Home,
    dealer: Option<Dealer>,
    /// What this node waits for at other homes, so that the death of a home is an answer too.
    joins: BTreeMap<Token, TaskId>,
    asks: BTreeMap<Token, (TaskId, Ask)>,
    /// Frames that came before the admission and the first lease.
    early: Vec<(NodeId, Frame)>,
    /// Frames to homes that this node has not heard of yet (a handle can travel faster than the news of its node).
    unsent: Vec<(TaskId, Frame)>,
    is_fenced: bool,
    try_limit: Micros,
    fault: Fault,
    out: Out,
    actions: VecDeque<Action>,
}

/// Why a process may not link up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkRefused {
    /// That process was declared dead. It must exit.
    Dead { place: Place },
    /// Another process of that node is alive, or not yet known to be dead. Try again later.
    Occupied { place: Place, by: Place },
    /// The node id has been used by 256 processes of this cluster.
    WornOut { node: NodeId },
}

impl fmt::Display for LinkRefused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkRefused::Dead { place } => {
                write!(out, "{place} was declared dead; it cannot come back, start it anew")
            }
            LinkRefused::Occupied { place, by } => {
                write!(
                    out,
                    "{place} cannot join while {by} is not known to be dead; trying again later helps"
                )
            }
            LinkRefused::WornOut { node } => {
                write!(out, "{node} was restarted too often; use another node number")
            }
        }
    }
}

impl core::error::Error for LinkRefused {}

/// Calls `$machine.$method(cx, ..)` with a context made of the other fields.
macro_rules! step {
    ($core:ident, $now:expr, $machine:ident . $method:ident ( $($arg:expr),* )) => {
        $core.$machine.$method(
            &mut Cx {
                now: $now,
                members: &$core.members,
                out: &mut $core.out,
                try_limit: $core.try_limit,
                fault: $core.fault,
            },
            $($arg),*
        )
    };
}
pub(crate) use step;

impl Core {
    /// A node at its start. The starting node is admitted at once and finds its slots in the first actions.
    pub fn new(config: Config) -> Core {
        let Config { place, expected_nodes, try_limit, fault } = config;
        let mut core = Core {
            members: Members::new(place),
            courier: Courier::default(),
            deaths: Deaths::default(),
            handoff: Handoff::default(),
            home: Home::new(place.node),
            dealer: None,
            joins: BTreeMap::new(),
            asks: BTreeMap::new(),
            early: Vec::new(),
            unsent: Vec::new(),
            is_fenced: false,
            try_limit,
            fault,
            out: Out::default(),
            actions: VecDeque::new(),
        };
        if core.members.is_starting() {
            let mut dealer = Dealer::new(expected_nodes);
            core.actions.push_back(Action::SlotsGranted { slots: dealer.deal() });
            core.dealer = Some(dealer);
        }
        core
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Core::tick`] is due. It may have changed after any call.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.is_fenced {
            return None;
        }
        let members = self.members.next_deadline();
        [members, self.courier.next_deadline(), self.handoff.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed. May be called at any time.
    pub fn tick(&mut self, now: Micros) {
        if self.is_out(now) {
            return;
        }
        for place in self.members.silent(now) {
            self.declare_dead(now, place);
        }
        if self.members.beat_due.is_some_and(|due| due <= now) {
            self.beat(now);
        }
        step!(self, now, handoff.tick());
        self.pump(now);
        for (to, bytes) in self.courier.tick(now) {
            self.actions.push_back(Action::Send { to, bytes });
        }
    }

    /// Whether `place` may link up: ask this in the hello. The driver must see to it that a link belongs to one process
    /// and that what an older link to the same process still holds is dropped at `peer_down`.
    ///
    /// # Errors
    /// [`LinkRefused`]; `Occupied` passes.
    pub fn admits(&self, place: Place) -> Result<(), LinkRefused> {
        if self.members.is_dead(place) {
            return Err(LinkRefused::Dead { place });
        }
        match self.members.place(place.node) {
            Some(by) if by != place => Err(LinkRefused::Occupied { place, by }),
            _ => Ok(()),
        }
    }

    /// A link to `place`, which can be dialled at `addr`, is up: its hello was good, and so was ours.
    ///
    /// # Errors
    /// [`LinkRefused`], as [`Core::admits`] says: close the link.
    pub fn peer_up(&mut self, now: Micros, place: Place, addr: &str) -> Result<(), LinkRefused> {
        self.admits(place)?;
        let is_new = self.members.place(place.node).is_none();
        if is_new && self.members.is_starting() {
            self.admit(now, place, addr)?;
        } else if is_new {
            self.members.meet(now, place, addr.to_owned());
            if place.node == NodeId::STARTING {
                self.actions.push_back(Action::MemberUp { place, addr: addr.to_owned() });
            }
        }
        self.members.heard(now, place.node);
        for bytes in self.courier.up(now, place) {
            self.actions.push_back(Action::Send { to: place.node, bytes });
        }
        if place.node == NodeId::STARTING {
            self.members.join_until.get_or_insert(now + JOIN_LIMIT);
            self.beat(now);
        }
        self.pump(now);
        Ok(())
    }

    /// The link to `node` is gone. It proves nothing; a new one may follow.
    pub fn peer_down(&mut self, now: Micros, node: NodeId) {
        self.courier.down(node);
        step!(self, now, handoff.link_down(node));
        self.pump(now);
    }

    /// The starting node knows that this process has exited: no lease to wait for. Others ignore it.
    pub fn process_exited(&mut self, now: Micros, place: Place) {
        self.declare_dead(now, place);
        self.pump(now);
    }

    /// A control message from the live process `from` has arrived.
    ///
    /// # Errors
    /// [`WireError`] if it is none; nothing has changed then. Close the link.
    pub fn receive(&mut self, now: Micros, from: NodeId, bytes: &[u8]) -> Result<(), WireError> {
        if self.is_fenced || self.members.place(from).is_none() {
            return Ok(());
        }
        if self.is_out(now) {
            return Ok(());
        }
        let frame = self.courier.receive(now, from, bytes)?;
        self.take_settled();
        self.members.heard(now, from);
        if let Some(frame) = frame {
            self.accept(now, from, frame);
            self.pump(now);
        }
        Ok(())
    }

    /// Says good-bye: the mobile tasks of this node have been stopped and it is about to exit.
    pub fn leave(&mut self, now: Micros) {
        self.out.frame(NodeId::STARTING, Frame::Goodbye);
        self.pump(now);
    }

    /// The program is over: tells all others to exit.
    pub fn shutdown(&mut self, now: Micros, text: &str) {
        for node in self.members.others() {
            self.out.frame(node, Frame::Shutdown { text: text.to_owned() });
        }
        self.pump(now);
    }

    /// More slots for `node`, from the starting node's reserve. Others ignore it.
    pub fn deal_more(&mut self, now: Micros, node: NodeId) {
        if let Some(dealer) = &mut self.dealer
            && self.members.place(node).is_some()
        {
            let slots = dealer.deal();
            self.out.frame(node, Frame::SlotGrant { slots });
            self.pump(now);
        }
    }

    /// Sends a message of the runtime's own; it arrives as [`Action::Custom`], once and in order, while both live.
    pub fn send_custom(&mut self, now: Micros, to: NodeId, kind: u16, bytes: Vec<u8>) {
        self.out.frame(to, Frame::Custom { kind, bytes });
        self.pump(now);
    }

    /// This process.
    pub fn me(&self) -> Place {
        self.members.me
    }

    /// Whether this node has been admitted and may hold tasks.
    pub fn is_serving(&self) -> bool {
        self.members.is_serving() && !self.is_fenced
    }

    /// Until when mobile tasks may run here without another answer; `None` on the starting node, and before the first.
    pub fn lease_until(&self) -> Option<Micros> {
        self.members.lease_until
    }

    /// Whether `node` is this node or a live member.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.place(node).is_some()
    }

    /// The other live members that the starting node has told of (on the starting node: all).
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> {
        self.members.infos()
    }

    /// What is left to do or to remember: (tasks in the hand-off table, entries of the home, frames without an
    /// acknowledgement). All 0 when nothing is going on (I10).
    pub fn backlog(&self) -> (usize, usize, usize) {
        (self.handoff.tasks.len(), self.home.len(), self.courier.unacked_count())
    }

    fn beat(&mut self, now: Micros) {
        self.members.beat_due = Some(now + HEARTBEAT_EVERY);
        if let Some(bytes) =
            self.courier.send_loose(NodeId::STARTING, &Frame::Heartbeat { sent: now })
        {
            self.actions.push_back(Action::Send { to: NodeId::STARTING, bytes });
        }
    }

    /// Whether this node may decide nothing any more; says so once.
    fn is_out(&mut self, now: Micros) -> bool {
        if self.members.is_lease_over(now) && self.fault != Fault::NeverFence {
            self.fence("the starting node (n0) has not answered: this node's lease has ended");
        }
        self.is_fenced
    }

    fn fence(&mut self, why: &str) {
        if !self.is_fenced {
            self.is_fenced = true;
            self.actions.push_back(Action::Fence { why: why.to_owned() });
        }
    }

    /// Turns decisions into actions, and frames to this node into decisions.
    fn pump(&mut self, now: Micros) {
        if self.is_out(now) {
            return self.out.0.clear();
        }
        while let Some(item) = self.out.0.pop_front() {
            match item {
                Item::Act(action) => self.actions.push_back(action),
                Item::Frame(to, frame) if to == self.members.me.node => {
                    let residence = self.residence(&frame);
                    self.frame(now, to, frame);
                    self.settled_at_once(residence);
                }
                Item::Frame(to, frame) if self.is_home_to_come(to, &frame) => {
                    let task = frame.home_task().expect("it goes to a home");
                    self.unsent.push((task, frame));
                }
                Item::Frame(to, frame)
                    if self.members.place(to).is_none() && self.members.has_died(to) =>
                {
                    self.settled_at_once(self.residence(&frame));
                }
                Item::Frame(to, frame) => {
                    let residence = self.residence(&frame);
                    if let Some(bytes) = self.courier.send(now, to, &frame, residence) {
                        self.actions.push_back(Action::Send { to, bytes });
                    }
                }
            }
        }
    }

    /// Whether `frame` is for the home of a task, `to`, whose process is neither known nor known to be dead.
    fn is_home_to_come(&self, to: NodeId, frame: &Frame) -> bool {
        let members = &self.members;
        let awaits = |task: TaskId| {
            task.home() == to && !members.is_home_known(task) && !members.is_home_dead(task)
        };
        frame.home_task().is_some_and(awaits)
    }

    /// News of members: what waited for them can be sent, or never will be.
    fn send_unsent(&mut self) {
        for (task, frame) in core::mem::take(&mut self.unsent) {
            self.out.frame(task.home(), frame);
        }
    }

    /// This node's residence that `frame` tells a home of.
    fn residence(&self, frame: &Frame) -> Option<(TaskId, Epoch)> {
        match frame {
            Frame::Located { task, at, epoch } if *at == self.members.me => Some((*task, *epoch)),
            _ => None,
        }
    }

    fn settled(&mut self, residences: impl IntoIterator<Item = (TaskId, Epoch)>) {
        let settled = residences.into_iter().map(|(task, epoch)| Action::Settled { task, epoch });
        self.actions.extend(settled);
    }

    /// As [`Self::settled`], but behind what is decided already: the `Thaw` that it is about.
    fn settled_at_once(&mut self, residence: Option<(TaskId, Epoch)>) {
        if let Some((task, epoch)) = residence {
            self.out.act(Action::Settled { task, epoch });
        }
    }

    fn take_settled(&mut self) {
        let settled = self.courier.take_settled();
        self.settled(settled);
    }
}
