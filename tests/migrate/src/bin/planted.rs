//! Tasks that keep an address of their node: on the stack, in a thread-local, in the heap. The audit
//! must find each, and nothing once the word is gone.
//!
//! `planted`. For each place prints `PLACE with: moved` or `PLACE with: REASON`, and the same for
//! `PLACE without:`, after the word was taken out.

use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migrt_test_migrate::trip::{self, next_node};
use serde::{Deserialize, Serialize};

/// Where the address of a block of node 0's heap is kept for the tasks; they are born there.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static SHARED: Mutex<Option<Arc<[u64; 12]>>> = Mutex::new(None);

thread_local! {
    static KEPT: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Place {
    Nowhere,
    Stack,
    Arc,
    ThreadLocal,
    Heap,
    /// In one so long that it is looked through while it is sent.
    LongHeap,
}

/// What came of the move with the word planted, and of one after it was taken out.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    with: Result<(), String>,
    without: Result<(), String>,
}

/// Writes the address to `place`, and leaves no copy in the caller's registers.
#[inline(never)]
fn plant(place: &mut usize) {
    *place = ADDRESS.load(Ordering::Relaxed);
    black_box(place);
}

#[inline(never)]
fn hop() -> Result<(), String> {
    migrt::migrate_to(next_node()).map_err(|e| e.to_string())
}

#[inline(never)]
fn keeps_an_address_on_its_stack() -> Result<(), String> {
    let mut words = [0usize; 6];
    plant(&mut words[3]);
    let moved = hop();
    black_box(&mut words).fill(0);
    moved
}

/// Safe code: a count of a node's `Arc`, cloned out of a static.
#[inline(never)]
fn keeps_a_shared_array() -> Result<(), String> {
    let shared = black_box(SHARED.lock().expect("not poisoned").clone());
    let moved = hop();
    // The audit only warned: this node has no such block.
    if moved.is_ok() {
        std::mem::forget(shared);
    }
    moved
}

#[inline(never)]
fn plant_in_thread_local() {
    KEPT.with(|kept| black_box(kept).set(ADDRESS.load(Ordering::Relaxed)));
}

#[inline(never)]
fn keeps_an_address_in_a_thread_local() -> Result<(), String> {
    plant_in_thread_local();
    let moved = hop();
    KEPT.with(|kept| black_box(kept).set(0));
    moved
}

#[inline(never)]
fn keeps_an_address_in_its_heap() -> Result<(), String> {
    let mut words = black_box(Box::new([0usize; 6]));
    plant(&mut words[3]);
    let moved = hop();
    black_box(&mut words).fill(0);
    moved
}

#[inline(never)]
fn keeps_an_address_in_a_long_heap() -> Result<(), String> {
    let mut words = black_box(vec![1usize; (4 << 20) / size_of::<usize>()]);
    let last = words.len() - 7;
    plant(&mut words[last]);
    let moved = hop();
    black_box(&mut words).fill(0);
    moved
}

#[migrt::migratable]
fn try_to_move(place: Place) -> Tried {
    let with = match place {
        Place::Nowhere => hop(),
        Place::Stack => keeps_an_address_on_its_stack(),
        Place::Arc => keeps_a_shared_array(),
        Place::ThreadLocal => keeps_an_address_in_a_thread_local(),
        Place::Heap => keeps_an_address_in_its_heap(),
        Place::LongHeap => keeps_an_address_in_a_long_heap(),
    };
    // A number may look like an address; it does not do so three times.
    let mut without = hop();
    for _ in 0..2 {
        if without.is_err() {
            migrt::sleep(Duration::from_millis(5));
            without = hop();
        }
    }
    Tried { with, without }
}

fn try_all() -> Result<(), String> {
    trip::settle();
    let block: &'static mut [u64; 12] = Box::leak(Box::new([7; 12]));
    ADDRESS.store(std::ptr::from_mut(block) as usize, Ordering::Relaxed);
    *SHARED.lock().expect("not poisoned") = Some(Arc::new([7; 12]));
    let places = [
        Place::Nowhere,
        Place::Stack,
        Place::Arc,
        Place::ThreadLocal,
        Place::Heap,
        Place::LongHeap,
    ];
    for place in places {
        let tried = migrt::spawn(try_to_move(place)).join().map_err(|e| e.to_string())?;
        for (when, moved) in [("with", tried.with), ("without", tried.without)] {
            let text = moved.map_or_else(|why| why, |()| "moved".to_owned());
            println!("{place:?} {when}: {text}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let run = migrt::Builder::new().workers(1).local_nodes(2).run(try_all);
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
