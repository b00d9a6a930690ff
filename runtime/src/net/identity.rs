//! Who a node is: the cluster's certificate authority and what it issues to each node.
//!
//! A node certificate is root-equivalent inside its cluster: who holds one may send stack pages.
//! So there is exactly one authority per cluster, it is made when the cluster is, and nothing else
//! is trusted. The certificate of node 3 is valid for two names: `migrt`, which every node expects
//! of its peer, and `n3.migrt`, by which a peer proves the number it gives in its hello. Beside it
//! travels the cluster's 32-byte secret, from which canary and pointer guard are derived (facts
//! T3). Relies on `rcgen` for certificates and on ring for random bytes. Absent: revocation and
//! expiry; a cluster that was compromised is made anew.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The name that every node's certificate carries and every node expects.
pub const SERVER_NAME: &str = "migrt";

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
const NODE_FILE: &str = "node.pem";
const NODE_KEY_FILE: &str = "node-key.pem";
const CLUSTER_FILE: &str = "cluster";

/// What one node needs to be let into its cluster.
#[derive(Clone)]
pub struct Identity {
    cluster: Cluster,
    node: u16,
    ca_pem: String,
    node_pem: String,
    key_pem: String,
}

/// The authority of one cluster. Who has it can add nodes.
pub struct ClusterCa {
    cluster: Cluster,
    pem: String,
    key: KeyPair,
}

#[derive(Clone)]
struct Cluster {
    id: u64,
    secret: [u8; 32],
}

/// The dNSName by which node `node` is known in its certificate.
pub(super) fn node_name(node: u16) -> String {
    format!("n{node}.{SERVER_NAME}")
}

impl Identity {
    /// Makes a new cluster: a fresh authority, id and secret.
    ///
    /// # Errors
    /// If the machine has no random bytes.
    pub fn new_cluster() -> Result<ClusterCa, IdentityError> {
        let mut id = [0; 8];
        let mut secret = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        for bytes in [&mut id[..], &mut secret[..]] {
            random
                .fill(bytes)
                .map_err(|_| IdentityError::make("the system has no random bytes"))?;
        }
        let cluster = Cluster { id: u64::from_le_bytes(id), secret };
        let key = KeyPair::generate().map_err(IdentityError::make)?;
        let cert = cluster.ca_params().self_signed(&key).map_err(IdentityError::make)?;
        Ok(ClusterCa { cluster, pem: cert.pem(), key })
    }

    /// The node's number, as its certificate proves it.
    #[must_use]
    pub fn node(&self) -> u16 {
        self.node
    }

    /// A random number that names the cluster; equal on all its nodes. Not secret.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster.id
    }

    /// The cluster's secret, equal on all its nodes.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.cluster.secret
    }

    /// Writes the identity into `dir` (made if absent), readable by this user alone.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write_private(&dir.join(CA_FILE), &self.ca_pem)?;
        write_private(&dir.join(NODE_FILE), &self.node_pem)?;
        write_private(&dir.join(NODE_KEY_FILE), &self.key_pem)?;
        let node = format!("node {}\n", self.node);
        write_private(&dir.join(CLUSTER_FILE), &(self.cluster.to_text() + &node))
    }

    /// Reads what [`save`](Self::save) wrote. Starts no thread: the secret is needed before any
    /// exists.
    ///
    /// # Errors
    /// Names the file that is absent, damaged, or readable by other users.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let file = dir.join(CLUSTER_FILE);
        let text = read_private(&file)?;
        let cluster = Cluster::from_text(&text, &file)?;
        let node = field(&text, "node")
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| IdentityError::damaged(&file, "it has no line `node NUMBER`"))?;
        let identity = Self {
            cluster,
            node,
            ca_pem: read_private(&dir.join(CA_FILE))?,
            node_pem: read_private(&dir.join(NODE_FILE))?,
            key_pem: read_private(&dir.join(NODE_KEY_FILE))?,
        };
        parse_cert(&identity.ca_pem)
            .map_err(|why| IdentityError::damaged(&dir.join(CA_FILE), &why))?;
        let cert = parse_cert(&identity.node_pem)
            .map_err(|why| IdentityError::damaged(&dir.join(NODE_FILE), &why))?;
        identity.key().map_err(|why| IdentityError::damaged(&dir.join(NODE_KEY_FILE), &why))?;
        if super::tls::node_of(&cert) != Some(node) {
            let why = format!("it is not the certificate of node n{node}");
            return Err(IdentityError::damaged(&dir.join(NODE_FILE), &why));
        }
        Ok(identity)
    }

    pub(super) fn ca_cert(&self) -> Result<CertificateDer<'static>, String> {
        parse_cert(&self.ca_pem)
    }

    pub(super) fn cert(&self) -> Result<CertificateDer<'static>, String> {
        parse_cert(&self.node_pem)
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| error.to_string())
    }
}

