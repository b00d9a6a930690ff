//! Carrying out what the core orders, one order after the other.

use migrt_iso::SlotClass;
use migrt_proto::wire::{Refusal, TaskInfo, TaskState};
use migrt_proto::{Action, EntryId, NodeId, Place, TaskId};

use super::{Cluster, Reply};
use crate::exec::door;
use crate::fail;
use crate::migrate;
use crate::task::body::{self, Call, MobileBody};
use crate::task::header::Header;
use crate::task::parcel;
use crate::task::record::{Body, TaskRef};
use crate::task::state::Phase;

impl Cluster {
    pub(super) fn carry_out(&'static self, order: Action) {
        match order {
            Action::Send { to, bytes } => self.send(to, bytes),
            Action::MemberUp { place, addr } => self.member_up(place, &addr),
            Action::NodeDead { place } => self.member_dead(place),
            Action::SlotsGranted { slots } => {
                for grant in slots {
                    if let Some(class) = SlotClass::new(grant.class) {
                        let limit = match class {
                            SlotClass::TASK => self.slot_limit.unwrap_or(u32::MAX),
                            _ => u32::MAX,
                        };
                        let count = grant.count.min(limit);
                        migrt_iso::pool::global().grant(class, grant.first, count);
                    }
                }
            }
            Action::Fence { why } => crate::fence::stop(&why),
            Action::Exit { text } => {
                tracing::debug!(node = self.me.0, %text, "the program is over");
                self.finish(0);
            }
            Action::Custom { from, kind, bytes } => self.custom(from, kind, &bytes),
            Action::StartCall { task, entry, args } => self.start_call(task, entry, args),
            Action::CancelTask { task, why: _ } => {
                if let Some(task) = self.resident(task) {
                    cancel(&task);
                }
            }
            Action::Freeze { task, target, epoch, strategy } => match self.resident(task) {
                Some(record) => migrate::order(record, target, epoch, strategy),
                None => self.tell(|core, now| core.freeze_failed(now, task, Refusal::UnknownTask)),
            },
            Action::Ship { task, epoch, to } => {
                if let Some(record) = self.resident(task) {
                    migrate::ship(self, &record, epoch, to);
                }
            }
            Action::CallOff { task, epoch, why } => {
                if let Some(record) = self.resident(task) {
                    migrate::call_off(self, &record, epoch, &why);
                }
            }
            Action::ResumeHere { task, epoch, why } => {
                if let Some(record) = self.resident(task) {
                    migrate::resume_here(self, record, epoch, &why);
                }
            }
            Action::Serve { task, epoch, to } => {
                tracing::debug!(%task, to = to.0, "its pages are served");
                if let Some(serving) = migrate::serve::find(task, epoch, to) {
                    serving.begin();
                }
                fail::point("source.serving");
            }
            Action::SourceLost { task, epoch, source: _ } => {
                let lacking = self
                    .resident(task)
                    .and_then(|record| record.mobile().and_then(MobileBody::lacking));
                // Whole already, or dealt with by whoever made it so.
                if lacking.is_none_or(|lacking| lacking.source_lost()) {
                    self.tell(|core, now| core.whole(now, task, epoch));
                }
            }
            Action::ReleaseSource { task, epoch: _, to } => {
                if let Some(record) = self.resident(task) {
                    migrate::release(self, &record, to);
                    self.residents.remove_this(task, &record);
                    // Whoever waits for its end here asks its home from now on.
                    record.join.finish();
                    parcel::news(task);
                }
            }
            Action::DropCopy { task, epoch } => {
                let arrival = self.arrivals.lock().unwrap().remove(&(task, epoch));
                if let Some(arrival) = arrival {
                    arrival.discard();
                }
            }
            Action::Thaw { task, epoch } => {
                let arrival = self.arrivals.lock().unwrap().remove(&(task, epoch));
                let arrival = arrival.expect("a copy that was installed");
                fail::point("target.commit");
                let record = arrival.thaw(epoch);
                self.residents.insert(task, record.clone());
                let header = record.mobile().and_then(MobileBody::header);
                migrate::remains::came_home(header.map_or(task, Header::remains_id));
                self.unsettled.lock().unwrap().insert((task, epoch), Vec::new());
                self.after_sending(move || {
                    door::push(record);
                    fail::point("target.thawed");
                });
            }
            Action::Settled { task, epoch } => {
                let slots = self.unsettled.lock().unwrap().remove(&(task, epoch));
                slots.into_iter().flatten().for_each(crate::task::retire::rest);
                parcel::news(task);
            }
            Action::JoinAnswered { task: _, token, outcome } => {
                self.reply(token, Reply::Joined(outcome));
            }
            Action::NotTaken { bytes } => self.not_taken(&bytes),
            Action::Answered { task: _, token, answer } => {
                self.reply(token, Reply::Answered(answer));
            }
            Action::InfoWanted { task, asker } => {
                let info = self.describe(task);
                self.tell(|core, now| core.info(now, task, asker, info));
            }
            other => tracing::warn!(?other, "an order that this runtime does not know"),
        }
    }

