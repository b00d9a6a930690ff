//! In which order a task goes through its pages.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::random::next;

/// One page in so many is hot, and as many accesses but one go to these.
const HOT: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Pattern {
    /// One after the other, and again from the start.
    Seq,
    /// Any.
    Random,
    /// Fifteen accesses in sixteen go to the first sixteenth of the pages.
    Hot,
}

/// Where one is.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    pattern: Pattern,
    pages: u64,
    at: u64,
    random: u64,
}

impl Walk {
    pub fn new(pattern: Pattern, pages: usize, seed: u64) -> Walk {
        Walk { pattern, pages: pages as u64, at: 0, random: seed }
    }

    pub fn next_page(&mut self) -> usize {
        let below =
            |random: u64, limit: u64| ((u128::from(random) * u128::from(limit)) >> 64) as u64;
        let page = match self.pattern {
            Pattern::Seq => {
                self.at = (self.at + 1) % self.pages;
                self.at
            }
            Pattern::Random => below(next(&mut self.random), self.pages),
            Pattern::Hot if next(&mut self.random).is_multiple_of(HOT) => {
                below(next(&mut self.random), self.pages)
            }
            Pattern::Hot => below(next(&mut self.random), (self.pages / HOT).max(1)),
        };
        page as usize
    }
}

impl Pattern {
    /// How many different pages so many accesses touch, as is to be expected.
    pub fn touched(self, accesses: u64, pages: u64) -> f64 {
        let random = |accesses: f64, pages: f64| pages * (1.0 - (-accesses / pages).exp());
        let (count, all) = (accesses as f64, pages as f64);
        match self {
            Pattern::Seq => count.min(all),
            Pattern::Random => random(count, all),
            Pattern::Hot => {
                let hot = (pages / HOT).max(1) as f64;
                let strays = count / HOT as f64;
                let on_hot = count - strays + strays * hot / all;
                random(on_hot, hot) + random(strays * (1.0 - hot / all), all - hot)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_to_be_touched_is_touched() {
        for pattern in [Pattern::Seq, Pattern::Random, Pattern::Hot] {
            for accesses in [100, 2_000, 20_000] {
                let pages = 4096;
                let mut walk = Walk::new(pattern, pages, 3);
                let mut seen = vec![false; pages];
                (0..accesses).for_each(|_| seen[walk.next_page()] = true);
                let seen = seen.into_iter().filter(|seen| *seen).count() as f64;
                let expected = pattern.touched(accesses, pages as u64);
                assert!(
                    (seen - expected).abs() <= 0.05 * expected + 10.0,
                    "{pattern:?}, {accesses} accesses: {seen} pages, and not {expected}"
                );
            }
        }
    }
}
