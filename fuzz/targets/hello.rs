//! The first message of a link, from whoever reaches the port with a certificate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrt_proto::wire::Hello;

fuzz_target!(|bytes: &[u8]| {
    let Ok(hello) = Hello::decode(bytes) else {
        let _ = Hello::peek_version(bytes);
        return;
    };
    assert_eq!(Hello::peek_version(bytes), Some(hello.wire_version));
    let mut again = Vec::new();
    hello.encode(&mut again);
    assert!(again.len() <= bytes.len());
    assert_eq!(Hello::decode(&again).as_ref(), Ok(&hello));
    // A node never fits itself, and says why in words.
    let why = hello.compare(&hello).expect_err("one node twice");
    assert!(!why.to_string().is_empty());
});
