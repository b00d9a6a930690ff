//! A task moves itself: it walks over all nodes in the middle of a loop, and takes along what it
//! has: a vector, a map, a reference between them.
//!
//! ```text
//! cargo run --example hop
//! ```

use std::collections::HashMap;

/// Visits every node `rounds` times.
#[migrt::migratable]
fn walk(rounds: usize) -> String {
    let mut diary = Vec::new();
    let mut visits = HashMap::new();
    let longest = String::from("nowhere yet");
    let mut first = &longest;
    let names: Vec<String> = migrt::nodes().iter().map(ToString::to_string).collect();
    for _ in 0..rounds {
        for (node, name) in migrt::nodes().into_iter().zip(&names) {
            migrt::migrate_to(node).expect("nothing pins this task");
            diary.push(migrt::here());
            *visits.entry(migrt::here()).or_insert(0) += 1;
            first = if diary.len() == 1 { name } else { first };
        }
    }
    format!("walked {diary:?}, {} nodes, first {first}, here {}", visits.len(), migrt::here())
}

fn main() -> migrt::Result<()> {
    migrt::Builder::new().workers(1).local_nodes(3).run(|| {
        println!("{}", migrt::spawn(walk(3)).join()?);
        Ok(())
    })?
}
