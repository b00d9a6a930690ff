//! Which pages a task will touch first after a move, judged by what earlier moves of the same entry touched.
//!
//! ```text
//! entry -> [ (slot in the task's order, page in the slot, heat) ... ]     hottest first, bounded
//! ```
//!
//! Pages are named by the slot's place in the task's list of slots, since two tasks of one entry have different slots
//! but build the same things in the same order. Each move of the entry cools every page by an eighth and heats the
//! ones that faulted, early ones more. Two nodes' profiles are joined page by page by the higher heat, so that profiles
//! may be passed around in any order and as often as one likes. Absent: pages that were touched shortly before the
//! freeze, which only the tracker knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::EntryId,
    wire::{
        WireError,
        limits::{self, list},
    },
};

/// Most pages of one entry's profile.
pub const PROFILE_PAGES_MAX: usize = 256;
/// Most entries with a profile.
pub const PROFILES_MAX: usize = 256;
/// Longest encoded profile, in bytes.
pub const PROFILE_ENCODED_LEN_MAX: usize = 10 + 2 + PROFILE_PAGES_MAX * (3 + 5 + 3);

/// The heat of a page that faulted first in one move. Eight moves bring it close to eight times that.
const HEAT_FIRST: u16 = 4096;
/// The heat of one that faulted late.
const HEAT_LAST: u16 = 2048;

/// A page of a task, wherever its slots lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HotPage {
    /// Place of the slot in the task's list of slots; 0 is the task slot.
    pub slot: u16,
    /// Index of the page in the slot.
    pub page: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Profile {
    heat: BTreeMap<HotPage, u16>,
    /// When it was last heated here, by the count of moves; decides who is forgotten.
    heated: u64,
}

/// The profiles that a node has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hot {
    profiles: BTreeMap<EntryId, Profile>,
    moves: u64,
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    entry: EntryId,
    #[serde(with = "list")]
    pages: Vec<(HotPage, u16)>,
}

impl Hot {
    /// No profile yet.
    pub fn new() -> Hot {
        Hot::default()
    }

    /// A task of `entry` has arrived and touched `pages`, in this order, before they were there. Only the first
    /// [`PROFILE_PAGES_MAX`] count.
    pub fn faulted_first(&mut self, entry: EntryId, pages: &[HotPage]) {
        self.moves += 1;
        let profile = self.profiles.entry(entry).or_default();
        profile.heated = self.moves;
        profile.heat.retain(|_, heat| {
            *heat -= heat.div_ceil(8);
            *heat > 0
        });
        let pages = &pages[..pages.len().min(PROFILE_PAGES_MAX)];
        for (rank, page) in pages.iter().enumerate() {
            let cooler = (HEAT_FIRST - HEAT_LAST) as usize * rank / pages.len();
            let heat = profile.heat.entry(*page).or_default();
            *heat = heat.saturating_add(HEAT_FIRST - cooler as u16);
        }
        profile.trim();
        self.forget_surplus();
    }

    /// The pages that a task of `entry` will want first, hottest first, at most `budget`.
    pub fn predict(&self, entry: EntryId, budget: usize) -> Vec<HotPage> {
        let Some(profile) = self.profiles.get(&entry) else { return Vec::new() };
        profile.hottest().into_iter().take(budget).map(|(page, _)| page).collect()
    }

    /// As [`Hot::predict`], but only pages that more than one move has found among the first. A task that goes here
    /// and there touches other pages each time, and none of them is worth a place in a head.
    pub fn likely(&self, entry: EntryId, budget: usize) -> Vec<HotPage> {
        let Some(profile) = self.profiles.get(&entry) else { return Vec::new() };
        let likely = profile.hottest().into_iter().filter(|(_, heat)| *heat > HEAT_FIRST);
        likely.take(budget).map(|(page, _)| page).collect()
    }

    /// Joins another node's profiles into these.
    pub fn merge(&mut self, other: &Hot) {
        for (entry, theirs) in &other.profiles {
            self.merge_one(*entry, theirs.heat.iter().map(|(page, heat)| (*page, *heat)));
        }
        self.forget_surplus();
    }

    fn merge_one(&mut self, entry: EntryId, pages: impl Iterator<Item = (HotPage, u16)>) {
        let profile = self.profiles.entry(entry).or_default();
        for (page, theirs) in pages {
            let heat = profile.heat.entry(page).or_default();
            *heat = theirs.max(*heat);
        }
        profile.trim();
    }

    /// Appends the profile of `entry` to `out`, at most [`PROFILE_ENCODED_LEN_MAX`] bytes; `false` if there is none.
    pub fn encode(&self, entry: EntryId, out: &mut Vec<u8>) -> bool {
        let Some(profile) = self.profiles.get(&entry) else { return false };
        limits::encode(&Encoded { entry, pages: profile.hottest() }, out);
        true
    }

    /// Joins a profile that another node has encoded; whose it is.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are no profile. Nothing is changed then.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<EntryId, WireError> {
        if bytes.len() > PROFILE_ENCODED_LEN_MAX {
            return Err(WireError::TooLong { len: bytes.len(), limit: PROFILE_ENCODED_LEN_MAX });
        }
        let Encoded { entry, pages } = limits::decode(bytes, "hot-set profile")?;
        if pages.len() > PROFILE_PAGES_MAX || pages.iter().any(|(_, heat)| *heat == 0) {
            return Err(WireError::Malformed { what: "hot-set profile" });
        }
        self.merge_one(entry, pages.into_iter());
        self.forget_surplus();
        Ok(entry)
    }

    /// The entries that have a profile.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> {
        self.profiles.keys().copied()
    }

    /// Drops the profiles that were heated longest ago, those only heard of first.
    fn forget_surplus(&mut self) {
        while self.profiles.len() > PROFILES_MAX {
            let coldest =
                self.profiles.iter().min_by_key(|(entry, profile)| (profile.heated, **entry));
            let entry = *coldest.expect("there are too many").0;
            self.profiles.remove(&entry);
        }
    }
}

impl Profile {
    fn hottest(&self) -> Vec<(HotPage, u16)> {
        let mut pages: Vec<_> = self.heat.iter().map(|(page, heat)| (*page, *heat)).collect();
        pages.sort_by_key(|(page, heat)| (core::cmp::Reverse(*heat), *page));
        pages
    }

    fn trim(&mut self) {
        if self.heat.len() > PROFILE_PAGES_MAX {
            for (page, _) in self.hottest().split_off(PROFILE_PAGES_MAX) {
                self.heat.remove(&page);
            }
        }
    }
}
