//! What can happen, and to whom: one process deals with it, and what its core decided then is carried out.

use migrt_proto::{Epoch, Micros, NodeId, Place, TaskId, wire::ShipHeader};

use crate::{chaos::Trouble, net::ConnId, process::Local, world::World};

#[derive(Debug)]
pub(crate) enum Event {
    Control {
        conn: ConnId,
        from: Place,
        to: Place,
        bytes: Vec<u8>,
    },
    Ship {
        conn: ConnId,
        from: Place,
        to: Place,
        header: ShipHeader,
        local: Local,
        is_whole: bool,
    },
    /// The source of a shipment that began to arrive is about to send its last byte.
    Commit {
        conn: ConnId,
        at: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
        after: u64,
    },
    /// The last byte arrives.
    Last {
        conn: ConnId,
        from: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
    },
    ShipFailed {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    /// The driver of a pre-copy sends a round, or freezes when none is left.
    Round {
        at: Place,
        task: TaskId,
        epoch: Epoch,
        left: u32,
    },
    /// The first round arrives.
    Rounds {
        conn: ConnId,
        from: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
        local: Local,
    },
    /// What was left after the rounds arrives.
    Rest {
        conn: ConnId,
        from: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
        local: Local,
    },
    /// A stream of rounds ends before its time.
    Broken {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    /// The target of a lazy move asks for a page, or has all.
    Fetch {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    Request {
        conn: ConnId,
        from: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
        page: u8,
    },
    Page {
        conn: ConnId,
        from: Place,
        to: Place,
        task: TaskId,
        epoch: Epoch,
        page: u8,
        value: u32,
    },
    /// The source of a lazy move sends a page that nobody asked for.
    Push {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    /// The driver has found that pages are gone.
    Lost {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    Wake {
        at: Place,
    },
    Run {
        at: Place,
    },
    Freeze {
        at: Place,
        task: TaskId,
    },
    Install {
        at: Place,
        task: TaskId,
        epoch: Epoch,
    },
    Down {
        at: Place,
        from: NodeId,
        conn: ConnId,
    },
    Up {
        at: Place,
        from: NodeId,
        conn: ConnId,
    },
    Exited {
        place: Place,
    },
    Trouble(Trouble),
}

impl World {
    pub(crate) fn event(&mut self, event: Event) {
        let at = match &event {
            Event::Control { to, .. } | Event::Ship { to, .. } | Event::Last { to, .. } => *to,
            Event::Commit { at, .. } => *at,
            Event::Rounds { to, .. } | Event::Rest { to, .. } => *to,
            Event::Request { to, .. } | Event::Page { to, .. } => *to,
            Event::Round { at, .. } | Event::Broken { at, .. } | Event::Fetch { at, .. } => *at,
            Event::Push { at, .. } | Event::Lost { at, .. } => *at,
            Event::ShipFailed { at, .. } | Event::Wake { at } | Event::Run { at } => *at,
            Event::Freeze { at, .. } | Event::Install { at, .. } => *at,
            Event::Down { at, .. } | Event::Up { at, .. } => *at,
            Event::Exited { place } => return self.exited(*place),
            Event::Trouble(trouble) => return self.trouble(*trouble),
        };
        let now = self.now;
        let Some(process) = self.process(at) else { return };
        if process.paused_until > now {
            let delay = process.paused_until - now;
            return self.at(delay, event);
        }
        let time = Micros(now);
        match event {
            Event::Control { conn, from, to, bytes } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    if let Some(process) = self.process(at) {
                        process.core.receive(time, from.node, &bytes).expect("a sound frame");
                    }
                }
            }
            Event::Commit { conn, at, to, task, epoch, after } => {
                self.commit(at, (conn, to), (task, epoch), after);
            }
            Event::Last { conn, from, to, task, epoch } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.last_arrives(at, task, epoch);
                } else if self.rng.chance(50) {
                    self.at(1_000, Event::ShipFailed { at: from, task, epoch });
                }
            }
            Event::Ship { conn, from, to, header, local, is_whole } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    self.ship_arrives(at, from.node, conn, &header, local, is_whole);
                } else if self.rng.chance(50) {
                    self.at(
                        1_000,
                        Event::ShipFailed { at: from, task: header.task, epoch: header.epoch },
                    );
                }
            }
            Event::ShipFailed { task, epoch, .. } => {
                process.core.ship_failed(time, task, epoch, "broken link")
            }
            Event::Round { task, epoch, left, .. } => self.round(at, task, epoch, left),
            Event::Rounds { conn, from, to, task, epoch, local } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.link_up(at, from.node, conn);
                    self.rounds_arrive(at, from.node, conn, (task, epoch), local);
                }
            }
            Event::Rest { conn, from, to, task, epoch, local } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.rest_arrives(at, task, epoch, local);
                } else if self.rng.chance(50) {
                    self.at(1_000, Event::ShipFailed { at: from, task, epoch });
                }
            }
            Event::Broken { task, epoch, .. } => self.arrival_breaks(at, task, epoch),
            Event::Fetch { task, epoch, .. } => self.fetch(at, task, epoch),
            Event::Request { conn, from, to, task, epoch, page } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.page_wanted(at, from, conn, (task, epoch), page);
                }
            }
            Event::Page { conn, from, to, task, epoch, page, value } => {
                if self.net.is_current(from.node, to.node, conn) {
                    self.page_arrives(at, (task, epoch), page, value);
                }
            }
            Event::Push { task, epoch, .. } => self.push(at, task, epoch),
            Event::Lost { task, epoch, .. } => self.pages_lost(at, task, epoch),
            Event::Wake { .. } => {
                process.wake_at = u64::MAX;
                process.core.tick(time);
            }
            Event::Run { .. } => self.run_tasks(at),
            Event::Freeze { task, .. } => self.freeze(at, task),
            Event::Install { task, epoch, .. } => self.install(at, task, epoch),
            Event::Down { from, conn, .. } => {
                if process.linked.get(&from) == Some(&conn) {
                    process.linked.remove(&from);
                    process.core.peer_down(time, from);
                }
                self.streams_break(at, conn);
            }
            Event::Up { from, conn, .. } => {
                if self.net.is_current(at.node, from, conn) {
                    self.link_up(at, from, conn);
                }
            }
            Event::Exited { .. } | Event::Trouble(_) => unreachable!("dealt with above"),
        }
        self.carry_out(at);
        self.checker.steady(now, &self.processes, at);
    }
}
