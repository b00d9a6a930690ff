//! Turns and limits of bulk: nobody starves, nobody gets more than the limit.

use migrt_proto::Micros;
use migrt_proto::pace::{Limit, StreamKey, Take, Turns};

const PIECE: usize = 64 << 10;

/// One link whose streams always have something to send; the wire takes a piece in `wire_us`.
struct Link {
    turns: Turns,
    sent: Vec<usize>,
}

impl Link {
    fn new(streams: usize) -> Link {
        let mut turns = Turns::new();
        (0..streams as StreamKey).for_each(|stream| turns.ask(stream));
        Link { turns, sent: vec![0; streams] }
    }

    /// Lets whoever may write do so; when to try again.
    fn step(&mut self, now: Micros, limit: &mut Limit) -> Option<Micros> {
        for stream in 0..self.sent.len() {
            match self.turns.take(now, stream as StreamKey, PIECE, limit) {
                Take::Yours => {
                    self.sent[stream] += PIECE;
                    self.turns.done(stream as StreamKey);
                    self.turns.ask(stream as StreamKey);
                    return Some(now);
                }
                Take::Until(at) => {
                    assert!(at > now);
                    return Some(at);
                }
                Take::Wait => {}
            }
        }
        None
    }

    fn total(&self) -> usize {
        self.sent.iter().sum()
    }
}

#[test]
fn streams_of_a_link_are_never_more_than_a_piece_apart() {
    let mut link = Link::new(7);
    let mut limit = Limit::new(None);
    for step in 0..1_000 {
        assert!(link.step(Micros(step), &mut limit).is_some());
        let (least, most) = (link.sent.iter().min(), link.sent.iter().max());
        assert!(most.unwrap() - least.unwrap() <= PIECE, "step {step}: {:?}", link.sent);
    }
}

#[test]
fn a_stream_that_begins_late_waits_for_one_piece_of_each_other() {
    let mut link = Link::new(3);
    let mut limit = Limit::new(None);
    (0..100).for_each(|step| _ = link.step(Micros(step), &mut limit));
    link.turns.ask(3);
    link.sent.push(0);
    (0..4).for_each(|step| _ = link.step(Micros(200 + step), &mut limit));
    assert_eq!(link.sent[3], PIECE);
}

#[test]
fn a_limit_holds_over_any_span_and_is_used_up() {
    for rate in [1_000, 1 << 20, 100 << 20, 10_u64 << 30] {
        let mut link = Link::new(2);
        let mut limit = Limit::new(Some(rate));
        let mut now = Micros(7_000_000);
        let since = now;
        while link.total() < 50 * PIECE {
            now = link.step(now, &mut limit).expect("somebody has something to send");
            let span_us = u128::from((now - since).0);
            // The burst, and the piece that was let through on credit.
            let may = u128::from(rate) * (span_us + 5_000) / 1_000_000 + PIECE as u128;
            assert!(link.total() as u128 <= may, "{} of {may} bytes at {rate} B/s", link.total());
        }
        let took_us = (now - since).0.max(1);
        let used = link.total() as u64 * 1_000_000 / took_us;
        assert!(used >= rate.min(1 << 30) / 2, "{used} of {rate} B/s");
    }
}

#[test]
fn links_share_a_limit_alike() {
    let mut links = [Link::new(1), Link::new(5)];
    let mut limit = Limit::new(Some(1 << 20));
    let mut due = [Micros(0); 2];
    for _ in 0..1_000 {
        // The first in the list is the first to ask, whenever both may.
        let (next, &now) = due.iter().enumerate().min_by_key(|(_, at)| **at).unwrap();
        due[next] = links[next].step(now, &mut limit).unwrap();
    }
    let [a, b] = links.map(|link| link.total());
    assert!(a.abs_diff(b) <= 2 * PIECE, "{a} and {b}");
}

#[test]
fn nothing_is_granted_while_messages_wait_and_the_head_is_told_when_they_are_through() {
    let mut turns = Turns::new();
    let mut limit = Limit::new(None);
    turns.ask(1);
    turns.ask(2);
    assert_eq!(turns.take(Micros(0), 1, PIECE, &mut limit), Take::Yours);
    assert_eq!(turns.hold(true), None);
    assert_eq!(turns.hold(false), None, "the one that writes tells the next");
    turns.hold(true);
    assert_eq!(turns.done(1), Some(2));
    assert_eq!(turns.take(Micros(1), 2, PIECE, &mut limit), Take::Wait);
    assert_eq!(turns.hold(false), Some(2));
    assert_eq!(turns.take(Micros(2), 2, PIECE, &mut limit), Take::Yours);
}

#[test]
fn one_that_is_over_holds_nobody_up_wherever_it_stood() {
    let mut turns = Turns::new();
    let mut limit = Limit::new(Some(1_000));
    (1..=3).for_each(|stream| turns.ask(stream));
    assert_eq!(turns.take(Micros(0), 1, PIECE, &mut limit), Take::Yours);
    assert_eq!(turns.done(2), None);
    assert_eq!(turns.done(1), Some(3));
    assert!(matches!(turns.take(Micros(1), 3, PIECE, &mut limit), Take::Until(_)));
    assert_eq!(turns.done(3), None);
}

#[test]
fn what_is_charged_delays_the_others() {
    let mut limit = Limit::new(Some(1_000_000));
    limit.charge(Micros(0), 1_000_000);
    assert_eq!(limit.reserve(Micros(0), 1), Micros(995_000), "a second, less the burst");
    assert_eq!(Limit::new(None).reserve(Micros(5), PIECE), Micros(5));
}
