//! The queue of a channel: order, room and answers, whoever moves and asks again.

use std::collections::{BTreeMap, VecDeque};

use migrt_proto::channel::{Answers, ChannelAnswer, ChannelAsk, Queue};
use migrt_proto::{Asker, Generation, NodeId, TaskId, Token};
use proptest::prelude::*;

fn task(number: u64) -> TaskId {
    TaskId::new(NodeId(0), Generation(0), number)
}

fn asker(number: u64) -> Asker {
    Asker { node: NodeId(1), token: Token(number) }
}

#[test]
fn a_full_queue_holds_senders_up_and_an_empty_one_the_receiver() {
    let mut queue = Queue::new(2);
    assert_eq!(queue.first(asker(1)), []);
    let answers = queue.put(task(1), asker(2));
    assert_eq!(
        answers,
        [(asker(2), ChannelAnswer::Admitted), (asker(1), ChannelAnswer::Next(task(1)))]
    );
    assert_eq!(queue.put(task(2), asker(3)), [(asker(3), ChannelAnswer::Admitted)]);
    assert_eq!(queue.put(task(3), asker(4)), []);
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.took(task(2)), [], "only the first");
    assert_eq!(queue.took(task(1)), [(asker(4), ChannelAnswer::Admitted)]);
    assert_eq!(queue.first(asker(5)), [(asker(5), ChannelAnswer::Next(task(2)))]);
    assert_eq!(
        queue.first(asker(6)),
        [(asker(6), ChannelAnswer::Next(task(2)))],
        "until it is taken"
    );
}

#[test]
fn closing_answers_all_and_what_was_admitted_is_received_yet() {
    let mut queue = Queue::new(1);
    assert_eq!(queue.put(task(1), asker(1)).len(), 1);
    assert_eq!(queue.put(task(2), asker(2)), []);
    assert_eq!(queue.close(), [(asker(2), ChannelAnswer::Closed)]);
    assert_eq!(queue.put(task(3), asker(3)), [(asker(3), ChannelAnswer::Closed)]);
    assert_eq!(
        queue.put(task(1), asker(4)),
        [(asker(4), ChannelAnswer::Admitted)],
        "it was, before"
    );
    assert!(!queue.is_over());
    assert_eq!(queue.first(asker(5)), [(asker(5), ChannelAnswer::Next(task(1)))]);
    assert_eq!(queue.took(task(1)), []);
    assert!(queue.is_over());
    assert_eq!(queue.first(asker(6)), [(asker(6), ChannelAnswer::Closed)]);
    let mut queue = Queue::new(1);
    assert_eq!(queue.first(asker(1)), []);
    assert_eq!(queue.close(), [(asker(1), ChannelAnswer::Closed)]);
}

#[test]
fn a_dead_node_waits_for_nothing() {
    let mut queue = Queue::new(1);
    let elsewhere = Asker { node: NodeId(2), token: Token(9) };
    assert_eq!(queue.put(task(1), asker(1)).len(), 1);
    assert_eq!(queue.put(task(2), elsewhere), []);
    queue.node_lost(NodeId(2));
    assert_eq!(queue.took(task(1)), [], "nobody is let in");
    assert_eq!(queue.first(elsewhere), []);
    queue.node_lost(NodeId(2));
    assert_eq!(queue.put(task(3), asker(3)), [(asker(3), ChannelAnswer::Admitted)]);
}

/// What happens next: by whom, of the senders.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A sender sends its next message, or, if it waits, has moved and asks again.
    Send(usize),
    /// The receiver asks, perhaps again, from elsewhere.
    First,
    /// The receiver says what it has received last; news may be late and come twice.
    Took { again: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize).prop_map(Step::Send),
        3 => Just(Step::First),
        3 => any::<bool>().prop_map(|again| Step::Took { again }),
    ];
    prop::collection::vec(step, 0..200)
}

#[derive(Default)]
struct World {
    tokens: u64,
    /// Per sender: how many it has sent, and the message and question that it waits for.
    sent: [u64; 3],
    waits: [Option<(TaskId, Token)>; 3],
    asked: Option<Token>,
    told: Option<TaskId>,
    received: Vec<TaskId>,
    news: VecDeque<TaskId>,
}

impl World {
    fn token(&mut self) -> Asker {
        self.tokens += 1;
        asker(self.tokens)
    }

    fn hear(&mut self, answers: Answers) {
        for (to, answer) in answers {
            match answer {
                ChannelAnswer::Admitted => {
                    let who = self.waits.iter().position(|w| w.is_some_and(|w| w.1 == to.token));
                    // A question that was put again has no second answer.
                    self.waits[who.expect("somebody waits for this answer")] = None;
                }
                ChannelAnswer::Next(message) => {
                    assert_eq!(self.asked.take(), Some(to.token), "asked, and not answered yet");
                    self.told = Some(message);
                }
                ChannelAnswer::Closed => panic!("nobody has closed it"),
            }
        }
    }

    /// The message is joined: it gives its bytes once.
    fn receive(&mut self) {
        if let Some(message) = self.told.take() {
            if !self.received.contains(&message) {
                self.received.push(message);
            }
            self.news.push_back(message);
        }
    }
}

proptest! {
    #[test]
    fn messages_arrive_once_in_their_senders_order_and_no_more_are_held_than_there_is_room(
        steps in steps(),
        capacity in 1..4usize,
    ) {
        let mut queue = Queue::new(capacity);
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Send(who) => {
                    let asker = world.token();
                    let message = match world.waits[who] {
                        Some((message, _)) => message,
                        None => {
                            world.sent[who] += 1;
                            task(1 + who as u64 + 3 * world.sent[who])
                        }
                    };
                    world.waits[who] = Some((message, asker.token));
                    let answers = queue.ask(asker, ChannelAsk::Put(message));
                    world.hear(answers);
                }
                Step::First => {
                    let asker = world.token();
                    world.asked = Some(asker.token);
                    let answers = queue.ask(asker, ChannelAsk::First);
                    world.hear(answers);
                    world.receive();
                }
                Step::Took { again } => {
                    let Some(&message) = world.news.front() else { continue };
                    if !again {
                        world.news.pop_front();
                    }
                    let asker = world.token();
                    let answers = queue.ask(asker, ChannelAsk::Took(message));
                    world.hear(answers);
                    world.receive();
                }
            }
            prop_assert!(queue.len() <= capacity);
        }
        let mut last = BTreeMap::new();
        for message in &world.received {
            let number = message.sequence() - 1;
            let before = last.insert(number % 3, number / 3).unwrap_or(0);
            prop_assert_eq!(number / 3, before + 1, "in order, none left out");
        }
        // All that was sent comes, if the receiver goes on.
        loop {
            while let Some(message) = world.news.pop_front() {
                let asker = world.token();
                let answers = queue.ask(asker, ChannelAsk::Took(message));
                world.hear(answers);
                world.receive();
            }
            if queue.is_empty() {
                break;
            }
            let asker = world.token();
            world.asked = Some(asker.token);
            let answers = queue.ask(asker, ChannelAsk::First);
            world.hear(answers);
            world.receive();
        }
        prop_assert_eq!(world.received.len() as u64, world.sent.iter().sum::<u64>());
    }
}
