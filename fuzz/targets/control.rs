//! Control frames: any bytes are a frame or an error, and a frame means the same after another trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::{describe, wire::Frame};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::decode(bytes) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        // Numbers have one shortest form, and encoding finds it.
        assert!(again.len() <= bytes.len(), "{frame:?} grew from {} bytes", bytes.len());
        assert_eq!(Frame::decode(&again), Ok(frame));
    }
    let _ = describe(bytes);
});
