//! The record's part of a mobile task: what this node knows of it beside its slot.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use migrt_proto::wire::{MoveRecord, Refusal, Strategy};
use migrt_proto::{EntryId, Epoch, NodeId, TaskId};

use super::adopted;
use super::header::Header;
use super::parent::ParentPin;
use super::promise::SlotPromise;
use super::record::{Body, TaskRef};
use super::safepoint;
use crate::exec::worker::Worker;
use crate::migrate::copying::Copying;
use crate::migrate::have::Offer;
use crate::migrate::known::Known;
use crate::migrate::lacking::Lacking;
use crate::migrate::remains::Base;
use crate::migrate::serve::Serving;

/// No node is asked for.
const NOWHERE: u32 = u32::MAX;

/// A call that was not started yet.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) entry: EntryId,
    pub(crate) args: Vec<u8>,
    /// Of its task slot; ends when the call is dropped, which is when it has started.
    pub(crate) _promise: SlotPromise,
}

/// How a move was ordered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) to: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) strategy: Strategy,
    pub(crate) since: Instant,
}

/// Why a task is not run any more.
#[derive(Clone, Debug)]
pub(crate) enum Doom {
    /// So many pages of it, or of a parcel that it holds, were lost with the node that had them.
    SourceLost { node: NodeId, missing_pages: u64 },
    /// It has left, and a word of it leads to memory of the node it left: which, in words.
    LeadsOut(String),
    /// Pages of it came again and again and could not be put in their places: why.
    NotInstalled(String),
}

/// What ties a task to this node, in one word.
mod tie {
    /// Pages of it are still on their way here.
    pub(super) const LACKING: u32 = 1;
    /// It stands in the handler of a fault.
    pub(super) const FAULT: u32 = 2;
    /// It has returned, and waits for pages so that its memory can go.
    pub(super) const RETURNED: u32 = 4;
    /// It is not to be run any more.
    pub(super) const DOOMED: u32 = 8;
    /// It was lent parcels whose pages are still on their way.
    pub(super) const LENT: u32 = 16;
}

/// A task's last move from here.
#[derive(Debug, Default)]
pub(crate) struct Journey {
    frozen_at: Option<Instant>,
    refusal: Option<Refusal>,
    /// How the core has ordered it.
    pub(crate) order: Option<Order>,
    /// The rounds of it, if pages go while the task runs.
    pub(crate) copying: Option<Arc<Copying>>,
    /// It leaves by post-copy.
    pub(crate) is_lazy: bool,
    /// It is copied, looked through and sent piece by piece.
    pub(crate) goes_in_pieces: bool,
    /// Why it leaves as it does, for the record.
    pub(crate) why: Cow<'static, str>,
    /// The pages that follow it.
    pub(crate) serving: Option<Arc<Serving>>,
    /// What the target of the move that is ordered has kept of it.
    pub(crate) offer: Option<Arc<Offer>>,
    /// Moves in a row that asked for that for little or nothing.
    pub(crate) futile: u32,
    /// What its pages hash to.
    pub(crate) known: Option<Arc<Known>>,
    /// Nodes that it has been at, the last ones.
    pub(crate) visited: Vec<NodeId>,
    /// The record of the move that it came here by.
    pub(crate) arrival: Option<Box<MoveRecord>>,
}

impl Journey {
    /// How long it has stood still.
    pub(crate) fn stood_us(&self) -> u32 {
        self.frozen_at.map_or(0, |when| when.elapsed().as_micros() as u32)
    }
}

/// What only a task has that has moved, or was asked to.
#[derive(Debug, Default)]
struct Travels {
    /// Its last move: when it was frozen, why it was refused. Never held for long.
    journey: Mutex<Journey>,
    lacking: Mutex<Option<Arc<Lacking>>>,
    /// What it lacks of parcels that it was lent.
    lent: Mutex<Vec<Arc<Lacking>>>,
    doom: Mutex<Option<Doom>>,
    /// What is on its way, kept as the base of its remains. Held while that is copied.
    shipped: Mutex<Option<Arc<Base>>>,
}

/// The record's part of a mobile task.
#[derive(Debug)]
pub(crate) struct MobileBody {
    pub(crate) id: TaskId,
    header: AtomicPtr<Header>,
    call: UnsafeCell<Option<Call>>,
    pub(crate) epoch: AtomicU32,
    move_to: AtomicU32,
    cancel: AtomicBool,
    /// Local tasks it started that have not ended.
    pub(crate) children: AtomicU32,
    ties: AtomicU32,
    /// Most tasks never move, and there are many.
    travels: OnceLock<Box<Travels>>,
    /// Held while arenas change owner (rule 1 of `adopted`).
    kin: Mutex<()>,
    /// The mobile task that started it, if it is a child.
    parent: Option<ParentPin>,
}

