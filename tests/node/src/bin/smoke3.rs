//! Memory of a task's heap gets into statics of the nodes it visits.
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

static WORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TABLE: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..50).map(|i| format!("entry {i}")).collect());
static MAP: OnceLock<HashMap<String, u64>> = OnceLock::new();
static SHARED: Mutex<Option<Arc<String>>> = Mutex::new(None);

#[inline(never)]
fn use_statics(tag: u64) -> u64 {
    let mut sum = 0;
    {
        let mut w = WORDS.lock().unwrap();
        w.push(format!("word {tag} of node {}", migrt::here()));
        if w.len() > 40 {
            w.drain(..20);
        }
        for s in w.iter() {
            assert!(s.starts_with("word "), "{s:?}");
            sum += s.len() as u64;
        }
    }
    for (i, s) in TABLE.iter().enumerate() {
        assert_eq!(*s, format!("entry {i}"));
    }
    let m = MAP.get_or_init(|| (0..30u64).map(|i| (format!("k{i}"), i * i)).collect());
    for i in 0..30u64 {
        assert_eq!(m[&format!("k{i}")], i * i);
    }
    {
        let mut s = SHARED.lock().unwrap();
        let old = s.clone();
        if tag.is_multiple_of(7) {
            *s = Some(Arc::new(format!("shared {tag}")));
        }
        if let Some(o) = old {
            assert!(o.starts_with("shared"), "{o:?}");
        }
    }
    println!("line {tag} on {}", migrt::here());
    sum
}

#[migrt::migratable]
fn traveller(id: u64, trips: u64) -> (u64, u64) {
    let nodes = migrt::nodes();
    let mut refused = 0;
    for i in 0..trips {
        use_statics(id * 1000 + i);
        let to = nodes[((id + i) % nodes.len() as u64) as usize];
        if to != migrt::here()
            && let Err(e) = migrt::migrate_to(to)
        {
            refused += 1;
            if refused < 3 {
                eprintln!("{e}");
            }
        }
    }
    use_statics(id);
    (trips, refused)
}

fn main() {
    let trips = std::env::args().nth(1).map_or(100, |a| a.parse().unwrap());
    let r = migrt::Builder::new().workers(1).local_nodes(3).run(move || {
        let ts: Vec<_> = (0..6u64).map(|i| migrt::spawn(traveller(i, trips))).collect();
        for t in ts {
            eprintln!("{:?}", t.join());
        }
        use_statics(9);
    });
    if let Err(e) = r {
        eprintln!("Error: {e}");
        std::process::exit(1);
    }
}
