//! A task walks over the nodes.
use std::time::Instant;
#[migrt::migratable]
fn walk(hops: u32) -> String {
    let nodes = migrt::nodes();
    let mut v: Vec<String> = Vec::new();
    let t = Instant::now();
    for i in 0..hops {
        let to = nodes[(i as usize + 1) % nodes.len()];
        if let Err(e) = migrt::migrate_to(to) {
            v.push(e.to_string());
            break;
        }
        if i % 100 == 0 {
            v.push(format!("{}", migrt::here()));
        }
    }
    format!("{} in {:?} per hop", v.join(","), t.elapsed() / hops)
}

fn main() {
    let n = std::env::args().nth(1).map_or(2, |a| a.parse().unwrap());
    let hops = std::env::args().nth(2).map_or(10, |a| a.parse().unwrap());
    let r = migrt::Builder::new().workers(1).local_nodes(n).run(move || {
        println!("nodes {:?}", migrt::nodes());
        let t = migrt::spawn(walk(hops));
        println!("{:?}", t.join());
        let m = migrt::cluster_metrics();
        for (n, m) in m {
            let mut p = m.pauses_us.clone();
            p.sort();
            println!(
                "{n}: out {} in {} bytes {} pause {:?}",
                m.moves_out,
                m.moves_in,
                m.bytes_shipped,
                p.get(p.len() / 2)
            );
        }
    });
    if let Err(e) = r {
        eprintln!("Error: {e}");
        std::process::exit(1);
    }
}
