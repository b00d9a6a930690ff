//! One reliable, ordered conversation with each live process, over links that break.
//!
//! Every frame but a heartbeat carries a number and is kept until the peer has acknowledged it; after a reconnection
//! what is unacknowledged is sent again, and the receiver takes each number once, in order. So between two processes
//! that both live, frames arrive exactly once and in order; the other cores rely on it, and lose frames only by death.
//! Closing (death) forgets the conversation; a new incarnation starts a new one.
//!
//! Envelope: `[number, 0 = outside the order][highest number taken from the other side][frame]`, varints first.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    id::{Epoch, NodeId, Place, TaskId},
    time::Micros,
    wire::{Frame, WireError},
};

/// An acknowledgement waits this long for a frame to ride on.
const ACK_DELAY: Micros = Micros::from_millis(20);
/// ... unless this many frames wait for it.
const ACK_COUNT_MAX: u32 = 64;
/// Unacknowledged frames on a link that is up are sent again after this: a safety net, breaks are told by `up`.
const RESEND_AFTER: Micros = Micros::from_millis(3_000);

#[derive(Debug, Default)]
pub(crate) struct Courier {
    lines: BTreeMap<NodeId, Line>,
    settled: Vec<(TaskId, Epoch)>,
}

#[derive(Debug, Default)]
struct Line {
    place: Option<Place>,
    up: bool,
    sent: u64,
    unacked: VecDeque<Letter>,
    taken: u64,
    ack_count: u32,
    ack_due: Option<Micros>,
    resend_due: Option<Micros>,
}

#[derive(Debug)]
struct Letter {
    number: u64,
    body: Vec<u8>,
    /// The residence that it tells a home of.
    residence: Option<(TaskId, Epoch)>,
}

impl Courier {
    /// Queues `frame` for `to`; the bytes to send now, if the link is up. `residence`: what is settled when the frame
    /// has arrived.
    pub(crate) fn send(
        &mut self,
        now: Micros,
        to: NodeId,
        frame: &Frame,
        residence: Option<(TaskId, Epoch)>,
    ) -> Option<Vec<u8>> {
        let line = self.lines.entry(to).or_default();
        let mut body = Vec::new();
        frame.encode(&mut body);
        line.sent += 1;
        let bytes = line.up.then(|| line.envelope(line.sent, &body));
        line.unacked.push_back(Letter { number: line.sent, body, residence });
        if line.up && line.resend_due.is_none() {
            line.resend_due = Some(now + RESEND_AFTER);
        }
        bytes
    }

    /// A frame outside the order: may get lost, is not sent again.
    pub(crate) fn send_loose(&mut self, to: NodeId, frame: &Frame) -> Option<Vec<u8>> {
        let line = self.lines.get_mut(&to).filter(|line| line.up)?;
        let mut body = Vec::new();
        frame.encode(&mut body);
        Some(line.envelope(0, &body))
    }

    /// A link to `place` is up: what to send again.
    pub(crate) fn up(&mut self, now: Micros, place: Place) -> Vec<Vec<u8>> {
        let line = self.lines.entry(place.node).or_default();
        if line.place.is_some_and(|old| old != place) {
            *line = Line::default();
        }
        line.place = Some(place);
        line.up = true;
        line.resend(now)
    }

    pub(crate) fn down(&mut self, node: NodeId) {
        if let Some(line) = self.lines.get_mut(&node) {
            line.up = false;
            line.ack_due = None;
            line.resend_due = None;
        }
    }

    /// `node` is dead: nothing said to it matters any more.
    pub(crate) fn close(&mut self, node: NodeId) {
        let Some(line) = self.lines.remove(&node) else { return };
        self.settled.extend(line.unacked.into_iter().filter_map(|letter| letter.residence));
    }

    /// Residences that a home has heard of since the last call, or whose home is dead.
    pub(crate) fn take_settled(&mut self) -> Vec<(TaskId, Epoch)> {
        core::mem::take(&mut self.settled)
    }

    /// The frame in `bytes`, unless it was taken before or comes too early.
    pub(crate) fn receive(
        &mut self,
        now: Micros,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<Option<Frame>, WireError> {
        let Some(line) = self.lines.get_mut(&from) else { return Ok(None) };
        let ((number, acked), body) = postcard::take_from_bytes::<(u64, u64)>(bytes)
            .map_err(|_| WireError::Malformed { what: "envelope" })?;
        if acked > line.sent {
            return Err(WireError::Malformed { what: "acknowledgement" });
        }
        let waiting = line.unacked.len();
        while let Some(letter) = line.unacked.pop_front_if(|letter| letter.number <= acked) {
            self.settled.extend(letter.residence);
        }
        if line.unacked.is_empty() {
            line.resend_due = None;
        } else if line.unacked.len() != waiting {
            line.resend_due = Some(now + RESEND_AFTER);
        }
        if number == 0 {
            return Frame::decode(body).map(Some);
        }
        if number > line.taken + 1 {
            return Ok(None);
        }
        line.ack_count += 1;
        if number <= line.taken {
            // Sent again because our acknowledgement got lost: say it once more.
            line.ack_due = Some(now);
            return Ok(None);
        }
        let frame = Frame::decode(body)?;
        line.taken = number;
        let due = if line.ack_count >= ACK_COUNT_MAX { now } else { now + ACK_DELAY };
        line.ack_due = Some(line.ack_due.map_or(due, |earlier| earlier.min(due)));
        Ok(Some(frame))
    }

    /// Acknowledgements and repetitions that are due.
    pub(crate) fn tick(&mut self, now: Micros) -> Vec<(NodeId, Vec<u8>)> {
        let mut due = Vec::new();
        for (&node, line) in &mut self.lines {
            if !line.up {
                continue;
            }
            if line.resend_due.is_some_and(|at| at <= now) {
                due.extend(line.resend(now).into_iter().map(|bytes| (node, bytes)));
            }
            if line.ack_due.is_some_and(|at| at <= now) {
                let mut body = Vec::new();
                Frame::Acked.encode(&mut body);
                due.push((node, line.envelope(0, &body)));
            }
        }
        due
    }

    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        let up = self.lines.values().filter(|line| line.up);
        up.flat_map(|line| line.ack_due.into_iter().chain(line.resend_due)).min()
    }

