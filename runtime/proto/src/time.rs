//! Time as the cores see it: microseconds of the driver's monotonic clock, handed in with every call.
//!
//! A value has a meaning on the node that made it only; the one that crosses the wire (in a heartbeat) comes back to
//! its maker unread. Absent: any clock.

use core::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// Microseconds: a moment of this node's monotonic clock, or a span.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Micros(pub u64);

impl Micros {
    /// The clock's origin.
    pub const ZERO: Micros = Micros(0);

    /// A span of `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Micros {
        Micros(ms * 1_000)
    }
}

impl Add for Micros {
    type Output = Micros;
    fn add(self, span: Micros) -> Micros {
        Micros(self.0.saturating_add(span.0))
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, span: Micros) {
        *self = *self + span;
    }
}

impl Sub for Micros {
    type Output = Micros;
    /// The span from `earlier` to `self`; zero if `earlier` is later.
    fn sub(self, earlier: Micros) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}
