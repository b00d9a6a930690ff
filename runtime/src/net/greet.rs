//! Hellos and accepts: from a finished TLS handshake to a link.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Connection, ConnectionError, SendStream, WriteError};
use rustls_pki_types::CertificateDer;

use super::error::LinkError;
use super::fault::{CLOSE_DUPLICATE, CLOSE_REFUSED, Outcome, clip, failed, unreachable_peer};
use super::framing::{FrameError, FrameReader, prefix};
use super::link::Link;
use super::peers::Hub;
use super::tls::node_of;

/// Longest hello, in bytes.
pub const HELLO_LEN_MAX: usize = 64 << 10;

/// In front of its hello, in the same message, a node sends its run number.
const RUN_LEN: usize = 8;

/// A link, the control stream to the peer, and the one from it.
pub(super) type Greeted = (Arc<Link>, SendStream, FrameReader);

/// Exchanges hellos and accepts over a new connection. Afterwards the link is in the table of
/// peers, and the peer counts on it.
pub(super) async fn greet(
    hub: &Arc<Hub>,
    addr: SocketAddr,
    conn: Connection,
) -> Result<Greeted, Outcome> {
    let Some(proved) = peer_node(&conn) else {
        let cause = "it names no node".to_owned();
        conn.close(CLOSE_REFUSED, b"the certificate names no node");
        return Err(Outcome::Failed(LinkError::CertificateInvalid { addr, cause }));
    };
    let lost = |error: ConnectionError| failed(addr, &error, Some(proved));
    let mut tx = conn.open_uni().await.map_err(lost)?;
    let _ = tx.set_priority(1);
    let write_lost = |error: WriteError| match error {
        WriteError::ConnectionLost(error) => failed(addr, &error, Some(proved)),
        other => unreachable_peer(addr, other.to_string()),
    };
    tx.write_chunk(hello_message(hub).into()).await.map_err(write_lost)?;

    let mut reader = FrameReader::new(conn.accept_uni().await.map_err(lost)?);
    message(&mut reader, HELLO_LEN_MAX + RUN_LEN, addr, proved).await?;
    hub.touch();
    let checked = check_hello(hub, reader.frame(), proved);
    let run = match checked {
        Ok(run) => run,
        Err(reason) => {
            conn.close(CLOSE_REFUSED, clip(&reason).as_bytes());
            return Err(Outcome::Failed(LinkError::RefusedHere { addr, reason }));
        }
    };
    let link = Arc::new(Link::new(proved, conn.clone(), run));
    let decides = hub.node < proved;
    if decides && !hub.claim(&link) {
        conn.close(CLOSE_DUPLICATE, b"there is another connection");
        return Err(Outcome::Duplicate { peer: Some(proved) });
    }
    let mut claim = Claim { hub, link: Some(&link) };
    tx.write_chunk(prefix(0).to_vec().into()).await.map_err(write_lost)?;
    message(&mut reader, 0, addr, proved).await?;
    claim.link = None;
    drop(claim);
    if !decides {
        hub.install(&link);
    }
    Ok((link, tx, reader))
}

/// Gives the place in the table back if the peer's accept does not come.
struct Claim<'a> {
    hub: &'a Hub,
    link: Option<&'a Arc<Link>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link {
            self.hub.end(link, "the peer did not accept");
        }
    }
}

fn hello_message(hub: &Hub) -> Vec<u8> {
    let hello = hub.handler.hello();
    assert!(hello.len() <= HELLO_LEN_MAX, "a hello has at most {HELLO_LEN_MAX} bytes");
    let mut message = prefix(RUN_LEN + hello.len()).to_vec();
    message.extend_from_slice(&hub.run.to_le_bytes());
    message.extend_from_slice(&hello);
    message
}

/// The peer's run number, if its hello is accepted.
fn check_hello(hub: &Hub, message: &[u8], proved: u16) -> Result<u64, String> {
    let Some((run, hello)) = message.split_first_chunk::<RUN_LEN>() else {
        return Err("its hello is too short".to_owned());
    };
    let said = hub.handler.check_hello(hello)?;
    if said != proved {
        return Err(format!(
            "its hello says that it is n{said}, its certificate that it is n{proved}; start each \
             node with its own identity"
        ));
    }
    if said == hub.node {
        return Err(format!(
            "both nodes are n{said}; start each node with its own identity, and do not dial a \
             node's own address"
        ));
    }
    Ok(u64::from_le_bytes(*run))
}

async fn message(
    reader: &mut FrameReader,
    limit: usize,
    addr: SocketAddr,
    proved: u16,
) -> Result<(), Outcome> {
    let cause = match reader.advance(limit).await {
        Ok(true) => return Ok(()),
        Ok(false) | Err(FrameError::Truncated) => "its control stream ended".to_owned(),
        Err(FrameError::Oversize { len, limit }) => {
            format!("its hello of {len} bytes is over the limit of {limit}")
        }
        Err(FrameError::Read(quinn::ReadError::ConnectionLost(error))) => {
            return Err(failed(addr, &error, Some(proved)));
        }
        Err(FrameError::Read(error)) => error.to_string(),
    };
    Err(unreachable_peer(addr, cause))
}

fn peer_node(conn: &Connection) -> Option<u16> {
    let chain = conn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(chain.first()?)
}
