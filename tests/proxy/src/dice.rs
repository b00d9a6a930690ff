//! What becomes of packet n of a lane: a pure function of seed, lane, number and profile.
//!
//! Each question about a packet has its own number from the seed, whatever the answers to the others
//! are. So a profile with more loss loses the same packets and some on top, and a change of profile
//! does not shift what comes after it.

use std::time::Duration;

use crate::{Lane, Profile};

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throw {
    /// It does not arrive.
    pub is_lost: bool,
    /// How late it is: the fixed delay and its share of the jitter.
    pub delay: Duration,
    /// It is held back on top of that, and later ones may overtake it.
    pub hold: Option<Duration>,
    /// A copy comes too, so long after it.
    pub copy_after: Option<Duration>,
}

/// A copy comes within this time after its original.
const COPY_AFTER_US_MAX: f64 = 2_000.0;

/// Decides on packet `number` (from 0) of `lane`.
#[must_use]
pub fn throw(seed: u64, lane: Lane, number: u64, profile: &Profile) -> Throw {
    let lane = u64::from(lane.from) << 16 | u64::from(lane.to);
    let base = stir(stir(stir(seed) ^ lane) ^ number);
    let share = |question: u64| (stir(base ^ question) >> 11) as f64 / (1_u64 << 53) as f64;
    let copy_after = Duration::from_micros((share(5) * COPY_AFTER_US_MAX) as u64);
    Throw {
        is_lost: share(1) < profile.loss,
        delay: profile.delay + profile.jitter.mul_f64(share(2)),
        hold: (share(3) < profile.reorder).then_some(profile.reorder_hold),
        copy_after: (share(4) < profile.duplicate).then_some(copy_after),
    }
}

/// splitmix64: every bit of the result hangs on every bit of `value`.
fn stir(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { from: 1, to: 2 };

    fn throws(seed: u64, lane: Lane, profile: &Profile) -> Vec<Throw> {
        (0..20_000).map(|number| throw(seed, lane, number, profile)).collect()
    }

    #[test]
    fn equal_seeds_give_equal_decisions_and_others_do_not() {
        let rough = &Profile::ROUGH;
        assert_eq!(throws(7, LANE, rough), throws(7, LANE, rough));
        assert_ne!(throws(7, LANE, rough), throws(8, LANE, rough));
        let back = Lane { from: 2, to: 1 };
        assert_ne!(throws(7, LANE, rough), throws(7, back, rough));
    }

    /// The decisions of a seed that a test once failed with must not change under its feet.
    #[test]
    fn the_decisions_of_a_seed_stay_what_they_are() {
        let lost: Vec<u64> =
            (0..600).filter(|&n| throw(42, LANE, n, &Profile::ROUGH).is_lost).collect();
        assert_eq!(lost, FIRST_LOST);
    }

    const FIRST_LOST: &[u64] = &[173, 229, 288, 299, 311, 376, 463, 541];

    #[test]
    fn shares_are_kept() {
        let profile = Profile { loss: 0.1, duplicate: 0.2, reorder: 0.3, ..Profile::ROUGH };
        let all = throws(3, LANE, &profile);
        let share = |of: fn(&Throw) -> bool| {
            all.iter().filter(|throw| of(throw)).count() as f64 / all.len() as f64
        };
        let check = |found: f64, wanted: f64| {
            assert!((found - wanted).abs() < 0.01, "{found} instead of {wanted}");
        };
        check(share(|t| t.is_lost), 0.1);
        check(share(|t| t.copy_after.is_some()), 0.2);
        check(share(|t| t.hold.is_some()), 0.3);
        check(share(|t| t.is_lost && t.hold.is_some()), 0.03);
        let (low, high) = (profile.delay, profile.delay + profile.jitter);
        assert!(all.iter().all(|t| (low..=high).contains(&t.delay)));
        check(share(|t| t.delay < Profile::ROUGH.delay + Profile::ROUGH.jitter / 2), 0.5);
    }

    #[test]
    fn more_loss_loses_the_same_packets_and_more() {
        let worse = Profile { loss: 0.05, ..Profile::ROUGH };
        let pairs = throws(5, LANE, &Profile::ROUGH).into_iter().zip(throws(5, LANE, &worse));
        for (less, more) in pairs {
            assert!(!less.is_lost || more.is_lost);
            assert_eq!(
                (less.delay, less.hold, less.copy_after),
                (more.delay, more.hold, more.copy_after)
            );
        }
        assert!(
            throws(5, LANE, &Profile::CLEAN).iter().all(|t| *t
                == Throw { is_lost: false, delay: Duration::ZERO, hold: None, copy_after: None })
        );
    }
}
