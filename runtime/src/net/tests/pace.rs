//! Bulk beside messages and beside other bulk: by order and bytes, not by time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;

const MIB: usize = 1 << 20;
/// Bytes of bulk that can be under way to one peer on loopback.
const WINDOW: usize = 2 * MIB;

/// So many bytes, lent.
fn lent(len: usize) -> Vec<Part> {
    let one = Bytes::from(noise(9, MIB));
    (0..len / MIB).map(|_| Part::Lent(one.clone())).collect()
}

#[test]
fn between_two_messages_there_is_little_bulk_however_much_is_sent() {
    const TOTAL: usize = 256 * MIB;
    let (a, b) = pair();
    let received = Arc::new(AtomicUsize::new(0));
    let seen = received.clone();
    *lock(&b.probe.on_chunk) =
        Some(Box::new(move |_, len| _ = seen.fetch_add(len, Ordering::Relaxed)));
    // Each answers as soon as it hears the other; b notes how much bulk has come by then.
    let marks = Arc::new(Mutex::new(Vec::new()));
    let is_over = Arc::new(AtomicBool::new(false));
    let (noted, now, over) = (marks.clone(), received.clone(), is_over.clone());
    let log = b.log.clone();
    *lock(&b.probe.on_frame) = Some(Box::new(move |net, peer, ping| {
        lock(&noted).push(now.load(Ordering::Relaxed));
        match over.load(Ordering::Relaxed) {
            false => net.send(peer, ping.to_vec()),
            true => log.push(Event::Frame(peer, ping.to_vec())),
        }
    }));
    *lock(&a.probe.on_frame) = Some(Box::new(|net, peer, pong| net.send(peer, pong.to_vec())));
    a.net.send(1, b"ping".to_vec());
    let receipt = a.send_bulk(1, b"bulk", lent(TOTAL));
    assert_eq!(receipt.wait(), Ok(()));
    is_over.store(true, Ordering::Relaxed);
    // The last one: nothing is under way when the nodes end.
    b.log.wait_for(&Event::Frame(0, b"ping".to_vec()));
    let mut marks = lock(&marks).clone();
    marks.push(TOTAL);
    let mut gaps: Vec<usize> = marks.windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort_unstable();
    // Each way: a window under way before the message, and one that is read before it though it came
    // later. More only if a packet with a message was lost: on a busy machine, now and then.
    let late = gaps.len() / 10;
    let most = gaps[gaps.len() - 1 - late];
    let in_mib: Vec<usize> = gaps.iter().map(|gap| gap / MIB).collect();
    assert!(most <= 4 * WINDOW, "MiB of bulk between pings: {in_mib:?}");
    assert!(gaps[gaps.len() - 1] <= TOTAL / 4, "MiB of bulk between pings: {in_mib:?}");
}

/// A piece that counts how often it is looked at: when its turn comes, and when it is handed over.
struct Counted {
    stream: usize,
    bytes: Bytes,
    looks: Arc<Mutex<[usize; 6]>>,
    worst: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        let mut looks = lock(&self.looks);
        looks[self.stream] += 1;
        let (least, most) = (looks.iter().min().unwrap(), looks.iter().max().unwrap());
        self.worst.fetch_max(most - least, Ordering::Relaxed);
        &self.bytes
    }
}

#[test]
fn shipments_to_one_peer_are_handed_over_alike() {
    const PIECE: usize = 64 << 10;
    const COUNT: usize = 24 * MIB / PIECE;
    let (a, _b) = pair();
    let (looks, worst) = (Arc::default(), Arc::<AtomicUsize>::default());
    let bytes = Bytes::from(noise(9, PIECE));
    let part = |stream| -> Part {
        let (bytes, looks, worst) = (bytes.clone(), Arc::clone(&looks), worst.clone());
        Part::Shared(Box::new(Counted { stream, bytes, looks, worst }))
    };
    let receipts: Vec<_> = (0..6)
        .map(|stream| a.send_bulk(1, b"", (0..COUNT).map(|_| part(stream)).collect()))
        .collect();
    for receipt in receipts {
        assert_eq!(receipt.wait(), Ok(()));
    }
    let total = *lock(&looks).iter().max().unwrap();
    assert_eq!(total, 2 * COUNT, "each is looked at twice");
    // The first fills the window before the others have asked; from then on they take turns.
    let most = 2 * (WINDOW / PIECE + 8);
    let apart = worst.load(Ordering::Relaxed);
    assert!(apart <= most, "one was {apart} looks ahead of another, of {total}");
}

