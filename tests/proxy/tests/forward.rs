//! The proxy itself: what is sent comes as the profile says, and is counted.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use migrt_test_proxy::{Counts, Profile, Proxy};

const SEED: u64 = 11;

/// A number that came to the target, from where, and when.
type Got = (u32, SocketAddr, Instant);

/// Nothing more is expected after so long a silence.
const QUIET: Duration = Duration::from_millis(300);

/// An end that answers nothing by itself, and a client that knows it by its proxy only.
struct Pair {
    target: UdpSocket,
    client: UdpSocket,
    proxy: Proxy,
    got: Receiver<Got>,
}

impl Pair {
    fn new(profile: Profile) -> Pair {
        let open = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (target, client) = (open(), open());
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let proxy = Proxy::start(SEED, profile, target.local_addr().unwrap()).unwrap();
        let (tx, got) = channel();
        let reader = target.try_clone().unwrap();
        // Read at once: an ordinary socket has room for some 250 packets only.
        std::thread::spawn(move || {
            let mut bytes = [0; 4];
            while let Ok((_, from)) = reader.recv_from(&mut bytes) {
                if tx.send((u32::from_le_bytes(bytes), from, Instant::now())).is_err() {
                    break;
                }
            }
        });
        Pair { target, client, proxy, got }
    }

    fn send(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            if number.is_multiple_of(16) {
                // On a busy machine the proxy's socket would overflow.
                std::thread::sleep(Duration::from_micros(200));
            }
            self.client.send_to(&number.to_le_bytes(), self.proxy.addr()).unwrap();
        }
    }

    /// Everything that comes to the target until nothing comes any more.
    fn receive(&self) -> Vec<Got> {
        std::iter::from_fn(|| self.got.recv_timeout(QUIET).ok()).collect()
    }

    fn numbers(&self) -> Vec<u32> {
        self.receive().into_iter().map(|(number, ..)| number).collect()
    }
}

#[test]
fn a_clean_wire_carries_all_in_order_both_ways() {
    let pair = Pair::new(Profile::CLEAN);
    pair.send(0..500);
    let got = pair.receive();
    let numbers: Vec<u32> = got.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    let back = got[0].1;
    assert_ne!(back, pair.client.local_addr().unwrap(), "it came past the proxy");
    let long = vec![7; 65_507];
    pair.target.send_to(&long, back).unwrap();
    let mut bytes = vec![0; 70_000];
    let (len, from) = pair.client.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..len], from), (&long[..], pair.proxy.addr()));
    let wanted = |n| Counts { taken: n, forwarded: n, ..Counts::default() };
    assert_eq!((pair.proxy.counts_there(), pair.proxy.counts_back()), (wanted(500), wanted(1)));
}

#[test]
fn a_rough_wire_loses_doubles_and_reorders_the_same_packets_each_time() {
    let profile = Profile { loss: 0.1, duplicate: 0.1, reorder: 0.1, ..Profile::ROUGH };
    let once = || {
        let pair = Pair::new(profile);
        for from in (0..400).step_by(4) {
            pair.send(from..from + 4);
            std::thread::sleep(Duration::from_micros(300));
        }
        let numbers = pair.numbers();
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        numbers.iter().for_each(|n| *times.entry(*n).or_default() += 1);
        let counts = pair.proxy.counts_there();
        assert_eq!(counts.taken, 400);
        assert_eq!(counts.forwarded + counts.dropped, 400, "{counts:?}");
        assert_eq!(times.len() as u64, counts.forwarded);
        let doubled = times.values().filter(|times| **times == 2).count() as u64;
        assert_eq!(doubled, counts.duplicated);
        assert!(counts.dropped > 20 && counts.duplicated > 20, "{counts:?}");
        assert!(counts.reordered > 20, "{counts:?}");
        times
    };
    assert_eq!(once(), once(), "seed {SEED}");
}

#[test]
fn delay_and_rate_take_their_time() {
    let delay = Duration::from_millis(30);
    let pair = Pair::new(Profile { delay, ..Profile::CLEAN });
    let since = Instant::now();
    pair.send(0..1);
    let when = pair.receive()[0].2;
    assert!(when - since >= delay, "{:?}", when - since);

    // 100 packets of 4 bytes at 4,000 bytes per second take 100 ms; a queue of 40 bytes holds ten.
    pair.proxy.set_profile(Profile { rate: Some(4_000), ..Profile::CLEAN });
    let since = Instant::now();
    pair.send(0..100);
    let got = pair.receive();
    assert_eq!(got.len(), 100);
    assert!(got[99].2 - since >= Duration::from_millis(100), "{:?}", got[99].2 - since);
    pair.proxy.set_profile(Profile { rate: Some(400), queue_len_max: 40, ..Profile::CLEAN });
    pair.send(0..50);
    assert_eq!(pair.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(pair.proxy.counts_there().overrun, 40);
}

#[test]
fn a_cut_takes_what_is_sent_and_what_is_under_way() {
    let pair = Pair::new(Profile { delay: Duration::from_millis(100), ..Profile::CLEAN });
    pair.send(0..3);
    std::thread::sleep(Duration::from_millis(30));
    pair.proxy.cut();
    pair.send(3..6);
    std::thread::sleep(Duration::from_millis(150));
    pair.proxy.mend();
    pair.send(6..9);
    assert_eq!(pair.numbers(), [6, 7, 8]);
    assert_eq!(pair.proxy.counts_there().cut, 6);
}
