//! A running task is moved by somebody else: `main` throws it back and forth between two nodes while
//! it counts. It notices nothing, except that `here()` answers otherwise.
//!
//! ```text
//! cargo run --example ping_pong
//! ```

use std::time::Duration;

/// Counts, and how often it found itself elsewhere.
#[migrt::migratable]
fn ball(upto: u64) -> (u64, u32) {
    let (mut count, mut flights, mut last) = (0, 0, migrt::here());
    while count < upto {
        count += 1;
        if count % 10_000 == 0 {
            // `main` may share a worker with this task.
            migrt::yield_now();
        }
        if migrt::here() != last {
            last = migrt::here();
            flights += 1;
        }
    }
    (count, flights)
}

fn main() -> migrt::Result<()> {
    migrt::Builder::new().workers(2).local_nodes(2).run(|| {
        let nodes = migrt::nodes();
        let task = migrt::spawn_on(nodes[0], ball(50_000_000));
        for target in nodes.into_iter().cycle().skip(1) {
            migrt::sleep(Duration::from_millis(2));
            if let Err(why) = task.migrate(target) {
                // The last throw always fails: the task has ended.
                println!("{why}");
                break;
            }
        }
        let (count, flights) = task.join()?;
        println!("it counted to {count} and found itself elsewhere {flights} times");
        Ok(())
    })?
}