    /// Frames that wait for an acknowledgement.
    pub(crate) fn unacked_count(&self) -> usize {
        self.lines.values().map(|line| line.unacked.len()).sum()
    }
}

/// A control message in words, for traces.
pub fn describe(bytes: &[u8]) -> String {
    let Ok(((number, acked), body)) = postcard::take_from_bytes::<(u64, u64)>(bytes) else {
        return "no control message".into();
    };
    match Frame::decode(body) {
        Ok(frame) => format!("{number}/{acked} {frame:?}"),
        Err(error) => format!("{number}/{acked} {error}"),
    }
}

impl Line {
    fn envelope(&mut self, number: u64, body: &[u8]) -> Vec<u8> {
        self.ack_due = None;
        self.ack_count = 0;
        let mut bytes =
            postcard::to_extend(&(number, self.taken), Vec::with_capacity(body.len() + 12))
                .expect("two numbers always encode");
        bytes.extend_from_slice(body);
        bytes
    }

    fn resend(&mut self, now: Micros) -> Vec<Vec<u8>> {
        let unacked = core::mem::take(&mut self.unacked);
        let again =
            unacked.iter().map(|letter| self.envelope(letter.number, &letter.body)).collect();
        self.unacked = unacked;
        self.resend_due = (!self.unacked.is_empty()).then(|| now + RESEND_AFTER);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn place(node: NodeId, incarnation: u64) -> Place {
        Place::new(node, Incarnation(incarnation))
    }

    fn frame(n: u64) -> Frame {
        Frame::Custom { kind: 0, bytes: n.to_le_bytes().to_vec() }
    }

    #[test]
    fn frames_arrive_once_and_in_order_over_a_link_that_breaks() {
        let (mut a, mut b, now) = (Courier::default(), Courier::default(), Micros::ZERO);
        a.up(now, place(B, 0));
        b.up(now, place(A, 0));
        let one = a.send(now, B, &frame(1), None).unwrap();
        let two = a.send(now, B, &frame(2), None).unwrap();
        assert_eq!(b.receive(now, A, &two), Ok(None), "two must wait for one");
        assert_eq!(b.receive(now, A, &one), Ok(Some(frame(1))));
        a.down(B);
        assert_eq!(a.send(now, B, &frame(3), None), None);
        let again = a.up(now, place(B, 0));
        let taken: Vec<_> =
            again.iter().filter_map(|bytes| b.receive(now, A, bytes).unwrap()).collect();
        assert_eq!(taken, [frame(2), frame(3)]);
        let acks = b.tick(now + ACK_DELAY);
        assert_eq!(a.receive(now, B, &acks[0].1), Ok(Some(Frame::Acked)));
        assert_eq!((a.unacked_count(), a.next_deadline(), b.next_deadline()), (0, None, None));
    }

    #[test]
    fn a_lost_frame_is_repeated_even_if_no_break_was_told() {
        let (mut a, now) = (Courier::default(), Micros::ZERO);
        a.up(now, place(B, 0));
        a.send(now, B, &frame(1), None).unwrap();
        assert!(a.tick(now + RESEND_AFTER - Micros(1)).is_empty());
        assert_eq!(a.tick(now + RESEND_AFTER).len(), 1);
    }

    #[test]
    fn a_new_incarnation_gets_nothing_that_was_meant_for_the_old_one() {
        let (mut a, now) = (Courier::default(), Micros::ZERO);
        a.up(now, place(B, 0));
        a.send(now, B, &frame(1), None);
        assert!(a.up(now, place(B, 1)).is_empty());
    }

    #[test]
    fn what_is_said_before_the_first_link_is_kept() {
        let (mut a, now) = (Courier::default(), Micros::ZERO);
        assert_eq!(a.send(now, B, &frame(1), None), None);
        assert_eq!(a.up(now, place(B, 7)).len(), 1);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let (mut a, now) = (Courier::default(), Micros::ZERO);
        a.up(now, place(B, 0));
        assert!(a.receive(now, B, &[0, 9, 0]).is_err());
        assert!(a.receive(now, B, &[]).is_err());
    }
}
