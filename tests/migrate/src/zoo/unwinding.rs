//! Panics, caught here and carried elsewhere, and the order in which things are dropped.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::rc::Rc;

use migrt::JoinError;

use super::Run;
use crate::trip::{mix, mix_bytes, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("panic_caught", panic_caught),
    ("panic_payload_kept", panic_payload_kept),
    ("panic_carried_to_join", panic_carried_to_join),
    ("drop_order", drop_order),
    ("step_while_unwinding", step_while_unwinding),
    ("early_returns", early_returns),
];

type Log = Rc<RefCell<Vec<String>>>;

struct Noted(Log, String);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.borrow_mut().push(format!("-{}", self.1));
    }
}

fn checksum(log: &Log) -> u64 {
    mix_bytes(0, log.borrow().join(" ").as_bytes())
}

fn panic_caught(seed: u64) -> u64 {
    fn fall(depth: u64, log: &Log) {
        let _noted = Noted(Rc::clone(log), format!("{depth}"));
        step();
        if depth == 0 {
            // Without the hook: a few hundred backtraces are no use to anybody.
            resume_unwind(Box::new(format!("fell with {} notes", log.borrow().len())));
        }
        fall(depth - 1, log);
    }
    let log = Log::default();
    for n in 0..4 {
        let caught = catch_unwind(AssertUnwindSafe(|| fall(n + seed % 3, &log)));
        step();
        let text = caught.expect_err("it fell").downcast::<String>().expect("a text");
        log.borrow_mut().push(*text);
    }
    checksum(&log)
}

fn panic_payload_kept(seed: u64) -> u64 {
    #[derive(Debug, PartialEq)]
    struct Payload(Vec<u64>, Box<str>);
    let mut held = Vec::new();
    for n in 0..6 {
        let caught = catch_unwind(|| {
            step();
            if n % 2 == 0 {
                panic_any(Payload(vec![seed; 3], format!("payload {n}").into()));
            }
            let list: Vec<u64> = vec![1, 2, 3];
            list[(seed % 5 + 3) as usize]
        });
        // The payload walks along before anybody looks at it.
        step();
        held.push(caught);
    }
    step();
    held.into_iter().fold(seed, |sum, caught| {
        let payload = caught.expect_err("every one panics");
        match payload.downcast::<Payload>() {
            Ok(payload) => mix_bytes(sum, format!("{payload:?}").as_bytes()),
            Err(other) => mix_bytes(sum, other.downcast::<String>().expect("a text").as_bytes()),
        }
    })
}

#[migrt::migratable]
fn falls(plan: crate::trip::Plan, text: String) -> u64 {
    crate::trip::begin(plan);
    step();
    step();
    panic!("{text} {}", text.len());
}

fn panic_carried_to_join(seed: u64) -> u64 {
    let plan = crate::trip::Plan::Hops { first: 1, hops: 1 };
    let child = migrt::spawn(falls(plan, format!("seed {seed}")));
    for _ in 0..6 {
        step();
    }
    match child.join() {
        Err(JoinError::Panicked { message }) => {
            step();
            assert_eq!(message, format!("seed {seed} {}", format!("seed {seed}").len()));
            mix_bytes(seed, message.as_bytes())
        }
        other => panic!("a panic was expected, not {other:?}"),
    }
}

fn drop_order(seed: u64) -> u64 {
    let log = Log::default();
    let noted = |text: &str| Noted(Rc::clone(&log), text.to_owned());
    {
        let _first = noted("first");
        let _second = noted("second");
        step();
        let moved = noted("moved");
        let list = vec![noted("list 0"), noted("list 1"), noted("list 2")];
        let boxed: Box<dyn std::any::Any> = Box::new((noted("boxed a"), noted("boxed b")));
        step();
        drop(moved);
        let mut maybe = Some(noted("replaced"));
        if seed.is_multiple_of(2) {
            maybe = None;
        }
        step();
        let _tail = (list, noted("tail"));
        match maybe {
            Some(kept) => std::mem::forget(kept),
            None => log.borrow_mut().push("none".into()),
        }
        step();
        drop(boxed);
    }
    step();
    checksum(&log)
}

/// A drop that runs while a panic unwinds may ask to wait; it must not move (facts S3).
fn step_while_unwinding(seed: u64) -> u64 {
    struct Restless(Log);
    impl Drop for Restless {
        fn drop(&mut self) {
            let before = migrt::here();
            migrt::yield_now();
            migrt::sleep(std::time::Duration::from_micros(50));
            let stayed = before == migrt::here();
            self.0.borrow_mut().push(format!("{} {stayed}", std::thread::panicking()));
        }
    }
    let log = Log::default();
    for n in 0..4 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _restless = Restless(Rc::clone(&log));
            step();
            resume_unwind(Box::new(n));
        }));
        assert!(caught.is_err());
        assert!(!std::thread::panicking());
        step();
    }
    mix(checksum(&log), seed)
}

fn early_returns(seed: u64) -> u64 {
    fn attempt(n: u64, log: &Log) -> Result<u64, Box<dyn std::error::Error>> {
        let _outer = Noted(Rc::clone(log), format!("o{n}"));
        let number: u64 = match n % 3 {
            0 => "12".parse()?,
            1 => "twelve".parse()?,
            _ => return Err("neither".into()),
        };
        step();
        let _inner = Noted(Rc::clone(log), format!("i{n}"));
        if n.is_multiple_of(2) {
            return Ok(number);
        }
        step();
        Ok(char::from_digit(number as u32 % 10, 10).ok_or("no digit")? as u64)
    }
    let log = Log::default();
    for n in 0..18 {
        let result = attempt(n + seed % 2, &log);
        if n % 3 == 0 {
            step();
        }
        let text = result.map_or_else(|e| e.to_string(), |n| n.to_string());
        log.borrow_mut().push(text);
    }
    checksum(&log)
}
