//! What tasks touched first after they had moved, by entry: kept by every node, told by whoever sees it.
//!
//! ```text
//! target   a task is whole: which pages it waited for, in order ──► its profile ──► source, and now and then all others
//! source   the next task of that entry leaves ──► its hottest pages go with its head
//! ```
//!
//! A profile is a hint: a wrong one costs some pages in a head. Joining two is in any order and as often as one
//! likes the same (`migrt_proto::transfer::Hot`), so nothing is acknowledged or kept in order.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrt_proto::transfer::{Hot, HotPage, PROFILES_MAX};
use migrt_proto::{EntryId, NodeId};

use super::Cluster;
use crate::migrate::HOT_MAX;

/// A profile, encoded.
pub(super) const KIND_HOT: u16 = 5;
/// Nodes that had no part in a move hear of a profile not more often than this.
const SELDOM: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    hot: Mutex<Hot>,
    /// When all nodes were last told of an entry's.
    told: Mutex<HashMap<EntryId, Instant>>,
}

impl Profiles {
    fn with<R>(&self, deed: impl FnOnce(&mut Hot) -> R) -> R {
        deed(&mut self.hot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether all nodes are to be told of this entry's profile now.
    fn is_due(&self, entry: EntryId) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.get(&entry).is_some_and(|&last| now - last < SELDOM) {
            return false;
        }
        if told.len() >= PROFILES_MAX {
            told.clear();
        }
        told.insert(entry, now);
        true
    }
}

impl Cluster {
    /// The pages that a task of this entry will want first, hottest first.
    pub(crate) fn hot(&self, entry: EntryId) -> Vec<HotPage> {
        self.hot.with(|hot| hot.likely(entry, HOT_MAX))
    }

    /// A task of `entry` that came from `source` has waited for these pages, in this order.
    pub(crate) fn touched_first(&'static self, entry: EntryId, source: NodeId, pages: &[HotPage]) {
        let mut bytes = Vec::new();
        let is_known = self.hot.with(|hot| {
            hot.faulted_first(entry, pages);
            hot.encode(entry, &mut bytes)
        });
        if !is_known {
            return;
        }
        let all = if self.hot.is_due(entry) { self.members() } else { vec![source] };
        self.tell(|core, now| {
            for node in all.into_iter().filter(|&node| node != self.me) {
                core.send_custom(now, node, KIND_HOT, bytes.clone());
            }
        });
    }

    /// Another node's profile of an entry.
    pub(super) fn hot_told(&self, from: NodeId, bytes: &[u8]) {
        if let Err(error) = self.hot.with(|hot| hot.merge_encoded(bytes)) {
            tracing::warn!(from = from.0, %error, "a profile cannot be read");
        }
    }
}
