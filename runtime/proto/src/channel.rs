//! A channel's queue, at its home: which messages wait to be received, and who waits for what.
//!
//! ```text
//! sender    put ──► held, and taken ──────────────► queue ──► front ──► first ──► receiver
//!                    '── full: waits its turn ──────^           '── stays until took ──'
//! ```
//!
//! A message is a task that has its bytes and gives them once, to whoever joins it. The queue has only names, so:
//!
//! 1. The answer to [`first`](Queue::first) takes nothing out. Who asked may have moved on, and asks again from there.
//!    What was received is taken out by [`took`](Queue::took); until then it may be answered again, and whoever joins it
//!    twice finds that it was taken.
//! 2. A name that is put again is the same message: the sender has moved while it waited, and only the new question is
//!    answered.
//! 3. Messages come out in the order in which they were admitted, and a sender puts its next one after the answer: so
//!    the messages of one sender stay in order, wherever it goes.
//! 4. Each question is answered at most once, and never before its time: a full queue holds senders up, an empty one
//!    the receiver. Closing answers all.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::{Asker, NodeId, TaskId};

/// A channel: its home, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChannelId {
    /// The node that has the queue.
    pub home: NodeId,
    /// Never used again.
    pub number: u64,
}

/// What is asked of a channel's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChannelAsk {
    /// Take this message.
    Put(TaskId),
    /// Which message is to be received next?
    First,
    /// This one was received; no answer.
    Took(TaskId),
    /// No more messages; no answer.
    Close,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChannelAnswer {
    /// The message is in the queue.
    Admitted,
    /// This one is next.
    Next(TaskId),
    /// The channel is closed, and, for a receiver, empty.
    Closed,
}

/// Answers to give.
pub type Answers = Vec<(Asker, ChannelAnswer)>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Queue {
    capacity: usize,
    messages: VecDeque<TaskId>,
    /// Senders that the full queue holds up.
    waiting: VecDeque<(TaskId, Asker)>,
    /// The receiver, which the empty queue holds up.
    taker: Option<Asker>,
    is_closed: bool,
}

impl Queue {
    /// An empty queue for `capacity` messages (1 if 0).
    pub fn new(capacity: usize) -> Queue {
        Queue {
            capacity: capacity.max(1),
            messages: VecDeque::new(),
            waiting: VecDeque::new(),
            taker: None,
            is_closed: false,
        }
    }

    /// Somebody asks.
    #[must_use]
    pub fn ask(&mut self, asker: Asker, ask: ChannelAsk) -> Answers {
        match ask {
            ChannelAsk::Put(message) => self.put(message, asker),
            ChannelAsk::First => self.first(asker),
            ChannelAsk::Took(message) => self.took(message),
            ChannelAsk::Close => self.close(),
        }
    }

    /// A message is sent (rule 2).
    #[must_use]
    pub fn put(&mut self, message: TaskId, asker: Asker) -> Answers {
        if self.messages.contains(&message) {
            return vec![(asker, ChannelAnswer::Admitted)];
        }
        if let Some(waits) = self.waiting.iter_mut().find(|waits| waits.0 == message) {
            waits.1 = asker;
            return Answers::new();
        }
        if self.is_closed {
            return vec![(asker, ChannelAnswer::Closed)];
        }
        self.waiting.push_back((message, asker));
        self.admit()
    }

    /// The receiver wants the next message (rule 1).
    #[must_use]
    pub fn first(&mut self, asker: Asker) -> Answers {
        self.taker = Some(asker);
        self.answer_taker().into_iter().collect()
    }

    /// The receiver has this message. Anything but the first is passed over: it was told so before.
    #[must_use]
    pub fn took(&mut self, message: TaskId) -> Answers {
        if self.messages.front() != Some(&message) {
            return Answers::new();
        }
        self.messages.pop_front();
        let mut answers = self.admit();
        answers.extend(self.answer_taker());
        answers
    }

    /// No message is admitted any more; those that were are received yet.
    #[must_use]
    pub fn close(&mut self) -> Answers {
        self.is_closed = true;
        let refused = self.waiting.drain(..);
        let mut answers: Answers =
            refused.map(|(_, asker)| (asker, ChannelAnswer::Closed)).collect();
        answers.extend(self.answer_taker());
        answers
    }

    /// The questions of a node that has died are nobody's. Its messages stay: that they are lost is the news that
    /// the receiver gets of them.
    pub fn node_lost(&mut self, node: NodeId) {
        self.waiting.retain(|waits| waits.1.node != node);
        self.taker = self.taker.filter(|asker| asker.node != node);
    }

    /// Whether nothing is to come of it any more: whoever asks is told that it is closed.
    pub fn is_over(&self) -> bool {
        self.is_closed && self.messages.is_empty()
    }

    /// Messages that wait to be received.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes what there is room for.
    fn admit(&mut self) -> Answers {
        let mut answers = Answers::new();
        while self.messages.len() < self.capacity {
            let Some((message, asker)) = self.waiting.pop_front() else { break };
            self.messages.push_back(message);
            answers.push((asker, ChannelAnswer::Admitted));
        }
        answers.extend(self.answer_taker());
        answers
    }

    fn answer_taker(&mut self) -> Option<(Asker, ChannelAnswer)> {
        let answer = match self.messages.front() {
            Some(&message) => ChannelAnswer::Next(message),
            None if self.is_closed => ChannelAnswer::Closed,
            None => return None,
        };
        Some((self.taker.take()?, answer))
    }
}
