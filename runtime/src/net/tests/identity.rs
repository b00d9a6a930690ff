//! Identities on disk.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("migrt-net-{}-{name}", std::process::id()));
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_saved_identity_comes_back_and_only_its_owner_can_read_it() {
    let dir = TempDir::new("roundtrip");
    let ca = cluster();
    let saved = ca.issue(513).unwrap();
    saved.save(&dir.0).unwrap();
    assert_eq!(mode(&dir.0), 0o700);
    for entry in std::fs::read_dir(&dir.0).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let loaded = Identity::load(&dir.0).unwrap();
    assert_eq!((loaded.node(), loaded.cluster_id()), (513, saved.cluster_id()));
    assert_eq!(loaded.secret(), saved.secret());
    let probe = Node::probe(513, |_| ());
    let loaded = Node::of(probe.clone(), Net::start(NetConfig::new(loaded), probe).unwrap());
    linked(Node::start(&ca, 0), loaded);
}

#[test]
fn a_loaded_authority_issues_for_the_same_cluster() {
    let dir = TempDir::new("authority");
    let ca = cluster();
    ca.save(&dir.0).unwrap();
    let loaded = ClusterCa::load(&dir.0).unwrap();
    linked(Node::start(&ca, 0), Node::start(&loaded, 1));
}

#[test]
fn bad_files_are_named_with_the_cause_and_what_to_do() {
    let dir = TempDir::new("bad");
    let error = Identity::load(&dir.0).unwrap_err();
    assert_eq!(error.file(), Some(&*dir.0.join("cluster")));
    cluster().issue(1).unwrap().save(&dir.0).unwrap();

    let key = dir.0.join("node-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Identity::load(&dir.0).unwrap_err().to_string();
    assert!(error.contains("644") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    for file in ["cluster", "ca.pem", "node.pem", "node-key.pem"] {
        let file = dir.0.join(file);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 3]).unwrap();
        let error = Identity::load(&dir.0).unwrap_err();
        assert_eq!(error.file(), Some(&*file), "{error}");
        assert!(error.to_string().contains("issued again"), "{error}");
        std::fs::write(&file, whole).unwrap();
    }
    Identity::load(&dir.0).unwrap();

    // Somebody else's certificate in a node's folder.
    let other = TempDir::new("bad-other");
    cluster().issue(2).unwrap().save(&other.0).unwrap();
    std::fs::copy(other.0.join("node.pem"), dir.0.join("node.pem")).unwrap();
    let error = Identity::load(&dir.0).unwrap_err().to_string();
    assert!(error.contains("not the certificate of node n1"), "{error}");
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let ca = cluster();
    let identity = ca.issue(4).unwrap();
    let text = format!("{identity:?} {ca:?}");
    assert!(text.contains("n4") && text.len() < 100, "{text}");
}
