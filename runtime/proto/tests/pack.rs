//! Packing of bulk: when it pays, and that no bytes make a block that is out of bounds.

use migrt_proto::pack::{BLOCK_LEN_MAX, BlockHead, Packing, Plan, SAMPLE_LEN};
use migrt_proto::wire::WireError;

const SLOW: u64 = 12_500_000;
const FAST: u64 = 2_000_000_000;
const PIECE: usize = 64 << 10;
/// Nanoseconds for a piece at 600 MB/s.
const NS: u64 = 110_000;

/// Sends pieces of which `left` of 1,000 bytes are left; how many were packed, and how many samples taken.
fn send(packing: &mut Packing, link: u64, pieces: u32, left: usize) -> (u32, u32) {
    let (mut packed, mut samples) = (0, 0);
    for _ in 0..pieces {
        let mut plan = packing.plan(link);
        if plan == Plan::Sample {
            samples += 1;
            plan = packing.sampled(link, SAMPLE_LEN, SAMPLE_LEN * left / 1000, NS / 16);
        }
        if plan == Plan::Pack {
            packed += 1;
            packing.packed(PIECE, PIECE * left / 1000, NS);
        }
    }
    (packed, samples)
}

#[test]
fn on_a_slow_link_what_packs_is_packed() {
    let (packed, samples) = send(&mut Packing::new(), SLOW, 1_000, 300);
    assert_eq!(packed, 1_000);
    assert!(samples < 20, "{samples}");
}

#[test]
fn on_a_fast_link_nothing_is_even_tried() {
    assert_eq!(send(&mut Packing::new(), FAST, 1_000, 10), (0, 0));
}

#[test]
fn random_bytes_are_never_packed_and_seldom_looked_at() {
    let (packed, samples) = send(&mut Packing::new(), SLOW, 1_000, 1_004);
    assert_eq!(packed, 0);
    assert!((5..15).contains(&samples), "{samples}");
}

#[test]
fn what_changes_on_the_way_is_noticed() {
    let mut packing = Packing::new();
    assert_eq!(send(&mut packing, SLOW, 10, 200).0, 10);
    let (packed, _) = send(&mut packing, SLOW, 1_000, 1_004);
    assert!(packed <= 1, "{packed}: one shows that it does not pay any more");
    let (packed, _) = send(&mut packing, SLOW, 1_000, 200);
    assert!(packed >= 700, "{packed}");
    assert_eq!(send(&mut packing, FAST, 100, 200), (0, 0), "the link became fast");
}

#[test]
fn a_slow_core_does_not_pack_for_a_link_that_it_keeps_busy_anyway() {
    let mut packing = Packing::new();
    for _ in 0..30 {
        packing.packed(PIECE, PIECE / 4, 50 * NS);
    }
    // 12 MB/s of packing and 100 MB/s of link.
    assert_eq!(packing.plan(8 * SLOW), Plan::Plain);
}

#[test]
fn heads_come_back_as_they_went() {
    let heads = [
        BlockHead::Plain { len: 1 },
        BlockHead::Plain { len: BLOCK_LEN_MAX },
        BlockHead::Packed { len: 1, plain_len: 2 },
        BlockHead::Packed { len: BLOCK_LEN_MAX - 1, plain_len: BLOCK_LEN_MAX },
    ];
    for head in heads {
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(BlockHead::decode(&bytes[..cut]), Ok(None));
        }
        bytes.push(7);
        assert_eq!(BlockHead::decode(&bytes), Ok(Some((head, &[7][..]))));
    }
}

#[test]
fn a_head_out_of_bounds_is_an_error_before_anything_is_allocated() {
    let packed =
        |len: u32, plain: u32| [(len | 1 << 31).to_le_bytes(), plain.to_le_bytes()].concat();
    let max = BLOCK_LEN_MAX as u32;
    let malformed = Err(WireError::Malformed { what: "block" });
    assert_eq!(BlockHead::decode(&0u32.to_le_bytes()), malformed);
    assert_eq!(BlockHead::decode(&packed(0, 5)), malformed);
    assert_eq!(BlockHead::decode(&packed(5, 5)), malformed, "not fewer than they become");
    assert_eq!(BlockHead::decode(&packed(0, 0)), malformed);
    for bytes in [(max + 1).to_le_bytes().to_vec(), packed(5, max + 1), packed(1, u32::MAX)] {
        assert!(matches!(BlockHead::decode(&bytes), Err(WireError::TooLong { .. })));
    }
}
