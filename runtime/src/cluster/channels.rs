//! Channels, as the cluster hears of them: their queues at their homes, and questions to those. What is answered when,
//! `migrt_proto::channel` says.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrt_proto::channel::{ChannelAnswer, ChannelAsk, ChannelId, Queue};
use migrt_proto::{Asker, NodeId, Token};

use super::ask::Question;
use super::{Cluster, Reply};
use crate::task::join::Waker;

/// A question to a channel's home, and an answer.
pub(super) const KIND_ASK: u16 = 6;
pub(super) const KIND_ANSWER: u16 = 7;

/// The queues of the channels whose home this node is.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<HashMap<u64, Queue>>);

impl Queues {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has died: nobody waits there.
    pub(super) fn node_lost(&self, node: NodeId) {
        self.lock().values_mut().for_each(|queue| queue.node_lost(node));
    }
}

impl Cluster {
    /// Makes a channel whose home is this node.
    pub(crate) fn open_channel(&self, capacity: usize) -> ChannelId {
        let number = self.next_token().0;
        self.channels.lock().insert(number, Queue::new(capacity));
        ChannelId { home: self.me, number }
    }

    /// Asks the channel's home, or looks for the answer. `Err`: the home is dead.
    pub(crate) fn poll_channel(
        &'static self,
        question: &mut Question,
        waker: &Waker,
        channel: ChannelId,
        ask: ChannelAsk,
    ) -> Option<Result<ChannelAnswer, NodeId>> {
        let mut asked = None;
        let reply = self.poll_reply(question, waker, Some(channel.home), |_, _, token| {
            asked = Some(token);
        });
        if let Some(token) = asked {
            self.tell_channel(channel, ask, token);
            // After the question: a death in between would have settled nothing.
            if !self.members().contains(&channel.home) {
                self.reply(token, Reply::Nobody);
            }
        }
        Some(match reply? {
            Reply::Channel(answer) => Ok(answer),
            _ => Err(channel.home),
        })
    }

    /// Tells the channel's home something; the answer, if there is one, comes under the token.
    pub(crate) fn tell_channel(&'static self, channel: ChannelId, ask: ChannelAsk, token: Token) {
        if channel.home == self.me {
            return self.channel_asked(channel.number, Asker { node: self.me, token }, ask);
        }
        let message = (channel.number, token, ask);
        let bytes = postcard::to_stdvec(&message).expect("plain numbers encode");
        self.tell(|core, now| core.send_custom(now, channel.home, KIND_ASK, bytes));
    }

    fn channel_asked(&'static self, number: u64, asker: Asker, ask: ChannelAsk) {
        let mut queues = self.channels.lock();
        let answers = match queues.get_mut(&number) {
            Some(queue) => {
                let answers = queue.ask(asker, ask);
                if queue.is_over() {
                    queues.remove(&number);
                }
                answers
            }
            // Closed, and nothing was left in it.
            None => match ask {
                ChannelAsk::Put(_) | ChannelAsk::First => vec![(asker, ChannelAnswer::Closed)],
                ChannelAsk::Took(_) | ChannelAsk::Close => Vec::new(),
            },
        };
        drop(queues);
        for (to, answer) in answers {
            if to.node == self.me {
                self.reply(to.token, Reply::Channel(answer));
                continue;
            }
            let bytes = postcard::to_stdvec(&(to.token, answer)).expect("plain numbers encode");
            self.tell(|core, now| core.send_custom(now, to.node, KIND_ANSWER, bytes));
        }
    }

    /// Another node asks.
    pub(super) fn channel_ask_came(&'static self, from: NodeId, bytes: &[u8]) {
        match postcard::from_bytes(bytes) {
            Ok((number, token, ask)) => {
                self.channel_asked(number, Asker { node: from, token }, ask);
            }
            Err(error) => {
                tracing::warn!(from = from.0, %error, "a question to a channel cannot be read")
            }
        }
    }

    /// Another node answers.
    pub(super) fn channel_answer_came(&self, from: NodeId, bytes: &[u8]) {
        match postcard::from_bytes(bytes) {
            Ok((token, answer)) => self.reply(token, Reply::Channel(answer)),
            Err(error) => {
                tracing::warn!(from = from.0, %error, "a channel's answer cannot be read")
            }
        }
    }
}
