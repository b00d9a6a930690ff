//! The bare wire: the same bytes there and 64 back over one quinn stream between two processes.
//!
//! What a move is compared with. Both ends run quinn on a single-threaded tokio runtime, with the
//! socket buffers, path MTU, windows and cipher that `runtime/src/net` sets, and do nothing with the
//! bytes. Over loopback, or a veth pair; one stream serves all exchanges, which is cheaper than one each.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;

use crate::veth;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const SERVER_NAME: &str = "peer.bench";
const PROTOCOL: &[u8] = b"migrt-bench";
/// Bytes that come back.
const ANSWER_LEN: usize = 64;
// As in `runtime/src/net/{socket,transport}.rs`.
const SOCKET_BUFFER_LEN: usize = 8 << 20;
const RECEIVE_PAYLOAD_MAX: u16 = 8_952;
const LOOPBACK_MTU: u16 = 6_500;
/// Elsewhere.
const ETHERNET_MTU: u16 = 1_452;
const INITIAL_WINDOW: u64 = 4 << 20;
const SEND_WINDOW: u64 = 4 << 20;
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const UNACKNOWLEDGED: u32 = 10;
const ACK_DELAY: Duration = Duration::from_millis(2);

/// A connected wire and the process at its other end, which ends with it.
pub struct Wire {
    runtime: Runtime,
    send: SendStream,
    recv: RecvStream,
    _endpoint: Endpoint,
    peer: Child,
}

impl Wire {
    /// Starts the other process and connects to it.
    pub fn open() -> Result<Wire, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("quic-peer").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = veth::start_peer(command)?;
        let mut line = String::new();
        BufReader::new(peer.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
        let (addr, cert) = line.trim().split_once(' ').ok_or("the quic peer did not start")?;
        let addr: SocketAddr = addr.parse()?;
        let cert = CertificateDer::from(from_hex(cert)?);
        let runtime = runtime()?;
        let (endpoint, send, recv) = runtime.block_on(async {
            let endpoint = endpoint(None)?;
            let conn = endpoint.connect_with(client_config(cert)?, addr, SERVER_NAME)?.await?;
            let (send, recv) = conn.open_bi().await?;
            Ok::<_, Fault>((endpoint, send, recv))
        })?;
        Ok(Wire { runtime, send, recv, _endpoint: endpoint, peer })
    }

    /// Sends `bytes` and waits for the answer, once; how long it took.
    pub fn exchange(&mut self, bytes: &[u8]) -> Result<Duration, Fault> {
        let Wire { runtime, send, recv, .. } = self;
        runtime.block_on(async {
            let start = Instant::now();
            send.write_all(&(bytes.len() as u64).to_le_bytes()).await?;
            send.write_all(bytes).await?;
            let mut answer = [0; ANSWER_LEN];
            recv.read_exact(&mut answer).await?;
            let took = start.elapsed();
            if bytes.len() >= ANSWER_LEN && answer != bytes[bytes.len() - ANSWER_LEN..] {
                return Err("the bare wire answered with other bytes than it was sent".into());
            }
            Ok(took)
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.peer.kill();
        let _ = self.peer.wait();
    }
}

/// The other end: answers until its standard input closes or it is killed.
pub fn serve() -> Result<(), Fault> {
    // It must not outlive a parent that dies without killing it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    let key = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()])?;
    let cert = key.cert.der().clone();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der())?;
    runtime()?.block_on(async {
        let endpoint = endpoint(Some(server_config(cert.clone(), private)?))?;
        println!("{} {}", endpoint.local_addr()?, to_hex(&cert));
        std::io::stdout().flush()?;
        let conn = endpoint.accept().await.ok_or("closed")?.await?;
        let (mut send, mut recv) = conn.accept_bi().await?;
        loop {
            let mut len = [0; 8];
            recv.read_exact(&mut len).await?;
            let mut left = u64::from_le_bytes(len) as usize;
            let mut tail = Vec::with_capacity(2 * ANSWER_LEN);
            while left > 0 {
                let chunk = recv.read_chunk(left, true).await?.ok_or("cut off")?;
                left -= chunk.bytes.len();
                let last = &chunk.bytes[chunk.bytes.len().saturating_sub(ANSWER_LEN)..];
                tail.extend_from_slice(last);
                let surplus = tail.len().saturating_sub(ANSWER_LEN);
                tail.drain(..surplus);
            }
            tail.resize(ANSWER_LEN, 0);
            send.write_all(&tail).await?;
        }
    })
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint, Fault> {
    use rustix::net::sockopt;
    let socket = UdpSocket::bind((veth::address(), 0))?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_LEN);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_LEN).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_LEN);
    }
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(RECEIVE_PAYLOAD_MAX)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED)).max_ack_delay(Some(ACK_DELAY));
    config
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(60_000))))
        .keep_alive_interval(Some(Duration::from_millis(300)))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(congestion));
    if veth::address().is_loopback() {
        config
            .initial_mtu(LOOPBACK_MTU)
            .mtu_discovery_config(None)
            .initial_rtt(Duration::from_millis(2));
    } else {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(RECEIVE_PAYLOAD_MAX);
        config
            .initial_mtu(ETHERNET_MTU)
            .mtu_discovery_config(Some(discovery))
            .initial_rtt(Duration::from_millis(100));
    }
    Arc::new(config)
}

/// ring, AES-128 first, no ChaCha20: the runtime's choice.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let aes_128 = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.retain(|suite| suite.suite() == aes_128);
    Arc::new(provider)
}

fn server_config(
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Fault> {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    Ok(config)
}

fn client_config(cert: CertificateDer<'static>) -> Result<ClientConfig, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    Ok(config)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, Fault> {
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(text.get(at..at + 2).ok_or("odd")?, 16)?))
        .collect()
}
