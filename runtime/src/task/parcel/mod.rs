//! Parcels: values of any type in an arena of their own, handed from task to task without a copy.
//!
//! ```text
//! build   a child (`child`) runs the closure; its arena is the parcel's          `build`
//! held    by a mobile task: one of the arenas that it has adopted, so it travels with the task
//!         by anybody else: in a list of the node                                 `hold`
//! sent    named in arguments, a result or a message: a task that does not run,
//!         resident where the arena lies; its id is all that goes over the wire   `pack`
//! taken   by whoever decodes the message. If it is on another node it is moved
//!         here first, as any task is; then its arena is held as above            `pull`
//! ```
//!
//! So a parcel on its way has one owner for the same reasons as a task runs in one place: the hand-off of
//! `migrt_proto::migrate`, the death of nodes and the remains of what has left are those of tasks. What a
//! parcel adds is that nobody may ever ask for it: it is tied to what carries the message (rule 7 of
//! `migrt_proto`'s home) and ends with it.
//!
//! A handle keeps its addresses inverted. When it has been given away its bytes are left in frames and
//! blocks, and the audit would take them for references to what is somebody else's by then. As it cannot
//! see them in a handle that is alive either, an access looks whether the parcel is here ([`Label`]).

mod build;
mod hold;
mod keep;
mod lend;
mod pack;
mod pull;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use migrt_proto::{Generation, TaskId};

pub(super) use self::build::leave_to_node;
pub(crate) use self::hold::{held, sweep};
use self::keep::{Head, Keep};
pub(crate) use self::keep::{Label, State};
pub(crate) use self::lend::came;
pub(super) use self::pack::tie_arguments;
pub(crate) use self::pack::{failed_by, named_in, pack, tie_result, unpack};
pub(super) use self::pull::rest;
pub(crate) use self::pull::{give_up, news};
use super::current;
use super::header::Header;
use crate::cluster::cluster;
use crate::entry::{Entry, EntryError, TakeArguments};

/// Why there is no parcel, or not where it was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParcelError {
    /// This node has no slot left for an arena.
    OutOfSlots {
        /// Bytes of the slot that was asked for.
        slot_len: usize,
    },
    /// The closure that was to build the value panicked; the panic's text.
    Panicked {
        /// The text of the panic.
        message: String,
    },
    /// The value is bound to this node or shares memory with something outside of it: what, in words.
    NotAlone {
        /// What was found.
        what: String,
    },
    /// This program cannot have parcels, for the reasons for which it cannot have mobile tasks.
    Refused {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ParcelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParcelError::OutOfSlots { slot_len } => write!(
                f,
                "no parcel was made: this node has no free slot of {} KiB left for its arena",
                slot_len >> 10
            ),
            ParcelError::Panicked { message } => {
                write!(f, "no parcel was made: its closure panicked: {message}")
            }
            ParcelError::NotAlone { what } => write!(
                f,
                "no parcel was made: {what}; build the whole value inside the closure, from plain data"
            ),
            ParcelError::Refused { reason } => write!(f, "no parcel was made: {reason}"),
        }
    }
}

impl std::error::Error for ParcelError {}

impl From<ParcelError> for crate::error::Error {
    fn from(error: ParcelError) -> crate::error::Error {
        let text = error.to_string();
        crate::error::Error::with_source(crate::error::Kind::Other, text, error)
    }
}

/// A value of any type in memory of its own, which is handed from task to task without being copied or
/// encoded.
///
/// The closure of [`Parcel::new`] runs as a task of its own, whose heap becomes the parcel. A parcel can be an
/// argument or the result of a `#[migratable]` function, by itself or inside of other types. On one node it changes its owner, whatever its size; to another node
/// its pages travel as they are. Received it is the same value at the same address, with every pointer inside
/// still valid. A parcel that a mobile task holds moves with the task.
///
/// It is read through [`Deref`] or [`with`](Parcel::with), changed by [`with_mut`](Parcel::with_mut). Serde's traits are there for
/// messages of the runtime only; any other encoder gets an error.
///
/// What leads out of the value refuses: an open file or socket, an `Arc` or reference shared with something
/// outside. [`new`](Parcel::new) looks for that. What is put there later, by `with_mut` or through a `Mutex` or
/// `RefCell` inside, is looked for when the parcel is sent or, at the latest, before it leaves its node.
///
/// # Examples
/// ```
/// use std::collections::HashMap;
///
/// use migrt::Parcel;
///
/// #[migrt::migratable]
/// fn total(counts: Parcel<HashMap<String, Vec<u64>>>) -> u64 {
///     counts.values().flatten().sum()
/// }
///
/// #[migrt::main]
/// fn main() -> migrt::Result<()> {
///     let counts = Parcel::new(|| {
///         (0..100u64).map(|n| (format!("key {n}"), vec![n; 10])).collect::<HashMap<_, _>>()
///     })?;
///     assert_eq!(migrt::spawn(total(counts)).join()?, 49_500);
///     Ok(())
/// }
/// ```
pub struct Parcel<T: Send + 'static> {
    /// Address of the block with the value, inverted; 0: it was sent.
    keep: Cell<usize>,
    /// That of the arena's header, inverted.
    arena: Cell<usize>,
    _value: PhantomData<T>,
}

// SAFETY: a parcel owns its value, which is `Send`, and the arena that this lies in.
unsafe impl<T: Send> Send for Parcel<T> {}

