//! Test mode (`MIGRT_CHECK_PAGES=1`): all pages of a task are hashed when it is frozen, and again where it
//! arrives, before it runs. If they differ the node stops: memory is wrong (I4).
//!
//! Hashed in place and anew, whatever else is known of a page, so that what is wrongly taken for unchanged
//! shows too. What the task has stay zero is looked at as well: a page that holds something and should
//! not is as wrong. Of a task that runs before its pages are here those that follow are left out.
//!
//! A thread of the source that writes through a static into the frozen task, between its copy and the
//! hash, looks like an error.

use migrt_iso::{PAGE_LEN, page};
use migrt_proto::transfer::{Page, PageHash, PageSet, Run};
use serde::{Deserialize, Serialize};

use super::copy::Copy;
use super::image;
use super::pages::{present, run_of};
use super::remains::{addr_of, number_of};
use super::rounds::Checkpoint;
use super::ship::Manifest;
use super::{hash, slots_of};
use crate::task::adopted;
use crate::task::header::Header;

/// More pages of one task are not hashed: the manifest would be too long.
const PAGES_MAX: usize = 1 << 15;

/// Pages and what they hash to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Check {
    pages: Vec<Run>,
    /// Eight bytes of each page's hash.
    hashes: Vec<u64>,
    /// All pages that hold something are in the list.
    is_whole: bool,
}

/// Hashes the frozen task's pages, if that is wanted.
pub(super) fn take(manifest: &mut Manifest, header: &Header) {
    if !crate::node::node().config.check_pages {
        return;
    }
    let mut pages = Checkpoint::of(header).live;
    let (from, to) = image::always_shipped(header);
    pages.insert(Run::new(number_of(from), ((to - from) / PAGE_LEN) as u64));
    for arena in header.adopted() {
        pages.insert(Run::one(number_of(adopted::prefix_page(arena))));
    }
    let mut check = Check { is_whole: true, ..Check::default() };
    let mut listed = PageSet::new();
    for slot in slots_of(header) {
        for page in present(&pages.within(run_of(slot))).pages() {
            if check.hashes.len() == PAGES_MAX {
                check.is_whole = false;
            } else if !is_zero(page) {
                listed.insert(Run::one(page));
                check.hashes.push(0);
            }
        }
    }
    check.pages = listed.runs().collect();
    check.hashes = listed.pages().map(|page| short(hash::of(page))).collect();
    manifest.check = Some(check);
}

fn short(hash: PageHash) -> u64 {
    hash.0 as u64
}

fn is_zero(page: Page) -> bool {
    // SAFETY: a page of a frozen or arriving task.
    unsafe { page::is_zero_page(addr_of(page) as *const u8) }
}

/// All of an arriving task is in place, but for what follows it.
pub(super) fn arrived(copy: &Copy, manifest: &Manifest) {
    let Some(check) = &manifest.check else { return };
    let mut listed = PageSet::new();
    let missing = match &copy.lacking {
        Some(lacking) if !lacking.is_eager() => lacking.missing_pages(),
        _ => PageSet::new(),
    };
    let mut hashes = check.hashes.iter();
    for run in &check.pages {
        listed.insert(*run);
        for page in (run.first.0..run.end().0).map(Page) {
            let wanted = hashes.next().copied();
            if missing.contains(page) {
                continue;
            }
            let found = match &copy.merge {
                Some(merge) => merge.hash_of(page).map(short),
                None => Some(short(hash::of(page))),
            };
            if found != wanted {
                differs(page, "it holds something else than at the source");
            }
        }
    }
    if copy.merge.is_some() || !check.is_whole {
        return;
    }
    for &slot in &copy.slots {
        let rest = PageSet::from_iter([run_of(slot)]).difference(&listed);
        for page in present(&rest).pages() {
            if !is_zero(page) {
                differs(page, "it holds something, and was zero or dead at the source");
            }
        }
    }
}

fn differs(page: Page, how: &str) -> ! {
    eprintln!(
        "migrt: I4: the page at {:#x} of a task that has come is wrong: {how}; this node stops",
        addr_of(page)
    );
    std::process::abort()
}
