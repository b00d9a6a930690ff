//! Broken rules stop the process, and the message names the address. Each case runs in a child.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;

const CASE: &str = "MIGRT_TEST_BROKEN_FREE";
const SIGABRT: i32 = 6;

fn twice(heap: &Heap, size: usize) -> *mut u8 {
    let block = heap.alloc(size, 16);
    heap.free(block);
    block
}

/// The pointer that the last `free` of the case gets.
fn broken(case: &str, heap: &Heap) -> *mut u8 {
    let neighbour = heap.alloc(64, 16);
    match case {
        "small block twice" => twice(heap, 64),
        "page run twice" => twice(heap, 10_000),
        "huge block twice" => twice(heap, 40 << 20),
        "inside a small block" => neighbour.wrapping_add(16),
        "inside a page run" => heap.alloc(10_000, 16).wrapping_add(PAGE_LEN),
        "the heap's own records" => heap.slot.base() as *mut u8,
        "the stack's part of the slot" => (heap.slot.base() + FIRST_LEN + 64) as *mut u8,
        "a slot without a heap" => heap.pool.take(SlotClass::TASK).unwrap().base() as *mut u8,
        "node memory" => Box::leak(Box::new([0u8; 64])).as_mut_ptr(),
        other => panic!("no case {other}"),
    }
}

#[test]
fn a_broken_free_stops_the_process_and_names_the_address() {
    if let Ok(case) = std::env::var(CASE) {
        let heap = Heap::new(10);
        let ptr = broken(&case, &heap);
        println!("freeing={ptr:?}");
        heap.free(ptr);
        return;
    }
    for case in [
        "small block twice",
        "page run twice",
        "huge block twice",
        "inside a small block",
        "inside a page run",
        "the heap's own records",
        "the stack's part of the slot",
        "a slot without a heap",
        "node memory",
    ] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["a_broken_free_stops_the_process", "--nocapture", "--test-threads=1"])
            .env(CASE, case)
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(SIGABRT), "{case}: {child:?}");
        let out = String::from_utf8(child.stdout).unwrap();
        let address = out.split("freeing=").nth(1).and_then(|rest| rest.lines().next());
        let message = String::from_utf8(child.stderr).unwrap();
        assert!(message.contains(address.expect("an address")), "{case}: {message}");
    }
}