impl<T: Send + 'static> Parcel<T> {
    /// Takes the value over from whoever has it under these addresses.
    fn from_parts(keep: *const Head, header: &Header) -> Parcel<T> {
        let arena = Cell::new(!(std::ptr::from_ref(header) as usize));
        Parcel { keep: Cell::new(!(keep as usize)), arena, _value: PhantomData }
    }

    fn keep(&self) -> *mut Keep<T> {
        let at = self.keep.get();
        assert!(at != 0, "this parcel was sent: it is no more here");
        (!at) as *mut Keep<T>
    }

    fn header(&self) -> &'static Header {
        // SAFETY: the address of a header: such addresses stay mapped, and only its label is read before
        // it is known to be this parcel's.
        unsafe { &*((!self.arena.get()) as *const Header) }
    }

    /// The parcel is here, and the caller's.
    ///
    /// # Panics
    /// If it is not: a handle went by way of a static, say, and the task that held the parcel has left.
    fn check_here(&self) {
        assert!(
            self.keep.get() != 0 && is_here(self.header()),
            "this parcel is not here: it was sent, or its holder has moved to another node; a parcel \
             changes its holder as an argument, a result or a message"
        );
    }

    /// Reads the value, in a function of its own: unlike [`Deref`], it leaves no address of the value in the caller's
    /// frame, where it would refuse the caller's moves once the parcel was sent.
    ///
    /// # Panics
    /// As any access, if the parcel is not here.
    #[inline(never)]
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(self)
    }

    /// The parcel, whose pages follow it when it is sent to another node: the task that receives it begins at once, and
    /// waits for a page only when it touches it. It stays so for whoever has it.
    ///
    /// That is for a value of which the receiver reads little, or later. Until all pages are there the receiver does not
    /// move on, and if the node that has the rest of them dies it ends as [`JoinError::Lost`](crate::JoinError::Lost). Who
    /// receives it outside of a mobile task (`main`, a closure) waits for all of it.
    ///
    /// # Panics
    /// As any access, if the parcel is not here.
    ///
    /// # Examples
    /// ```
    /// #[migrt::migratable]
    /// fn first(words: migrt::Parcel<Vec<u64>>) -> u64 {
    ///     words[0]
    /// }
    ///
    /// #[migrt::main]
    /// fn main() -> migrt::Result<()> {
    ///     let words = migrt::Parcel::new(|| (7..1_000_000).collect::<Vec<u64>>())?.lazily();
    ///     assert_eq!(migrt::spawn(first(words)).join()?, 7);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn lazily(self) -> Parcel<T> {
        self.check_here();
        self.header().parcel.set_lazy();
        self
    }

    /// Gives the value out of the parcel. What it owns stays in the parcel's memory, which is that of the
    /// caller from now on.
    ///
    /// # Panics
    /// As any access, if the parcel is not here.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.check_here();
        // SAFETY: the block was made by `keep::seal` with this type, and nobody uses it after this.
        let keep = unsafe { Box::from_raw(self.keep()) };
        let header = self.header();
        self.keep.set(0);
        let value = keep.open();
        hold::release(header);
        value
    }
}

impl<T: Send + 'static> Deref for Parcel<T> {
    type Target = T;

    /// The value.
    ///
    /// # Panics
    /// If the parcel is not here: its handle went by way of a static, and its holder has moved away.
    fn deref(&self) -> &T {
        self.check_here();
        // SAFETY: checked: the block of this handle, which lives as long as it.
        let keep = unsafe { &*self.keep() };
        // Through a cell in the value anything may come in from now on.
        keep.head().worsen(State::Seen);
        keep.value()
    }
}

impl<T: Send + 'static> Drop for Parcel<T> {
    fn drop(&mut self) {
        if self.keep.get() == 0 || !is_here(self.header()) {
            // Sent, or elsewhere: then it is no more this handle's than any other copy of it.
            return;
        }
        let keep = self.keep().cast::<Head>();
        let header = self.header();
        self.keep.set(0);
        // SAFETY: the block is this handle's, and nobody uses it after this.
        unsafe { Head::drop_value(keep) };
        hold::release(header);
    }
}

impl<T: Send + fmt::Debug> fmt::Debug for Parcel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keep.get() == 0 {
            return f.write_str("Parcel(sent)");
        }
        f.debug_tuple("Parcel").field(&**self).finish()
    }
}

/// Who a parcel belongs to that no mobile task holds, and what the children are called that build such.
pub(super) fn builder_id() -> TaskId {
    TaskId::new(cluster().me(), Generation(u8::MAX), TaskId::SEQUENCE_MAX)
}

/// Whether the caller may use the parcel whose arena this is.
fn is_here(header: &Header) -> bool {
    let holder = header.parcel.holder();
    current::mobile().is_some_and(|task| task.id.to_raw() == holder)
        || builder_id().to_raw() == holder
}

/// What a parcel on its way has in the place of a task's entry: it runs to drop the value.
#[linkme::distributed_slice(crate::entry::ENTRIES)]
static PARCEL: Entry = Entry::new("migrt::Parcel", file!(), line!(), drop_unclaimed);

fn drop_unclaimed(_: TakeArguments) -> Result<Vec<u8>, EntryError> {
    let header = current::mobile().expect("called by an entry, on its task");
    if let Some(keep) = header.parcel.take_keep() {
        // SAFETY: nobody has a handle of a parcel that is on its way.
        unsafe { Head::drop_value(keep) };
    }
    Ok(Vec::new())
}

impl Header {
    /// Whether it is that of a parcel on its way.
    #[inline]
    pub(crate) fn is_parcel(&self) -> bool {
        std::ptr::eq(self.entry, &PARCEL)
    }

    /// Under which name its pages are kept when it has left: a parcel has another one at each sending.
    pub(crate) fn remains_id(&self) -> TaskId {
        match self.parcel.lineage() {
            Some(lineage) if self.is_parcel() => lineage,
            _ => self.id,
        }
    }
}
