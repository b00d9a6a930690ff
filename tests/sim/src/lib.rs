//! The protocols of `migrt-proto` in a seeded world: a clock, links, crashes and tasks, all made of one random number.
//!
//! [`run`] plays one seed: some seconds of faults, then peace, then everything must have come to its end. Checkers
//! (`check`) look after every step that could break an invariant: I1 one place per epoch and at a time, I2 one end,
//! I3 one owner per slot, I4 no page gone that somebody needs, I10 nothing left over, I11 a failed move leaves the task
//! running. Equal seeds play equally.
//!
//! `world` is the loop, `event` what happens in it, `process` and `carry` the model of the driver that the runtime has,
//! `moves` its moves, `rounds` and `pages` what a pre-copy and a post-copy add, `parcels` tasks that only wait to be taken,
//! `net` the links, `chaos` what goes wrong and what the users of the cluster want. `transfer` plays the pages of one
//! move by themselves, with the real cores of rounds, push and requests. Absent: memory, threads, real time.

mod carry;
mod chaos;
mod check;
mod event;
mod moves;
mod net;
mod pages;
mod parcels;
mod process;
mod rng;
mod rounds;
mod transfer;
mod world;

pub use check::Violation;
pub use rng::Rng;
pub use transfer::{Broken, Moved, move_one};
pub use world::{Report, run};
