//! The wire: QUIC links between the nodes of one cluster.
//!
//! One *net thread* per node runs everything here: a small executor of our own (`rt`, `timer`,
//! `alarm`, `spin`, `socket`) under quinn, the table of peers (`peers`), one task per link
//! (`greet`, `link`, `fault`), framed control messages (`framing`) and bulk streams (`bulk`, `feed`;
//! sent by `writer` in the turns of `pacer`, read through `unpack`). The
//! rest of the node hands it requests through [`Net`] and is called through [`Handler`].
//!
//! Every connection is TLS 1.3 with certificates of the cluster's own authority on both sides
//! (`identity`, `tls`); there is no plain mode. A peer is *up* after both hellos were accepted,
//! and nothing but the hello is read of it before. Lengths are checked before anything is
//! allocated for them.
//!
//! The net thread must never be held up: a handler that blocks it for the transport's timeout of
//! three seconds loses every link.
//!
//! Relies on quinn 0.11 (its `Runtime` trait changes in 0.12; only `rt`, `timer` and `socket` know
//! it) and on ring. Absent: retransmission of frames over a lost link (the protocols above do it),
//! failure detection (heartbeats do it; the transport's timeout is the last resort), limits on
//! what may be queued for a peer that is slow (only a lost link frees it), and name resolution
//! (give addresses).

mod alarm;
mod bulk;
mod error;
mod fault;
mod feed;
mod framing;
mod greet;
mod handle;
mod handler;
mod identity;
mod link;
mod pacer;
mod peers;
mod rt;
mod socket;
mod spin;
mod timer;
mod tls;
mod transport;
mod unpack;
mod writer;

#[cfg(test)]
mod tests;

pub use bulk::{BULK_HEADER_LEN_MAX, BulkDone, Part};
pub use error::{LinkError, NetError};
pub use feed::{BulkFeed, Written};
pub use framing::FRAME_LEN_MAX;
pub use greet::HELLO_LEN_MAX;
pub use handle::{Hurry, Net, NetConfig};
pub use handler::{BulkSink, Handler};
pub use identity::{ClusterCa, Identity, IdentityError, SERVER_NAME};
pub use socket::UdpLimits;
