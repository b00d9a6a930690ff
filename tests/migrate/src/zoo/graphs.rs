//! Memory full of pointers: counted, boxed, dynamic, cyclic, pinned.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, RwLock};

use super::Run;
use crate::trip::{Seeded, mix, mix_bytes, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("rc_graph", rc_graph),
    ("linked_list", linked_list),
    ("trait_objects", trait_objects),
    ("boxed_closures", boxed_closures),
    ("box_dyn_any", box_dyn_any),
    ("binary_tree", binary_tree),
    ("arc_mutex_of_its_own", arc_mutex_of_its_own),
    ("cells", cells),
    ("closure_that_returns_closures", closure_that_returns_closures),
];

fn rc_graph(seed: u64) -> u64 {
    struct Node {
        value: u64,
        next: RefCell<Vec<Rc<Node>>>,
        back: RefCell<Weak<Node>>,
    }
    let mut random = Seeded::new(seed);
    let nodes: Vec<Rc<Node>> = (0..200)
        .map(|_| {
            let value = random.draw();
            Rc::new(Node { value, next: RefCell::default(), back: RefCell::default() })
        })
        .collect();
    for (n, node) in nodes.iter().enumerate() {
        for _ in 0..3 {
            let to = &nodes[random.below(200) as usize];
            node.next.borrow_mut().push(Rc::clone(to));
            *to.back.borrow_mut() = Rc::downgrade(node);
        }
        if n % 20 == 0 {
            step();
        }
    }
    let mut sum = 0;
    let mut at = Rc::clone(&nodes[0]);
    for hop in 0..300u64 {
        let next = Rc::clone(&at.next.borrow()[(hop % 3) as usize]);
        sum = mix(sum, next.value ^ Rc::strong_count(&next) as u64);
        if let Some(back) = next.back.borrow().upgrade() {
            sum = mix(sum, back.value);
        }
        at = next;
        if hop % 40 == 0 {
            step();
        }
    }
    let weak = Rc::downgrade(&nodes[5]);
    for node in &nodes {
        node.next.borrow_mut().clear();
    }
    drop((nodes, at));
    step();
    assert!(weak.upgrade().is_none(), "the graph is gone");
    sum
}

fn linked_list(seed: u64) -> u64 {
    struct Item {
        value: u64,
        next: Option<Box<Item>>,
    }
    let mut list: Option<Box<Item>> = None;
    for n in 0..500 {
        list = Some(Box::new(Item { value: mix(seed, n), next: list }));
        if n % 60 == 0 {
            step();
        }
    }
    // Reverse in place, with steps in the middle.
    let (mut before, mut rest, mut n) = (None, list, 0);
    while let Some(mut item) = rest {
        rest = item.next.take();
        item.next = before;
        before = Some(item);
        n += 1;
        if n % 60 == 0 {
            step();
        }
    }
    let mut sum = 0;
    let mut at = &before;
    while let Some(item) = at {
        sum = mix(sum, item.value);
        at = &item.next;
    }
    while let Some(mut item) = before {
        before = item.next.take();
    }
    sum
}

trait Animal: Debug {
    fn speak(&mut self) -> String;
    fn legs(&self) -> u64 {
        4
    }
}

#[derive(Debug)]
struct Cat {
    lives: u8,
}

#[derive(Debug)]
struct Bird {
    songs: VecDeque<String>,
}

impl Animal for Cat {
    fn speak(&mut self) -> String {
        step();
        self.lives = self.lives.saturating_sub(1);
        format!("meow{}", self.lives)
    }
}

impl Animal for Bird {
    fn speak(&mut self) -> String {
        let song = self.songs.pop_front().unwrap_or_default();
        step();
        self.songs.push_back(song.to_uppercase());
        song
    }
    fn legs(&self) -> u64 {
        2
    }
}

fn trait_objects(seed: u64) -> u64 {
    let mut animals: Vec<Box<dyn Animal>> = Vec::new();
    for n in 0..6 {
        if (seed + n).is_multiple_of(2) {
            animals.push(Box::new(Cat { lives: 9 }));
        } else {
            animals.push(Box::new(Bird { songs: [format!("tweet{n}"), "trill".into()].into() }));
        }
    }
    let mut sum = 0;
    for _ in 0..3 {
        for animal in &mut animals {
            sum = mix_bytes(sum, animal.speak().as_bytes());
            sum = mix(sum, animal.legs());
        }
    }
    mix_bytes(sum, format!("{animals:?}").as_bytes())
}

fn boxed_closures(seed: u64) -> u64 {
    let log = Rc::new(RefCell::new(Vec::new()));
    let mut steps: Vec<Box<dyn FnMut(u64) -> u64>> = Vec::new();
    for n in 0..12u64 {
        let log = Rc::clone(&log);
        let name = format!("step {n}");
        let mut count = 0;
        steps.push(Box::new(move |x| {
            count += 1;
            step();
            log.borrow_mut().push(format!("{name}: {count}"));
            mix(x, n + count)
        }));
    }
    let mut x = seed;
    for _ in 0..2 {
        for closure in &mut steps {
            x = closure(x);
        }
    }
    let once: Box<dyn FnOnce() -> String> = {
        let log = Rc::clone(&log);
        Box::new(move || log.take().join(","))
    };
    step();
    mix_bytes(x, once().as_bytes())
}

