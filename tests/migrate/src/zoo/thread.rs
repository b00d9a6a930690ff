//! What a thread is to Rust and C: thread-locals, identity, errno, a stack with bounds, clocks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
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

struct Telling(Cell<u64>);

thread_local! {
    static TELLING: Telling = const { Telling(Cell::new(0)) };
}

impl Drop for Telling {
    fn drop(&mut self) {
        // On the node that the task ends on, by way of the process's own variables.
        TOLD.fetch_add(self.0.get(), std::sync::atomic::Ordering::SeqCst);
    }
}

static TOLD: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[migrt::migratable]
fn tells(plan: Plan, value: u64) -> migrt::NodeId {
    begin(plan);
    TELLING.with(|telling| telling.0.set(value));
    for _ in 0..6 {
        step();
    }
    migrt::here()
}

#[migrt::migratable]
fn told() -> u64 {
    TOLD.load(std::sync::atomic::Ordering::SeqCst)
}

/// The destructor runs once, at the end, on the node that the task ends on.
fn thread_local_destructor(seed: u64) -> u64 {
    let sum_now = || -> u64 {
        let nodes = migrt::nodes();
        let asked = nodes.iter().map(|&node| migrt::spawn_on(node, told()));
        asked.collect::<Vec<_>>().into_iter().map(|t| t.join().expect("an answer")).sum()
    };
    let value = 1 << (20 + seed % 8);
    let before = sum_now();
    step();
    let ended = migrt::spawn(tells(Plan::Hops { first: 1, hops: 3 }, value)).join();
    assert!(ended.is_ok());
    step();
    let grown = sum_now() - before;
    assert!(grown & value != 0, "a destructor was lost: {grown:#x} lacks {value:#x}");
    mix(seed, value)
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
