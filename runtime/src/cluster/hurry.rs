//! A hand-off is under way, and each answer in it is due at once: the net thread looks for longer before it
//! sleeps. To be woken takes as long as half of a short pause.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Cluster;

/// As long as a hand-off takes to answer.
const LONG: Duration = Duration::from_micros(400);

/// As long as one is held the net thread hurries.
#[derive(Debug)]
pub(crate) struct Hurry(&'static Cluster);

impl Cluster {
    /// The net thread is to hurry.
    pub(crate) fn hurry(&'static self) -> Hurry {
        if self.hurries.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(net) = self.net.get()
        {
            net.spin_longer(Some(LONG));
        }
        Hurry(self)
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if self.0.hurries.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(net) = self.0.net.get()
        {
            net.spin_longer(None);
        }
    }
}
