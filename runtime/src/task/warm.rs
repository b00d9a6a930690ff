//! What a worker keeps warm for the tasks that it starts next: last in, first out. Others may read how
//! many there are, since what is warm is free although the pool does not have it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct Warm<T> {
    list: RefCell<Vec<T>>,
    len_max: usize,
    /// Relaxed: a number on its own, only the list's worker writes it.
    count: &'static AtomicU32,
}

impl<T> Warm<T> {
    /// Keeps up to `len_max`, and tells `count` how many.
    pub(crate) fn new(len_max: usize, count: &'static AtomicU32) -> Warm<T> {
        Warm { list: RefCell::new(Vec::with_capacity(len_max)), len_max, count }
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        let mut list = self.list.borrow_mut();
        let taken = list.pop();
        self.count.store(list.len() as u32, Ordering::Relaxed);
        taken
    }

    /// Gives it back if there are as many as may be.
    #[inline]
    pub(crate) fn keep(&self, one: T) -> Result<(), T> {
        let mut list = self.list.borrow_mut();
        if list.len() >= self.len_max {
            return Err(one);
        }
        list.push(one);
        self.count.store(list.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    /// All of them, which are not warm any more.
    pub(crate) fn clear(&self, mut each: impl FnMut(T)) {
        while let Some(one) = self.take() {
            each(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_follows_and_no_more_are_kept_than_may_be() {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = || COUNT.load(Ordering::Relaxed);
        let warm = Warm::new(2, &COUNT);
        assert_eq!((warm.take(), count()), (None, 0));
        assert_eq!((warm.keep(1), warm.keep(2), warm.keep(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(count(), 2);
        assert_eq!((warm.take(), count()), (Some(2), 1));
        let mut cleared = Vec::new();
        warm.clear(|one| cleared.push(one));
        assert_eq!((cleared, count()), (vec![1], 0));
    }
}
