//! A task that is born on one node, starts on a second and moves to a third in its middle, noting
//! its steps. `traveller LOG NODES HOME SOURCE TARGET LINGER_MS`: what becomes of it is printed as
//! `outcome`, then node 0 lingers, so that anybody who should not run any more would be seen.

use std::time::Duration;

use migrt::{JoinHandle, NodeId};
use migrt_test_node::steps;

const STEPS: u32 = 24;
const MOVE_AT: u32 = 8;

/// Words of the block that the walker carries: 4 MiB, so that most of it follows where pages do.
const WORDS: usize = 1 << 19;
const PAGE_WORDS: usize = 512;

fn word(at: usize) -> u64 {
    (at as u64 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Looks at a page here and there, in no order in which they might come.
fn look(block: &[u64]) {
    for n in 0..64 {
        let at = n * 367 % (WORDS / PAGE_WORDS) * PAGE_WORDS + n;
        assert_eq!(block[at], word(at), "I4: word {at} is not what it was");
    }
}

#[migrt::migratable]
fn walk(log: String, target: NodeId) -> String {
    let mut seen: Vec<String> = Vec::new();
    let block: Vec<u64> = (0..WORDS).map(word).collect();
    let mut note = String::from("it never tried");
    for step in 0..STEPS {
        steps::note(&log, 0, step, migrt::here().0);
        seen.push(format!("step {step}"));
        if step == MOVE_AT {
            note = match migrt::migrate_to(target) {
                Ok(()) => "moved".to_owned(),
                Err(why) => format!("stayed: {why}"),
            };
            look(&block);
        }
        migrt::sleep(Duration::from_millis(3));
    }
    let whole = seen.iter().enumerate().all(|(at, text)| *text == format!("step {at}"));
    let whole = whole && block.iter().enumerate().all(|(at, &found)| found == word(at));
    assert!(whole, "I4: the heap of the task is not what it was: {seen:?}");
    note
}

/// Gives birth to the walker on its own node, which is then its home.
#[migrt::migratable]
fn bear(log: String, source: NodeId, target: NodeId) -> JoinHandle<String> {
    migrt::spawn_on(source, walk(log, target))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> u16 { arguments[at].parse().expect("a number") };
    let log = arguments[0].clone();
    let (home, source, target) = (NodeId(number(2)), NodeId(number(3)), NodeId(number(4)));
    let linger = Duration::from_millis(u64::from(number(5)));
    let result = migrt::Builder::new().workers(2).local_nodes(number(1)).run(move || {
        let born = migrt::spawn_on(home, bear(log, source, target)).join();
        let outcome = match born {
            Ok(walker) => walker.join(),
            Err(why) => panic!("the walker was not born: {why}"),
        };
        println!("outcome {outcome:?}");
        migrt::sleep(linger);
        println!("over");
    });
    if let Err(why) = result {
        eprintln!("Error: {why}");
        std::process::exit(1);
    }
}
