//! The queue of packets under way, and the thread that lets them arrive when they are due.
//!
//! ```text
//! take: cut? ─► dice: lost? ─► full? ─► rate: when has it left? ─► + delay (+ hold) ─► queue
//! run:  due? ─► cut? ─► sent
//! ```
//!
//! A packet that is not held back never arrives before one that was taken earlier. A cut takes what
//! comes to the lane while it lasts, and what would arrive while it lasts.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::ops::AddAssign;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Profile, dice};

/// One direction between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Who sends.
    pub from: u16,
    /// Who is to receive.
    pub to: u16,
}

/// What has become of the packets of one or more lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came to the proxy.
    pub taken: u64,
    /// Packets that it sent on, copies aside.
    pub forwarded: u64,
    /// Lost by the dice.
    pub dropped: u64,
    /// Lost because the queue was full.
    pub overrun: u64,
    /// Lost to a cut, on entering or on arriving; copies too.
    pub cut: u64,
    /// Copies that were sent.
    pub duplicated: u64,
    /// Packets sent after a later one of their lane.
    pub reordered: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.taken += more.taken;
        self.forwarded += more.forwarded;
        self.dropped += more.dropped;
        self.overrun += more.overrun;
        self.cut += more.cut;
        self.duplicated += more.duplicated;
        self.reordered += more.reordered;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    /// Of lanes that nobody has spoken of yet.
    usual: Profile,
    lanes: BTreeMap<Lane, Traffic>,
    /// By due time, then in the order of taking.
    under_way: BTreeMap<(Instant, u64), Packet>,
    next: u64,
    stop: bool,
}

#[derive(Debug)]
struct Traffic {
    profile: Profile,
    is_cut: bool,
    /// Packets taken so far: the number of the next one.
    number: u64,
    /// The number after the highest one that was sent.
    sent_to: u64,
    waiting_len: usize,
    /// When the last packet has left the rate limit behind.
    free_at: Instant,
    /// When the last packet that is not held back is due.
    last_due: Instant,
    counts: Counts,
}

