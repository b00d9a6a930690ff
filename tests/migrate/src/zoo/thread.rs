//! What a thread is to Rust and C: thread-locals, identity, errno, a stack with bounds, clocks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::Run;
use crate::trip::{Plan, begin, mix, mix_bytes, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("thread_local_values", thread_local_values),
    ("thread_local_destructor", thread_local_destructor),
    ("thread_local_borrowed", thread_local_borrowed),
    ("thread_identity", thread_identity),
    ("errno_kept", errno_kept),
    ("stack_bounds", stack_bounds),
    ("instant_never_goes_back", instant_never_goes_back),
    ("channel_of_its_own", channel_of_its_own),
    ("scoped_parking", scoped_parking),
];

thread_local! {
    static PLAIN: Cell<u64> = const { Cell::new(1) };
    static LAZY: RefCell<Vec<u64>> = RefCell::new(vec![1, 2, 3]);
    static COUNTED: Rc<RefCell<HashMap<String, u64>>> = Rc::default();
}

fn thread_local_values(seed: u64) -> u64 {
    PLAIN.set(seed);
    LAZY.with_borrow_mut(|list| list.truncate(3));
    COUNTED.with(|map| map.borrow_mut().clear());
    for n in 0..300u64 {
        // Everything in one loop body: the compiler keeps the address of the block (facts T1).
        PLAIN.with(|plain| plain.set(mix(plain.get(), n)));
        LAZY.with_borrow_mut(|list| list.push(n));
        let map = COUNTED.with(Rc::clone);
        *map.borrow_mut().entry(format!("{}", n % 17)).or_insert(0) += n;
        if n % 25 == 0 {
            step();
        }
    }
    let list = LAZY.take().into_iter().fold(PLAIN.get(), mix);
    let map = COUNTED.with(|map| map.take());
    (0..17).fold(list, |sum, n| mix(sum, map[&n.to_string()]))
}

/// The ends of thread-locals on this node, by the key that their task was given.
static TOLD: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];

struct Telling(Cell<Option<usize>>);

thread_local! {
    static TELLING: Telling = const { Telling(Cell::new(None)) };
}

