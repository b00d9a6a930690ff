//! A program whose Rust memory does not come from the runtime's router: local tasks run, mobile
//! ones are refused.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Hands out one big array, and takes nothing back.
struct Bump;

const LEN: usize = 64 << 20;
static NEXT: AtomicUsize = AtomicUsize::new(0);
static mut MEMORY: [u8; LEN] = [0; LEN];

#[global_allocator]
static GLOBAL: Bump = Bump;

#[allow(unsafe_code, reason = "an allocator")]
// SAFETY: every block is a part of the array that nobody else gets.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = (&raw mut MEMORY).cast::<u8>();
        let len = layout.size() + layout.align();
        let at = NEXT.fetch_add(len, Ordering::Relaxed);
        if at + len > LEN {
            return std::ptr::null_mut();
        }
        let aligned = (start as usize + at).next_multiple_of(layout.align());
        aligned as *mut u8
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[migrt::migratable]
fn words(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("word {n}")).collect()
}

fn main() {
    let nodes = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number"));
    let result = migrt::Builder::new().workers(2).local_nodes(nodes).run(move || {
        let local = migrt::spawn(|| words(3).run()).join();
        println!("local {local:?}");
        match migrt::spawn(words(3)).join() {
            Ok(words) => println!("mobile {words:?}"),
            Err(why) => println!("mobile refused: {why}"),
        }
        if nodes > 1 {
            match migrt::spawn_on(migrt::NodeId(1), words(3)).join() {
                Ok(words) => println!("far {words:?}"),
                Err(why) => println!("far refused: {why}"),
            }
        }
    });
    if let Err(why) = result {
        eprintln!("Error: {why}");
        std::process::exit(1);
    }
}
