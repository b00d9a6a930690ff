//! A running task is moved by somebody else: `main` throws it back and forth between two nodes while
//! it counts. It notices nothing, except that `here()` answers otherwise.
//!
//! ```text
//! cargo run --example ping_pong
//! ```

use std::time::Duration;

/// Counts until it is big enough, and notes on the way where it is.
#[migrt::migratable]
fn ball(upto: u64) -> (u64, usize) {
    let (mut count, mut flights, mut last) = (0, 0, migrt::here());
    while count < upto {
        count += 1;
        if count % 1000 == 0 {
            migrt::sleep(Duration::from_micros(200));
        }
        if migrt::here() != last {
            last = migrt::here();
            flights += 1;
        }
    }
    (count, flights)
}

fn main() -> migrt::Result<()> {
    migrt::Builder::new().workers(1).local_nodes(2).run(|| {
        let task = migrt::spawn(ball(300_000));
        let nodes = migrt::nodes();
        for turn in 1..=20 {
            task.migrate(nodes[turn % 2])?;
        }
        let info = task.info()?;
        println!("{:?} on {} after {} moves", info.state, info.node, info.moves);
        let (count, flights) = task.join()?;
        println!("it counted to {count} and was somewhere else {flights} times");
        Ok(())
    })?
}
