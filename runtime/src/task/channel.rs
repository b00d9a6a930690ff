//! Channels between tasks, wherever they are.
//!
//! ```text
//! send   the value becomes a *message*: a task that has its bytes, and the parcels in it, and gives
//!        them once. Its name goes to the channel's home, which admits it when there is room
//! recv   the home says which message is next; it is joined as any task, and the home is told
//! ```
//!
//! So a message has one owner for the same reasons as a task's result, what becomes of it when a node
//! dies is what becomes of a task, and a parcel in it is tied to it as to any other result. The order
//! is the home's (`migrt_proto::channel`).

use std::fmt;
use std::marker::PhantomData;
use std::mem;

use migrt_proto::channel::{ChannelAnswer, ChannelAsk, ChannelId};
use migrt_proto::{NodeId, Token};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::current::{on_worker, wait_until};
use super::handle::JoinHandle;
use super::{parcel, scrub};
use crate::cluster::cluster;
use crate::entry::{Argument, Call, Decoder, Encoder, Entry, EntryError, Output, TakeArguments};
use crate::error::{JoinError, SpawnError};
use crate::task::spawn::try_spawn_call;

/// Why a message was not sent, or not received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelError {
    /// The channel is closed and, for a receiver, empty.
    Closed,
    /// The channel's home, the node that made it, is dead, and the channel with it.
    Lost {
        /// The home.
        node: NodeId,
    },
    /// The value could not become a message: it does not encode, or there is no room for another task.
    NotSent(SpawnError),
    /// A message was next, and cannot be had: the node that it was sent from is dead, say. The one
    /// after it may be received yet.
    NotReceived(JoinError),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Closed => f.write_str("the channel is closed"),
            ChannelError::Lost { node } => {
                write!(f, "the channel is lost: node {node}, where it was made, is dead")
            }
            ChannelError::NotSent(why) => write!(f, "a message was not sent: {why}"),
            ChannelError::NotReceived(why) => write!(
                f,
                "a message cannot be had, and was passed over; go on with the next: {why}"
            ),
        }
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChannelError::NotSent(why) => Some(why),
            ChannelError::NotReceived(why) => Some(why),
            ChannelError::Closed | ChannelError::Lost { .. } => None,
        }
    }
}

impl From<ChannelError> for crate::error::Error {
    fn from(error: ChannelError) -> crate::error::Error {
        let text = error.to_string();
        crate::error::Error::with_source(crate::error::Kind::Other, text, error)
    }
}

/// Makes a channel that holds up to `capacity` messages (at least one); whoever sends another waits. Its
/// home is this node: the channel lives as long as it.
///
/// Both ends are plain data that can be arguments of tasks, and work from any node, also after their
/// tasks have moved. Messages of one sender arrive in the order in which it has sent them. A
/// [`Parcel`](crate::Parcel) in a message changes its owner, as in arguments and results.
///
/// # Panics
/// If the runtime does not run.
///
/// # Examples
/// ```
/// use migrt::{Receiver, Sender};
///
/// #[migrt::migratable]
/// fn squares(from: Receiver<u64>, to: Sender<u64>) {
///     while let Ok(n) = from.recv() {
///         to.send(n * n).expect("somebody receives");
///     }
///     to.close();
/// }
///
/// #[migrt::main]
/// fn main() -> migrt::Result<()> {
///     let (numbers, work) = migrt::channel(8);
///     let (done, results) = migrt::channel(8);
///     let task = migrt::spawn(squares(work, done));
///     let mut sum = 0;
///     for n in 1..=10 {
///         numbers.send(n)?;
///         sum += results.recv()?;
///     }
///     numbers.close();
///     task.join()?;
///     assert_eq!(sum, 385);
///     Ok(())
/// }
/// ```
#[must_use]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = on_worker(|_| cluster().open_channel(capacity));
    (Sender { channel, _value: PhantomData }, Receiver { channel, _value: PhantomData })
}

/// The end of a [`channel`] that messages go in at. Copies send to the same channel. Dropping one changes
/// nothing: a channel ends by [`close`](Sender::close).
pub struct Sender<T> {
    channel: ChannelId,
    _value: PhantomData<fn(T)>,
}

/// The end of a [`channel`] that messages come out at. There is to be one task that receives: two would
/// get each message once, but both wait for the same one.
pub struct Receiver<T> {
    channel: ChannelId,
    _value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned + 'static> Sender<T> {
    /// Sends a value; waits as long as the channel is full. When it returns the message is in the channel.
    ///
    /// A task that is cancelled while it waits may have sent it or not.
    ///
    /// # Errors
    /// The value is dropped then, parcels in it too: [`ChannelError::Closed`], [`ChannelError::Lost`] or
    /// [`ChannelError::NotSent`], which is also what comes of a value that takes more than 64 MiB when it is
    /// encoded. Send such as a [`Parcel`](crate::Parcel).
    ///
    /// # Panics
    /// If the runtime does not run.
    #[inline(always)]
    pub fn send(&self, value: T) -> Result<(), ChannelError> {
        scrub::below::<{ scrub::DEEP }>();
        self.put(value)
    }

