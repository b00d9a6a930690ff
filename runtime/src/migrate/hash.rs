//! Hashes of pages: what two nodes compare instead of the bytes.
//!
//! XXH3 of 128 bits. Not against an adversary: a node's certificate lets it run code anyway (design 11).

use migrt_iso::PAGE_LEN;
use migrt_proto::transfer::{Page, PageHash};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::remains::addr_of;

/// Of the bytes in place. If somebody writes them meanwhile it is the hash of something: who asks has
/// other means to know that.
pub(super) fn of(page: Page) -> PageHash {
    at(addr_of(page))
}

/// Of the page whose bytes, or a copy of them, lie at `addr`.
pub(super) fn at(addr: usize) -> PageHash {
    debug_assert!(migrt_iso::in_region(addr) && addr.is_multiple_of(PAGE_LEN));
    // SAFETY: a page of the region, which is mapped for good; its bytes are read once each, and if
    // they change meanwhile the result is of no use but does no harm.
    PageHash(xxh3_128(unsafe { std::slice::from_raw_parts(addr as *const u8, PAGE_LEN) }))
}

/// Of bytes that are no page in place.
pub(super) fn of_bytes(bytes: &[u8]) -> PageHash {
    PageHash(xxh3_128(bytes))
}

/// One hash of many pages and their hashes.
pub(super) fn fold(pages: impl Iterator<Item = (Page, PageHash)>) -> u128 {
    /// Of the number and the hash.
    const LEN: usize = 8 + 16;
    let mut all = Xxh3::new();
    // A few at a time: one by one they cost more than what they stand for.
    let mut some = [0; 64 * LEN];
    let mut len = 0;
    for (page, hash) in pages {
        some[len..len + 8].copy_from_slice(&page.0.to_le_bytes());
        some[len + 8..len + LEN].copy_from_slice(&hash.0.to_le_bytes());
        len += LEN;
        if len == some.len() {
            all.update(&some);
            len = 0;
        }
    }
    all.update(&some[..len]);
    all.digest128()
}
