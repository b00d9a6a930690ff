//! What a lost or refused connection says about itself: codes, alerts, and words for them.

use std::net::SocketAddr;

use quinn::{ConnectionError, VarInt};

use super::error::LinkError;

/// The peer closes in good order.
pub(super) const CLOSE_ORDERLY: VarInt = VarInt::from_u32(0);
pub(super) const CLOSE_REFUSED: VarInt = VarInt::from_u32(1);
pub(super) const CLOSE_DUPLICATE: VarInt = VarInt::from_u32(2);
pub(super) const CLOSE_PROTOCOL: VarInt = VarInt::from_u32(3);
/// The peer was forgotten, or its run replaced by a later one.
pub(super) const CLOSE_DROPPED: VarInt = VarInt::from_u32(4);

/// As much of a refusal as surely fits one packet.
const REASON_LEN_MAX: usize = 1_000;

/// TLS alert `no_application_protocol`.
const NO_PROTOCOL: u8 = 120;
const OTHER_PROTOCOL: &str = "it speaks another protocol or version";

/// How an attempt at a link went.
pub(super) enum Outcome {
    /// It was up, and is lost.
    Lost { peer: u16, orderly: bool },
    /// There is another connection to the same peer.
    Duplicate { peer: Option<u16> },
    /// It never came up.
    Failed(LinkError),
}

pub(super) fn unreachable_peer(addr: SocketAddr, cause: String) -> Outcome {
    Outcome::Failed(LinkError::Unreachable { addr, cause })
}

/// Reads from a connection's error who refused whom. TLS 1.3 lets a client's handshake succeed
/// before the server has looked at its certificate (facts N3), so this can come at any time up to
/// the peer's accept.
pub(super) fn failed(addr: SocketAddr, error: &ConnectionError, peer: Option<u16>) -> Outcome {
    let cause = describe(error);
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_DUPLICATE => {
            Outcome::Duplicate { peer }
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_REFUSED => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            Outcome::Failed(LinkError::RefusedByPeer { addr, reason })
        }
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(NO_PROTOCOL) => unreachable_peer(addr, OTHER_PROTOCOL.to_owned()),
            Some(_) => Outcome::Failed(LinkError::CertificateRefused { addr, cause }),
            None => unreachable_peer(addr, cause),
        },
        ConnectionError::TransportError(fault) => match alert(fault.code.into()) {
            Some(NO_PROTOCOL) => unreachable_peer(addr, OTHER_PROTOCOL.to_owned()),
            Some(_) => Outcome::Failed(LinkError::CertificateInvalid { addr, cause }),
            None => unreachable_peer(addr, cause),
        },
        _ => unreachable_peer(addr, cause),
    }
}

/// The TLS alert in a QUIC error code.
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(0x100)?).ok()
}

pub(super) fn lost(error: &ConnectionError) -> (String, bool) {
    let orderly = matches!(
        error,
        ConnectionError::ApplicationClosed(close)
            if close.error_code == CLOSE_ORDERLY || close.error_code == CLOSE_DROPPED
    );
    (describe(error), orderly)
}

/// A connection's error in words.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("the peer closed the link: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            match alert(close.error_code.into()) {
                Some(116) => "it wants a certificate and got none".to_owned(),
                Some(48) => format!("it does not know who issued it ({reason})"),
                Some(alert) => format!("TLS alert {alert} ({reason})"),
                None => format!("the peer's QUIC closed the link: {} {reason}", close.error_code),
            }
        }
        ConnectionError::TransportError(fault) => match alert(fault.code.into()) {
            Some(_) => fault.reason.clone(),
            None => fault.to_string(),
        },
        ConnectionError::TimedOut => "it does not answer".to_owned(),
        ConnectionError::LocallyClosed => "this node closed the link".to_owned(),
        ConnectionError::Reset => "the peer has lost the connection".to_owned(),
        other => other.to_string(),
    }
}

/// Cuts a reason to what fits into a closing packet.
pub(super) fn clip(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_LEN_MAX)]
}
