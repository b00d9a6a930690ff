//! What opens a bulk stream: the head of a whole task, or of some of its pages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::wire::{ShipHeader, StreamHead};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(head) = StreamHead::decode(bytes) {
        let mut again = Vec::new();
        head.encode(&mut again);
        assert!(again.len() <= bytes.len());
        assert_eq!(StreamHead::decode(&again), Ok(head));
    }
    if let Ok(header) = ShipHeader::decode(bytes) {
        // What is counted is what is listed.
        let runs = header.slots.iter().flat_map(|slot| &slot.runs);
        assert_eq!(header.page_count(), runs.map(|run| u64::from(run.count)).sum::<u64>());
        let ends = header.slots.iter().flat_map(|slot| slot.runs.last());
        assert!(ends.into_iter().all(|run| run.first.checked_add(run.count).is_some()));
    }
});