    #[inline(never)]
    fn put(&self, value: T) -> Result<(), ChannelError> {
        let message = try_spawn_call(Message(value)).map_err(ChannelError::NotSent)?;
        match ask(self.channel, ChannelAsk::Put(message.id())) {
            Ok(ChannelAnswer::Closed) => Err(ChannelError::Closed),
            Ok(_) => {
                // The receiver's from now on.
                mem::forget(message);
                Ok(())
            }
            Err(node) => Err(ChannelError::Lost { node }),
        }
    }
}

impl<T> Sender<T> {
    /// Ends the channel: nothing more can be sent, by nobody; what is in it can be received.
    pub fn close(&self) {
        tell(self.channel, ChannelAsk::Close);
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Receiver<T> {
    /// Waits for the next message and gives its value. Parcels in it are on this node then.
    ///
    /// # Errors
    /// [`ChannelError::Closed`], [`ChannelError::Lost`] or [`ChannelError::NotReceived`].
    ///
    /// # Panics
    /// If the runtime does not run.
    #[inline(always)]
    pub fn recv(&self) -> Result<T, ChannelError> {
        scrub::below::<{ scrub::DEEP }>();
        self.take()
    }

    #[inline(never)]
    fn take(&self) -> Result<T, ChannelError> {
        loop {
            let message = match ask(self.channel, ChannelAsk::First) {
                Ok(ChannelAnswer::Next(message)) => message,
                Ok(_) => return Err(ChannelError::Closed),
                Err(node) => return Err(ChannelError::Lost { node }),
            };
            let got = JoinHandle::<T>::new(message, MESSAGE.id).join();
            tell(self.channel, ChannelAsk::Took(message));
            match got {
                // It was received before, and the home had not heard of it.
                Err(JoinError::Unknown { .. }) => {}
                got => return got.map_err(ChannelError::NotReceived),
            }
        }
    }
}

impl<T> Receiver<T> {
    /// Ends the channel, as [`Sender::close`] does.
    pub fn close(&self) {
        tell(self.channel, ChannelAsk::Close);
    }
}

/// Puts a question to a channel's home and waits for the answer. `Err`: the home is dead.
fn ask(channel: ChannelId, ask: ChannelAsk) -> Result<ChannelAnswer, NodeId> {
    let mut question = None;
    wait_until(|waker| cluster().poll_channel(&mut question, waker, channel, ask))
}

fn tell(channel: ChannelId, what: ChannelAsk) {
    // Nothing is answered: no question has this token.
    on_worker(|_| cluster().tell_channel(channel, what, Token(0)));
}

/// The call that a message is: it gives what it was given.
struct Message<T>(T);

/// What messages have in the place of a task's entry.
#[linkme::distributed_slice(crate::entry::ENTRIES)]
static MESSAGE: Entry = Entry::new("migrt::channel", file!(), line!(), pass_on);

fn pass_on(take: TakeArguments) -> Result<Vec<u8>, EntryError> {
    let mut message = Vec::new();
    take(&mut |bytes| message.extend_from_slice(bytes));
    parcel::tie_result(&message);
    Ok(message)
}

impl<T: Serialize + DeserializeOwned + 'static> Call for Message<T> {
    type Output = T;

    const ENTRY: &'static Entry = &MESSAGE;
    const PASSES_ON: bool = true;

    fn encode_arguments(&self, to: &mut Encoder<'_>) -> Result<(), EntryError> {
        Argument::__encode(&self.0, "message", to)
    }

    fn decode_arguments(from: &mut Decoder<'_>) -> Result<Self, EntryError> {
        Argument::__decode("message", from).map(Message)
    }

    fn encode_output(output: &T, to: &mut Encoder<'_>) -> Result<(), EntryError> {
        Output::__encode(output, to)
    }

    fn run(self) -> T {
        self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { channel: self.channel, _value: PhantomData }
    }
}

macro_rules! plain {
    ($($end:ident),*) => {$(
        impl<T> fmt::Debug for $end<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let ChannelId { home, number } = self.channel;
                write!(f, concat!(stringify!($end), "({}.{})"), home, number)
            }
        }

        impl<T> Serialize for $end<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.channel.serialize(serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $end<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$end<T>, D::Error> {
                let channel = ChannelId::deserialize(deserializer)?;
                Ok($end { channel, _value: PhantomData })
            }
        }
    )*};
}

plain!(Sender, Receiver);
