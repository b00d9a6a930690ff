//! How a task is moved: the caller's wish, handed through to the driver of the source.
//!
//! The core takes no notice of it. What it sees are the driver's words: `copying` (rounds begin), `frozen`, or
//! `frozen_lazily` (the pages follow after the task).

use serde::{Deserialize, Serialize};

use crate::time::Micros;

/// Which of a task's pages travel before it, and which after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// Freeze, ship everything, go on.
    StopCopy,
    /// Ship rounds of pages while the task runs, then freeze it and ship the rest.
    PreCopy {
        /// How long it may stand still. Rounds end when the rest fits.
        #[serde(with = "pause")]
        max_pause: Micros,
        /// Rounds end after so many.
        #[serde(with = "rounds")]
        max_rounds: u32,
        /// Pages written in several rounds are left for the rest.
        hold_back: bool,
    },
    /// Freeze, ship the head, go on; the pages follow on demand and by a push.
    PostCopy,
    /// The driver picks one of the others.
    Auto {
        /// How long the task may stand still.
        #[serde(with = "pause")]
        max_pause: Micros,
    },
    /// The task's own strategy, or that of its program: the caller has no wish.
    Usual,
}

/// Longest pause that can be asked for; whoever allows more has no limit in mind.
pub const PAUSE_MAX: Micros = Micros::from_millis(60_000);
/// Most rounds that can be asked for.
pub const ROUND_COUNT_MAX: u32 = 1_000;

impl Default for Strategy {
    /// `Auto` with a pause of 3 ms.
    fn default() -> Strategy {
        Strategy::Auto { max_pause: Micros::from_millis(3) }
    }
}

impl Strategy {
    /// The same, with what is above its limit ([`PAUSE_MAX`], [`ROUND_COUNT_MAX`]) cut down to it.
    #[must_use]
    pub fn bounded(self) -> Strategy {
        match self {
            Strategy::PreCopy { max_pause, max_rounds, hold_back } => Strategy::PreCopy {
                max_pause: max_pause.min(PAUSE_MAX),
                max_rounds: max_rounds.min(ROUND_COUNT_MAX),
                hold_back,
            },
            Strategy::Auto { max_pause } => Strategy::Auto { max_pause: max_pause.min(PAUSE_MAX) },
            Strategy::StopCopy | Strategy::PostCopy | Strategy::Usual => self,
        }
    }
}

/// Cut when sent, refused when more arrives.
mod pause {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{Micros, PAUSE_MAX};

    pub fn serialize<S: Serializer>(value: &Micros, to: S) -> Result<S::Ok, S::Error> {
        PAUSE_MAX.min(*value).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Micros, D::Error> {
        let value = Micros::deserialize(from)?;
        if value > PAUSE_MAX {
            Err(de::Error::custom("the pause is over its limit"))
        } else {
            Ok(value)
        }
    }
}

/// Cut when sent, refused when more arrives.
mod rounds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::ROUND_COUNT_MAX;

    pub fn serialize<S: Serializer>(value: &u32, to: S) -> Result<S::Ok, S::Error> {
        ROUND_COUNT_MAX.min(*value).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let value = u32::deserialize(from)?;
        if value > ROUND_COUNT_MAX { Err(de::Error::custom("too many rounds")) } else { Ok(value) }
    }
}
