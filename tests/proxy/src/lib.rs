//! A bad network for tests: UDP forwarded in user space, late, lossy, doubled, out of order, by seed.
//!
//! The kernel's netem needs root and may be absent; this needs neither.
//!
//! ```text
//! node 1 ──► alias of 2 ══ lane 1→2: dice, delay, rate, cut ══ sent from alias of 1 ──► node 2
//! node 1 ◄── sent from alias of 2 ══ lane 2→1 ══ alias of 1 ◄── node 2
//! ```
//!
//! * [`Profile`] says how bad a lane (one direction between two) is, [`dice::throw`] decides what
//!   becomes of its n-th packet: a pure function, so equal seeds give equal decisions.
//! * [`Proxy`] stands before one address, [`Hub`] between all nodes of a cluster,
//!   [`Cluster::through_proxies`] starts a program's nodes so that all their links go through one.
//!
//! What is equal in two runs of one seed is the fate of packet n of a lane. Which packet is the n-th
//! is up to the nodes' timing, and what a rate limit or a cut takes is up to the clock.
//!
//! What a real wire carries and this does not: ECN marks are lost, and a batch sent with GSO arrives
//! as the single datagrams that it stands for. Datagrams of up to 64 KiB pass; there is no MTU. The
//! proxy's own sockets have the kernel's limit of buffer, so a fast burst can be lost there without
//! being counted.

mod cluster;
pub mod dice;
mod hub;
mod profile;
mod proxy;
mod socket;
mod wire;

pub use self::cluster::{Cluster, Nodes};
pub use self::hub::Hub;
pub use self::profile::Profile;
pub use self::proxy::Proxy;
pub use self::wire::{Counts, Lane};
