//! Programs that must not compile, and the errors that they must get.
//!
//! Each file of `refused/` is one topic; its `.stderr` beside it is the text that a user sees.
//! After a change of a text on purpose run this test with `TRYBUILD=overwrite` and read the
//! difference. The programs are checked, never linked.

#[test]
fn what_cannot_move_is_refused_with_advice() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
