//! Three processes whose links are bad: tasks move on, none is lost, none runs twice.

use std::time::{Duration, Instant};

use migrt_test_node::{Ended, Scratch, count, steps};
use migrt_test_proxy::{Cluster, Counts, Nodes, Profile};

const LIMIT: Duration = Duration::from_secs(55);

/// The nomads of one test.
struct Journey {
    log: Scratch,
    cluster: Cluster,
    nodes: Nodes,
    tasks: u32,
}

impl Journey {
    fn begin(name: &str, seed: u64, profile: Profile, numbers: [u32; 4]) -> Journey {
        // Another seed by hand: MIGRT_PROXY_SEED=n.
        let seed = count("MIGRT_PROXY_SEED", seed as usize) as u64;
        let log = Scratch::new(name);
        let cluster = Cluster::through_proxies(3, seed, profile);
        let numbers_text = numbers.map(|number| number.to_string());
        let mut arguments = vec![log.text()];
        arguments.extend(numbers_text.iter().map(String::as_str));
        let nodes = cluster.start(env!("CARGO_BIN_EXE_nomads"), &arguments, &[]).limit(LIMIT);
        nodes.zero().line("begins");
        Journey { log, cluster, nodes, tasks: numbers[0] }
    }

    /// Waits for the end; every task has come through, and its log says so too. Moves, and what was
    /// said.
    fn end(self) -> (u32, Counts, Vec<Ended>) {
        let ended = self.nodes.end();
        let counts = self.cluster.hub().counts();
        let all: String = ended.iter().map(Ended::text).collect();
        println!("{all}{counts:?}");
        ended[0].expect(0, &[]);
        let walks = steps::read(self.log.path());
        for task in 0..self.tasks {
            steps::check(task, &walks[&task]);
            let said = ended[0].value(&format!("task {task} ok on"));
            let steps = format!("after {} steps,", walks[&task].len());
            assert!(said.contains(&steps), "task {task}: {said}, but {steps} in the log");
        }
        let moves = ended[0].value("moves ").split(' ').next().unwrap().parse().unwrap();
        (moves, counts, ended)
    }
}

#[test]
fn three_hundred_moves_over_rough_links_lose_nothing() {
    let journey = Journey::begin("rough", 1, Profile::ROUGH, [10, 30, 64, 0]);
    let (moves, ..) = journey.end();
    assert!(moves >= 300, "{moves}");
}

#[test]
fn short_cuts_lose_nothing() {
    let journey = Journey::begin("cuts", 2, Profile::ROUGH, [10, 30, 64, 9_000]);
    let hub = journey.cluster.hub();
    let since = Instant::now();
    for (a, b) in [(0, 1), (1, 2), (0, 2), (1, 2), (0, 1), (0, 2), (1, 2), (0, 1)] {
        hub.cut(a, b);
        std::thread::sleep(Duration::from_millis(300));
        hub.mend(a, b);
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(since.elapsed() > Duration::from_secs(8));
    journey.end();
}

#[test]
fn a_long_cut_between_two_that_reach_node_0() {
    let journey = Journey::begin("long", 3, Profile::CLEAN, [10, 30, 64, 9_000]);
    std::thread::sleep(Duration::from_millis(1_000));
    journey.cluster.hub().cut(1, 2);
    std::thread::sleep(Duration::from_millis(5_000));
    journey.cluster.hub().mend(1, 2);
    journey.end();
}
