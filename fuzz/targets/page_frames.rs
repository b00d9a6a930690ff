//! Sections, requests for pages and acknowledgements.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::transfer::{ASK_RUN_PAGES_MAX, LIST_RUNS_MAX, PageFrame, fuzz_frames};

fuzz_target!(|bytes: &[u8]| {
    fuzz_frames(bytes);
    match PageFrame::decode(bytes) {
        Ok(PageFrame::Ask(ask)) => {
            assert!(ask.asks.len() <= LIST_RUNS_MAX);
            assert!(ask.asks.iter().all(|run| (1..=ASK_RUN_PAGES_MAX).contains(&run.count)));
        }
        Ok(PageFrame::Ack(ack)) => assert!(ack.chunks.len() <= LIST_RUNS_MAX),
        Ok(PageFrame::Section(_)) | Err(_) => {}
    }
});
