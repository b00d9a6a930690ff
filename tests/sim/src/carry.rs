//! Carrying out what a core decided: the other half of the model of a driver.

use migrt_proto::{
    Action, EntryId, Epoch, Fault, Micros, NodeId, Place, TaskId,
    wire::{Outcome, Refusal, ShipHeader, TaskInfo, TaskState},
};

use crate::{
    chaos::Trouble,
    event::Event,
    net::ConnId,
    process::{Local, PAGES, Plan},
    world::World,
};

impl World {
    /// Does what the core at `at` wants done, and sees to it that it is woken in time.
    pub(crate) fn carry_out(&mut self, at: Place) {
        while let Some(process) = self.process(at) {
            let Some(action) = process.core.poll_action() else { break };
            self.act(at, action);
        }
        let now = self.now;
        let Some(process) = self.process(at) else { return };
        if let Some(Micros(deadline)) = process.core.next_deadline() {
            // A broken core may want to be woken at once, for ever.
            let deadline =
                if process.fault == Fault::None { deadline } else { deadline.max(now + 1_000) };
            if deadline < process.wake_at {
                process.wake_at = deadline;
                self.at(deadline.saturating_sub(now), Event::Wake { at });
            }
        }
    }

    fn act(&mut self, at: Place, action: Action) {
        let now = self.now;
        let slow = self.rng.range(50, 20_000);
        match &action {
            Action::Send { to, bytes } if self.is_traced => {
                eprintln!("{now:>9} {at} -> {to}: {}", migrt_proto::describe(bytes));
            }
            action if self.is_traced => eprintln!("{now:>9} {at}: {action:?}"),
            _ => {}
        }
        let process = self.process(at).expect("checked");
        match action {
            Action::Send { to, bytes } => self.send(at, to, bytes),
            Action::Fence { .. } | Action::Exit { .. } => self.end_process(at),
            Action::SlotsGranted { slots } => {
                process.grant(&slots);
                self.checker.granted(now, at, &slots);
            }
            Action::StartCall { task, args, .. } => {
                let goal = u64::from_le_bytes(args.try_into().expect("eight bytes"));
                self.begin(at, task, goal);
            }
            Action::CancelTask { task, .. } => {
                if let Some(local) = process.tasks.get_mut(&task) {
                    local.cancel = true;
                }
            }
            Action::Freeze { task, target, epoch, strategy } => {
                // It may be that the call could not be started, a moment ago.
                if process.tasks.contains_key(&task) {
                    let (left, lazy) = self.pick(strategy);
                    let process = self.process(at).expect("checked");
                    let local = process.tasks.get_mut(&task).expect("just seen");
                    local.freezing = true;
                    local.plan = Some(Plan { epoch, to: target, lazy, stream: None });
                    let event = match left {
                        0 => Event::Freeze { at, task },
                        _ => Event::Round { at, task, epoch, left },
                    };
                    self.at(slow, event);
                }
            }
            Action::Ship { task, epoch, to } => self.ship(at, task, epoch, to),
            Action::CallOff { task, epoch, .. } => {
                let local = process.tasks.get_mut(&task).expect("I11: the task is here");
                assert!(!local.frozen, "{task} is frozen, and told as if it ran");
                assert_eq!(local.epoch, epoch, "{task} was called off in another epoch");
                local.freezing = false;
                let plan = local.plan.take();
                self.report.failed += 1;
                self.stream_ends(task, plan);
            }
            Action::ResumeHere { task, epoch, .. } => {
                let local = process.tasks.get_mut(&task).expect("I11: the task is here");
                assert!(local.frozen, "{task} was thawed twice");
                local.settled |= local.epoch != epoch;
                let doubts = u64::from(local.epoch != epoch);
                (local.freezing, local.frozen, local.epoch) = (false, false, epoch);
                let slot = local.slot;
                let plan = local.plan.take();
                self.report.doubts += doubts;
                self.report.failed += 1;
                self.stream_ends(task, plan);
                self.runs(at, task, epoch, slot);
            }
            Action::ReleaseSource { task, epoch, .. } => {
                let served = process.serving.remove(&task);
                let released = match served {
                    Some((served, local)) => (served == epoch).then_some(local),
                    None => process.tasks.remove(&task),
                };
                let local = released.expect("a frozen copy");
                assert!(local.frozen, "{task} was released while it ran");
            }
            Action::Serve { task, epoch, .. } => {
                let local = process.tasks.remove(&task).expect("a frozen copy");
                assert!(local.frozen, "{task} was served while it ran");
                let had_rounds = local.plan.is_some_and(|plan| plan.stream.is_some());
                process.serving.insert(task, (epoch, local));
                self.report.mixed += u64::from(had_rounds);
                self.report.lazy += 1;
                self.at(slow, Event::Push { at, task, epoch });
            }
            Action::SourceLost { task, epoch, .. } => {
                self.at(slow, Event::Lost { at, task, epoch });
            }
            Action::DropCopy { task, epoch } => {
                let arrival = process.arriving.remove(&task).expect("an arriving copy");
                assert_eq!(arrival.local.epoch, epoch);
            }
            Action::Thaw { task, epoch } => {
                let local = process.arriving.remove(&task).expect("an installed copy").local;
                assert_eq!(local.epoch, epoch);
                let (slot, lacks) = (local.slot, local.source.is_some());
                process.tasks.insert(task, local);
                self.report.moves += 1;
                self.runs(at, task, epoch, slot);
                if lacks {
                    self.fetch(at, task, epoch);
                }
            }
            Action::Settled { task, epoch } => process.settled(task, epoch),
            Action::JoinAnswered { task, token, outcome } => self.joined(at, task, token, outcome),
            Action::Answered { token, .. } => {
                process.waits.remove(&token).expect("an answer to a question");
            }
            Action::InfoWanted { task, asker } => {
                if process.tasks.contains_key(&task) {
                    let node = at.node;
                    let info = TaskInfo {
                        state: TaskState::Running,
                        node,
                        moves: 0,
                        cpu_us: 0,
                        pins: Vec::new(),
                        last_move: None,
                    };
                    process.core.info(Micros(now), task, asker, info);
                }
            }
            Action::MemberUp { .. } | Action::NodeDead { .. } | Action::Custom { .. } => {}
            Action::NotTaken { .. } => {}
            other => panic!("an action that the model does not know: {other:?}"),
        }
    }

