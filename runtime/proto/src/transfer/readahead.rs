//! Readahead: how many pages to send along with one that was demanded.
//!
//! A demand that goes on where an earlier one ended is a scan, and each such step doubles its window, up to a limit;
//! any other demand begins with the page alone, since pages sent for nothing stand in the way of the next fault. A few
//! scans are followed at once (a merge reads several inputs). Absent: scans downward, which the push follows anyway.

use std::collections::VecDeque;

use super::pages::{Page, PageSet};

/// How many scans are followed.
const SCANS_MAX: usize = 8;
/// How many pushed pages may lie between two demands of one scan.
const BETWEEN_MAX: u64 = 4096;

#[derive(Clone, Debug)]
struct Scan {
    /// The page behind the last one that was sent for it.
    next: Page,
    window: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Readahead {
    window_max: u64,
    /// Newest first.
    scans: VecDeque<Scan>,
}

impl Readahead {
    pub(super) fn new(window_max: u64) -> Readahead {
        Readahead { window_max: window_max.max(1), scans: VecDeque::new() }
    }

    /// How many pages to send from `page` on, `page` included, if pages of `sent` have left already.
    pub(super) fn window(&mut self, page: Page, sent: &PageSet) -> u64 {
        let window = match self.scan_at(page, sent) {
            Some(index) => {
                let scan = self.scans.remove(index).expect("it was just found");
                scan.window.saturating_mul(2).min(self.window_max)
            }
            None => 1,
        };
        self.scans.push_front(Scan { next: Page(page.0 + window), window });
        self.scans.truncate(SCANS_MAX);
        window
    }

    /// The scan that `page` continues: it is the page that the scan comes to next, or one just beyond (a task need not
    /// touch every page of what it reads), or what lies between has been pushed and needed no demand.
    fn scan_at(&self, page: Page, sent: &PageSet) -> Option<usize> {
        self.scans.iter().position(|scan| match page.0.checked_sub(scan.next.0) {
            None => false,
            Some(between) => {
                between < scan.window
                    || (between <= BETWEEN_MAX && sent.run_from(scan.next, between) == between)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::pages::Run, *};

    fn demand(readahead: &mut Readahead, page: u64) -> u64 {
        readahead.window(Page(page), &PageSet::new())
    }

    #[test]
    fn the_window_of_a_scan_doubles_up_to_the_limit() {
        let mut readahead = Readahead::new(16);
        let (mut at, mut windows) = (100, Vec::new());
        for _ in 0..7 {
            let window = demand(&mut readahead, at);
            at += window;
            windows.push(window);
        }
        assert_eq!(windows, [1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn demands_here_and_there_get_their_page_alone() {
        let mut readahead = Readahead::new(16);
        for page in [5, 900, 3, 70_000, 44, 12, 10_000, 1, 600] {
            assert_eq!(demand(&mut readahead, page), 1, "{page}");
        }
    }

    #[test]
    fn what_was_pushed_meanwhile_does_not_end_a_scan() {
        let pushed: PageSet = [Run::new(Page(1), 99)].into_iter().collect();
        let mut readahead = Readahead::new(16);
        assert_eq!(readahead.window(Page(0), &pushed), 1);
        assert_eq!(readahead.window(Page(100), &pushed), 2);
        assert_eq!(readahead.window(Page(202), &pushed), 1, "100 pages beyond, none of them sent");
    }

    #[test]
    fn several_scans_are_followed_at_once() {
        let mut readahead = Readahead::new(8);
        let mut at = [0, 10_000, 20_000, 30_000];
        for expected in [1, 2, 4, 8, 8] {
            for page in &mut at {
                let window = demand(&mut readahead, *page);
                assert_eq!(window, expected);
                *page += window;
            }
        }
    }
}
