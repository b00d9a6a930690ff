//! Internal to migrt: the protocols, sans-IO. What a cluster decides, without a clock, a thread or a socket.
//!
//! [`Core`] is one node's part of the conversation. The driver hands in what happened (`peer_up`, `receive`, `frozen`,
//! `tick`, ...), each with the time, and carries out what [`Core::poll_action`] gives back, in order, until it is
//! empty; then it sleeps until [`Core::next_deadline`] or the next event. Equal inputs give equal actions, so the
//! seeded simulator in `tests/sim` runs the same code through drops, crashes and partitions.
//!
//! In the order of a message's life: [`wire`] is what travels, `courier` makes a link that breaks into one that does
//! not, `member` says who is alive, [`migrate`] hands tasks over, [`transfer`] says which of their pages travel when,
//! [`pace`] when there is room for them, [`pack`] when they are packed, `home` remembers where they are and how they ended, [`channel`] in which order they
//! bring messages, [`slots`] deals out the region, and `node` connects these.

mod id;
mod time;

pub mod wire;

mod courier;
mod death;
mod member;
pub mod slots;

pub mod channel;
mod home;
pub mod migrate;
pub mod pace;
pub mod pack;
pub mod transfer;

mod action;
mod node;

pub use self::{
    action::Action,
    courier::describe,
    id::{Asker, EntryId, Epoch, Generation, Incarnation, NodeId, Place, SlotRef, TaskId, Token},
    member::{DEAD_AFTER, HEARTBEAT_EVERY, LEASE},
    node::{Config, Core, LinkRefused, TryJoin},
    time::Micros,
};

#[doc(hidden)]
pub use self::action::Fault;
