//! The region: one range of addresses, reserved at the same place in every process of the cluster.
//!
//! Reserving costs microseconds and no memory: pages come at their first touch. The region stays for
//! the life of the process, so there is nothing to drop. Absent: sub-ranges for other uses, another
//! base by configuration (both are constants, compared in the hello).

use std::fmt;
use std::sync::OnceLock;

use crate::page::{self, PAGE_LEN};
use crate::{guard, sys};

/// First address of the region. Sanitizers and the kernel's own choices of address stay away from it.
pub const REGION_BASE: usize = 0x2000_0000_0000;
/// Number of slot size classes.
pub const CLASS_COUNT: usize = 19;
/// Length in bytes of the part that each class has, 1 TiB.
pub const CLASS_SPAN_LEN: usize = 1 << 40;
/// Length of the region in bytes, 19 TiB.
pub const REGION_LEN: usize = CLASS_COUNT * CLASS_SPAN_LEN;

/// Whether `addr` lies in the region.
#[must_use]
#[inline]
pub const fn in_region(addr: usize) -> bool {
    addr.wrapping_sub(REGION_BASE) < REGION_LEN
}

/// Proof that the region is reserved in this process.
#[derive(Debug)]
pub struct Region(());

impl Region {
    /// Reserves the region; from the second call on gives the first one's answer.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if something lies in the range already or the kernel refuses.
    pub fn reserve() -> Result<&'static Region, RegionError> {
        static REGION: OnceLock<Result<Region, RegionError>> = OnceLock::new();
        REGION.get_or_init(reserve_once).as_ref().map_err(Clone::clone)
    }
}

fn reserve_once() -> Result<Region, RegionError> {
    sys::reserve(REGION_BASE, REGION_LEN).map_err(|errno| match errno {
        sys::EEXIST => RegionError::Occupied { mapping: what_lies_there() },
        errno => RegionError::Refused { call: "mmap", addr: REGION_BASE, len: REGION_LEN, errno },
    })?;
    // A host that gives huge pages unasked would spend 2 MiB on the first touch of each task slot. All of
    // it, so that the region stays one mapping: parts that got huge pages for a while become one with the
    // rest again. EINVAL: a kernel without huge pages.
    match sys::no_huge_pages(REGION_BASE, REGION_LEN) {
        Ok(()) | Err(sys::EINVAL) => {
            touch_first();
            // Found out here, and not by the first task.
            let _ = guard::method();
            Ok(Region(()))
        }
        Err(errno) => {
            Err(RegionError::Refused { call: "madvise", addr: REGION_BASE, len: REGION_LEN, errno })
        }
    }
}

/// Has the kernel give the mapping its origin (`anon_vma`) while it is whole. Parts that are watched, or
/// lack pages, are mappings of their own meanwhile, and become one with their neighbours again only if
/// all have the same origin; each would get its own with its first page.
fn touch_first() {
    // SAFETY: a page of the region, which was reserved a moment ago and which nobody knows of.
    unsafe { page::populate_write(REGION_BASE, PAGE_LEN) };
    // SAFETY: as above.
    unsafe { page::discard(REGION_BASE, PAGE_LEN) };
}

/// The lines of the process's memory map that overlap the region.
fn what_lies_there() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let overlaps = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let parse = |hex| usize::from_str_radix(hex, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(s, e)| (parse(s), parse(e))) else {
            return false;
        };
        start < REGION_BASE + REGION_LEN && end > REGION_BASE
    };
    let lines: Vec<_> = maps.lines().filter(overlaps).take(3).collect();
    if lines.is_empty() { "an unknown mapping".to_owned() } else { lines.join("; ") }
}

/// Why the region could not be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionError {
    /// Something else is mapped in the range.
    Occupied {
        /// What the process's memory map says about it.
        mapping: String,
    },
    /// The kernel refused the call.
    Refused {
        /// Name of the system call.
        call: &'static str,
        /// Its address argument.
        addr: usize,
        /// Its length argument in bytes.
        len: usize,
        /// The kernel's error number.
        errno: i32,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionError::Occupied { mapping } => write!(
                f,
                "the address range {REGION_BASE:#x}+{REGION_LEN:#x} that tasks live in is taken: {mapping}; \
                 no task can start. Whatever maps memory there has to choose another address"
            ),
            RegionError::Refused { call, addr, len, errno } => {
                write!(f, "{call}({addr:#x}, {len:#x}) failed: {}; ", sys::describe(*errno))?;
                f.write_str(
                    "no task can start. Reserving takes 19 TiB of addresses (no memory): \
                     see `ulimit -v` and vm.overcommit_memory",
                )
            }
        }
    }
}

impl std::error::Error for RegionError {}

const _: () = assert!(REGION_BASE.is_multiple_of(CLASS_SPAN_LEN) && PAGE_LEN == 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::missing::{Mark, Missing};

    #[test]
    fn reserving_twice_gives_the_same_region() {
        let first = Region::reserve().unwrap();
        assert!(std::ptr::eq(first, Region::reserve().unwrap()));
    }

    /// How many mappings the region consists of.
    fn mappings() -> usize {
        let starts = |line: &str| usize::from_str_radix(line.split('-').next()?, 16).ok();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter_map(starts).filter(|&start| in_region(start)).count()
    }

    #[test]
    fn parts_that_lacked_pages_become_one_with_the_rest_again() {
        Region::reserve().unwrap();
        let Some(missing) = Missing::global() else {
            return println!("not tested: missing pages cannot be served here");
        };
        // Far from what other tests use.
        let at = |n: usize| REGION_BASE + REGION_LEN - (n + 1) * (64 << 20);
        let (len, bytes) = (1 << 20, [7; PAGE_LEN]);
        let before = mappings();
        for turn in 0..10 {
            let parts: Vec<usize> = (0..8).map(|n| at(8 * turn + n)).collect();
            for &part in &parts {
                missing.register(part, len, false).unwrap();
                missing.install(part, &bytes, Mark::Dirty, &mut |_, _| ()).unwrap();
            }
            assert!(mappings() >= before + 8, "they are apart meanwhile");
            for &part in &parts {
                missing.unregister(part, len).unwrap();
                // SAFETY: nobody else uses these addresses.
                unsafe { page::discard(part, len) };
                // SAFETY: as above.
                unsafe { page::populate_huge(part, 4 * page::HUGE_PAGE_LEN) };
                // SAFETY: as above.
                unsafe { page::discard(part, 4 * page::HUGE_PAGE_LEN) };
            }
        }
        assert!(mappings() <= before + 2, "{} mappings, {before} before", mappings());
    }

    #[test]
    fn the_error_says_what_lies_in_the_way() {
        Region::reserve().unwrap();
        // The region itself is in the way of a second one.
        assert_eq!(sys::reserve(REGION_BASE, REGION_LEN), Err(sys::EEXIST));
        let error = RegionError::Occupied { mapping: what_lies_there() };
        assert!(error.to_string().contains("200000000000-"), "{error}");
    }
}