    pub(crate) fn runs(&mut self, at: Place, task: TaskId, epoch: Epoch, slot: u32) {
        if self.process(at).is_some_and(|process| process.tasks.contains_key(&task)) {
            self.checker.runs(self.now, &self.processes, at, task, epoch);
            self.checker.slot_used(self.now, &self.processes, at, task, slot);
        }
    }

    pub(crate) fn begin(&mut self, at: Place, task: TaskId, goal: u64) {
        let now = Micros(self.now);
        let process = self.process(at).expect("checked");
        let Some(slot) = process.take_slot() else {
            return process.core.spawn_refused(
                now,
                task,
                Refusal::Other { why: "no slot is left".into() },
            );
        };
        let (epoch, settled) = (Epoch::FIRST, true);
        let local = Local {
            epoch,
            steps: 0,
            goal,
            slot,
            frozen: false,
            freezing: false,
            cancel: false,
            settled,
            plan: None,
            missing: 0,
            source: None,
            is_parcel: false,
            wants: None,
            pages: [0; PAGES],
        };
        process.tasks.insert(task, local);
        self.runs(at, task, epoch, slot);
    }

    fn ship(&mut self, at: Place, task: TaskId, epoch: Epoch, to: NodeId) {
        let process = self.process(at).expect("checked");
        let local = process.tasks.get(&task).expect("a frozen task").clone();
        assert!(local.frozen, "rule 2");
        let header =
            ShipHeader { task, epoch, slots: Vec::new(), page_len: 4096, extra: Vec::new() };
        let copy = self.copy_of(at, &local, epoch);
        if let Some(stream) = local.plan.and_then(|plan| plan.stream) {
            return self.ship_rest(at, task, stream, copy);
        }
        let delay = self.rng.range(100, 30_000);
        let end = self.net.conn(at.node, to).map(|link| {
            if link.ends.0 == at { (link.id, link.ends.1) } else { (link.id, link.ends.0) }
        });
        let is_lost = self.rng.chance(3);
        let Some((conn, to)) = end.filter(|_| !is_lost) else {
            return self.at(delay, Event::ShipFailed { at, task, epoch });
        };
        if self.rng.chance(4) {
            let soon = delay + self.rng.range(0, 30_000);
            self.at(soon, Event::Trouble(Trouble::Strike(at.node, to.node)));
        }
        // The source may take a stream for broken that arrives all the same, and later than its question.
        let delay = if self.rng.chance(3) { delay + self.rng.range(0, 400_000) } else { delay };
        if self.rng.chance(4) {
            let soon = self.rng.range(0, 2 * delay);
            self.at(soon, Event::ShipFailed { at, task, epoch });
        }
        // A long shipment begins to arrive before its last byte is sent.
        let is_whole = self.rng.chance(60);
        let process = self.process(at).expect("checked");
        if is_whole && !process.core.commit(task, epoch) {
            return;
        }
        self.at(delay, Event::Ship { conn, from: at, to, header, local: copy, is_whole });
        if !is_whole {
            let (last, after) = (self.rng.range(100, 60_000), self.now + delay);
            self.at(last, Event::Commit { conn, at, to, task, epoch, after });
        }
    }

