//! std's collections, text and sorting, suspended between and inside their operations.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::{self, Display, Write};

use super::Run;
use crate::trip::{Seeded, mix, mix_bytes, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("hash_map", hash_map),
    ("hash_random_keys", hash_random_keys),
    ("hash_inside_hashing", hash_inside_hashing),
    ("btree_map", btree_map),
    ("heap_and_deque", heap_and_deque),
    ("sort_suspended_in_comparison", sort_suspended_in_comparison),
    ("stable_sort_of_strings", stable_sort_of_strings),
    ("strings", strings),
    ("formatted_output", formatted_output),
    ("vec_of_vecs", vec_of_vecs),
];

fn hash_map(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut map: HashMap<String, Vec<u64>> = HashMap::new();
    for n in 0..800 {
        let key = format!("key {}", random.below(150));
        map.entry(key).or_default().push(n);
        if n % 80 == 0 {
            step();
        }
    }
    map.retain(|key, list| !key.ends_with('7') || list.len() > 5);
    step();
    let mut all: Vec<_> = map.into_iter().collect();
    all.sort();
    all.iter().fold(0, |sum, (key, list)| mix(mix_bytes(sum, key.as_bytes()), list.iter().sum()))
}

/// `RandomState` draws its keys from the thread-locals: equal before and after a move, and a map
/// that was filled there finds its keys here.
fn hash_random_keys(seed: u64) -> u64 {
    use std::hash::BuildHasher;
    let first = std::hash::RandomState::new();
    let known = first.hash_one(seed);
    let mut set: HashSet<u64> = HashSet::with_hasher(first.clone());
    for n in 0..200 {
        set.insert(n * 3);
        if n % 25 == 0 {
            step();
            assert_eq!(first.hash_one(seed), known, "a hasher has kept its keys");
            // std counts one of the two keys up from map to map, within a thread.
            let (a, b) = (std::hash::RandomState::new(), std::hash::RandomState::new());
            assert_ne!(a.hash_one(seed), b.hash_one(seed));
        }
    }
    (0..600).filter(|n| set.contains(n)).fold(seed, mix)
}

/// A move in the middle of a map's own operation: within `Hash` and `Eq` of its key.
fn hash_inside_hashing(seed: u64) -> u64 {
    thread_local! {
        static CALLS: Cell<u64> = const { Cell::new(0) };
    }
    #[derive(Debug)]
    struct Key(u64);
    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            let calls = CALLS.get() + 1;
            CALLS.set(calls);
            if calls.is_multiple_of(40) {
                step();
            }
            state.write_u64(self.0);
        }
    }
    impl PartialEq for Key {
        fn eq(&self, other: &Key) -> bool {
            let calls = CALLS.get() + 1;
            CALLS.set(calls);
            if calls.is_multiple_of(40) {
                step();
            }
            self.0 == other.0
        }
    }
    impl Eq for Key {}
    CALLS.set(0);
    let mut map = HashMap::new();
    for n in 0..120 {
        *map.entry(Key(n * seed % 31)).or_insert(0u64) += n;
    }
    (0..31).fold(0, |sum, n| mix(sum, map.get(&Key(n)).copied().unwrap_or(7)))
}

fn btree_map(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut map = BTreeMap::new();
    let mut set = BTreeSet::new();
    for n in 0..600u64 {
        map.insert(random.below(500), format!("{n}"));
        set.insert((random.below(20), n));
        if n % 70 == 0 {
            step();
        }
    }
    let mut sum = 0;
    for (n, (key, text)) in map.range(100..400).enumerate() {
        if n % 40 == 0 {
            step();
        }
        sum = mix_bytes(mix(sum, *key), text.as_bytes());
    }
    let tail = map.split_off(&250);
    step();
    while let Some((a, b)) = set.pop_first() {
        sum = mix(sum, a * 1000 + b);
    }
    mix(sum, (tail.len() * 1000 + map.len()) as u64)
}

