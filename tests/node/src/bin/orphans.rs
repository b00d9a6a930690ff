//! Node 1 gives birth to tasks on all three nodes and dies. Its tasks end wherever they are, and
//! whoever waits for them hears that they are lost.

use std::time::{Duration, Instant};

use migrt::{JoinError, JoinHandle, NodeId};
use migrt_test_node::steps;

const HOME: NodeId = NodeId(1);

#[migrt::migratable]
fn tick(log: String, task: u32) -> u32 {
    for step in 0..2_000 {
        steps::note(&log, task, step, migrt::here().0);
        migrt::sleep(Duration::from_millis(2));
    }
    task
}

#[migrt::migratable]
fn bear(log: String) -> Vec<JoinHandle<u32>> {
    (0..3u16).map(|n| migrt::spawn_on(NodeId(n), tick(log.clone(), u32::from(n)))).collect()
}

#[migrt::migratable]
fn wait(of: JoinHandle<u32>) -> String {
    format!("{:?}", of.join())
}

#[migrt::migratable]
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

fn main() {
    let log = std::env::args().nth(1).expect("a file to write");
    let result = migrt::Builder::new().workers(2).local_nodes(3).run(move || {
        let mut orphans = migrt::spawn_on(HOME, bear(log.clone())).join().expect("it bears them");
        // One waits here, one on node 2, one through a task of this node's that dies with node 1.
        let far = migrt::spawn_on(NodeId(2), wait(orphans.remove(0)));
        let gone = migrt::spawn_on(HOME, wait(orphans.remove(0)));
        migrt::sleep(Duration::from_millis(100));
        let since = Instant::now();
        let killer = migrt::spawn_on(HOME, die());
        let lost = JoinError::Lost { node: HOME, missing_pages: 0 };
        assert_eq!(killer.join(), Err(lost.clone()));
        assert_eq!(orphans.remove(0).join(), Err(lost.clone()));
        assert_eq!(
            far.join().expect("the waiter lives"),
            format!("{:?}", Err::<u32, _>(lost.clone()))
        );
        assert_eq!(gone.join(), Err(lost));
        assert!(since.elapsed() < Duration::from_secs(2), "it took {:?}", since.elapsed());
        println!("ok lost");
        migrt::sleep(Duration::from_millis(100));
        let before = std::fs::read(&log).expect("a log").len();
        migrt::sleep(Duration::from_millis(200));
        let after = std::fs::read(&log).expect("a log").len();
        assert_eq!(before, after, "orphans go on");
        println!("ok cancelled");
        assert_eq!(migrt::nodes(), [NodeId(0), NodeId(2)]);
        let next = migrt::spawn_on(NodeId(2), bear(log.clone())).join().expect("node 2 goes on");
        assert_eq!(next.len(), 3);
        next.iter().for_each(JoinHandle::cancel);
        println!("ok next");
    });
    if let Err(why) = result {
        eprintln!("Error: {why}");
        std::process::exit(1);
    }
}