    /// The last byte of a shipment is to be sent; it arrives behind the others, so `after` that time.
    pub(crate) fn commit(
        &mut self,
        at: Place,
        (conn, to): (ConnId, Place),
        (task, epoch): (TaskId, Epoch),
        after: u64,
    ) {
        let now = self.now;
        let delay = self.rng.range(100, 30_000).max((after + 1).saturating_sub(now));
        let process = self.process(at).expect("checked");
        if process.core.commit(task, epoch) {
            self.at(delay, Event::Last { conn, from: at, to, task, epoch });
        } else {
            self.at(delay, Event::Broken { at: to, task, epoch });
        }
    }

    fn send(&mut self, at: Place, to: NodeId, bytes: Vec<u8>) {
        let Some(&conn) = self.process(at).expect("checked").linked.get(&to) else { return };
        if !self.net.is_current(at.node, to, conn) {
            return;
        }
        let link = self.net.conn(at.node, to).expect("it is current");
        let peer = if link.ends.0 == at { link.ends.1 } else { link.ends.0 };
        let (now, twice) = (self.now, self.rng.chance(3));
        let Some((conn, arrival)) = self.net.arrival(&mut self.rng, now, at.node, to) else {
            return;
        };
        if twice {
            let later = arrival - now + self.rng.range(1, 400_000);
            self.at(later, Event::Control { conn, from: at, to: peer, bytes: bytes.clone() });
        }
        self.at(arrival - now, Event::Control { conn, from: at, to: peer, bytes });
    }

    fn joined(
        &mut self,
        at: Place,
        task: TaskId,
        token: migrt_proto::Token,
        outcome: Option<Outcome>,
    ) {
        let now = self.now;
        let process = self.process(at).expect("checked");
        process.waits.remove(&token).expect("an answer to a join");
        process.spawned.remove(&task);
        process.core.join_taken(Micros(now), task);
        let Some(outcome) = outcome else { return };
        if matches!(outcome, Outcome::Lost { .. }) {
            self.report.lost += 1;
        }
        self.checker.outcome(now, &self.processes, task, &outcome);
        self.carry_out(at);
    }

    pub(crate) fn entry() -> EntryId {
        EntryId(1)
    }
}