impl MobileBody {
    pub(crate) fn new(
        id: TaskId,
        epoch: u32,
        call: Option<Call>,
        header: *mut Header,
    ) -> MobileBody {
        MobileBody {
            id,
            header: AtomicPtr::new(header),
            call: UnsafeCell::new(call),
            epoch: AtomicU32::new(epoch),
            move_to: AtomicU32::new(NOWHERE),
            cancel: AtomicBool::new(false),
            children: AtomicU32::new(0),
            ties: AtomicU32::new(0),
            travels: OnceLock::new(),
            kin: Mutex::default(),
            parent: None,
        }
    }

    /// Of a closure that a mobile task has spawned; no home knows of it.
    pub(crate) fn of_child(header: &Header, parent: Option<ParentPin>) -> MobileBody {
        let at = ptr::from_ref(header).cast_mut();
        let body = MobileBody::new(header.id, Epoch::FIRST.0, None, at);
        MobileBody { parent, ..body }
    }

    /// Of a parcel on its way: a task that has a header and does not run.
    pub(crate) fn of_parcel(id: TaskId, header: &Header) -> MobileBody {
        MobileBody::new(id, Epoch::FIRST.0, None, ptr::from_ref(header).cast_mut())
    }

    /// What it keeps in place, if it is a child.
    pub(crate) fn parent(&self) -> Option<&ParentPin> {
        self.parent.as_ref()
    }

    /// The lock of its list of adopted arenas and of its header's end.
    pub(crate) fn kin(&self) -> MutexGuard<'_, ()> {
        self.kin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out the frees of its blocks by others, for whoever holds the task.
    pub(crate) fn drain_frees(&self, header: &Header) {
        let _kin = self.kin();
        header.drain_frees();
        adopted::sweep(header);
    }

    /// Its header, once it has started. The memory is the task's; only the worker that runs it or
    /// the mover that froze it touches more than its atomics.
    pub(crate) fn header(&self) -> Option<&Header> {
        // SAFETY: non-null from the first step to the end or the departure, which clear it while
        // they hold the task (RUNNING or FROZEN).
        unsafe { self.header.load(Ordering::Acquire).as_ref() }
    }

    /// The call of a task that has not started; for the worker that runs it or its mover.
    pub(crate) fn take_call(&self) -> Option<Call> {
        // SAFETY: RUNNING or FROZEN belong to one thread.
        unsafe { &mut *self.call.get() }.take()
    }

    /// Gives the call back when it was not sent after all; as for `take_call`.
    pub(crate) fn put_call(&self, call: Call) {
        // SAFETY: as in `take_call`.
        unsafe { *self.call.get() = Some(call) };
    }

    /// The task has started: its header lies there.
    pub(crate) fn set_header(&self, header: &Header) {
        self.header.store(ptr::from_ref(header).cast_mut(), Ordering::Release);
    }

    /// Forgets the header: the task has ended or left.
    pub(crate) fn clear_header(&self) {
        self.header.store(ptr::null_mut(), Ordering::Release);
    }

    /// Asks that the task be moved when it next can be.
    pub(crate) fn ask_move(&self, target: u16) {
        self.move_to.store(u32::from(target), Ordering::SeqCst);
        if let Some(header) = self.header() {
            safepoint::ask(header);
        }
    }

    pub(crate) fn move_asked(&self) -> Option<u16> {
        match self.move_to.load(Ordering::SeqCst) {
            NOWHERE => None,
            node => Some(node as u16),
        }
    }

    /// Takes the request; the caller sees to it.
    pub(crate) fn take_move(&self) -> Option<u16> {
        match self.move_to.swap(NOWHERE, Ordering::SeqCst) {
            NOWHERE => None,
            node => Some(node as u16),
        }
    }

    /// Whether it is to be unwound.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Asks that the task be unwound at its next suspension or safepoint.
    pub(crate) fn ask_cancel(&self) {
        self.cancel.store(true, Ordering::SeqCst);
        if let Some(header) = self.header() {
            safepoint::ask(header);
        }
    }
}

impl MobileBody {
    /// Made when first needed; by the node, never by the task.
    fn travels(&self) -> &Travels {
        self.travels.get_or_init(Box::default)
    }

    fn tie(&self, tie: u32, is_on: bool) {
        // SeqCst: who orders a move writes the order, then looks here; who unties looks for orders after.
        if is_on {
            self.ties.fetch_or(tie, Ordering::SeqCst);
        } else {
            self.ties.fetch_and(!tie, Ordering::SeqCst);
        }
    }

