//! Sockets on loopback with room for a burst, and the threads that read them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt;

/// A first flight of QUIC may be 4 MiB long (the runtime's initial window).
const BUFFER_LEN: usize = 8 << 20;
/// The largest UDP datagram, and more.
const DATAGRAM_LEN_MAX: usize = 64 << 10;
/// How long a reader may take to see that it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A socket on a free port.
pub(crate) fn open() -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    // Beyond the system's limit only with CAP_NET_ADMIN; else as much as there is.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_LEN);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER_LEN);
    }
    Ok(Arc::new(socket))
}

/// Calls `each` with every datagram and its sender, on a thread of its own, until `stop` is set.
pub(crate) fn listen(
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    mut each: impl FnMut(&[u8], SocketAddr) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        while !stop.load(Ordering::Relaxed) {
            // An error is the timeout, or a signal; the socket itself cannot fail while it is open.
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                each(&buffer[..len], from);
            }
        }
    })
}