impl Drop for Telling {
    fn drop(&mut self) {
        // On the node that the task ends on, by way of the process's own variables.
        if let Some(key) = self.0.get() {
            TOLD[key].fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[migrt::migratable]
fn tells(plan: Plan, key: usize) -> migrt::NodeId {
    begin(plan);
    TELLING.with(|telling| telling.0.set(Some(key)));
    for _ in 0..6 {
        step();
    }
    migrt::here()
}

#[migrt::migratable]
fn told(key: usize) -> u32 {
    TOLD[key].load(Ordering::SeqCst)
}

/// The destructor runs once, at the end, on the node that the task ends on.
fn thread_local_destructor(seed: u64) -> u64 {
    let key = std::hash::RandomState::new().hash_one(seed) as usize % TOLD.len();
    let nodes = migrt::nodes();
    let told_by = |node| migrt::spawn_on(node, told(key)).join().expect("an answer");
    let before: Vec<u32> = nodes.iter().map(|&node| told_by(node)).collect();
    step();
    let hops = (seed % 4) as u32;
    let last = migrt::spawn(tells(Plan::Hops { first: 1, hops }, key)).join().expect("it ends");
    for (&node, before) in nodes.iter().zip(before) {
        step();
        // Another visit may draw the same key meanwhile, but hardly ever.
        assert_eq!(told_by(node) - before, u32::from(node == last), "on {node}, ended on {last}");
    }
    for _ in 0..4 {
        step();
    }
    seed
}

fn thread_local_borrowed(seed: u64) -> u64 {
    thread_local! {
        static HELD: RefCell<String> = const { RefCell::new(String::new()) };
    }
    HELD.with_borrow_mut(|text| {
        for n in 0..16 {
            text.push_str(&(seed + n).to_string());
            // Suspended inside `with`, the borrow flag set (facts T2).
            step();
            assert!(HELD.with(|held| held.try_borrow().is_err()));
        }
    });
    mix_bytes(0, HELD.take().as_bytes())
}

fn thread_identity(seed: u64) -> u64 {
    let me = std::thread::current();
    let block = PLAIN.with(|plain| (&raw const *plain).addr());
    let name = me.name().map(str::to_owned);
    for _ in 0..12 {
        step();
        assert_eq!(std::thread::current().id(), me.id(), "the same thread for std");
        assert_eq!(PLAIN.with(|plain| (&raw const *plain).addr()), block, "the same block");
        assert_eq!(std::thread::current().name().map(str::to_owned), name);
    }
    seed
}

fn errno_kept(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..12 {
        // SAFETY: errno is a word of this thread's block; a bad descriptor is an error, no harm.
        let code = unsafe {
            *libc::__errno_location() = 1000 + n;
            step();
            assert_eq!(*libc::__errno_location(), 1000 + n, "errno after a step");
            libc::write(-1, c"x".as_ptr().cast(), 1);
            step();
            *libc::__errno_location()
        };
        assert_eq!(code, libc::EBADF);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
        sum = mix(sum, code as u64);
    }
    sum
}

/// What `stacker` and others below parsers ask for (facts T9).
fn stack_bounds(seed: u64) -> u64 {
    for _ in 0..8 {
        let (low, len) = bounds();
        let local = 0u8;
        let at = (&raw const local).addr();
        assert!((low..low + len).contains(&at), "{at:#x} lies in {low:#x}+{len:#x}");
        assert!(at - low > 64 << 10, "room is left below");
        step();
        assert_eq!(bounds(), (low, len), "the same bounds after a step");
    }
    seed
}

fn bounds() -> (usize, usize) {
    // SAFETY: the attributes are made and destroyed here.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        let (mut low, mut len) = (std::ptr::null_mut(), 0);
        assert_eq!(libc::pthread_attr_getstack(&attributes, &mut low, &mut len), 0);
        libc::pthread_attr_destroy(&mut attributes);
        (low.addr(), len)
    }
}

fn instant_never_goes_back(seed: u64) -> u64 {
    let begun = Instant::now();
    let mut last = begun;
    for n in 0..20 {
        step();
        let now = Instant::now();
        assert!(now >= last, "the clock went back by {:?}", last - now);
        last = now;
        if n % 5 == 0 {
            let (before, wait) = (Instant::now(), Duration::from_micros(300));
            migrt::sleep(wait);
            assert!(before.elapsed() >= wait, "a sleep was cut short");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    seed
}

fn channel_of_its_own(seed: u64) -> u64 {
    let (to, from) = mpsc::channel::<Box<dyn FnOnce() -> u64>>();
    let (bounded_to, bounded_from) = mpsc::sync_channel::<String>(64);
    let mut sum = 0;
    for n in 0..60u64 {
        to.clone().send(Box::new(move || mix(seed, n))).expect("the receiver is here");
        bounded_to.send(format!("{n}")).expect("the receiver is here");
        if n % 6 == 0 {
            step();
        }
        if n % 4 == 3 {
            sum = mix(sum, from.recv().expect("sent before")());
            sum = mix_bytes(sum, bounded_from.recv().expect("sent before").as_bytes());
        }
    }
    drop((to, bounded_to));
    step();
    from.iter().map(|job| job()).fold(sum, mix) ^ bounded_from.iter().count() as u64
}

/// `thread::park` with a token that is already there: std's parker lies in the thread's handle.
fn scoped_parking(seed: u64) -> u64 {
    for _ in 0..8 {
        std::thread::current().unpark();
        step();
        std::thread::park();
        let begun = Instant::now();
        std::thread::park_timeout(Duration::from_micros(200));
        assert!(begun.elapsed() < Duration::from_secs(20));
        step();
    }
    seed
}