#[test]
fn messages_and_urgent_pages_pass_a_limit_that_holds_bulk_up() {
    let ca = cluster();
    // A shipment of 4 MiB would take a minute.
    let slow = Node::start_with(&ca, 0, Some(64 << 10), |_| ());
    let (a, b) = linked(slow, Node::start(&ca, 1));
    let lens = Arc::new(Mutex::new(HashMap::<Vec<u8>, usize>::new()));
    let seen = lens.clone();
    *lock(&b.probe.on_chunk) = Some(Box::new(move |header, len| {
        *lock(&seen).entry(header.to_vec()).or_default() += len;
    }));
    a.send_bulk(1, b"slow", lent(4 * MIB));
    a.send_bulk(1, b"slow too", lent(4 * MIB));
    let urgent = a.net.open_bulk_at(1, b"urgent".to_vec(), 1, Box::new(|_| ()));
    drop(urgent.push(lent(8 * MIB)));
    urgent.finish();
    let header = b"urgent".to_vec();
    b.log.wait(|events| {
        let is_it =
            |event: &Event| matches!(event, Event::Bulk { header: h, complete: true, .. } if *h == header);
        events.iter().any(is_it).then_some(())
    });
    for n in 0..100_u32 {
        a.net.send(1, n.to_le_bytes().to_vec());
    }
    b.log.wait_for(&Event::Frame(0, 99_u32.to_le_bytes().to_vec()));
    let lens = lock(&lens).clone();
    assert_eq!(lens[&header], 8 * MIB);
    for (header, len) in lens.iter().filter(|entry| *entry.0 != header) {
        assert!(*len < 3 * MIB, "{len} bytes of {}", String::from_utf8_lossy(header));
    }
}

#[test]
fn a_stream_that_the_peer_breaks_off_ends_though_nothing_more_is_written() {
    let ca = cluster();
    let strict = Node::start_as(&ca, 1, |probe| probe.sink_limit = 2 * MIB - 1);
    let (a, _b) = linked(Node::start(&ca, 0), strict);
    let (done, ended) = std::sync::mpsc::channel();
    let feed =
        a.net.open_bulk_at(1, b"too much".to_vec(), 0, Box::new(move |how| _ = done.send(how)));
    // The peer does not like the last byte, when all has been written.
    let _ = feed.push(lent(2 * MIB)).recv();
    let how = ended.recv_timeout(Duration::from_secs(20)).expect("it is told of the end");
    let why = how.expect_err("it was broken off");
    assert!(why.contains("the peer broke it off"), "{why}");
    // Whoever goes on writing is not held up.
    assert!(feed.push(lent(MIB)).recv().is_err());
}

#[test]
fn what_is_limited_arrives_whole() {
    let ca = cluster();
    let slow = Node::start_with(&ca, 0, Some(100 << 20), |_| ());
    let (a, b) = linked(slow, Node::start(&ca, 1));
    let bytes = noise(7, 8 * MIB);
    let sum = checksum(0, &bytes);
    let receipts = [0, 1].map(|n: u8| a.send_bulk(1, &[n], vec![bytes.clone().into()]));
    for (n, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt.wait(), Ok(()));
        let header = vec![n as u8];
        b.log.wait_for(&Event::Bulk { peer: 0, header, len: 8 * MIB, sum, complete: true });
    }
}

#[test]
fn under_a_limit_what_packs_goes_packed_and_random_bytes_go_as_they_are() {
    let ca = cluster();
    let slow = Node::start_with(&ca, 0, Some(20 << 20), |_| ());
    let (a, b) = linked(slow, Node::start(&ca, 1));
    let text: Vec<u8> = (0..4 * MIB).map(|n| (n / 64 % 251) as u8).collect();
    for (header, bytes) in [(&b"noise"[..], noise(3, 2 * MIB)), (b"text", text)] {
        let (len, sum) = (bytes.len(), checksum(0, &bytes));
        assert_eq!(a.send_bulk(1, header, vec![bytes.into()]).wait(), Ok(()));
        let header = header.to_vec();
        b.log.wait_for(&Event::Bulk { peer: 0, header: header.clone(), len, sum, complete: true });
        let (before, after) = a.net.packed();
        match &header[..] {
            b"noise" => assert_eq!((before, after), (0, 0)),
            _ => assert!(before > MIB as u64 && after < before / 4, "{before} became {after}"),
        }
    }
}
