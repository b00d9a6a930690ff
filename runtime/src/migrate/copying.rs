//! Pre-copy at the source: rounds of pages while the task runs, then the rest of them frozen.
//!
//! ```text
//! mover thread   ( stop briefly: what is alive?   scan: what was written?   copy   send )*   freeze
//! task           runs …………… | ………………………………………………………………………………………………………………………………… | stands still
//! ```
//!
//! How many rounds, and what goes in each, `migrt_proto::transfer` decides. The brief stop is needed
//! because only the task itself, or whoever holds it frozen, may read its heap's records; it takes as
//! long as walking those, and the pages are scanned and copied while the task runs again.
//!
//! A page that is copied while the task writes it may come out torn: it is dirty then, and goes again
//! (rule 1 of `migrt_iso::track`). Nobody reads it before the commit (rule 2 of the hand-off).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use migrt_iso::PAGE_LEN;
use migrt_proto::transfer::{self, AutoInput, Limits, Rounds, RoundsRecord, Step};
use migrt_proto::{Epoch, NodeId};

use super::have::Offer;
use super::remains::{Base, Parts, addr_of};
use super::rounds::{Checkpoint, Work};
use super::watch::{self, Watch};
use super::{Manifest, check, ship};
use crate::cluster::Cluster;
use crate::exec::door;
use crate::fail;
use crate::net::Hurry;
use crate::task::body::MobileBody;
use crate::task::header::Header;
use crate::task::record::TaskRef;

/// The rounds of one try of a move.
#[derive(Debug)]
pub(crate) struct Copying {
    pub(crate) target: NodeId,
    pub(crate) epoch: Epoch,
    /// Set if what the rounds leave may follow the task.
    auto: Option<AutoInput>,
    pub(crate) watch: Arc<Watch>,
    state: Mutex<State>,
    news: Condvar,
    /// The mover's, and after it the last shipment's.
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    stop: Option<Checkpoint>,
    /// Sections that the target has installed.
    installed: u32,
    /// The target has said that pages may follow the task.
    can_follow: bool,
    /// Pages follow it: decided at the freeze.
    is_lazy: bool,
    /// When the last pages are on their way: what the target answers is due at once.
    hurry: Option<Hurry>,
    /// The rounds are over and the task is to be frozen.
    is_last: bool,
    /// Nothing is to be done any more: called off, ended, or shipped.
    over: bool,
    /// The task has left, and the watch ends by itself.
    lingers: bool,
}

