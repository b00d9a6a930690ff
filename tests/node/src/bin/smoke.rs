//! The smallest whole run: local tasks, then mobile ones.
#[migrt::migratable]
fn add(a: u64, b: String) -> String {
    let mut v = Vec::new();
    for i in 0..a {
        v.push(format!("{b}{i}"));
        migrt::yield_now();
    }
    v.join(",")
}

#[migrt::main]
fn main() -> migrt::Result<()> {
    let tasks: Vec<_> = (0..1000u64)
        .map(|i| {
            migrt::spawn(move || {
                migrt::yield_now();
                i
            })
        })
        .collect();
    let sum: u64 = tasks.into_iter().map(|t| t.join().unwrap()).sum();
    println!("local {sum}");
    let t = migrt::spawn(add(5, "x".into()));
    println!("mobile {}", t.join()?);
    let tasks: Vec<_> = (0..1000u64).map(|i| migrt::spawn(add(i % 7, "y".into()))).collect();
    let n: usize = tasks.into_iter().map(|t| t.join().unwrap().len()).sum();
    println!("mobiles {n}");
    Ok(())
}
