//! `post CASE [SECONDS]`: tasks that go on before their pages have come, one case of trouble at a time.
//!
//! Each case checks every word of what came, and prints `ok CASE` and how many pages were asked for.

#![allow(unsafe_code, reason = "switches to a stack in a heap block, and asks for aligned blocks")]

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use migrt::{JoinHandle, NodeId, Strategy};
use migrt_test_migrate::trip::{self, Seeded};

const PAGE: usize = 4096;
const ZERO: NodeId = NodeId(0);
const ONE: NodeId = NodeId(1);

/// A block of so many pages, each word of which says where it is.
fn block(pages: usize, seed: u64) -> Vec<u64> {
    (0..pages * PAGE / 8).map(|at| word(seed, at)).collect()
}

fn word(seed: u64, at: usize) -> u64 {
    (seed << 32 | at as u64 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Checks a few words of one page.
fn look(block: &[u64], seed: u64, page: usize) {
    for at in [0, 1, 200, 511] {
        let at = page * PAGE / 8 + at;
        assert_eq!(block[at], word(seed, at), "word {at} of the block of {seed}");
    }
}

fn check(block: &[u64], seed: u64) {
    for (at, &found) in block.iter().enumerate() {
        assert_eq!(found, word(seed, at), "word {at} of the block of {seed}");
    }
}

/// Waits until others have moved the task.
fn wait_for_move() {
    let moves = migrt::moves();
    while migrt::moves() == moves {
        migrt::yield_now();
    }
}

/// Touches pages here and there as soon as it has moved, then checks all.
#[migrt::migratable]
fn scatter(seed: u64, pages: usize, touches: usize) -> u64 {
    let held = block(pages, seed);
    wait_for_move();
    let mut random = Seeded::new(seed);
    for _ in 0..touches {
        look(&held, seed, random.below(pages as u64) as usize);
    }
    let since = Instant::now();
    check(&held, seed);
    since.elapsed().as_micros() as u64
}

/// As [`scatter`], at its leisure: it has been to more nodes than one when it is done.
#[migrt::migratable]
fn scatter_on(seed: u64, pages: usize, moves: u32) {
    let held = block(pages, seed);
    let mut random = Seeded::new(seed);
    while migrt::moves() < moves {
        look(&held, seed, random.below(pages as u64) as usize);
        migrt::safepoint();
    }
    check(&held, seed);
}

/// Returns at once when it has moved: its blocks are freed while they are not here.
#[migrt::migratable]
fn short(seed: u64, pages: usize) -> usize {
    let held = block(pages, seed);
    let small: Vec<String> = (0..2000).map(|n| format!("{seed} {n}")).collect();
    wait_for_move();
    held.len() + small.len()
}

static LEFT: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());

/// Leaves blocks in a static of the node it came to, and returns.
#[migrt::migratable]
fn leave(seed: u64, blocks: usize) {
    let mut held: Vec<Vec<u64>> = (0..blocks).map(|n| block(2, seed + n as u64)).collect();
    held.reserve(1);
    wait_for_move();
    *LEFT.lock().expect("not poisoned") = held;
}

/// Leaves blocks in a static of the node it came to, and stays until they are gone.
#[migrt::migratable]
fn lend(seed: u64, blocks: usize) {
    let held: Vec<Vec<u64>> = (0..blocks).map(|n| block(2, seed + n as u64)).collect();
    wait_for_move();
    *LEFT.lock().expect("not poisoned") = held;
    while !LEFT.lock().expect("not poisoned").is_empty() {
        migrt::sleep(Duration::from_micros(200));
    }
}

/// Frees what was left on this node, some of it as the task it is, some on an OS thread.
#[migrt::migratable]
fn take(seed: u64, blocks: usize) -> usize {
    let mut taken = 0;
    while taken < blocks {
        let found = LEFT.lock().expect("not poisoned").pop();
        let Some(found) = found else {
            migrt::sleep(Duration::from_micros(200));
            continue;
        };
        let number = blocks - 1 - taken;
        taken += 1;
        if taken % 8 == 0 {
            let on_thread = std::thread::spawn(move || check(&found, seed + number as u64));
            on_thread.join().expect("it checks");
        } else if taken % 2 == 0 {
            check(&found, seed + number as u64);
        }
    }
    taken
}

/// Many small blocks, half of them freed, others made, at once on arrival.
#[migrt::migratable]
fn churn(seed: u64) -> usize {
    let text = |n: usize| format!("{seed} {n} {}", "x".repeat(n % 700));
    let mut held: Vec<String> = (0..20_000).map(text).collect();
    wait_for_move();
    let mut random = Seeded::new(seed);
    for _ in 0..20_000 {
        let at = random.below(held.len() as u64) as usize;
        held[at] = String::new();
        held[at] = text(at);
    }
    for (n, found) in held.iter().enumerate() {
        assert_eq!(*found, text(n), "block {n}");
    }
    held.len()
}

/// A block with a slot of its own, and blocks that are aligned to more than a page.
#[migrt::migratable]
fn big(seed: u64) -> usize {
    let huge = block(40 << 8, seed);
    let aligned: Vec<(*mut u64, usize)> = [16usize, 64, 512]
        .map(|pages| {
            let layout = std::alloc::Layout::from_size_align(pages * PAGE, pages * PAGE);
            // SAFETY: the layout is not empty.
            let at = unsafe { std::alloc::alloc(layout.expect("a power of two")) }.cast::<u64>();
            assert!(!at.is_null() && (at as usize).is_multiple_of(pages * PAGE));
            for word_at in 0..pages * PAGE / 8 {
                // SAFETY: within the block.
                unsafe { at.add(word_at).write(word(seed + pages as u64, word_at)) };
            }
            (at, pages)
        })
        .to_vec();
    wait_for_move();
    let mut random = Seeded::new(seed);
    (0..40).for_each(|_| look(&huge, seed, random.below(40 << 8) as usize));
    for &(at, pages) in aligned.iter().rev() {
        // SAFETY: the block made above.
        let words = unsafe { std::slice::from_raw_parts(at, pages * PAGE / 8) };
        check(words, seed + pages as u64);
    }
    check(&huge, seed);
    huge.len()
}

static STACK: Mutex<[usize; 2]> = Mutex::new([0; 2]);

extern "C" fn on_other_stack() {
    // Pages of this stack, and of the block above it, that are not here yet.
    let [at, len] = *STACK.lock().expect("not poisoned");
    let here = 0u8;
    assert!((at..at + len).contains(&(&raw const here as usize)), "on another stack");
    let mut sum = 0u64;
    for page in (at..at + len / 2).step_by(PAGE) {
        // SAFETY: the low half of the block, where the stack never comes.
        sum = sum.wrapping_add(unsafe { (page as *const u64).read_volatile() });
    }
    std::hint::black_box(sum);
}

/// Goes to a stack whose pages are not here yet: the kernel cannot even tell it so on that stack.
#[migrt::migratable]
fn other_stack(seed: u64) -> usize {
    let mut held = block(256, seed);
    let mut stack = block(128, seed + 1);
    wait_for_move();
    let (at, len) = (stack.as_mut_ptr() as usize, stack.len() * 8);
    *STACK.lock().expect("not poisoned") = [at, len];
    // SAFETY: plain data.
    let mut back: libc::ucontext_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut there: libc::ucontext_t = unsafe { std::mem::zeroed() };
    // SAFETY: fills the context.
    unsafe { libc::getcontext(&mut there) };
    there.uc_stack.ss_sp = stack.as_mut_ptr().cast();
    there.uc_stack.ss_size = len;
    there.uc_link = &mut back;
    // SAFETY: the context was filled, and the stack is the task's own block.
    unsafe { libc::makecontext(&mut there, on_other_stack, 0) };
    // SAFETY: comes back by `uc_link`.
    unsafe { libc::swapcontext(&mut back, &there) };
    check(&stack[..len / 16], seed + 1);
    check(&held, seed);
    held.clear();
    len
}

/// Has the kernel read from, and write to, blocks that are not here yet.
#[migrt::migratable]
fn calls(seed: u64) -> usize {
    let (mut held, other) = (block(512, seed), block(64, seed + 1));
    wait_for_move();
    let mut file = std::fs::File::from(
        // SAFETY: takes a name and makes a descriptor.
        unsafe {
            let fd = libc::memfd_create(c"post".as_ptr(), 0);
            <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd)
        },
    );
    // SAFETY: any bytes are words, and words are bytes.
    let bytes = unsafe { std::slice::from_raw_parts(other.as_ptr().cast(), 64 * PAGE) };
    file.write_all(bytes).expect("the buffer is fetched");
    file.seek(SeekFrom::Start(0)).expect("a file in memory");
    let at = 100 * PAGE / 8;
    // SAFETY: as above.
    let target = unsafe {
        std::slice::from_raw_parts_mut(held[at..].as_mut_ptr().cast::<u8>(), bytes.len())
    };
    file.read_exact(target).expect("the buffer is fetched");
    assert_eq!(held[at..at + other.len()], other[..]);
    check(&held[..at], seed);
    for (n, &found) in held.iter().enumerate().skip(at + other.len()) {
        assert_eq!(found, word(seed, n));
    }
    held.len()
}

