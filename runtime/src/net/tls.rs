//! TLS 1.3 with certificates on both sides, and reading a peer's number from its certificate.
//!
//! The ring provider is passed explicitly (the process-wide default panics when two are linked in,
//! facts C5), without ChaCha20, which is slower on every CPU that migrt supports, and with AES-128
//! first. 0-RTT and resumption stay off: a replayed frame could start a task twice.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

use super::identity::{Identity, SERVER_NAME, node_name};

/// Spoken under TLS: another protocol on this port is refused in the handshake.
const PROTOCOL: &[u8] = b"migrt/1";

/// Both sides' crypto of one node.
#[derive(Clone)]
pub(super) struct Crypto {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
}

impl Crypto {
    /// # Errors
    /// If the identity's certificates or key are unusable, as text.
    pub(super) fn new(identity: &Identity) -> Result<Self, String> {
        let roots = Arc::new(roots(identity)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| error.to_string())?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![identity.cert()?], identity.key()?)
            .map_err(|error| error.to_string())?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.max_early_data_size = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = client_builder(roots)?
            .with_client_auth_cert(vec![identity.cert()?], identity.key()?)
            .map_err(|error| error.to_string())?;
        finish_client(&mut client);

        Ok(Self {
            client: Arc::new(QuicClientConfig::try_from(client).map_err(|e| e.to_string())?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(|e| e.to_string())?),
        })
    }

    /// The client side of somebody who trusts the cluster but has no certificate: what the tests
    /// of refusal need.
    #[cfg(test)]
    pub(super) fn without_certificate(identity: &Identity) -> Result<Self, String> {
        let mut crypto = Self::new(identity)?;
        let mut client = client_builder(Arc::new(roots(identity)?))?.with_no_client_auth();
        finish_client(&mut client);
        crypto.client = Arc::new(QuicClientConfig::try_from(client).map_err(|e| e.to_string())?);
        Ok(crypto)
    }
}

/// The client side of somebody who trusts one cluster and is certified by another.
#[cfg(test)]
pub(super) fn client_of(
    trusted: &Identity,
    shown: &Identity,
) -> Result<Arc<QuicClientConfig>, String> {
    let mut client = client_builder(Arc::new(roots(trusted)?))?
        .with_client_auth_cert(vec![shown.cert()?], shown.key()?)
        .map_err(|error| error.to_string())?;
    finish_client(&mut client);
    QuicClientConfig::try_from(client).map(Arc::new).map_err(|error| error.to_string())
}

/// The number that a certificate (already verified against the cluster's CA) proves.
///
/// The number is found by looking for its name in the bytes, and proved by asking the verifier
/// whether the certificate is valid for exactly that name: bytes elsewhere that look like a name
/// prove nothing.
pub(super) fn node_of(cert: &CertificateDer<'_>) -> Option<u16> {
    let parsed = ParsedCertificate::try_from(cert).ok()?;
    let suffix = format!(".{SERVER_NAME}");
    let bytes: &[u8] = cert.as_ref();
    bytes.windows(suffix.len()).enumerate().filter(|(_, word)| *word == suffix.as_bytes()).find_map(
        |(end, _)| {
            let digits = bytes[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let node: u16 = std::str::from_utf8(&bytes[end - digits..end]).ok()?.parse().ok()?;
            let name = ServerName::try_from(node_name(node)).ok()?;
            verify_server_name(&parsed, &name).ok().map(|()| node)
        },
    )
}

fn roots(identity: &Identity) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_cert()?).map_err(|error| error.to_string())?;
    Ok(roots)
}

fn client_builder(
    roots: Arc<RootCertStore>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, String> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots))
}

fn finish_client(client: &mut ClientConfig) {
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.enable_early_data = false;
    client.resumption = Resumption::disabled();
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        let wanted = [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384];
        wanted.contains(&suite.suite())
    });
    provider.cipher_suites.sort_by_key(|suite| u16::from(suite.suite()));
    Arc::new(provider)
}
