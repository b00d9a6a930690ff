//! Programs that do what they should not, one for each first argument; the second is the number of
//! nodes. Each prints what the runtime told it.

use std::time::Duration;

use migrt::__private as inner;
use migrt::{JoinHandle, NodeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Its own code will not write it.
#[derive(Debug)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("stubborn"))
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Stubborn, D::Error> {
        Ok(Stubborn)
    }
}

#[migrt::migratable]
fn take(_stubborn: Stubborn) -> u32 {
    1
}

#[migrt::migratable]
fn give() -> Stubborn {
    Stubborn
}

#[migrt::migratable]
fn weigh(bytes: Vec<u8>) -> usize {
    bytes.len()
}

#[migrt::migratable]
fn swell(len: usize) -> Vec<u8> {
    vec![7; len]
}

#[migrt::migratable]
fn fill(giant: u64) -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = Vec::new();
        match next.try_reserve_exact(giant as usize) {
            Ok(()) => held.push(next),
            Err(why) => return format!("{} then {why}", held.len()),
        }
        if held.len() > 100 {
            return "no end of memory".to_owned();
        }
    }
}

#[inline(never)]
fn dive(depth: u64) -> u64 {
    let mut frame = [depth; 64];
    std::hint::black_box(&mut frame);
    if depth == u64::MAX { 0 } else { dive(depth + 1) + frame[63] }
}

#[migrt::migratable]
fn plunge() -> u64 {
    dive(0)
}

#[migrt::migratable]
fn burst(text: String) -> u32 {
    migrt::yield_now();
    panic!("{text}")
}

#[migrt::migratable]
fn burst_oddly() -> u32 {
    std::panic::panic_any(42u8)
}

/// Holds what may not leave, for as long as it is told.
#[migrt::migratable]
fn hold(what: String, millis: u64) -> String {
    let file =
        (what == "file").then(|| std::fs::File::open("/proc/self/stat").expect("it is there"));
    let pin = (what == "pin").then(migrt::pin_here);
    for _ in 0..millis {
        migrt::sleep(Duration::from_millis(1));
    }
    drop((file, pin));
    format!("held {what} on {}", migrt::here())
}

/// A call that no node lists.
#[derive(Debug)]
struct Unlisted;

impl inner::Call for Unlisted {
    type Output = u32;
    const ENTRY: &'static inner::Entry =
        &inner::Entry::new("faulty::unlisted", file!(), line!(), inner::run_entry::<Unlisted>);
    fn encode_arguments(&self, _: &mut inner::Encoder<'_>) -> Result<(), inner::EntryError> {
        Ok(())
    }
    fn decode_arguments(_: &mut inner::Decoder<'_>) -> Result<Unlisted, inner::EntryError> {
        Ok(Unlisted)
    }
    fn encode_output(_: &u32, _: &mut inner::Encoder<'_>) -> Result<(), inner::EntryError> {
        Ok(())
    }
    fn run(self) -> u32 {
        0
    }
}

fn say<T: std::fmt::Debug>(what: &str, outcome: Result<T, migrt::JoinError>) {
    match outcome {
        Ok(value) => {
            let text = format!("{value:?}");
            println!("{what} gives {}", text.chars().take(200).collect::<String>());
        }
        Err(why) => println!("{what} fails: {why}"),
    }
}

fn encoding(far: NodeId) {
    say("take here", migrt::spawn(take(Stubborn)).join());
    say("take far", migrt::spawn_on(far, take(Stubborn)).join());
    say("give here", migrt::spawn(give()).join().map(|_| ()));
    say("give far", migrt::spawn_on(far, give()).join().map(|_| ()));
}

fn sizes(far: NodeId) {
    let much = 65 << 20;
    say("weigh here", migrt::spawn(weigh(vec![1; much])).join());
    say("weigh far", migrt::spawn_on(far, weigh(vec![1; much])).join());
    say("swell here", migrt::spawn(swell(much)).join().map(|v| v.len()));
    say("swell far", migrt::spawn_on(far, swell(much)).join().map(|v| v.len()));
    say("swell a bit", migrt::spawn_on(far, swell(8 << 20)).join().map(|v| v.len()));
}

fn moves(far: NodeId) {
    for what in ["pin", "file", "nothing"] {
        let task = migrt::spawn(hold(what.to_owned(), 300));
        migrt::sleep(Duration::from_millis(50));
        for target in [NodeId(77), NodeId(0), far] {
            match task.migrate(target) {
                Ok(()) => println!("{what} to {target} moved"),
                Err(why) => println!("{what} to {target} refused: {why}"),
            }
        }
        say(what, task.join());
    }
    let ended = migrt::spawn(weigh(vec![1; 10]));
    while !ended.is_finished() {
        migrt::sleep(Duration::from_millis(1));
    }
    println!("ended: {:?}", ended.migrate(far).map_err(|why| why.to_string()));
    say("ended", ended.join());
    say("nowhere", migrt::spawn_on(NodeId(77), weigh(vec![1; 10])).join());
}

fn panics(far: NodeId) {
    say("burst here", migrt::spawn(burst("of laughter".into())).join());
    say("burst far", migrt::spawn_on(far, burst("of light".into())).join());
    say("burst oddly", migrt::spawn_on(far, burst_oddly()).join());
    say("burst long", migrt::spawn_on(far, burst("x".repeat(100_000))).join());
    say("burst local", migrt::spawn(|| -> u32 { panic!("of rage") }).join());
    say("weigh after all", migrt::spawn_on(far, weigh(vec![1; 10])).join());
}

fn main() {
    let what = std::env::args().nth(1).expect("what to do");
    let nodes: u16 = std::env::args().nth(2).map_or(1, |n| n.parse().expect("a number"));
    let far = NodeId(nodes - 1);
    let result = migrt::Builder::new().workers(2).local_nodes(nodes).run(move || match &*what {
        "encoding" => encoding(far),
        "sizes" => sizes(far),
        "moves" => moves(far),
        "panics" => panics(far),
        "unlisted" => say("unlisted", migrt::spawn_on(far, Unlisted).join()),
        "plunge" => say("plunge", migrt::spawn_on(far, plunge()).join()),
        "plunge-local" => say("plunge", migrt::spawn(|| dive(0)).join()),
        "plunge-main" => println!("{}", dive(0)),
        "fill" => say("fill", migrt::spawn(fill(8 << 30)).join()),
        "panic-main" => panic!("in the middle of main"),
        "hello" => {
            let tasks: Vec<JoinHandle<usize>> =
                (0..nodes).map(|n| migrt::spawn_on(NodeId(n), weigh(vec![0; 3]))).collect();
            let sum: usize = tasks.into_iter().map(|t| t.join().expect("it is small")).sum();
            println!("sum {sum}");
        }
        other => panic!("there is no {other:?}"),
    });
    if let Err(why) = result {
        eprintln!("Error: {why}");
        std::process::exit(1);
    }
}
