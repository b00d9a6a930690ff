//! The programs of facts T1 and T2: thread-locals and identity of tasks whose every resume may be on
//! another worker and, with several nodes, is in another process.
//!
//! `identity NODES ROUNDS`. Each task works on its thread-locals in one loop with its suspension, so
//! that the optimiser may keep their address over it, and ends with a line about itself.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::rc::Rc;

use migrt::NodeId;
use migrt_test_migrate::trip::{self, Plan, Walked, mix, step};

thread_local! {
    static LIST: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static SHARED: Rc<RefCell<HashMap<u64, String>>> = Rc::default();
}

/// What a task is to std, as text.
fn name() -> String {
    format!("{:?}", std::thread::current().id())
}

#[migrt::migratable]
fn count(plan: Plan, rounds: u64) -> (String, u64, Walked) {
    trip::begin(plan);
    let me = name();
    let shared = SHARED.with(Rc::clone);
    for i in 0..rounds {
        LIST.with(|list| list.borrow_mut().push(i));
        COUNT.set(COUNT.get() + i);
        shared.borrow_mut().entry(i % 97).or_default().push('x');
        step();
        COUNT.set(COUNT.get() + 1);
        SHARED.with(|shared| shared.borrow_mut().entry(i % 89).or_default().push('y'));
    }
    assert_eq!(name(), me, "the same thread for std all the time");
    assert_eq!(Rc::strong_count(&shared), 2);
    let list = LIST.take();
    assert!(list.iter().copied().eq(0..rounds), "every push went into this task's list");
    assert_eq!(COUNT.get(), rounds * (rounds - 1) / 2 + rounds);
    let letters: usize = shared.take().values().map(String::len).sum();
    assert_eq!(letters as u64, 2 * rounds);
    (me, list.into_iter().fold(0, mix), trip::end())
}

/// Suspended inside `with`, while the borrow is held.
#[migrt::migratable]
fn hold(plan: Plan, rounds: u64) -> (String, u64, Walked) {
    trip::begin(plan);
    let sum = LIST.with_borrow_mut(|list| {
        for i in 0..rounds {
            list.push(i);
            step();
            assert!(LIST.with(|list| list.try_borrow().is_err()), "my own borrow is held");
            COUNT.with(|count| count.set(count.get() + list[list.len() / 2]));
        }
        list.iter().copied().fold(0, mix)
    });
    assert_eq!(COUNT.get(), (0..rounds).map(|i| i.div_ceil(2)).sum::<u64>());
    (name(), sum, trip::end())
}

fn tour(nodes: u16, rounds: u64) -> Result<(), String> {
    trip::settle();
    let plan = if nodes > 1 { Plan::Hops { first: 0, hops: u32::MAX } } else { Plan::Shuffle };
    let expected = (0..rounds).fold(0, mix);
    let mut tasks = Vec::new();
    for _ in 0..4 {
        for node in 0..nodes {
            tasks.push(migrt::spawn_on(NodeId(node), count(plan, rounds)));
            tasks.push(migrt::spawn_on(NodeId(node), hold(plan, rounds)));
        }
    }
    let (mut names, mut refused) = (HashSet::new(), Vec::new());
    let (mut hops, mut threads, many) = (0, 0, tasks.len());
    for task in tasks {
        let (name, sum, walked) = task.join().map_err(|e| e.to_string())?;
        names.insert(name);
        hops += walked.hops;
        threads += walked.threads;
        if sum != expected {
            return Err(format!("the sum is {sum:#x}, not {expected:#x}"));
        }
        refused.extend(walked.refused);
    }
    println!("total hops {hops} threads {threads} refused {}", refused.len());
    refused.iter().for_each(|why| println!("refused {why}"));
    if names.len() != many {
        return Err(format!("{many} tasks lived at once but have {} ids", names.len()));
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<u64>().ok());
    let (Some(nodes), Some(rounds)) = (args.next(), args.next()) else {
        eprintln!("identity NODES ROUNDS");
        return ExitCode::FAILURE;
    };
    let nodes = nodes as u16;
    let run = migrt::Builder::new().workers(3).local_nodes(nodes).run(move || tour(nodes, rounds));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