    fn send(&self, to: NodeId, bytes: Vec<u8>) {
        let Some(net) = self.net.get() else { return };
        net.send(to.0, bytes);
    }

    /// Does `deed` when the kernel has what was given to `send` before.
    ///
    /// Home and source must have the word that a task runs here before it does anything: if this
    /// process were killed in between, the source would go on with its copy, and steps that the
    /// task did here would be done again (rule 3 of the hand-off). The net thread writes what one
    /// turn has queued in that turn, so the turn after it is the time. On two busy cores this makes a
    /// null hop some 60 us longer (250 to 310 us), since nothing overlaps with the sending.
    fn after_sending(&'static self, deed: impl FnOnce() + Send + 'static) {
        let Some(net) = self.net.get() else { return deed() };
        net.run_soon(Box::new(move || net.run_soon(Box::new(deed))));
    }

    /// Another node's process ends with this code.
    pub(crate) fn finish(&self, code: i32) {
        *self.end.0.lock().unwrap() = Some(code);
        self.end.1.notify_all();
    }

    fn member_up(&self, place: Place, addr: &str) {
        let mut members = self.members.lock().unwrap();
        if !members.contains(&place.node) {
            members.push(place.node);
            members.sort_unstable();
        }
        drop(members);
        // The lower number dials; node 0 is dialled by all.
        if self.me != NodeId::STARTING
            && self.me < place.node
            && let (Some(net), Ok(addr)) = (self.net.get(), addr.parse())
        {
            net.dial(addr);
        }
    }

    fn member_dead(&'static self, place: Place) {
        tracing::warn!(node = place.node.0, "a node died or was cut off");
        self.members.lock().unwrap().retain(|&node| node != place.node);
        if let Some(net) = self.net.get() {
            net.forget(place.node.0, "this process was declared dead: its lease had ended");
        }
        self.channels.node_lost(place.node);
        let orphaned: Vec<_> = {
            let waits = self.waits.lock().unwrap();
            waits.iter().filter(|(_, w)| w.of == Some(place.node)).map(|(t, _)| *t).collect()
        };
        for token in orphaned {
            self.reply(token, Reply::Nobody);
        }
    }

    fn start_call(&'static self, task: TaskId, entry: EntryId, args: Vec<u8>) {
        let promise = if crate::entry::lookup(entry).is_none() {
            let why = format!("node {} has no entry {:#018x}", self.me, entry.0);
            Err(Refusal::Other { why })
        } else if let Some(why) = super::home::unfit() {
            Err(why)
        } else {
            super::home::promise_slot()
        };
        let promise = match promise {
            Ok(promise) => promise,
            Err(why) => return self.tell(|core, now| core.spawn_refused(now, task, why)),
        };
        let record = body::new_task(None, task, Call { entry, args, _promise: promise });
        self.residents.insert(task, record.clone());
        door::push(record);
    }

    /// What `info()` tells of a task that is here.
    fn describe(&self, task: TaskId) -> TaskInfo {
        let record = self.resident(task);
        let body = record.as_ref().and_then(|r| r.mobile());
        let header = body.and_then(MobileBody::header);
        let state = match record.as_ref().map(|r| r.state.phase()) {
            Some(_) if header.is_none() => TaskState::Waiting,
            Some(Phase::Queued | Phase::Running) => TaskState::Running,
            Some(Phase::Waiting) => TaskState::Suspended,
            Some(Phase::Frozen | Phase::Gone) => TaskState::Moving,
            Some(Phase::Done) | None => TaskState::Ended,
        };
        TaskInfo {
            state,
            node: self.me,
            moves: header.map_or(0, |h| h.moves.load(std::sync::atomic::Ordering::Relaxed)),
            cpu_us: header
                .map_or(0, |h| h.cpu_ns.load(std::sync::atomic::Ordering::Relaxed) / 1000),
            pins: body.map(migrate::pins::of).unwrap_or_default(),
            last_move: body.and_then(|body| body.any_journey()?.arrival.clone()),
        }
    }
}

fn cancel(task: &TaskRef) {
    if let Body::Mobile(body) = task.body() {
        body.ask_cancel();
        door::wake(task.clone());
    }
}
