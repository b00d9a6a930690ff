//! Nodes in processes of their own, which can be killed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

const DIR_VAR: &str = "MIGRT_NET_TEST_IDENTITY";
const BIND_VAR: &str = "MIGRT_NET_TEST_BIND";

/// The child's main: a node that sends every frame back. Does nothing in an ordinary test run.
#[test]
fn echo_node() {
    let Some(dir) = std::env::var_os(DIR_VAR) else {
        return;
    };
    let identity = Identity::load(Path::new(&dir)).unwrap();
    let probe = Node::probe(identity.node(), |_| ());
    *lock(&probe.on_frame) = Some(Box::new(|net, peer, bytes| net.send(peer, bytes.to_vec())));
    let mut config = NetConfig::new(identity);
    config.bind = std::env::var(BIND_VAR).unwrap().parse().unwrap();
    let node = Node::of(probe.clone(), Net::start(config, probe).unwrap());
    println!("\nlistening {}", node.addr());
    // Ends with the parent.
    let _ = std::io::stdin().read_line(&mut String::new());
}

struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn start(dir: &Path, bind: &str) -> Self {
        let name = format!("{}::echo_node", module_path!().split_once("::").unwrap().1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(DIR_VAR, dir)
            .env(BIND_VAR, bind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
            .expect("the child says where it listens");
        Self { child, addr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn identity_dir(ca: &ClusterCa, name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("migrt-net-{}-{name}", std::process::id()));
    ca.issue(1).unwrap().save(&dir).unwrap();
    dir
}

#[test]
fn a_stopped_peer_goes_down_and_is_linked_again_when_it_goes_on() {
    use rustix::process::Signal;
    let ca = cluster();
    let dir = identity_dir(&ca, "stopped");
    let process = Process::start(&dir, "127.0.0.1:0");
    let a = Node::start(&ca, 0);
    a.net.dial(process.addr);
    a.log.wait_for(&Event::Up(1));
    process.signal(Signal::STOP);
    assert!(a.log.wait_down(1).contains("does not answer"));
    process.signal(Signal::CONT);
    a.log.wait(|events| {
        (events.iter().filter(|event| **event == Event::Up(1)).count() == 2).then_some(())
    });
    a.net.send(1, b"back".to_vec());
    a.log.wait_for(&Event::Frame(1, b"back".to_vec()));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_killed_peer_goes_down_breaks_its_shipments_and_is_found_again() {
    let ca = cluster();
    let dir = identity_dir(&ca, "killed");
    let process = Process::start(&dir, "127.0.0.1:0");
    let addr = process.addr;
    let a = Node::start(&ca, 0);
    a.net.dial(addr);
    a.log.wait_for(&Event::Up(1));
    a.net.send(1, b"one".to_vec());
    a.log.wait_for(&Event::Frame(1, b"one".to_vec()));

    drop(process);
    // Nobody takes this; the loss of the link has to end it.
    let receipt = a.send_bulk(1, b"", vec![noise(1, 4 << 20).into()]);
    a.log.wait_down(1);
    assert!(receipt.wait().is_err());

    let again = Process::start(&dir, &addr.to_string());
    assert_eq!(again.addr, addr);
    a.log.wait(|events| {
        (events.iter().filter(|event| **event == Event::Up(1)).count() == 2).then_some(())
    });
    a.net.send(1, b"two".to_vec());
    a.log.wait_for(&Event::Frame(1, b"two".to_vec()));
    let _ = std::fs::remove_dir_all(&dir);
}
