//! Two migratable functions of one name are found at start, and both places are named.
//!
//! A program of its own, since one pair spoils the whole program. Functions inside functions are
//! the way to such a pair: the path of a name ends at its module.

use migrt::__private::check_duplicates;

#[test]
fn two_of_one_name_are_named_with_both_places() {
    let first = line!() + 2;
    #[migrt::migratable]
    fn twin() {}
    twin().run();

    let second = other();
    let text = check_duplicates().expect_err("there are two").to_string();
    assert!(text.starts_with("two migratable functions are called `duplicates::twin`"), "{text}");
    for line in [first, second] {
        assert!(text.contains(&format!("duplicates.rs:{line}")), "{text} lacks line {line}");
    }
}

/// Has the second one; returns its line.
fn other() -> u32 {
    let line = line!() + 2;
    #[migrt::migratable]
    fn twin() {}
    twin().run();
    line
}
