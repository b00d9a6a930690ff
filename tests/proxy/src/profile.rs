//! How bad a lane is.

use std::time::Duration;

/// What is done to the packets of one direction. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Each packet is at least so late.
    pub delay: Duration,
    /// And by up to so much later, evenly spread. Packets wait for each other: this alone does not
    /// change their order.
    pub jitter: Duration,
    /// Share that is lost.
    pub loss: f64,
    /// Share that comes twice.
    pub duplicate: f64,
    /// Share that is held back by [`reorder_hold`](Self::reorder_hold) while later ones overtake.
    pub reorder: f64,
    /// See [`reorder`](Self::reorder).
    pub reorder_hold: Duration,
    /// Bytes per second of UDP payload that pass; more wait in the queue.
    pub rate: Option<u64>,
    /// Bytes that may wait or be under way; what comes on top is lost. A rate makes a queue of this
    /// length fill up, as a router's does.
    pub queue_len_max: usize,
}

impl Profile {
    /// A good wire: everything passes at once.
    pub const CLEAN: Profile = Profile {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_hold: Duration::ZERO,
        rate: None,
        queue_len_max: 64 << 20,
    };

    /// A bad day on a wide network: 5 ms each way, 1 % lost, 1 % doubled, 2 % out of order.
    pub const ROUGH: Profile = Profile {
        delay: Duration::from_millis(5),
        jitter: Duration::from_micros(500),
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        reorder_hold: Duration::from_millis(3),
        rate: None,
        queue_len_max: 64 << 20,
    };
}

impl Default for Profile {
    fn default() -> Profile {
        Profile::CLEAN
    }
}
