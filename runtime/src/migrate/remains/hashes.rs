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

impl FromIterator<(Page, PageHash)> for Hashes {
    fn from_iter<I: IntoIterator<Item = (Page, PageHash)>>(pages: I) -> Hashes {
        let map: BTreeMap<_, _> = pages.into_iter().collect();
        Hashes((!map.is_empty()).then(|| Box::new(map)))
    }
}

impl Hashes {
    pub(super) fn insert(&mut self, page: Page, hash: PageHash) {
        self.0.get_or_insert_default().insert(page, hash);
    }

    pub(super) fn remove(&mut self, page: Page) -> Option<PageHash> {
        let removed = self.0.as_mut()?.remove(&page);
        self.drop_if_empty();
        removed
    }

    pub(super) fn pop_first(&mut self) -> Option<(Page, PageHash)> {
        let first = self.0.as_mut()?.pop_first();
        self.drop_if_empty();
        first
    }

    fn drop_if_empty(&mut self) {
        self.0.take_if(|map| map.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_map_only_while_something_is_in_it() {
        let mut hashes = Hashes::default();
        assert!(hashes.0.is_none() && hashes.is_empty() && hashes.get(&Page(1)).is_none());
        let pages = [(Page(3), PageHash(9)), (Page(1), PageHash(9))];
        hashes = pages.into_iter().collect();
        assert_eq!(hashes.keys().copied().collect::<Vec<_>>(), [Page(1), Page(3)]);
        assert_eq!(hashes.pop_first().map(|first| first.0), Some(Page(1)));
        assert_eq!(hashes.remove(Page(2)), None);
        assert_eq!(hashes.len(), 1);
        assert_eq!(hashes.remove(Page(3)), Some(PageHash(9)));
        assert!(hashes.0.is_none() && hashes.pop_first().is_none());
        hashes.insert(Page(7), PageHash(9));
        assert_eq!(hashes.len(), 1);
        assert!(Hashes::from_iter([]).0.is_none());
    }
}
