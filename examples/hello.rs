//! Two kinds of task: a closure stays on its node, a `#[migratable]` function may run anywhere.
//!
//! ```text
//! cargo run --example hello
//! ```

/// Runs wherever it is put; arguments and result travel by value.
#[migrt::migratable]
fn greet(name: String) -> String {
    format!("hello {name}, from {}", migrt::here())
}

fn main() -> migrt::Result<()> {
    // This process is n0; it starts n1 and n2 from the same program.
    migrt::Builder::new().workers(1).local_nodes(3).run(|| {
        let local = migrt::spawn(|| format!("hello from a closure on {}", migrt::here()));
        println!("{}", local.join()?);
        let nodes = migrt::nodes();
        let tasks: Vec<_> =
            nodes.iter().map(|&node| migrt::spawn_on(node, greet("world".into()))).collect();
        for task in tasks {
            println!("{}", task.join()?);
        }
        Ok(())
    })?
}
