//! Building a parcel, and changing it: a child runs the closure, in the arena that is the parcel's.

use std::panic::panic_any;

use super::keep::{self, Head, Keep, State};
use super::{Parcel, ParcelError, hold, is_here, lend};
use crate::census;
use crate::cluster::home;
use crate::config::Audit;
use crate::error::JoinError;
use crate::migrate::audit;
use crate::task::child::{self, Ground};
use crate::task::current::{self, on_worker};
use crate::task::header::{Header, TASK_CLASS};

/// A value that was built, on its way from the child; dropped if nobody takes it.
struct Sealed {
    keep: usize,
    arena: usize,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.keep != 0 {
            // SAFETY: the header of the arena that the block lies in.
            unsafe { &*((!self.arena) as *const Header) }.parcel.take_keep();
            // SAFETY: the block was sealed and nobody has it.
            unsafe { Head::drop_value((!self.keep) as *mut Head) };
        }
    }
}

impl<T: Send + 'static> Parcel<T> {
    /// Builds a value in an arena of its own: all that `build` allocates is the parcel's.
    ///
    /// `build` runs as a task of its own, on this node; the caller waits for it. What it captures should be plain data: a
    /// captured `String` that ends up in the value is still memory of the caller.
    ///
    /// # Errors
    /// [`ParcelError`]: there is no slot left, `build` panicked, or the value is not alone in its arena.
    ///
    /// # Panics
    /// If the runtime does not run.
    pub fn new<F>(build: F) -> Result<Parcel<T>, ParcelError>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        if let Some(why) =
            on_worker(|_| home::unfit().map(|why| current::to_callers_heap(&why.to_string())))
        {
            return Err(ParcelError::Refused { reason: why });
        }
        let packet = child::spawn_on(Ground::Empty, move || {
            let keep = keep::seal(build());
            let header = current::mobile().expect("a child is built as a mobile task");
            header.parcel.set_keep(keep);
            Sealed { keep: !(keep as usize), arena: !(std::ptr::from_ref(header) as usize) }
        });
        let Some(packet) = packet else {
            return Err(ParcelError::OutOfSlots { slot_len: TASK_CLASS.slot_len() });
        };
        let sealed = child::join(packet).map_err(|error| match error {
            JoinError::Panicked { message } => ParcelError::Panicked { message },
            other => ParcelError::Refused { reason: other.to_string() },
        });
        let parcel = take::<T>(sealed?);
        match parcel.look() {
            None => Ok(parcel),
            Some(what) => Err(ParcelError::NotAlone { what }),
        }
    }

    /// Changes the value. What `change` allocates is the parcel's, as when it was built: it runs as a task of its own
    /// on this node, and the caller waits for it.
    ///
    /// What `change` gives back and what that owns lie in the parcel's memory too; let it be plain numbers if the
    /// parcel is to be sent.
    ///
    /// # Panics
    /// If `change` does; or if the parcel is not here, as any access.
    pub fn with_mut<R, F>(&mut self, change: F) -> R
    where
        F: FnOnce(&mut T) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.check_here();
        let (keep, header) = (self.keep.get(), self.header());
        lend::wait_until_whole(header);
        let is_ready = on_worker(|worker| {
            let family = hold::family(worker);
            child::registry::insert(header.slot);
            let is_ours = hold::unlist(family.as_ref().and_then(|task| task.mobile()), header);
            if !is_ours {
                child::registry::remove(header.slot);
            }
            is_ours
        });
        assert!(is_ready, "this parcel is held by another task");
        let packet = child::spawn_on(Ground::Parcel(header), move || {
            // SAFETY: the handle is borrowed for as long as this task runs (`join_through`), so the block
            // is this task's alone.
            let keep = unsafe { &mut *((!keep) as *mut Keep<T>) };
            keep.head().worsen(State::Changed);
            change(keep.value_mut())
        });
        let packet = packet.expect("the arena is there, and its guard can be installed");
        match child::join_through(packet) {
            Ok(result) => result,
            Err(JoinError::Panicked { message }) => panic_any(message),
            Err(other) => panic_any(other.to_string()),
        }
    }

    /// What leads out of the value, in words.
    fn look(&self) -> Option<String> {
        let header = self.header();
        on_worker(|worker| {
            let family = hold::family(worker);
            let body = family.as_ref().and_then(|task| task.mobile());
            let what = hold::still(body, || look(header));
            what.map(|what| current::to_callers_heap(&what))
        })
    }
}

/// The parcel of what a child has built.
#[inline(never)]
fn take<T: Send + 'static>(mut sealed: Sealed) -> Parcel<T> {
    // SAFETY: the header of the arena that the block lies in.
    let header = unsafe { &*((!sealed.arena) as *const Header) };
    debug_assert!(is_here(header));
    Parcel::from_parts((!std::mem::take(&mut sealed.keep)) as *const Head, header)
}

/// What of a parcel that nobody changes now is bound to this node or leads out of it; `None`: nothing, and it is
/// known to be clean. On the worker's side.
pub(super) fn look(header: &Header) -> Option<String> {
    use std::sync::atomic::Ordering;
    let prefix = &header.prefix;
    for (pins, what) in [
        (&prefix.fd_pins, "open file(s) or socket(s)"),
        (&prefix.thread_pins, "OS thread(s) that it started"),
    ] {
        let count = pins.load(Ordering::SeqCst);
        if count > 0 {
            return Some(format!("it has {count} {what}"));
        }
    }
    let audit = crate::node::node().config.audit;
    if audit != Audit::Off
        && let Some(hit) = census::clearing(|| audit::scan_parcel(header))
    {
        if audit == Audit::Strict {
            return Some(hit.in_parcel());
        }
        eprintln!("migrt: audit: a parcel: {}", hit.in_parcel());
    }
    if let Some(head) = header.parcel.keep() {
        head.set_clean();
    }
    None
}

/// A child that no mobile task has started has ended: its arena is held by the node.
pub(in crate::task) fn leave_to_node(header: &'static Header) {
    hold::list(None, header);
}
