//! A seeded run: frames both ways over a network that loses requests and answers, delivers requests
//! twice, and delays all of them, so that they overtake each other.

use bytes::Bytes;

use super::frame;
use crate::{
    dice::Dice,
    id::PipeId,
    limits::POLL_HOLD_MAX,
    poll::{AgentPipe, Answer, Farewell, PollTicket, RelayPipe, Request, Upward},
    session::{Close, CloseCode},
};

const SEEDS: u64 = 400;
const FRAMES: u64 = 60;

/// How long an end waits for an answer before it asks again, in ticks.
const PATIENCE: u64 = 12;

/// How long a poll is held, in ticks.
const HOLD: u64 = 6;

/// What travels, and when it arrives.
struct Travelling<T> {
    at: u64,
    /// The request of an agent it is, or answers.
    exchange: u64,
    what: T,
}

/// One of the agent's two connections.
#[derive(Default)]
struct Lane {
    exchange: Option<u64>,
    until: u64,
}

/// A request that the relay has not answered yet.
struct Held {
    exchange: u64,
    until: u64,
    what: Pending,
}

enum Pending {
    Poll(PollTicket),
    Up(u64, Vec<Bytes>, Option<Farewell>),
}

struct World {
    dice: Dice,
    now: u64,
    exchanges: u64,
    agent: AgentPipe,
    relay: RelayPipe,
    up: Lane,
    poll: Lane,
    requests: Vec<Travelling<Bytes>>,
    answers: Vec<Travelling<Bytes>>,
    held: Vec<Held>,
    sent_up: u64,
    sent_down: u64,
    heard_up: u64,
    heard_down: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: 0,
            exchanges: 0,
            agent: AgentPipe::new(PipeId::from_u128(7)),
            relay: RelayPipe::default(),
            up: Lane::default(),
            poll: Lane::default(),
            requests: Vec::new(),
            answers: Vec::new(),
            held: Vec::new(),
            sent_up: 0,
            sent_down: 0,
            heard_up: 0,
            heard_down: 0,
        }
    }

    fn step(&mut self) {
        self.now += 1;
        self.say();
        self.ask();
        self.arrive();
        self.answer_held();
        self.hear();
    }

    /// Both ends say something now and then, and in the end good-bye.
    fn say(&mut self) {
        for _ in 0..self.dice.roll(3) {
            if self.sent_up < FRAMES && self.agent.has_room() {
                self.sent_up += 1;
                self.agent.push(frame(self.sent_up));
                if self.sent_up == FRAMES {
                    self.agent.close(farewell(CloseCode::Normal));
                }
            }
            if self.sent_down < FRAMES && self.relay.has_room() {
                self.sent_down += 1;
                self.relay.push(frame(self.sent_down));
            }
        }
    }

    /// The agent asks, and asks again when no answer came.
    fn ask(&mut self) {
        if self.up.is_free(self.now)
            && let Some(request) = self.agent.next_up()
        {
            let exchange = self.send(request);
            self.up.wait(exchange, self.now + PATIENCE);
        }
        if self.poll.is_free(self.now)
            && self.agent.is_read()
            && self.agent.relay_closed().is_none()
        {
            let exchange = self.send(self.agent.poll(POLL_HOLD_MAX));
            self.poll.wait(exchange, self.now + HOLD + PATIENCE);
        }
    }

    fn send(&mut self, request: Bytes) -> u64 {
        self.exchanges += 1;
        let copies = match self.dice.roll(8) {
            0 | 1 => 0,
            2 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.requests.push(Travelling {
                at,
                exchange: self.exchanges,
                what: request.clone(),
            });
        }
        self.exchanges
    }

    /// Mostly short, at times longer than anybody waits.
    fn delay(&mut self) -> u64 {
        match self.dice.roll(10) {
            0 => self.dice.roll(4 * PATIENCE),
            _ => self.dice.roll(4),
        }
    }

    fn arrive(&mut self) {
        while let Some(index) = due(&self.requests, self.now) {
            let Travelling { exchange, what, .. } = self.requests.remove(index);
            let until = self.now + HOLD;
            let what = match Request::decode(what).unwrap() {
                Request::Open { .. } => unreachable!("the link is open"),
                Request::Up {
                    batch,
                    frames,
                    close,
                    ..
                } => Pending::Up(batch, frames, close),
                Request::Poll { received, .. } => {
                    Pending::Poll(self.relay.begin_poll(received).unwrap())
                }
            };
            self.held.push(Held {
                exchange,
                until,
                what,
            });
        }
    }

    fn answer_held(&mut self) {
        for held in std::mem::take(&mut self.held) {
            match self.answer(&held) {
                Some(answer) => {
                    if self.dice.roll(4) > 0 {
                        let at = self.now + self.delay();
                        self.answers.push(Travelling {
                            at,
                            exchange: held.exchange,
                            what: answer,
                        });
                    }
                }
                None => self.held.push(held),
            }
        }
    }

    fn answer(&mut self, held: &Held) -> Option<Bytes> {
        match &held.what {
            Pending::Poll(ticket) => {
                let answer = self.relay.answer_poll(*ticket);
                answer.or_else(|| (self.now >= held.until).then(|| Answer::NOTHING.encode()))
            }
            Pending::Up(batch, frames, close) => {
                match self.relay.judge(*batch).unwrap() {
                    Upward::Next => self.relay.take(frames.clone(), close.clone()),
                    Upward::Repeated => {}
                    Upward::Full => return None,
                }
                let batch = self.relay.taken();
                Some(Answer::Taken { batch }.encode())
            }
        }
    }

    fn hear(&mut self) {
        while let Some(index) = due(&self.answers, self.now) {
            let Travelling { exchange, what, .. } = self.answers.remove(index);
            if self.up.exchange == Some(exchange) {
                self.up.exchange = None;
            } else if self.poll.exchange == Some(exchange) {
                self.poll.exchange = None;
            } else if self.dice.roll(2) == 0 {
                // An answer to an earlier request: usually nobody hears it, and if somebody does,
                // nothing comes of it.
                continue;
            }
            match Answer::decode(what).unwrap() {
                Answer::Taken { batch } => self.agent.taken(batch).unwrap(),
                Answer::Down {
                    batch: Some(batch),
                    close,
                    frames,
                } => self.agent.take(batch, frames, close).unwrap(),
                Answer::Down { batch: None, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        if self.dice.roll(3) > 0
            && let Some(heard) = self.relay.read()
        {
            self.heard_up += 1;
            assert_eq!(heard, frame(self.heard_up), "up, once and in order");
        }
        while let Some(heard) = self.agent.read() {
            self.heard_down += 1;
            assert_eq!(heard, frame(self.heard_down), "down, once and in order");
        }
        let all_up = self.heard_up == FRAMES && self.relay.agent_closed().is_some();
        if all_up && self.sent_down == FRAMES {
            self.relay.end(farewell(CloseCode::Normal));
        }
    }

    fn is_done(&self) -> bool {
        let is_done = self.agent.relay_closed().is_some() && self.agent.is_read();
        if is_done {
            assert_eq!((self.heard_up, self.heard_down), (FRAMES, FRAMES));
        }
        is_done
    }
}

impl Lane {
    fn is_free(&self, now: u64) -> bool {
        self.exchange.is_none() || now >= self.until
    }

    fn wait(&mut self, exchange: u64, until: u64) {
        *self = Self {
            exchange: Some(exchange),
            until,
        };
    }
}

fn due<T>(travelling: &[Travelling<T>], now: u64) -> Option<usize> {
    travelling.iter().position(|one| one.at <= now)
}

fn farewell(code: CloseCode) -> Farewell {
    Farewell::from(&Close::new(code, "done"))
}

#[test]
fn every_frame_arrives_once_and_in_order_whatever_the_network_does() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        while !world.is_done() {
            world.step();
            assert!(world.now < 50_000, "seed {seed} does not end");
        }
    }
}
