//! Frames, shipments, ticks and closing between nodes that get along.

use super::*;

#[test]
fn frames_arrive_in_order_both_ways() {
    let (a, b) = pair();
    let frames: Vec<_> = (0..3_000_u64)
        .map(|n| noise(n, if n % 500 == 499 { 3 << 20 } else { (n * 37 % 20_000) as usize }))
        .collect();
    for frame in &frames {
        a.net.send(1, frame.clone());
        b.net.send(0, frame.clone());
    }
    for log in [&a.log, &b.log] {
        log.wait(|events| (events.len() == 1 + frames.len()).then_some(()));
        assert!(log.frames() == frames);
    }
}

#[test]
fn the_probe_of_udp_limits_answers() {
    let limits = UdpLimits::probe().unwrap();
    assert!(limits.receive_len > 0 && limits.send_len > 0);
    assert!(limits.receive_len <= UdpLimits::WANTED && limits.send_len <= UdpLimits::WANTED);
}

#[test]
fn bulk_of_64_mib_arrives_whole_whoever_owns_the_bytes() {
    let (a, b) = pair();
    let bytes = noise(7, 64 << 20);
    let sum = checksum(0, &bytes);
    let pages = || bytes.chunks(1 << 20).map(|page| Part::Owned(page.to_vec())).collect();
    let shared = Arc::new(bytes.clone());
    struct Kept(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let receipts = [
        a.send_bulk(1, b"owned", pages()),
        a.send_bulk(1, b"shared", vec![Part::Shared(Box::new(Kept(shared)))]),
    ];
    for header in [&b"owned"[..], b"shared"] {
        let header = header.to_vec();
        b.log.wait_for(&Event::Bulk { peer: 0, header, len: 64 << 20, sum, complete: true });
    }
    for receipt in receipts {
        assert_eq!(receipt.wait(), Ok(()));
    }
}

#[test]
fn small_parts_of_a_shipment_keep_their_order() {
    let (a, b) = pair();
    let bytes = noise(3, 1_000_000);
    let mut parts = Vec::new();
    let mut rest = &bytes[..];
    for len in [0, 1, 4_096, 17_000, 3, 200_000, 16_384, 16_385].into_iter().cycle() {
        let (part, tail) = rest.split_at(rest.len().min(len));
        parts.push(part.to_vec().into());
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    a.send_bulk(1, b"", parts);
    let (len, sum) = (bytes.len(), checksum(0, &bytes));
    b.log.wait_for(&Event::Bulk { peer: 0, header: vec![], len, sum, complete: true });
}

#[test]
fn a_sink_that_refuses_breaks_the_shipment_off_on_both_sides() {
    let ca = cluster();
    let small = Node::start_as(&ca, 0, |probe| probe.sink_limit = 1_000);
    let (a, b) = linked(small, Node::start(&ca, 1));
    let receipt = b.send_bulk(0, b"h", vec![noise(1, 64 << 20).into()]);
    let why = receipt.wait().unwrap_err();
    assert!(why.contains("n0") && why.contains("broke it off"), "{why}");
    a.log.wait(|events| {
        events
            .iter()
            .any(|event| matches!(event, Event::Bulk { complete: false, .. }))
            .then_some(())
    });
    // The link itself is as good as before.
    b.net.send(0, b"still there".to_vec());
    a.log.wait_for(&Event::Frame(1, b"still there".to_vec()));
}

#[test]
fn without_a_link_a_shipment_is_refused_and_a_frame_dropped() {
    let ca = cluster();
    let a = Node::start(&ca, 0);
    a.net.send(9, b"lost".to_vec());
    let why = a.send_bulk(9, b"", vec![]).wait().unwrap_err();
    assert!(why.contains("n9"), "{why}");
}

#[test]
fn frames_sent_from_callbacks_go_out() {
    let (a, b) = pair();
    let countdown = |log: &Arc<Log>| -> OnFrame {
        let log = log.clone();
        Box::new(move |net, peer, bytes| {
            assert!(net.is_net_thread());
            let left = u32::from_le_bytes(bytes.try_into().unwrap());
            if left == 0 {
                log.push(Event::Frame(peer, b"end".to_vec()));
            } else {
                net.send(peer, (left - 1).to_le_bytes().to_vec());
            }
        })
    };
    *lock(&a.probe.on_frame) = Some(countdown(&a.log));
    *lock(&b.probe.on_frame) = Some(countdown(&b.log));
    assert!(!a.net.is_net_thread());
    a.net.send(1, 2_000_u32.to_le_bytes().to_vec());
    b.log.wait_for(&Event::Frame(0, b"end".to_vec()));
}

#[test]
fn ticks_come_at_their_deadlines_and_after_callbacks() {
    let ca = cluster();
    let ticks = Arc::new(Mutex::new((0, Instant::now())));
    let seen = ticks.clone();
    let a = Node::start_as(&ca, 0, |probe| {
        let log = probe.log.clone();
        let on_tick = move || {
            let mut ticks = lock(&seen);
            let now = Instant::now();
            if ticks.0 > 0 && ticks.0 < 5 {
                assert!(now >= ticks.1, "a tick came before its deadline");
            }
            *ticks = (ticks.0 + 1, now + Duration::from_millis(3));
            log.push(Event::Frame(0, ticks.0.to_string().into_bytes()));
            (ticks.0 < 5).then_some(ticks.1)
        };
        probe.on_tick = Mutex::new(Some(Box::new(on_tick)));
    });
    a.log.wait_for(&Event::Frame(0, b"5".to_vec()));
    assert_eq!(lock(&ticks).0, 5, "no deadline, no tick");
    a.net.run_soon(Box::new(|| ()));
    a.log.wait_for(&Event::Frame(0, b"6".to_vec()));
}

#[test]
fn close_sends_what_was_queued_and_says_why() {
    let (a, b) = pair();
    let bytes = noise(5, 8 << 20);
    for n in 0..1_000_u32 {
        a.net.send(1, n.to_le_bytes().to_vec());
    }
    let receipt = a.send_bulk(1, b"last", vec![bytes.clone().into()]);
    a.net.clone().close("the program has ended");
    assert_eq!(receipt.wait(), Ok(()));
    let why = b.log.wait_down(0);
    assert!(why.contains("the program has ended"), "{why}");
    assert_eq!(b.log.frames().len(), 1_000);
    let (len, sum) = (bytes.len(), checksum(0, &bytes));
    let header = b"last".to_vec();
    b.log.wait_for(&Event::Bulk { peer: 0, header, len, sum, complete: true });
    assert!(a.log.wait_down(1).contains("this node closed"));
    // A closed wire takes nothing and leaves nobody waiting.
    assert!(a.send_bulk(1, b"", vec![]).wait().is_err());
    a.net.clone().close("again");
}

#[test]
fn dropping_the_last_handle_closes() {
    let (a, b) = pair();
    drop(a);
    b.log.wait_down(0);
}