#[derive(Debug)]
struct Packet {
    lane: Lane,
    number: u64,
    is_copy: bool,
    bytes: Arc<[u8]>,
    out: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Wire {
    pub(crate) fn start(seed: u64, usual: Profile) -> Wire {
        let state = State {
            usual,
            lanes: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next: 0,
            stop: false,
        };
        let shared = Arc::new(Shared { seed, state: Mutex::new(state), news: Condvar::new() });
        let running = shared.clone();
        let thread = Some(std::thread::spawn(move || running.run()));
        Wire { shared, thread }
    }

    /// Takes a packet that leaves through `out` and is to arrive at `to`.
    pub(crate) fn take(&self, lane: Lane, bytes: &[u8], out: &Arc<UdpSocket>, to: SocketAddr) {
        self.shared.take(lane, bytes, out, to);
    }

    /// Changes the lanes that `which` names, those of which nobody has spoken yet if `usual`.
    pub(crate) fn set_profile(&self, profile: Profile, which: impl Fn(Lane) -> bool, usual: bool) {
        let mut state = self.shared.state.lock().unwrap();
        if usual {
            state.usual = profile;
        }
        for (_, traffic) in state.lanes.iter_mut().filter(|(lane, _)| which(**lane)) {
            traffic.profile = profile;
        }
    }

    /// Makes the lane known, so that [`Wire::set_profile`] and [`Wire::set_cut`] reach it.
    pub(crate) fn know(&self, lane: Lane) {
        self.shared.state.lock().unwrap().traffic(lane);
    }

    pub(crate) fn set_cut(&self, is_cut: bool, which: impl Fn(Lane) -> bool) {
        let mut state = self.shared.state.lock().unwrap();
        for (_, traffic) in state.lanes.iter_mut().filter(|(lane, _)| which(**lane)) {
            traffic.is_cut = is_cut;
        }
    }

    pub(crate) fn counts(&self, which: impl Fn(Lane) -> bool) -> Counts {
        let state = self.shared.state.lock().unwrap();
        let mut sum = Counts::default();
        for (_, traffic) in state.lanes.iter().filter(|(lane, _)| which(**lane)) {
            sum += traffic.counts;
        }
        sum
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().stop = true;
        self.shared.news.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn traffic(&mut self, lane: Lane) -> &mut Traffic {
        let (now, profile) = (Instant::now(), self.usual);
        self.lanes.entry(lane).or_insert_with(|| Traffic {
            profile,
            is_cut: false,
            number: 0,
            sent_to: 0,
            waiting_len: 0,
            free_at: now,
            last_due: now,
            counts: Counts::default(),
        })
    }

    fn enqueue(&mut self, due: Instant, packet: Packet) {
        self.under_way.insert((due, self.next), packet);
        self.next += 1;
    }

    /// A packet that is due now; or when the next one will be.
    fn due(&mut self, now: Instant) -> Result<Option<Packet>, Option<Instant>> {
        let Some(first) = self.under_way.first_entry() else { return Err(None) };
        if first.key().0 > now {
            return Err(Some(first.key().0));
        }
        let packet = first.remove();
        let traffic = self.lanes.get_mut(&packet.lane).expect("it was taken there");
        traffic.waiting_len -= packet.bytes.len();
        let counts = &mut traffic.counts;
        if traffic.is_cut {
            counts.cut += 1;
            return Ok(None);
        }
        if packet.is_copy {
            counts.duplicated += 1;
        } else {
            counts.forwarded += 1;
            counts.reordered += u64::from(packet.number < traffic.sent_to);
            traffic.sent_to = traffic.sent_to.max(packet.number + 1);
        }
        Ok(Some(packet))
    }
}

impl Shared {
    fn take(&self, lane: Lane, bytes: &[u8], out: &Arc<UdpSocket>, to: SocketAddr) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        let traffic = state.traffic(lane);
        let number = traffic.number;
        traffic.number += 1;
        traffic.counts.taken += 1;
        let throw = dice::throw(self.seed, lane, number, &traffic.profile);
        if traffic.is_cut {
            traffic.counts.cut += 1;
            return;
        }
        if throw.is_lost {
            traffic.counts.dropped += 1;
            return;
        }
        let copies = 1 + usize::from(throw.copy_after.is_some());
        if traffic.waiting_len + copies * bytes.len() > traffic.profile.queue_len_max {
            traffic.counts.overrun += 1;
            return;
        }
        traffic.waiting_len += copies * bytes.len();
        if let Some(rate) = traffic.profile.rate {
            let time = Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            traffic.free_at = traffic.free_at.max(now) + time;
        }
        let mut due = traffic.free_at.max(now) + throw.delay;
        match throw.hold {
            Some(hold) => due += hold,
            None => {
                due = due.max(traffic.last_due);
                traffic.last_due = due;
            }
        }
        let (bytes, out) = (Arc::from(bytes), out.clone());
        let packet = Packet { lane, number, is_copy: false, bytes, out, to };
        if let Some(after) = throw.copy_after {
            let (bytes, out) = (packet.bytes.clone(), packet.out.clone());
            state.enqueue(due + after, Packet { is_copy: true, bytes, out, ..packet });
        }
        state.enqueue(due, packet);
        drop(state);
        self.news.notify_one();
    }

    fn run(&self) {
        let mut ready = Vec::new();
        let mut state = self.state.lock().unwrap();
        while !state.stop {
            let next = loop {
                match state.due(Instant::now()) {
                    Ok(packet) => ready.extend(packet),
                    Err(next) => break next,
                }
            };
            if !ready.is_empty() {
                drop(state);
                for packet in ready.drain(..) {
                    // A refused send is one more lost packet: nobody listens there any more.
                    let _ = packet.out.send_to(&packet.bytes, packet.to);
                }
                state = self.state.lock().unwrap();
                continue;
            }
            state = match next {
                None => self.news.wait(state).unwrap(),
                Some(due) => {
                    let span = due.saturating_duration_since(Instant::now());
                    self.news.wait_timeout(state, span).unwrap().0
                }
            };
        }
    }
}