fn heap_and_deque(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut heap = BinaryHeap::new();
    let mut deque = VecDeque::new();
    let mut sum = 0;
    for n in 0..500u64 {
        heap.push(Reverse((random.below(1000), n)));
        if n % 3 == 0 {
            deque.push_back(heap.pop().expect("just pushed"));
        } else if n % 7 == 0 {
            deque.rotate_left(deque.len() / 2);
            deque.push_front(Reverse((n, n)));
        }
        if n % 60 == 0 {
            step();
        }
    }
    while let Some(Reverse((a, b))) = heap.pop() {
        sum = mix(sum, a ^ b << 20);
    }
    step();
    deque.iter().fold(sum, |sum, Reverse((a, b))| mix(sum, a + b))
}

fn sort_suspended_in_comparison(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut values: Vec<(u64, u32)> = (0..3000).map(|n| (random.below(900), n)).collect();
    let calls = Cell::new(0u32);
    let counted = |a: &(u64, u32), b: &(u64, u32)| {
        calls.set(calls.get() + 1);
        migrt::safepoint();
        if calls.get().is_multiple_of(3000) {
            step();
        }
        a.cmp(b)
    };
    values.sort_unstable_by(counted);
    assert!(values.is_sorted());
    values.sort_by_key(|v| Reverse(v.1));
    values.sort_by(counted);
    assert!(values.is_sorted());
    values.iter().fold(0, |sum, (a, b)| mix(sum, a * 7 + u64::from(*b)))
}

fn stable_sort_of_strings(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut lines: Vec<String> = (0..700).map(|n| format!("{:03}:{n}", random.below(50))).collect();
    let mut calls = 0;
    lines.sort_by(|a, b| {
        calls += 1;
        if calls % 700 == 0 {
            step();
        }
        a[..3].cmp(&b[..3])
    });
    step();
    lines.dedup_by(|a, b| a[..3] == b[..3]);
    mix_bytes(0, lines.concat().as_bytes())
}

fn strings(seed: u64) -> u64 {
    let mut text = String::from("Grüße aus der Ferne: ");
    for n in 0..80 {
        text.insert_str(text.char_indices().nth(n).map_or(0, |(at, _)| at), "ß→x");
        text = text.replace("xß", &format!("{}", seed % 10));
        if n % 8 == 0 {
            step();
        }
    }
    let words: Vec<&str> = text.split(['ß', '→']).collect();
    step();
    let upper: String = words.iter().rev().map(|w| w.to_uppercase()).collect::<Vec<_>>().join("|");
    let cow = String::from_utf8_lossy(&upper.as_bytes()[..upper.len().min(60)]).into_owned();
    step();
    mix_bytes(mix_bytes(0, upper.as_bytes()), cow.as_bytes())
}

/// A formatter holds `dyn Write` and argument tables on the stack: suspended inside `fmt`.
fn formatted_output(seed: u64) -> u64 {
    struct Nested(u32, u64);
    impl Display for Nested {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            step();
            if self.0 == 0 {
                return write!(f, "<{:#010x}>", self.1 as u32);
            }
            let inner = Nested(self.0 - 1, mix(self.1, u64::from(self.0)));
            write!(f, "[{inner:>4} {:?} {:?}]", self.0, Some("text"))
        }
    }
    let mut text = String::new();
    for n in 0..3 {
        writeln!(text, "{n:+} {} {:?}", Nested(4, seed + n), ('a', 1.5, "b\n"))
            .expect("to a String");
    }
    mix_bytes(0, text.as_bytes())
}

fn vec_of_vecs(seed: u64) -> u64 {
    let mut rows: Vec<Vec<u64>> = Vec::new();
    for n in 0..100u64 {
        rows.push((0..n).map(|k| mix(seed, n * k)).collect());
        if n % 10 == 0 {
            step();
            rows.iter_mut().for_each(|row| row.shrink_to_fit());
        }
    }
    let flat: Vec<u64> = rows.drain(20..60).flatten().collect();
    step();
    rows.swap(0, 30);
    rows.into_iter().flatten().chain(flat).fold(0, mix)
}
