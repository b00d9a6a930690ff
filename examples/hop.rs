//! A task moves itself: it walks over all nodes in the middle of a loop and takes along what it has,
//! here a diary and a reference into it.
//!
//! ```text
//! cargo run --example hop
//! ```

/// Visits every node `rounds` times and counts on the way.
#[migrt::migratable]
fn walk(rounds: usize) -> String {
    let title = String::from("steps");
    let mut diary = Vec::new();
    let borrowed = &title;
    for step in 0..rounds {
        for node in migrt::nodes() {
            migrt::migrate_to(node).expect("nothing pins this task");
            diary.push(format!("{borrowed} {step}: {}", migrt::here()));
        }
    }
    diary.join(", ")
}

fn main() -> migrt::Result<()> {
    migrt::Builder::new().workers(1).local_nodes(3).run(|| {
        println!("{}", migrt::spawn(walk(3)).join()?);
        Ok(())
    })?
}
