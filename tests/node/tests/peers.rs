//! Peers that do not fit, settings that are wrong: each is told by name, with its cause and the
//! next step, within seconds, by exit code 1.

use std::process::Command;
use std::time::{Duration, Instant};

use migrt::launch::ClusterDir;
use migrt_test_node::{Ended, Run, Scratch};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");
const QUICK: Duration = Duration::from_secs(12);

/// A program as node `node` of a cluster of two.
fn node(program: &str, dir: &ClusterDir, node: u16, more: &[(&str, &str)]) -> Run {
    let mut command = Command::new(program);
    command.args(["hello", "2"]).envs(dir.env(node, 2));
    command.env_remove("MIGRT_FAIL").envs(more.iter().copied());
    Run::start_command(command)
}

fn alone(variables: &[(&str, &str)]) -> Ended {
    let since = Instant::now();
    let ended = Run::start(FAULTY, &["hello", "2"], variables).end();
    assert!(since.elapsed() < QUICK, "it took {:?}:\n{}", since.elapsed(), ended.text());
    ended
}

/// Both nodes of a pair that does not fit end by themselves, the second with these words.
fn refuse(zero: Run, one: Run, parts: &[&str]) {
    let since = Instant::now();
    let one = one.end();
    let took = since.elapsed();
    one.expect(1, parts);
    assert!(took < QUICK, "it took {took:?}:\n{}", one.text());
    let zero = zero.end();
    assert_eq!(zero.code(), 1, "{}", zero.text());
    assert!(zero.text().contains("Error: "), "{}", zero.text());
    assert!(since.elapsed() < QUICK, "node 0 took {:?}:\n{}", since.elapsed(), zero.text());
}

#[test]
fn two_processes_of_one_cluster_work_together() {
    let dir = ClusterDir::create(2).unwrap();
    let (zero, one) = (node(FAULTY, &dir, 0, &[]), node(FAULTY, &dir, 1, &[]));
    zero.end().expect(0, &["sum 6"]);
    assert_eq!(one.end().code(), 0);
}

#[test]
fn wrong_settings_are_named() {
    let cases: [(&str, &str, &str); 9] = [
        ("MIGRT_WORKERS", "many", "MIGRT_WORKERS is to be a number of threads from 1 to 512"),
        ("MIGRT_WORKERS", "0", "MIGRT_WORKERS is to be a number of threads from 1 to 512"),
        ("MIGRT_NODES", "0", "MIGRT_NODES is to be a number of nodes from 1 to 1024"),
        ("MIGRT_NODE", "-1", "MIGRT_NODE is to be a node number"),
        ("MIGRT_NODE", "1", "MIGRT_NODE is set but MIGRT_CLUSTER is not"),
        ("MIGRT_BIND", "here", "MIGRT_BIND is to be an address such as"),
        ("MIGRT_JOIN", "10.0.0.1", "MIGRT_JOIN is to be an address such as"),
        ("MIGRT_AUDIT", "loud", "MIGRT_AUDIT is to be off, warn or strict"),
        ("MIGRT_FAIL", "target.commit=burn", "MIGRT_FAIL is to be"),
    ];
    for (name, value, wanted) in cases {
        let ended = alone(&[(name, value)]);
        ended.expect(1, &["Error: ", wanted]);
        // Where the value is wrong and not its company, it is shown.
        let shown = wanted.contains("is not") || ended.text().contains(value);
        assert!(shown, "{}", ended.text());
        assert_eq!(ended.lines.len(), 1, "{}", ended.text());
    }
    alone(&[("MIGRT_CHAOS", "maybe")]).expect(1, &["MIGRT_CHAOS is to be"]);
}

#[test]
fn a_port_in_use_is_named() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let port = format!("UDP port {} of 127.0.0.1 is in use", socket.local_addr().unwrap().port());
    alone(&[("MIGRT_BIND", &address)]).expect(1, &["Error: ", &port, "choose another port"]);
    let dir = ClusterDir::create(2).unwrap();
    let ended = node(FAULTY, &dir, 1, &[("MIGRT_BIND", &address)]).end();
    ended.expect(1, &["Error: ", &port]);
    alone(&[("MIGRT_BIND", "192.0.2.1:0")]).expect(1, &["192.0.2.1", "an address of this machine"]);
}

