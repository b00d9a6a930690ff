//! What handles ask: joining, describing, moving and cancelling a task wherever it is.
//!
//! Each question has a token; whoever waits is woken when the answer lies under it. A task that was
//! moved while it waited finds no such token on its new node and asks again.

use migrt_proto::wire::{Answer, Ask, Outcome, Refusal};
use migrt_proto::{Core, Micros, NodeId, TaskId, Token, TryJoin};

use super::{Cluster, Reply, Wait, cluster};
use crate::task::current::{self, on_worker, wait_until};
use crate::task::join::{Joining, Waker};

/// A question under way: plain data that a task may carry along.
pub(crate) type Question = Option<(Token, NodeId)>;

impl Cluster {
    /// Looks under the token of `question`; asks (again) if there is none on this node.
    pub(crate) fn poll_reply(
        &'static self,
        question: &mut Question,
        waker: &Waker,
        of: Option<NodeId>,
        ask: impl FnOnce(&mut Core, Micros, Token),
    ) -> Option<Reply> {
        if let Some((token, node)) = *question
            && node == self.me
        {
            let mut waits = self.waits.lock().unwrap();
            if let Some(wait) = waits.get_mut(&token) {
                return match wait.reply.take() {
                    Some(reply) => {
                        waits.remove(&token);
                        Some(reply)
                    }
                    None => {
                        wait.waker = waker.clone();
                        None
                    }
                };
            }
        }
        let token = self.next_token();
        *question = Some((token, self.me));
        let wait = Wait { waker: waker.clone(), reply: None, of };
        self.waits.lock().unwrap().insert(token, wait);
        self.tell(|core, now| ask(core, now, token));
        None
    }

    /// An answer has come: it is kept for the one who waits, who is woken.
    pub(super) fn reply(&self, token: Token, reply: Reply) {
        let mut waits = self.waits.lock().unwrap();
        let Some(wait) = waits.get_mut(&token) else { return };
        let waker = wait.waker.clone();
        if waker.is_gone() {
            // The one who asked has moved on and asks again from there.
            waits.remove(&token);
        } else {
            wait.reply = Some(reply);
        }
        drop(waits);
        waker.wake();
    }
}

/// What became of the short way to join.
enum JoinHere {
    /// The outcome; `None` if the home, this node, knows of no such task.
    Done(Option<Outcome>),
    /// The waker is woken when the task ends or leaves.
    Waits,
    /// The home must be asked and will answer.
    Elsewhere,
}

impl Cluster {
    /// Joins a task whose home is here and that is here itself, without a question to anybody.
    ///
    /// The race: the task may end or leave between any two of these steps. Its outcome is stored
    /// before its join word is closed, and it is taken off the residents before that; so a word
    /// that was still open tells of both, and a closed one says to look once more.
    fn join_here(&self, task: TaskId, waker: &Waker) -> JoinHere {
        loop {
            match self.tell_only(|core| core.try_join(task)) {
                TryJoin::Done(outcome) => return JoinHere::Done(Some(outcome)),
                TryJoin::Unknown => return JoinHere::Done(None),
                TryJoin::Elsewhere => return JoinHere::Elsewhere,
                TryJoin::Pending => {}
            }
            match self.residents.with(task, |record| record.join.set_joiner(waker)) {
                Some(Joining::Registered) => return JoinHere::Waits,
                Some(Joining::Over) => {}
                Some(Joining::Occupied) | None => return JoinHere::Elsewhere,
            }
        }
    }
}

/// An outcome, and whether its home keeps it until it is told that it was taken ([`taken`]): when what it names
/// was taken too.
pub(crate) type Joined = (Option<Outcome>, bool);

/// Waits for the outcome of `task` and takes it; `None` if it is not known (any more).
pub(crate) fn join(task: TaskId) -> Joined {
    let mut question: Question = None;
    wait_until(|waker| {
        let cluster = cluster();
        if question.is_none_or(|(_, node)| node != cluster.me) {
            // The cheap way, if the home is here.
            match cluster.join_here(task, waker) {
                JoinHere::Done(outcome) => {
                    return Some((current::into_callers_heap(outcome), false));
                }
                JoinHere::Waits => return None,
                JoinHere::Elsewhere => {}
            }
        }
        match cluster.poll_reply(&mut question, waker, None, |core, now, token| {
            core.join(now, task, token);
        })? {
            Reply::Joined(outcome) => Some((current::to_callers_heap(&outcome), true)),
            _ => Some((None, false)),
        }
    })
}

/// The outcome of a join was made use of.
pub(crate) fn taken(task: TaskId) {
    on_worker(|_| cluster().tell(|core, now| core.join_taken(now, task)));
}

/// Puts a question to the task and waits for the answer.
pub(crate) fn ask(task: TaskId, ask: Ask) -> Answer {
    let mut question = None;
    let answer = wait_until(|waker| {
        let reply = cluster().poll_reply(&mut question, waker, None, |core, now, token| {
            core.ask(now, task, token, ask);
        })?;
        let answer = match reply {
            Reply::Answered(answer) => answer,
            _ => Answer::refused(ask, Refusal::UnknownTask),
        };
        Some(current::encode(&answer))
    });
    current::decode(&answer)
}

/// Nobody will join the task.
pub(crate) fn detach(task: TaskId) {
    on_worker(|_| {
        if crate::node::is_running() {
            cluster().tell(|core, now| core.detach(now, task));
        }
    });
}

/// The task shall end.
pub(crate) fn cancel(task: TaskId) {
    on_worker(|_| cluster().tell(|core, now| core.cancel(now, task)));
}
