//! Helpers of the tests that move tasks: the walk that a task takes ([`trip`]), the specimens
//! that walk ([`zoo`]), what nodes have in use ([`usage`]), the start of a test program as a process ([`program`]).

pub mod program;
#[expect(unsafe_code, reason = "asks the kernel which thread this is")]
pub mod trip;
pub mod usage;
pub mod zoo;
