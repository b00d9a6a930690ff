//! The UDP socket under QUIC, on the net thread's poll.
//!
//! Three choices make it cheaper than the usual wrapping. A batch that came back short proves the
//! socket empty (the poll is edge-triggered), so the read that would only say so is left out. The
//! poll asks for "writable" only after a send was refused: otherwise every datagram that leaves
//! would wake the loop. And a batch of segments longer than one UDP datagram may be is cut here,
//! so that the path MTU can grow without QUIC knowing about that limit.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt;

use super::rt::lock;

/// Asked for in both directions; the kernel may grant less (facts N0).
const BUFFER_LEN: usize = 8 << 20;

/// Largest payload given to one segmented send: below the 65,507 bytes of a UDP datagram.
const BATCH_LEN_MAX: usize = 65_000;

/// What the kernel grants a UDP socket here; for `migrt doctor`.
#[derive(Clone, Copy, Debug)]
pub struct UdpLimits {
    /// Bytes of receive buffer that a node's socket gets, of [`UdpLimits::WANTED`]. Fewer lose
    /// packets in bulk.
    pub receive_len: usize,
    /// Bytes of send buffer.
    pub send_len: usize,
    /// Whether many packets can leave in one system call (GSO). Without it bulk is slow.
    pub segmented: bool,
}

impl UdpLimits {
    /// What a node asks for in each direction; `net.core.rmem_max` and `wmem_max` limit it.
    pub const WANTED: usize = BUFFER_LEN;

    /// Asks the kernel with a socket on loopback.
    ///
    /// # Errors
    /// If no UDP socket can be made at all.
    pub fn probe() -> io::Result<Self> {
        let io = StdSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        widen(&io);
        // The kernel doubles what is asked for, to have room for its own bookkeeping.
        Ok(Self {
            receive_len: sockopt::socket_recv_buffer_size(&io)? / 2,
            send_len: sockopt::socket_send_buffer_size(&io)? / 2,
            segmented: UdpSocketState::new((&io).into())?.max_gso_segments() > 1,
        })
    }
}

/// Gives a socket the buffers it needs, or as much of them as the system allows.
pub(super) fn widen(io: &StdSocket) {
    // Beyond the system's limit only with CAP_NET_ADMIN.
    if sockopt::set_socket_recv_buffer_size_force(io, BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(io, BUFFER_LEN);
    }
    if sockopt::set_socket_send_buffer_size_force(io, BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(io, BUFFER_LEN);
    }
}

/// A UDP socket that quinn drives through the net thread's executor.
#[derive(Debug)]
pub(super) struct UdpSocket {
    io: StdSocket,
    state: UdpSocketState,
    registry: Registry,
    token: Token,
    /// The last read took all there was and no event has come since.
    empty: AtomicBool,
    reader: Mutex<Option<Waker>>,
    writers: Mutex<Writers>,
}

#[derive(Debug, Default)]
struct Writers {
    blocked: bool,
    waiting: Vec<Waker>,
}

impl UdpSocket {
    pub(super) fn new(io: StdSocket, registry: Registry, token: Token) -> io::Result<Self> {
        let state = UdpSocketState::new((&io).into())?;
        registry.register(&mut SourceFd(&io.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            io,
            state,
            registry,
            token,
            empty: AtomicBool::new(false),
            reader: Mutex::default(),
            writers: Mutex::default(),
        })
    }

    /// The poll says that datagrams have come.
    pub(super) fn on_readable(&self) {
        // Relaxed: only the net thread touches it; the atomic is for `Sync`.
        self.empty.store(false, Ordering::Relaxed);
        if let Some(waker) = lock(&self.reader).take() {
            waker.wake();
        }
    }

    /// The poll says that the send buffer has room again.
    pub(super) fn on_writable(&self) {
        let mut writers = lock(&self.writers);
        if !writers.blocked {
            return;
        }
        writers.blocked = false;
        self.watch(Interest::READABLE);
        for waker in writers.waiting.drain(..) {
            waker.wake();
        }
    }

    fn watch(&self, interest: Interest) {
        let fd = self.io.as_raw_fd();
        if let Err(error) = self.registry.reregister(&mut SourceFd(&fd), self.token, interest) {
            tracing::error!(%error, "cannot change what is polled for on the UDP socket");
        }
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send((&self.io).into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            let mut writers = lock(&self.writers);
            if !writers.blocked {
                writers.blocked = true;
                // Changing the interest looks at the socket afresh: no wake-up is missed.
                self.watch(Interest::READABLE | Interest::WRITABLE);
            }
        }
        sent
    }
}

impl quinn::AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(Poller { socket: self })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment_len) = transmit.segment_size else {
            return self.send(transmit);
        };
        if transmit.contents.len() <= BATCH_LEN_MAX {
            return self.send(transmit);
        }
        let batch_len = (BATCH_LEN_MAX / segment_len).max(1) * segment_len;
        for (index, contents) in transmit.contents.chunks(batch_len).enumerate() {
            let part = Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: Some(segment_len),
                src_ip: transmit.src_ip,
            };
            match self.send(&part) {
                // Sending the first part again would double it; what is not sent counts as lost.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && index > 0 => break,
                other => other?,
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.empty.load(Ordering::Relaxed) {
                *lock(&self.reader) = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match self.state.recv((&self.io).into(), bufs, meta) {
                Ok(count) => {
                    self.empty.store(count < bufs.len(), Ordering::Relaxed);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.empty.store(true, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        // quinn makes buffers of `max_udp_payload_size` times this; one merged read is at most
        // 64 KiB, whatever the size of its segments.
        let whole = 65_536_usize.div_ceil(usize::from(super::transport::RECEIVE_PAYLOAD_MAX));
        self.state.gro_segments().min(whole)
    }
}

/// Waits until the socket takes datagrams again.
#[derive(Debug)]
struct Poller {
    socket: Arc<UdpSocket>,
}

impl quinn::UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writers = lock(&self.socket.writers);
        if !writers.blocked {
            return Poll::Ready(Ok(()));
        }
        if !writers.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            writers.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
