//! Hot-set profiles of other nodes, one after the other into the same table, which stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::transfer::{Hot, PROFILE_PAGES_MAX, PROFILES_MAX};

fuzz_target!(|bytes: &[u8]| {
    let mut hot = Hot::new();
    let mut rest = bytes;
    // The table is compared before and after each: a few show as much as many.
    for _ in 0..8 {
        let Some((&len, after)) = rest.split_first() else { break };
        let (profile, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        let before = hot.clone();
        match hot.merge_encoded(profile) {
            Ok(entry) => {
                let pages = hot.predict(entry, usize::MAX).len();
                assert!(pages <= PROFILE_PAGES_MAX && hot.entries().count() <= PROFILES_MAX);
            }
            Err(_) => assert_eq!(hot, before, "a refused profile changes nothing"),
        }
    }
});
