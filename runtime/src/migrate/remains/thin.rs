//! Pages of a departed task of which a base has the hashes only: what the target had told of them.
//!
//! They can be all of a long task's pages, and are noted while it stands still; so the list that the target
//! told is taken as it is, with a set of those that count.

use std::sync::Arc;

use migrt_proto::transfer::{KeptPages, Page, PageHash, PageSet, Run};

/// See the module. Nothing is allocated where there are none, for the reason that `hashes` gives.
#[derive(Debug, Default)]
pub(crate) struct Thin(Option<Box<Listed>>);

#[derive(Debug)]
struct Listed {
    told: Arc<KeptPages>,
    /// Those that count. All of them were told, and there are some.
    left: PageSet,
}

static NONE: PageSet = PageSet::new();

impl Thin {
    /// The pages of `same`, with the hashes that `told` has of them.
    pub(crate) fn new(told: Arc<KeptPages>, same: PageSet) -> Thin {
        debug_assert_eq!(told.among(&same).count() as u64, same.len());
        Thin((!same.is_empty()).then(|| Box::new(Listed { told, left: same })))
    }

    pub(super) fn pages(&self) -> &PageSet {
        self.0.as_ref().map_or(&NONE, |listed| &listed.left)
    }

    pub(super) fn len(&self) -> usize {
        self.pages().len() as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The hash of a page, if it is one of them.
    pub(super) fn get(&self, page: Page) -> Option<PageHash> {
        let listed = self.0.as_ref().filter(|listed| listed.left.contains(page))?;
        listed.told.get(page)
    }

    /// The first of them from `from` on, with their hashes.
    pub(super) fn first(&self, from: Page, max: usize) -> impl Iterator<Item = (Page, PageHash)> {
        let mut at = from;
        let next = move || {
            let listed = self.0.as_ref()?;
            let page = listed.left.first_from(at)?;
            at = Page(page.0 + 1);
            Some((page, listed.hash(page)))
        };
        std::iter::from_fn(next).take(max)
    }

    pub(super) fn pop_first(&mut self) -> Option<(Page, PageHash)> {
        let first = self.0.as_ref()?.left.first_from(Page(0))?;
        Some((first, self.remove(first)?))
    }

    /// It is none of them any more; its hash, if it was.
    pub(super) fn remove(&mut self, page: Page) -> Option<PageHash> {
        let listed = self.0.as_mut()?;
        if listed.left.remove(Run::one(page)) == 0 {
            return None;
        }
        let hash = listed.hash(page);
        self.0.take_if(|listed| listed.left.is_empty());
        Some(hash)
    }
}

impl Listed {
    fn hash(&self, page: Page) -> PageHash {
        self.told.get(page).expect("all of them were told")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_count_have_the_hashes_that_were_told() {
        let told = (1..=5).map(|n| (Page(n), PageHash(n.into()))).collect();
        let same = PageSet::from_iter([Run::new(Page(2), 3)]);
        let mut thin = Thin::new(Arc::new(KeptPages::new(told)), same);
        assert_eq!(
            (thin.len(), thin.get(Page(1)), thin.get(Page(2))),
            (3, None, Some(PageHash(2)))
        );
        let first: Vec<_> = thin.first(Page(3), 9).map(|entry| entry.0.0).collect();
        assert_eq!(first, [3, 4]);
        assert_eq!(thin.first(Page(0), 1).next(), Some((Page(2), PageHash(2))));
        assert_eq!((thin.remove(Page(5)), thin.remove(Page(3))), (None, Some(PageHash(3))));
        assert_eq!(thin.pop_first(), Some((Page(2), PageHash(2))));
        assert!(!thin.is_empty());
        assert_eq!(thin.pop_first(), Some((Page(4), PageHash(4))));
        assert!(thin.is_empty() && thin.0.is_none() && thin.pop_first().is_none());
    }
}