    fn is_tied_by(&self, ties: u32) -> bool {
        self.ties.load(Ordering::SeqCst) & ties != 0
    }

    /// Whether anything is out of the ordinary about running it.
    #[inline]
    pub(crate) fn is_tied(&self) -> bool {
        self.is_tied_by(u32::MAX)
    }

    /// Whether it may be frozen where it is suspended.
    pub(crate) fn may_leave(&self) -> bool {
        !self.is_tied()
    }

    /// Pages of it are still on their way, or not any more.
    pub(crate) fn set_lacking(&self, lacking: Option<Arc<Lacking>>) {
        let is_on = lacking.is_some();
        *self.travels().lacking.lock().unwrap() = lacking;
        self.tie(tie::LACKING, is_on);
    }

    pub(crate) fn lacking(&self) -> Option<Arc<Lacking>> {
        self.travels.get()?.lacking.lock().unwrap().clone()
    }

    /// Whether pages of it, or of parcels that it was lent, are still on their way.
    pub(crate) fn is_lacking(&self) -> bool {
        self.is_tied_by(tie::LACKING | tie::LENT)
    }

    /// It has a parcel that lacks pages.
    pub(crate) fn lend(&self, lacking: Arc<Lacking>) {
        let mut lent = self.travels().lent.lock().unwrap();
        lent.push(lacking);
        self.tie(tie::LENT, true);
    }

    /// The parcel of this name lacks none any more; whether that was the last such one.
    pub(crate) fn give_back(&self, parcel: TaskId) -> bool {
        let mut lent = self.travels().lent.lock().unwrap();
        lent.retain(|lacking| lacking.task != parcel);
        if lent.is_empty() {
            self.tie(tie::LENT, false);
        }
        lent.is_empty()
    }

    /// Nobody needs what it lacks, of itself or of parcels.
    pub(crate) fn close_lacking(&self) {
        let Some(travels) = self.travels.get() else { return };
        if let Some(lacking) = self.lacking() {
            lacking.close();
        }
        let lent = std::mem::take(&mut *travels.lent.lock().unwrap());
        for lacking in lent {
            lacking.close();
        }
    }

    /// It is entering, or has left, the handler of a fault.
    pub(crate) fn set_in_fault(&self, is_in: bool) {
        self.tie(tie::FAULT, is_in);
    }

    pub(crate) fn is_in_fault(&self) -> bool {
        self.is_tied_by(tie::FAULT)
    }

    /// Its entry has returned; it is never resumed.
    pub(crate) fn set_returned(&self) {
        self.tie(tie::RETURNED, true);
    }

    pub(crate) fn has_returned(&self) -> bool {
        self.is_tied_by(tie::RETURNED)
    }

    /// It is to end where it is; the first reason counts.
    pub(crate) fn set_doom(&self, doom: Doom) {
        self.travels().doom.lock().unwrap().get_or_insert(doom);
        self.tie(tie::DOOMED, true);
        if let Some(header) = self.header() {
            safepoint::ask(header);
        }
    }

    pub(crate) fn doom(&self) -> Option<Doom> {
        self.travels.get()?.doom.lock().unwrap().clone()
    }

    /// It came here by this move.
    pub(crate) fn set_arrival(&self, record: MoveRecord) {
        self.journey().arrival = Some(Box::new(record));
    }

    pub(crate) fn frozen_at(&self, when: Instant) {
        self.journey().frozen_at = Some(when);
    }

    /// The state of its last move from here.
    pub(crate) fn journey(&self) -> MutexGuard<'_, Journey> {
        self.travels().journey.lock().unwrap()
    }

    /// The same, if it ever was to move.
    pub(crate) fn any_journey(&self) -> Option<MutexGuard<'_, Journey>> {
        Some(self.travels.get()?.journey.lock().unwrap())
    }

    /// What is on its way. Not to be asked for by a thread that others wait for.
    pub(crate) fn shipped(&self) -> MutexGuard<'_, Option<Arc<Base>>> {
        self.travels().shipped.lock().unwrap()
    }

    pub(crate) fn set_refusal(&self, why: Refusal) {
        self.journey().refusal = Some(why);
    }

    pub(crate) fn take_refusal(&self) -> Option<Refusal> {
        self.any_journey()?.refusal.take()
    }
}

/// A mobile task that begins on this node; the caller queues it.
pub(crate) fn new_task(worker: Option<&Worker>, id: TaskId, call: Call) -> TaskRef {
    let body = MobileBody::new(id, Epoch::FIRST.0, Some(call), ptr::null_mut());
    TaskRef::new(worker, Body::Mobile(body))
}