static HELD: Mutex<u64> = Mutex::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Touches its pages under a static's lock, which others on its only worker want too.
#[migrt::migratable]
fn locked(seed: u64, tasks: usize) -> u64 {
    let held = block(8192, seed);
    wait_for_move();
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    while ARRIVED.load(Ordering::SeqCst) < tasks {
        migrt::yield_now();
    }
    let mut random = Seeded::new(seed);
    for _ in 0..20 {
        let mut count = HELD.lock().expect("not poisoned");
        look(&held, seed, random.below(8192) as usize);
        *count += 1;
        drop(count);
        migrt::yield_now();
    }
    check(&held, seed);
    seed
}

static NODE_WORD: Mutex<usize> = Mutex::new(0);

/// Has a word of its first node in its heap, where only a look at all of it finds it.
#[migrt::migratable]
fn takes_along(seed: u64) -> usize {
    let mut held: Vec<Box<[usize; 600]>> = (0..2_000).map(|n| Box::new([n; 600])).collect();
    held[1_700][300] = *NODE_WORD.lock().expect("not poisoned");
    let rest = block(512, seed);
    wait_for_move();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        look(&rest, seed, 7);
        migrt::sleep(Duration::from_millis(1));
    }
    held[1_700][300]
}

/// Touches its pages slowly, one after the other, and says that it has arrived.
#[migrt::migratable]
fn slowly(seed: u64, pages: usize, ms: u64) -> u64 {
    let held = block(pages, seed);
    println!("made");
    wait_for_move();
    println!("arrived");
    let since = Instant::now();
    let mut longest = Duration::ZERO;
    let mut random = Seeded::new(seed);
    while since.elapsed() < Duration::from_millis(ms) {
        let before = Instant::now();
        look(&held, seed, random.below(pages as u64) as usize);
        longest = longest.max(before.elapsed());
        migrt::sleep(Duration::from_millis(1));
    }
    check(&held, seed);
    longest.as_millis() as u64
}

