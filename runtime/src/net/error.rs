//! What can go wrong on the wire, said so that somebody can act on it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::identity::IdentityError;

/// Why a node's wire could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetError {
    /// Another program (or node) has the port.
    AddrInUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The node's identity cannot be used.
    Identity(IdentityError),
    /// TLS cannot be set up with this identity.
    Tls {
        /// Why.
        cause: String,
    },
    /// The kernel refused something else that the net thread needs.
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddrInUse { addr } => write!(
                f,
                "UDP port {} of {} is in use by another program; choose another port, port 0 for \
                 any free one, or stop the other program",
                addr.port(),
                addr.ip()
            ),
            Self::Bind { addr, source } => write!(
                f,
                "cannot bind UDP address {addr}: {source}; give an address of this machine"
            ),
            Self::Identity(error) => error.fmt(f),
            Self::Tls { cause } => write!(
                f,
                "the node's certificate or key cannot be used: {cause}; have the identity issued \
                 again"
            ),
            Self::System { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::System { source, .. } => Some(source),
            Self::Identity(error) => Some(error),
            _ => None,
        }
    }
}

impl From<IdentityError> for NetError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

/// Why a link to a peer did not come up.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody answered, or the connection broke before the hellos were through.
    Unreachable {
        /// Who was called, or who called.
        addr: SocketAddr,
        /// What QUIC said.
        cause: String,
    },
    /// The peer did not accept this node's certificate, or got none.
    CertificateRefused {
        /// The peer.
        addr: SocketAddr,
        /// What the peer's TLS said.
        cause: String,
    },
    /// The peer's certificate is missing, of another cluster, or not for the node it says it is.
    CertificateInvalid {
        /// The peer.
        addr: SocketAddr,
        /// What is wrong with it.
        cause: String,
    },
    /// The peer read this node's hello and refused it.
    RefusedByPeer {
        /// The peer.
        addr: SocketAddr,
        /// The peer's words.
        reason: String,
    },
    /// This node refused the peer's hello.
    RefusedHere {
        /// The peer.
        addr: SocketAddr,
        /// What the peer was told.
        reason: String,
    },
}

impl LinkError {
    /// Whether trying again later can help. Refusals are final: they say that the two do not fit.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }

    /// Whether one side did not accept the other's certificate.
    pub(super) fn is_about_certificates(&self) -> bool {
        matches!(self, Self::CertificateRefused { .. } | Self::CertificateInvalid { .. })
    }

    /// The peer's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Unreachable { addr, .. }
            | Self::CertificateRefused { addr, .. }
            | Self::CertificateInvalid { addr, .. }
            | Self::RefusedByPeer { addr, .. }
            | Self::RefusedHere { addr, .. } => *addr,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { addr, cause } => {
                write!(
                    f,
                    "no link to {addr}: {cause}; check that a node of this cluster runs there"
                )
            }
            Self::CertificateRefused { addr, cause } => write!(
                f,
                "the peer at {addr} refused this node's certificate: {cause}; have this node's \
                 identity issued by the authority of the peer's cluster"
            ),
            Self::CertificateInvalid { addr, cause } => write!(
                f,
                "the peer at {addr} has no valid certificate of this cluster: {cause}; have its \
                 identity issued by this cluster's authority"
            ),
            Self::RefusedByPeer { addr, reason } => {
                write!(f, "the peer at {addr} refused this node: {reason}")
            }
            Self::RefusedHere { addr, reason } => {
                write!(f, "this node refused the peer at {addr}: {reason}")
            }
        }
    }
}

impl std::error::Error for LinkError {}