impl Copying {
    /// Begins the rounds of a task that goes on running; `first` is what is alive now. `false`: there
    /// is no thread for it.
    pub(crate) fn start(
        cluster: &'static Cluster,
        task: &TaskRef,
        to: (NodeId, Epoch),
        (limits, auto): (Limits, Option<AutoInput>),
        first: Checkpoint,
    ) -> bool {
        // The task may have been here just now, and have come back.
        watch::end_lingering(&first.slots);
        let body = task.mobile().expect("only mobile tasks move");
        let mut journey = body.journey();
        let (offer, known) = (journey.offer.clone(), journey.known.take());
        drop(journey);
        let watch = known.as_ref().and_then(|known| known.hand_over()).unwrap_or_default();
        let rounds = Rounds::new(limits, cluster.link_rate(to.0));
        let copying = Arc::new(Copying {
            target: to.0,
            epoch: to.1,
            auto,
            watch,
            state: Mutex::default(),
            news: Condvar::new(),
            work: Mutex::new(Work::new(rounds, offer, known)),
        });
        // Before the thread: the target's answers look for it there.
        body.journey().copying = Some(copying.clone());
        let task = task.clone();
        let spawned = crate::thread::start_clearing("migrt-mover", move || {
            copying.run(cluster, &task, first);
        });
        if spawned.is_err() {
            body.journey().copying = None;
        }
        spawned.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task, which the caller holds, was stopped for a look at what is alive; it goes on.
    pub(crate) fn take_look(&self, header: &Header) -> bool {
        let mut state = self.state();
        if !std::mem::take(&mut state.wanted) {
            return false;
        }
        state.stop = Some(Checkpoint::of(header));
        self.news.notify_all();
        true
    }

    /// The target has installed so many sections, and says whether pages may follow the task.
    pub(crate) fn installed(&self, sections: u32, can_follow: bool) {
        let mut state = self.state();
        (state.installed, state.can_follow) = (sections, can_follow);
        drop(state);
        self.news.notify_all();
    }

    /// Waits until the target has installed so many sections; `false`: the rounds are over.
    pub(super) fn wait_installed(&self, sections: u32) -> bool {
        let mut state = self.state();
        while state.installed < sections && !state.over {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.over
    }

    /// Whether the rounds are over and the task is to be frozen now.
    pub(crate) fn is_last(&self) -> bool {
        self.state().is_last
    }

    /// Whether what is left follows the frozen task.
    pub(crate) fn is_lazy(&self) -> bool {
        self.state().is_lazy
    }

    /// What the rounds have left takes too long while the task stands still, and may follow it.
    fn falls_back(&self, record: &RoundsRecord) -> bool {
        let Some(auto) = self.auto else { return false };
        let input = AutoInput { can_fault: self.state().can_follow, ..auto };
        transfer::fallback(record, &input).strategy == transfer::Strategy::PostCopy
    }

    /// Nothing more is to be done: the mover's thread ends, nothing is watched any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.over = true;
        drop(state.hurry.take());
        drop(state);
        self.news.notify_all();
    }

    /// All that the target needs is on its way: its answers are due at once.
    pub(super) fn hurry(&self, cluster: &Cluster) {
        self.state().hurry = cluster.hurry();
    }

    /// The task runs at the target: no answer is awaited.
    pub(super) fn calm(&self) {
        drop(self.state().hurry.take());
    }

    /// The task is another node's: as [`Copying::end`], and the watching ends a little later, since
    /// ending it takes the kernel milliseconds that the hand-off needs.
    pub(crate) fn end_later(&self) {
        watch::end_later(self.watch.clone());
        self.state().lingers = true;
        self.end();
    }

    /// The task ends, and its slots with it: as [`Copying::end`], and done when it returns.
    pub(crate) fn close(&self) {
        self.end();
        self.watch.close();
    }

    fn run(&self, cluster: &'static Cluster, task: &TaskRef, first: Checkpoint) {
        let id = task.mobile().expect("only mobile tasks move").id;
        if let Err(why) = self.make_rounds(cluster, task, first) {
            if !self.state().over {
                cluster.tell(|core, now| core.ship_failed(now, id, self.epoch, &why));
            }
        } else {
            self.freeze(task);
            let mut state = self.state();
            while !state.over {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if !self.state().lingers {
            self.watch.close();
        }
        // Dropped, which breaks the stream off if it was not finished.
        let mut work = self.work();
        work.is_called_off.store(work.feed.is_some(), Ordering::Relaxed);
        let feed = work.feed.take();
        drop(work);
        drop(feed);
    }

    /// Rounds until there is little enough left.
    fn make_rounds(
        &self,
        cluster: &'static Cluster,
        task: &TaskRef,
        first: Checkpoint,
    ) -> Result<(), String> {
        let body = task.mobile().expect("only mobile tasks move");
        let id = body.id;
        if !cluster.tell(|core, now| core.copying(now, id, self.epoch)) {
            self.state().over = true;
            return Err("it was called off".to_owned());
        }
        fail::point("source.copying");
        let mut work = self.work();
        let mut stop = first;
        loop {
            self.watch.sync(&stop)?;
            let step = work.look(self, &stop.live)?;
            match step {
                Step::Send(pages) => {
                    work.send(cluster, (id, self), &stop.slots, &pages, body)?;
                    fail::point("source.round");
                }
                Step::Freeze { why, outstanding, expected_pause } => {
                    tracing::debug!(task = %id, ?why, outstanding, ?expected_pause, "rounds end");
                    if self.falls_back(&work.rounds.record()) {
                        work.announce(cluster, (id, self), &stop.slots)?;
                    }
                    return Ok(());
                }
            }
            drop(work);
            stop = self.look(task).ok_or("it was called off")?;
            work = self.work();
        }
    }

    /// Has the task stopped for a moment.
    fn look(&self, task: &TaskRef) -> Option<Checkpoint> {
        self.state().wanted = true;
        self.ask(task);
        let mut state = self.state();
        loop {
            if state.over {
                return None;
            }
            if let Some(stop) = state.stop.take() {
                return Some(stop);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn freeze(&self, task: &TaskRef) {
        self.state().is_last = true;
        self.ask(task);
    }

    fn ask(&self, task: &TaskRef) {
        let body = task.mobile().expect("only mobile tasks move");
        body.ask_move(self.target.0);
        if task.state.freeze_waiting() {
            super::depart(task.clone());
        } else {
            door::wake(task.clone());
        }
    }

    /// Whether words of a frozen task's heap may lead out of it: seen in the rounds, or in pages
    /// written since.
    ///
    /// # Errors
    /// What was written cannot be told.
    pub(crate) fn has_suspects(&self, header: &Header) -> Result<bool, String> {
        let mut work = self.work();
        let stop = Checkpoint::of(header);
        let rest = work.last_look(self, &stop)?;
        let is_lazy = self.falls_back(&work.rounds.record());
        self.state().is_lazy = is_lazy;
        // What follows is looked through as it is sent.
        for run in rest.runs().filter(|_| !is_lazy) {
            let (addr, len) = (addr_of(run.first), run.count as usize * PAGE_LEN);
            work.suspects.look(&stop.slots, addr, addr, len);
        }
        work.last = Some((stop, rest));
        Ok(work.suspects.any_alive(header))
    }

    /// Copies what is left of a frozen task and sends it; the whole copy is its base from now on.
    /// Gives the bytes sent too.
    ///
    /// # Errors
    /// There is no slot for the copy, what was written cannot be told, or this node is alone.
    pub(crate) fn ship_rest(
        &self,
        cluster: &'static Cluster,
        body: &MobileBody,
        header: &Header,
        manifest: impl FnOnce() -> Manifest,
    ) -> Result<(Base, usize), String> {
        let mut work = self.work();
        let (mut parts, mut section, mut byte_count, mut live_pages, mut stop);
        loop {
            parts = Parts::default();
            // What the node writes to pages that it reaches after the last look is the node's: it
            // stays here, and differs from the base.
            let rest;
            (stop, rest) = match work.last.take() {
                Some(last) => last,
                None => {
                    let stop = Checkpoint::of(header);
                    let rest = work.last_look(self, &stop)?;
                    (stop, rest)
                }
            };
            live_pages = stop.page_count();
            (section, byte_count) =
                work.copy_rest((self, body.id), header, &stop, rest, &mut parts)?;
            // Others may free blocks of a frozen task. Such a free is carried out here or kept for
            // its return, but never goes along: it would be carried out twice.
            let mut lists = header.arenas().map(|arena| arena.arena().remote_list_addr());
            if lists.all(|list| work.base.word(list).is_none_or(|head| head == 0)) {
                break;
            }
            body.drain_frees(header);
        }
        let rest_pages = (byte_count / PAGE_LEN) as u64;
        let record = work.rounds.record();
        let mut manifest = manifest();
        manifest.report.pre_copy(&record, live_pages, rest_pages);
        let keeps = |offer: &Arc<Offer>| manifest.keeps(offer, &stop.slots);
        let same = work.offer.as_ref().map(keeps).unwrap_or_default();
        check::take(&mut manifest, header);
        section.extra = postcard::to_stdvec(&manifest).expect("plain data encodes");
        ship::commit(cluster, (body.id, self.epoch), self.target)?;
        work.push(cluster, (body.id, self), section, parts)?;
        work.feed.take().expect("just written to").finish();
        // While it is on its way.
        work.base.note_same(same);
        Ok((std::mem::take(&mut work.base), byte_count))
    }
}
