//! What travels: the hello, the control frames, and the header of a shipped task. Encoded by postcard.
//!
//! Every length is checked against the bytes that are really there, and against its own limit, before anything is
//! allocated for it. Any input is either a value or a [`WireError`]; none panics. Absent: pages (they follow a
//! [`ShipHeader`] as raw bytes and never enter this crate) and sockets.

mod frame;
mod hello;
pub(crate) mod limits;
mod record;
mod ship;
mod strategy;

pub use frame::{
    Answer, Ask, Frame, MemberInfo, Outcome, Refusal, SlotGrant, TaskInfo, TaskState, Verdict,
};
pub use hello::{Hello, HelloMismatch};
pub use limits::{BYTES_LEN_MAX, FRAME_LEN_MAX, LIST_COUNT_MAX, TEXT_LEN_MAX, WireError};
pub use record::{Method, MoveRecord};
pub use ship::{PageRun, ShipHeader, ShipSlot, StreamHead};
pub use strategy::{PAUSE_MAX, ROUND_COUNT_MAX, Strategy};

/// Changed with every change of a frame; compared in the hello.
pub const WIRE_VERSION: u32 = 4;