fn box_dyn_any(seed: u64) -> u64 {
    let mut bag: Vec<Box<dyn Any>> = Vec::new();
    for n in 0..24u64 {
        match n % 4 {
            0 => bag.push(Box::new(seed + n)),
            1 => bag.push(Box::new(format!("text {n}"))),
            2 => bag.push(Box::new(vec![n; 9])),
            _ => bag.push(Box::new(Some(Rc::new(n)))),
        }
        if n % 3 == 0 {
            step();
        }
    }
    let mut sum = 0;
    for (n, any) in bag.into_iter().enumerate() {
        if n % 5 == 0 {
            step();
        }
        let any = match any.downcast::<u64>() {
            Ok(number) => {
                sum = mix(sum, *number);
                continue;
            }
            Err(any) => any,
        };
        sum = match (any.downcast_ref::<String>(), any.downcast_ref::<Vec<u64>>()) {
            (Some(text), _) => mix_bytes(sum, text.as_bytes()),
            (_, Some(list)) => list.iter().fold(sum, |sum, &n| mix(sum, n)),
            _ => {
                let counted = any.downcast::<Option<Rc<u64>>>().expect("the last of four kinds");
                mix(sum, **counted.as_ref().as_ref().expect("put in as Some"))
            }
        };
    }
    sum
}

fn binary_tree(seed: u64) -> u64 {
    #[derive(Default)]
    struct Tree {
        left: Option<Box<Tree>>,
        right: Option<Box<Tree>>,
        key: u64,
        text: String,
    }
    fn insert(tree: &mut Option<Box<Tree>>, key: u64) {
        match tree {
            None => {
                *tree = Some(Box::new(Tree { key, text: format!("{key:x}"), ..Tree::default() }))
            }
            Some(node) if key < node.key => insert(&mut node.left, key),
            Some(node) => insert(&mut node.right, key),
        }
    }
    fn walk(tree: &Option<Box<Tree>>, visit: &mut dyn FnMut(&Tree)) {
        if let Some(node) = tree {
            walk(&node.left, visit);
            visit(node);
            walk(&node.right, visit);
        }
    }
    let mut random = Seeded::new(seed);
    let mut tree = None;
    for n in 0..400 {
        insert(&mut tree, random.draw());
        if n % 50 == 0 {
            step();
        }
    }
    let (mut sum, mut seen, mut last) = (0, 0, 0);
    walk(&tree, &mut |node| {
        assert!(node.key >= last);
        last = node.key;
        seen += 1;
        if seen % 50 == 0 {
            step();
        }
        sum = mix_bytes(sum, node.text.as_bytes());
    });
    mix(sum, seen)
}

fn arc_mutex_of_its_own(seed: u64) -> u64 {
    let shared = Arc::new(Mutex::new(vec![seed]));
    let table = Arc::new(RwLock::new(String::from("a")));
    let others: Vec<_> = (0..4).map(|_| (Arc::clone(&shared), Arc::clone(&table))).collect();
    for (n, (list, text)) in others.iter().cycle().take(24).enumerate() {
        // The guard is the task's own, and so is the lock: both move.
        let mut held = list.lock().expect("not poisoned");
        held.push(n as u64);
        let read = text.read().expect("not poisoned");
        step();
        held.push(read.len() as u64);
        drop((held, read));
        text.write().expect("not poisoned").push('x');
    }
    drop(others);
    step();
    let list = Arc::try_unwrap(shared).expect("the last").into_inner().expect("not poisoned");
    let text = Arc::try_unwrap(table).expect("the last").into_inner().expect("not poisoned");
    mix_bytes(list.into_iter().fold(0, mix), text.as_bytes())
}

fn cells(seed: u64) -> u64 {
    let counter = Cell::new(seed);
    let text = RefCell::new(String::new());
    let once: OnceCell<Box<[u64]>> = OnceCell::new();
    for n in 0..16 {
        let mut borrowed = text.borrow_mut();
        step();
        borrowed.push_str(&n.to_string());
        assert!(text.try_borrow().is_err(), "the borrow is still held");
        drop(borrowed);
        counter.set(mix(counter.get(), n));
        let list = once.get_or_init(|| {
            step();
            (0..n + 9).collect()
        });
        counter.set(mix(counter.get(), list.len() as u64));
    }
    mix_bytes(counter.take(), text.take().as_bytes())
}

fn closure_that_returns_closures(seed: u64) -> u64 {
    type Unary = Rc<dyn Fn(u64) -> u64>;
    fn compose(f: Unary, g: Unary) -> Unary {
        Rc::new(move |x| f(g(x)))
    }
    let mut all: Unary = Rc::new(|x| x);
    for n in 1..40 {
        let one: Unary = Rc::new(move |x| {
            if n % 8 == 0 {
                step();
            }
            mix(x, n)
        });
        all = compose(one, all);
        if n % 10 == 0 {
            step();
        }
    }
    all(seed)
}