/// Touches the same few of its pages first, whenever it has moved, and all when they have come.
#[migrt::migratable]
fn habit(seed: u64, pages: usize) -> u64 {
    let held = block(pages, seed);
    wait_for_move();
    for at in 1..=HABITS {
        look(&held, seed, at * pages / (HABITS + 1));
    }
    migrt::sleep(Duration::from_millis(500));
    check(&held, seed);
    held[0]
}

/// Pages that `habit` touches first.
const HABITS: usize = 12;

fn faults() -> u64 {
    migrt::cluster_metrics().iter().map(|(_, metrics)| metrics.demand_faults).sum()
}

fn post<R>(task: &JoinHandle<R>, to: NodeId) -> Result<(), String> {
    task.migrate_by(to, Strategy::PostCopy).map_err(|why| why.to_string())
}

/// Moves one task away as soon as it may have made its heap, and joins it.
macro_rules! once {
    ($task:expr) => {{
        let task = $task;
        migrt::sleep(Duration::from_millis(150));
        post(&task, ONE)?;
        task.join().map_err(|why| why.to_string())
    }};
}

fn run(case: &str) -> Result<(), String> {
    trip::settle();
    match case {
        // On one worker: a page that is awaited holds up nobody but its task.
        "crowd" => {
            let tasks: Vec<_> = (0..64).map(|seed| migrt::spawn(scatter(seed, 512, 20))).collect();
            migrt::sleep(Duration::from_millis(600));
            for task in &tasks {
                post(task, ONE)?;
            }
            for task in tasks {
                task.join().map_err(|why| why.to_string())?;
            }
        }
        "onward" => {
            for seed in 0..6 {
                let task = migrt::spawn(scatter_on(seed, 4096, 4));
                migrt::sleep(Duration::from_millis(150));
                for to in [ONE, NodeId(2), ZERO, ONE] {
                    // Ordered while pages of the move before are on their way.
                    post(&task, to)?;
                }
                task.join().map_err(|why| why.to_string())?;
            }
        }
        // Each task is new to both nodes; what they have in common is their entry.
        "habit" => {
            for trip in 0..6 {
                let before = faults();
                once!(migrt::spawn(habit(trip, 8192)))?;
                println!("trip {}", faults() - before);
            }
        }
        "short" => {
            for seed in 0..20 {
                let len = once!(migrt::spawn(short(seed, 2048)))?;
                assert_eq!(len, 2048 * PAGE / 8 + 2000);
            }
        }
        "leave" => {
            once!(migrt::spawn(leave(3, 1000)))?;
            let taken = migrt::spawn_on(ONE, take(3, 1000)).join().map_err(|e| e.to_string())?;
            assert_eq!(taken, 1000);
        }
        "lend" => {
            let taker = migrt::spawn_on(ONE, take(5, 1000));
            once!(migrt::spawn(lend(5, 1000)))?;
            assert_eq!(taker.join().map_err(|e| e.to_string())?, 1000);
        }
        "churn" => assert_eq!(once!(migrt::spawn(churn(11)))?, 20_000),
        "big" => assert_eq!(once!(migrt::spawn(big(13)))?, (40 << 8) * PAGE / 8),
        "stack" => assert_eq!(once!(migrt::spawn(other_stack(17)))?, 128 * PAGE),
        "lock" => {
            let tasks: Vec<_> = (0..4).map(|seed| migrt::spawn(locked(seed, 4))).collect();
            migrt::sleep(Duration::from_millis(800));
            for task in &tasks {
                post(task, ONE)?;
            }
            for task in tasks {
                task.join().map_err(|why| why.to_string())?;
            }
        }
        "calls" => assert_eq!(once!(migrt::spawn(calls(23)))?, 512 * PAGE / 8),
        "along" => {
            *NODE_WORD.lock().expect("not poisoned") =
                Box::leak(Box::new([7u64; 12])).as_ptr() as usize;
            let told = once!(migrt::spawn(takes_along(19)));
            println!("told {told:?}");
        }
        // The source is node 1; MIGRT_FAIL may kill it.
        "lost" => {
            let tasks: Vec<_> =
                (0..4).map(|seed| migrt::spawn_on(ONE, slowly(seed, 8192, 3_000))).collect();
            migrt::sleep(Duration::from_millis(1_000));
            let moved: Vec<_> = tasks.iter().map(|task| post(task, NodeId(2))).collect();
            println!("moved {moved:?}");
            for task in tasks {
                println!("told {:?}", task.join());
            }
        }
        "cut" => {
            let task = migrt::spawn_on(ONE, slowly(1, 16_384, 1_500));
            migrt::sleep(Duration::from_millis(1_500));
            post(&task, NodeId(2))?;
            println!("longest {:?}", task.join().map_err(|why| why.to_string())?);
        }
        other => return Err(format!("no case {other}")),
    }
    println!("ok {case} {}", faults());
    Ok(())
}

fn main() -> ExitCode {
    let case = std::env::args().nth(1).unwrap_or_default();
    let nodes = if matches!(case.as_str(), "onward" | "lost" | "cut") { 3 } else { 2 };
    match migrt::Builder::new().workers(1).local_nodes(nodes).run(move || run(&case)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            println!("failed: {why}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}
