//! Tests of what a user writes: `tests/refusals.rs` holds programs that must not compile and the
//! errors they must get, `tests/calls.rs` the forms that must. The library itself is empty.
