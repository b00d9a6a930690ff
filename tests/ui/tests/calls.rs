//! The forms of migratable function that must compile, and what their calls do without a runtime.

// The workspace denies unsafe code, and so may a user: what the macro writes must not need it.
#![deny(unsafe_code, warnings, clippy::pedantic)]

use migrt::__private::{Call, lookup};
use migrt::{JoinHandle, Spawn};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    key: [u8; 10],
    text: String,
}

/// Sorts.
#[migrt::migratable]
fn sort_run(mut run: Vec<Record>) -> Vec<Record> {
    run.sort_by_key(|record| record.key);
    run
}

const NOTHING_LINE: u32 = line!() + 3;

#[migrt::migratable]
fn nothing() {}

#[migrt::migratable]
pub(crate) fn sum(
    (from, to): (u64, u64),
    _: char,
    r#type: Option<Box<str>>,
) -> Result<u64, String> {
    let mut sum = 0;
    for n in from..to {
        sum += n;
    }
    while sum > 100 {
        sum -= 100;
    }
    r#type.map_or(Ok(sum), |text| Err(text.into_string()))
}

/// In its body a function's name means the builder, as outside.
#[migrt::migratable]
fn countdown(n: u32) -> u32 {
    if n == 0 { 0 } else { countdown(n - 1).run() + 1 }
}

#[migrt::migratable]
#[expect(clippy::too_many_arguments, reason = "that is the point")]
#[inline(never)]
fn many(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

#[migrt::migratable]
#[cfg(any())]
fn absent(a: ThereIsNoSuchType) {}

mod sum {
    //! A module may have the name of a migratable function beside it.
}

mod with_another_name {
    use migrt as moving;

    #[moving::migratable(crate = moving)]
    pub(super) fn double(n: u8) -> u8 {
        n * 2
    }
}

/// The forms of `main`; they are not run here.
mod programs {
    use std::process::ExitCode;

    pub mod plain {
        #[migrt::main]
        pub fn main() {}
    }

    pub mod fallible {
        const WORKERS: usize = 2;

        #[migrt::main(workers = WORKERS, crate = ::migrt)]
        pub fn main() -> Result<(), String> {
            let number = "1".parse::<u8>().map_err(|error| error.to_string())?;
            assert_eq!(number, 1);
            Ok(())
        }
    }

    pub mod with_the_runtimes_error {
        #[migrt::main(workers = 1)]
        #[expect(clippy::unnecessary_wraps, reason = "a form that people write")]
        pub fn main() -> migrt::Result<()> {
            Ok(())
        }
    }

    pub const ALL: [fn() -> ExitCode; 3] =
        [plain::main, fallible::main, with_the_runtimes_error::main];
}

#[test]
fn every_form_of_main_gives_an_exit_code() {
    assert_eq!(programs::ALL.len(), 3);
}

/// Carries a call as a spawn does: arguments as bytes, result as bytes.
#[expect(clippy::needless_pass_by_value, reason = "as `spawn` takes it")]
fn through_bytes<C: Call<Output: serde::de::DeserializeOwned>>(call: C) -> C::Output {
    let mut bytes = Vec::new();
    call.encode(&mut bytes).expect("arguments encode");
    let call = C::decode(&bytes).expect("arguments decode");
    call.run()
}

fn handle_of<S: Spawn>(_: &S) -> std::marker::PhantomData<S::Handle> {
    std::marker::PhantomData
}

#[test]
fn a_call_does_what_the_function_says() {
    let record = |key: u8| Record { key: [key; 10], text: format!("record {key}") };
    assert_eq!(sort_run(vec![record(3), record(1)]).run(), vec![record(1), record(3)]);
    assert_eq!(sum((0, 10), 'x', None).run(), Ok(45));
    assert_eq!(countdown(7).run(), 7);
    assert_eq!(with_another_name::double(4).run(), 8);
    assert_eq!(many(1, 2, 3, 4, 5, 6, 7, 8).run(), [1, 2, 3, 4, 5, 6, 7, 8]);
    nothing().run();
}

#[test]
fn a_call_survives_being_bytes() {
    let record = Record { key: *b"0123456789", text: "ü".into() };
    assert_eq!(through_bytes(sort_run(vec![record.clone()])), vec![record]);
    assert_eq!(through_bytes(sum((1, 2), 'x', Some("no".into()))), Err("no".to_string()));
    through_bytes(nothing());
}

#[test]
fn a_call_spawns_into_a_handle_of_the_result() {
    let _: std::marker::PhantomData<JoinHandle<Vec<Record>>> = handle_of(&sort_run(Vec::new()));
    let _: std::marker::PhantomData<JoinHandle<()>> = handle_of(&nothing());
}

#[test]
fn every_function_has_an_entry_under_its_path() {
    fn check<C: Call>(_: &C, name: &str) {
        assert_eq!(C::ENTRY.name, name);
        let found = lookup(C::ENTRY.id).expect("the entry is registered");
        assert!(std::ptr::eq(found, C::ENTRY));
        assert!(found.file.ends_with("calls.rs"));
    }
    check(&nothing(), "calls::nothing");
    check(&with_another_name::double(1), "calls::with_another_name::double");
    assert_eq!(line_of(&nothing()), NOTHING_LINE);
    migrt::__private::check_duplicates().expect("no two of one name");
}

fn line_of<C: Call>(_: &C) -> u32 {
    C::ENTRY.line
}

#[test]
fn a_call_prints_as_its_function() {
    assert_eq!(format!("{:?}", nothing()), "nothing { .. }");
    assert_eq!(format!("{:?}", countdown(1)), "countdown { .. }");
}
