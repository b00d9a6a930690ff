//! The region: one range of addresses, reserved at the same place in every process of the cluster.
//!
//! Reserving costs microseconds and no memory: pages come at their first touch. The region stays for
//! the life of the process, so there is nothing to drop. Absent: sub-ranges for other uses, another
//! base by configuration (both are constants, compared in the hello).

use std::fmt;
use std::sync::OnceLock;

use crate::page::PAGE_LEN;
use crate::slot::SlotClass;
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
    // A host that gives huge pages unasked would spend 2 MiB on the first touch of each task slot.
    // This splits the reservation in two mappings, once. EINVAL: a kernel without huge pages.
    let small_len = (SlotClass::TASK.number() as usize + 1) * CLASS_SPAN_LEN;
    match sys::no_huge_pages(REGION_BASE, small_len) {
        Ok(()) | Err(sys::EINVAL) => {
            // Found out here, and not by the first task.
            let _ = guard::method();
            Ok(Region(()))
        }
        Err(errno) => {
            Err(RegionError::Refused { call: "madvise", addr: REGION_BASE, len: small_len, errno })
        }
    }
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

    #[test]
    fn reserving_twice_gives_the_same_region() {
        let first = Region::reserve().unwrap();
        assert!(std::ptr::eq(first, Region::reserve().unwrap()));
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
