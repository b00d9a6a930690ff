//! What the wire tells the rest of the node, and what the node does with bytes that come in.
//!
//! These traits are the door by which the wire calls upwards; it knows nothing of tasks. All calls
//! come on the net thread and hold up everything else on it: hand long work to somebody else.

use std::net::SocketAddr;
use std::time::Instant;

use super::error::LinkError;

/// The node's side of its links. Every method is called on the net thread, and for one peer in the
/// order of the events. [`super::Net::send`] and its siblings may be called from within, and go
/// out in the same turn. A panic in a method ends the process: half-handled frames would break the
/// rules of the hand-off.
pub trait Handler: Send + Sync + 'static {
    /// This node's hello, of at most [`HELLO_LEN_MAX`](super::HELLO_LEN_MAX) bytes. Asked for anew
    /// for each connection.
    fn hello(&self) -> Vec<u8>;

    /// Reads a peer's hello and returns the number of the peer, which has to be the number in its
    /// certificate.
    ///
    /// # Errors
    /// A text that says why the peer is refused; it is shown on both sides. About 1,000 bytes of
    /// it reach the peer.
    fn check_hello(&self, bytes: &[u8]) -> Result<u16, String>;

    /// Both hellos are accepted: frames can go to `peer`, which can be dialled at `addr`.
    fn peer_up(&self, peer: u16, addr: SocketAddr);

    /// The link to `peer` is lost and what was not yet sent is dropped. Once for each `peer_up`.
    /// Whoever dialled goes on dialling, except after [`super::Net::forget`] or
    /// when the peer said that it closes.
    fn peer_down(&self, peer: u16, why: &str);

    /// A caller did not get in because one side did not accept the other's certificate. It has not
    /// proved to be of this cluster, so nothing that is waited for may fail by it: it may be a node of
    /// another cluster that looks for one whose port this node has now.
    fn stranger(&self, error: &LinkError) {
        let _ = error;
    }

    /// A dialled link, or an incoming one of a node of this cluster, did not come up. For a dialled address that is merely
    /// unreachable, once per outage, and dialling goes on; a refusal ends it
    /// ([`LinkError::is_final`]).
    fn link_failed(&self, error: &LinkError) {
        let _ = error;
    }

    /// One whole control message of `peer`.
    fn frame(&self, peer: u16, bytes: &[u8]);

    /// A bulk stream of `peer` begins; its bytes go to the returned sink. Bulk streams and frames
    /// overtake each other.
    fn bulk_open(&self, peer: u16, header: &[u8]) -> Box<dyn BulkSink>;

    /// Called at the start, at the instants it returns, and at the end of each turn of the net
    /// thread in which another method or a `run_soon` closure was called.
    fn tick(&self) -> Option<Instant>;
}

/// Takes the bytes of one incoming bulk stream, on the net thread.
pub trait BulkSink: Send {
    /// The next bytes, in order.
    ///
    /// # Errors
    /// Stops the stream: the sender's `done` gets an error, and [`end`](Self::end) is called with
    /// false.
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String>;

    /// The stream is over: complete, or broken off by the sender, by the loss of the link, or by
    /// an error of [`chunk`](Self::chunk).
    fn end(self: Box<Self>, complete: bool);
}
