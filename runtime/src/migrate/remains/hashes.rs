//! Hashes of pages, in node memory that outlives a task's stay.
//!
//! An empty `BTreeMap` has a word that nobody has written: what lay on the stack before it was moved to the
//! heap. If that was an address of a task, the map looks like a reference to what the task has left, for as
//! long as it lives. So there is no map while there is nothing in it.

use std::collections::BTreeMap;
use std::ops::Deref;

use migrt_proto::transfer::{Page, PageHash};

/// See the module.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "an empty map in place is what must not be")]
pub(super) struct Hashes(Option<Box<BTreeMap<Page, PageHash>>>);

static NONE: BTreeMap<Page, PageHash> = BTreeMap::new();

impl Deref for Hashes {
    type Target = BTreeMap<Page, PageHash>;

    fn deref(&self) -> &BTreeMap<Page, PageHash> {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl Hashes {
    pub(super) fn insert(&mut self, page: Page, hash: PageHash) {
        self.0.get_or_insert_default().insert(page, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_map_only_while_something_is_in_it() {
        let mut hashes = Hashes::default();
        assert!(hashes.0.is_none() && hashes.is_empty() && hashes.get(&Page(1)).is_none());
        hashes.insert(Page(3), PageHash(9));
        hashes.insert(Page(1), PageHash(9));
        assert_eq!(hashes.keys().copied().collect::<Vec<_>>(), [Page(1), Page(3)]);
    }
}
