//! How UDP sockets do on this machine: buffer sizes, and sending and receiving in batches.
//!
//! Tried between two sockets on loopback, with the options that the wire itself asks for. Another
//! network device may do without batches what loopback does with them.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::kernel::read;

/// The socket buffer that the wire asks for, each way, in bytes.
pub const BUFFER_LEN: usize = 8 << 20;

/// How UDP does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Udp {
    /// Bytes of receive buffer that this process gets of [`BUFFER_LEN`]; `None` if loopback UDP does
    /// not work at all.
    pub receive_len: Option<usize>,
    /// Bytes of send buffer.
    pub send_len: Option<usize>,
    /// `net.core.rmem_max`.
    pub receive_len_max: Option<usize>,
    /// `net.core.wmem_max`.
    pub send_len_max: Option<usize>,
    /// One call sends many packets (UDP_SEGMENT).
    pub sends_batches: bool,
    /// One call receives many packets (UDP_GRO).
    pub receives_batches: bool,
}

impl Udp {
    /// Tries it out.
    #[must_use]
    pub fn probe() -> Udp {
        let max = |name: &str| {
            read(&format!("/proc/sys/net/core/{name}")).and_then(|text| text.parse().ok())
        };
        let mut udp = Udp {
            receive_len_max: max("rmem_max"),
            send_len_max: max("wmem_max"),
            ..Udp::default()
        };
        // What fails here stays as it is by default: absent.
        let _ = udp.try_out();
        udp
    }

    fn try_out(&mut self) -> io::Result<()> {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        sender.connect(receiver.local_addr()?)?;
        self.receive_len = Some(buffer(&receiver, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?);
        self.send_len = Some(buffer(&sender, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?);
        receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
        let message = [7_u8; 3 * PACKET_LEN];
        let mut got = [0_u8; 8 * PACKET_LEN];
        set(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, PACKET_LEN as i32)?;
        sender.send(&message)?;
        self.sends_batches = (0..3).all(|_| matches!(receiver.recv(&mut got), Ok(PACKET_LEN)));
        set(&receiver, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        sender.send(&message)?;
        self.receives_batches = receiver.recv(&mut got)? == message.len();
        Ok(())
    }
}

const PACKET_LEN: usize = 1200;

/// Asks for a buffer as the wire does, past the limit where that is allowed, and says what came of
/// it. The kernel counts its own overhead, twice what was asked.
fn buffer(socket: &UdpSocket, force: i32, option: i32) -> io::Result<usize> {
    if set(socket, libc::SOL_SOCKET, force, BUFFER_LEN as i32).is_err() {
        set(socket, libc::SOL_SOCKET, option, BUFFER_LEN as i32)?;
    }
    let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes to `value`.
    let done = unsafe {
        let to = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, to, &raw mut len)
    };
    if done == 0 { Ok(value as usize / 2) } else { Err(io::Error::last_os_error()) }
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_granted_within_the_limit_or_past_it() {
        let udp = Udp::probe();
        let got = udp.receive_len.expect("UDP works on loopback");
        let limit = udp.receive_len_max.unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
        assert!((limit..=BUFFER_LEN).contains(&got), "{udp:?}");
        assert!(udp.sends_batches || !udp.receives_batches, "{udp:?}");
    }
}