impl ClusterCa {
    /// Issues the identity of node `node`.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn issue(&self, node: u16) -> Result<Identity, IdentityError> {
        let names = vec![SERVER_NAME.to_owned(), node_name(node)];
        let mut params = CertificateParams::new(names).map_err(IdentityError::make)?;
        params.distinguished_name.push(DnType::CommonName, node_name(node));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(IdentityError::make)?;
        let issuer = Issuer::new(self.cluster.ca_params(), &self.key);
        let cert = params.signed_by(&key, &issuer).map_err(IdentityError::make)?;
        Ok(Identity {
            cluster: self.cluster.clone(),
            node,
            ca_pem: self.pem.clone(),
            node_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Writes the authority into `dir` (made if absent), readable by this user alone.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write_private(&dir.join(CA_FILE), &self.pem)?;
        write_private(&dir.join(CA_KEY_FILE), &self.key.serialize_pem())?;
        write_private(&dir.join(CLUSTER_FILE), &self.cluster.to_text())
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// Names the file that is absent, damaged, or readable by other users.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let file = dir.join(CLUSTER_FILE);
        let cluster = Cluster::from_text(&read_private(&file)?, &file)?;
        let pem = read_private(&dir.join(CA_FILE))?;
        parse_cert(&pem).map_err(|why| IdentityError::damaged(&dir.join(CA_FILE), &why))?;
        let file = dir.join(CA_KEY_FILE);
        let key = KeyPair::from_pem(&read_private(&file)?)
            .map_err(|error| IdentityError::damaged(&file, &error.to_string()))?;
        Ok(Self { cluster, pem, key })
    }
}

impl Cluster {
    /// The authority's certificate is a function of the cluster's id and its key, so that a loaded
    /// authority issues under the same name without parsing its own certificate.
    fn ca_params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("migrt {:016x}", self.id));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    fn to_text(&self) -> String {
        let secret: String = self.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("cluster {:016x}\nsecret {secret}\n", self.id)
    }

    fn from_text(text: &str, file: &Path) -> Result<Self, IdentityError> {
        let id = field(text, "cluster")
            .and_then(|word| u64::from_str_radix(word, 16).ok())
            .ok_or_else(|| IdentityError::damaged(file, "it has no line `cluster HEX`"))?;
        let secret = field(text, "secret").and_then(secret_from_hex).ok_or_else(|| {
            IdentityError::damaged(file, "it has no line `secret` of 64 hex digits")
        })?;
        Ok(Self { id, secret })
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn secret_from_hex(word: &str) -> Option<[u8; 32]> {
    if word.len() != 64 || !word.is_ascii() {
        return None;
    }
    let mut secret = [0; 32];
    for (index, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&word[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(secret)
}

fn parse_cert(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())
}

fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| IdentityError::io("make", dir, error))
}

fn write_private(file: &Path, text: &str) -> Result<(), IdentityError> {
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
        // `mode` counts only for a file that is made here.
        out.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        out.write_all(text.as_bytes())
    };
    write().map_err(|error| IdentityError::io("write", file, error))
}

fn read_private(file: &Path) -> Result<String, IdentityError> {
    let meta = std::fs::metadata(file).map_err(|error| IdentityError::io("read", file, error))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::open_to_others(file, mode));
    }
    std::fs::read_to_string(file).map_err(|error| IdentityError::io("read", file, error))
}

/// Why an identity could not be made, saved or loaded.
#[derive(Debug)]
pub struct IdentityError {
    file: Option<PathBuf>,
    text: String,
    source: Option<io::Error>,
}

impl IdentityError {
    fn make(cause: impl fmt::Display) -> Self {
        let text = format!("cannot make a cluster identity: {cause}");
        Self { file: None, text, source: None }
    }

    fn io(verb: &str, file: &Path, error: io::Error) -> Self {
        let next = match error.kind() {
            io::ErrorKind::NotFound => "give the folder that the launcher or the CA's owner made",
            io::ErrorKind::PermissionDenied => "run as the user who owns it",
            _ => "check the disk, or make the identity anew",
        };
        let text = format!("cannot {verb} {}: {error}; {next}", file.display());
        Self { file: Some(file.to_owned()), text, source: Some(error) }
    }

    fn damaged(file: &Path, why: &str) -> Self {
        let text = format!("{} is damaged: {why}; have the identity issued again", file.display());
        Self { file: Some(file.to_owned()), text, source: None }
    }

    fn open_to_others(file: &Path, mode: u32) -> Self {
        let text = format!(
            "{0} may be read by other users (mode {mode:o}), and who reads it can join the \
             cluster; run `chmod 600 {0}`, or make a new cluster if others had access",
            file.display()
        );
        Self { file: Some(file.to_owned()), text, source: None }
    }

    /// The file concerned, if it was about one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

// By hand: keys and secrets stay out of logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(n{} of cluster {:016x})", self.node, self.cluster.id)
    }
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterCa({:016x})", self.cluster.id)
    }
}
