//! Tasks that change the process's environment, move away and end, while the node goes on reading
//! it; and a task that asks for a shared library.
//!
//! `environment`. Prints `total moves M reads R` and `dlopen TEXT`; exit code 1 if something was
//! wrong.

#![allow(unsafe_code, reason = "changes the environment, in a program where nobody else does")]

use std::ffi::{CStr, c_char};
use std::process::ExitCode;

use migrt::NodeId;
use migrt_test_migrate::trip;

/// Tasks that change the environment of node 0, one after the other.
const TASKS: u64 = 12;
/// Variables that each sets.
const NAMES: u64 = 20;
/// Reads of each variable once its task has ended.
const READS: u64 = 1000;

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

fn name(task: u64, n: u64) -> String {
    format!("MIGRT_TEST_{task}_{n}")
}

fn value(task: u64, n: u64) -> String {
    format!("set by task {task} as its number {n}")
}

/// Which part of the environment lies in some task's memory.
fn misplaced() -> Option<String> {
    // SAFETY: a list of C strings that ends with a null; nobody changes it meanwhile.
    unsafe {
        let mut at = environ;
        if migrt_iso::in_region(at as usize) {
            return Some(format!("the list itself, at {at:p}"));
        }
        while !(*at).is_null() {
            if migrt_iso::in_region(*at as usize) {
                return Some(format!("{:?}, at {:p}", CStr::from_ptr(*at), *at));
            }
            at = at.add(1);
        }
    }
    None
}

/// Sets variables, moves away and back, sets more, and ends on the other node.
#[migrt::migratable]
fn set(task: u64, to: NodeId) -> Result<u64, String> {
    let home = migrt::here();
    let mut moves = 0;
    for half in 0..2 {
        for n in (0..NAMES).filter(|n| n % 2 == half) {
            // SAFETY: this program changes and reads the environment on one thread at a time.
            unsafe { std::env::set_var(name(task, n), value(task, n)) };
        }
        let mut text = format!("MIGRT_TEST_PUT_{task}=by putenv\0").into_bytes();
        // SAFETY: as above; a C string. The task's copy goes at once.
        let code = unsafe { libc::putenv(text.as_mut_ptr().cast()) };
        text.fill(b'?');
        if code != 0 {
            return Err(format!("putenv gives {code}"));
        }
        if task.is_multiple_of(3) {
            // SAFETY: as above.
            unsafe { std::env::remove_var("MIGRT_TEST_OF_MAIN") };
        }
        // SAFETY: as above, with a name that cannot be.
        let code = unsafe { libc::setenv(c"=".as_ptr(), c"".as_ptr(), 1) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        if (code, errno) != (-1, Some(libc::EINVAL)) {
            return Err(format!("a bad name gives {code}, {errno:?}"));
        }
        let targets: &[NodeId] = if half == 0 { &[to, home] } else { &[to] };
        for &target in targets {
            migrt::migrate_to(target).map_err(|e| e.to_string())?;
            moves += 1;
        }
    }
    Ok(moves)
}

/// Reuses what other tasks have left.
#[migrt::migratable]
fn allocate(seed: u64) -> u64 {
    let mut random = trip::Seeded::new(seed);
    let mut sum = 0;
    for _ in 0..200 {
        let blocks: Vec<Vec<u8>> =
            (0..20).map(|_| vec![b'#'; 16 + random.below(2000) as usize]).collect();
        sum = blocks.iter().fold(sum, |sum, block| trip::mix_bytes(sum, &block[..8]));
        migrt::yield_now();
    }
    sum
}

#[migrt::migratable]
fn load() -> String {
    // SAFETY: a C string; what it would load is libc's own.
    let library = unsafe { libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW) };
    if !library.is_null() {
        return "opened a library".to_owned();
    }
    // SAFETY: a static text, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "null without a reason".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn change_and_read() -> Result<(), String> {
    trip::settle();
    println!("dlopen {}", migrt::spawn(load()).join().map_err(|e| e.to_string())?);
    let (mut moves, mut reads) = (0, 0);
    for task in 0..TASKS {
        // SAFETY: as in `set`; the tasks before have ended.
        unsafe { std::env::set_var("MIGRT_TEST_OF_MAIN", value(task, 0)) };
        let setter = migrt::spawn(set(task, NodeId(1)));
        moves += setter.join().map_err(|e| e.to_string())??;
        let others: Vec<_> = (0..4).map(|n| migrt::spawn(allocate(task * 4 + n))).collect();
        if let Some(what) = misplaced() {
            return Err(format!("part of the environment lies in a task's memory: {what}"));
        }
        for n in (0..READS).map(|n| n % NAMES) {
            let (found, expected) = (std::env::var(name(task, n)), value(task, n));
            if found.as_ref() != Ok(&expected) {
                return Err(format!("{} is {found:?}", name(task, n)));
            }
            reads += 1;
            if n == 0 {
                migrt::yield_now();
            }
        }
        let put = std::env::var(format!("MIGRT_TEST_PUT_{task}"));
        if put.as_deref() != Ok("by putenv") {
            return Err(format!("putenv has left {put:?}"));
        }
        if std::env::var_os("MIGRT_TEST_OF_MAIN").is_some() == (task % 3 == 0) {
            return Err("a removed variable is there, or another was removed".to_owned());
        }
        for other in others {
            other.join().map_err(|e| e.to_string())?;
        }
    }
    println!("total moves {moves} reads {reads}");
    Ok(())
}

fn main() -> ExitCode {
    let run = migrt::Builder::new().workers(2).local_nodes(2).run(change_and_read);
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