#[test]
fn a_missing_or_damaged_identity_is_named() {
    let dir = ClusterDir::create(2).unwrap();
    let folder = dir.path().join("node-1");
    for file in ["ca.pem", "node.pem", "node-key.pem", "cluster"] {
        let path = folder.join(file);
        let kept = std::fs::read(&path).unwrap();
        let private: std::fs::Permissions = std::fs::metadata(&path).unwrap().permissions();
        std::fs::write(&path, "nonsense").unwrap();
        let name = path.display().to_string();
        node(FAULTY, &dir, 1, &[]).end().expect(1, &["Error: ", &name]);
        std::fs::remove_file(&path).unwrap();
        node(FAULTY, &dir, 1, &[]).end().expect(1, &["Error: ", &name]);
        std::fs::write(&path, &kept).unwrap();
        std::fs::set_permissions(&path, private).unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let name = folder.display().to_string();
    node(FAULTY, &dir, 1, &[]).end().expect(1, &["Error: ", &name]);
    let nowhere = Scratch::new("nowhere");
    let ended = alone(&[("MIGRT_CLUSTER", nowhere.text())]);
    ended.expect(1, &["Error: ", nowhere.text()]);
}

#[test]
fn a_node_of_another_cluster_is_refused_and_harms_nobody() {
    let (ours, theirs) = (ClusterDir::create(2).unwrap(), ClusterDir::create(2).unwrap());
    let zero = node(FAULTY, &ours, 0, &[]);
    let address = address(&ours);
    let since = Instant::now();
    for _ in 0..3 {
        let stranger = node(FAULTY, &theirs, 1, &[("MIGRT_JOIN", &address)]).end();
        stranger.expect(1, &["cannot join", "certificate", "cluster"]);
    }
    assert!(since.elapsed() < QUICK, "it took {:?}", since.elapsed());
    // Node 0 has said who was not let in, and the one that it waits for is.
    let one = node(FAULTY, &ours, 1, &[]);
    let zero = zero.end();
    zero.expect(0, &["sum 6"]);
    assert_eq!(zero.text().matches("node n0 did not let a caller in and waits on").count(), 1);
    assert_eq!(one.end().code(), 0);
}

#[test]
fn another_build_is_refused_with_both_ids() {
    let dir = ClusterDir::create(2).unwrap();
    let zero = node(FAULTY, &dir, 0, &[]);
    let one = node(env!("CARGO_BIN_EXE_kin"), &dir, 1, &[]);
    refuse(zero, one, &["cannot join", "build id does not fit: ours", "theirs", "the same binary"]);
}

#[test]
fn a_changed_byte_makes_another_build() {
    let mut program = std::fs::read(FAULTY).unwrap();
    // In a text that only this program has, so in its read-only data.
    let words = b"no end of memory";
    let at = program.windows(words.len()).position(|w| w == words).expect("it is there");
    program[at] = b'N';
    let other = Scratch::new("other-build");
    std::fs::write(other.path(), program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(other.path(), mode).unwrap();
    let dir = ClusterDir::create(2).unwrap();
    let zero = node(FAULTY, &dir, 0, &[]);
    let one = node(other.text(), &dir, 1, &[]);
    refuse(zero, one, &["cannot join", "build id does not fit"]);
}

#[test]
fn two_processes_with_one_number_do_not_both_join() {
    let dir = ClusterDir::create(3).unwrap();
    let start = |number: u16| {
        let mut command = Command::new(FAULTY);
        command.args(["hello", "2"]).envs(dir.env(number, 3));
        Run::start_command(command)
    };
    let zero = start(0);
    let first = start(1);
    std::thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    let second = start(1).end();
    assert!(since.elapsed() < QUICK, "{:?}", since.elapsed());
    second.expect(1, &["n1"]);
    let last = start(2);
    zero.end().expect(0, &["sum 6"]);
    assert_eq!((first.end().code(), last.end().code()), (0, 0));
}

#[test]
fn nobody_at_the_address_is_told() {
    let dir = ClusterDir::create(2).unwrap();
    let empty = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let since = Instant::now();
    let run = node(FAULTY, &dir, 1, &[("MIGRT_JOIN", &empty.to_string())]);
    let ended = run.end();
    ended.expect(1, &["cannot join", &empty.to_string()]);
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

#[test]
fn a_node_that_ends_at_once_is_told_of() {
    let ended = alone(&[("MIGRT_FAIL", "n1:nonsense=kill")]);
    ended.expect(1, &["MIGRT_FAIL is to be"]);
}

fn address(dir: &ClusterDir) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Ok(text) = std::fs::read_to_string(dir.path().join("address")) {
            return text;
        }
        assert!(Instant::now() < until, "node 0 has not written its address");
        std::thread::sleep(Duration::from_millis(5));
    }
}
