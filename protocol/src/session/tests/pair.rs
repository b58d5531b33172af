//! Both machines on one link, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    frame::{
        Cancel, Held, Hello, LeaseToken, Offer, Outcome, Receipt, RequestHead, ResponseChunk,
        ServedDestination, Settled, ToAgent, ToRelay, Welcome,
    },
    id::{AgentId, DeliveryId, EventId, SessionId},
    limits::{HEARTBEAT_INTERVAL, SILENCE_MAX},
    session::{
        AgentConfig, AgentOutput, AgentSession, Allowance, Close, RelayConfig, RelayOutput,
        RelaySession, Window,
    },
};

pub(super) const BILLING: &str = "billing";

/// Frames on their way, with when they arrive.
type Wire<T> = VecDeque<(Instant, T)>;

/// What a link does to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    Lost,
    Doubled,
}

/// Decides about a frame: `Ok` on its way to the agent, `Err` on its way to the relay.
type Judge = dyn FnMut(Result<&ToAgent, &ToRelay>) -> Fate;

/// Both machines on one link.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) relay: RelaySession,
    pub(super) agent: AgentSession,
    pub(super) config: AgentConfig,
    /// Whether the relay's driver welcomes at once.
    pub(super) is_welcoming: bool,
    pub(super) delay: Duration,
    /// Nothing that is sent arrives any more.
    pub(super) is_cut: bool,
    to_agent: Wire<ToAgent>,
    to_relay: Wire<ToRelay>,
    fate: Box<Judge>,
    pub(super) seen: Seen,
}

/// What the drivers were told.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) hello: Option<Hello>,
    /// What a dispatcher would count.
    pub(super) free: BTreeMap<String, Allowance>,
    pub(super) receipts: Vec<Receipt>,
    /// Response chunks as they came, and responses that were cut.
    pub(super) responses: Vec<ResponseChunk>,
    pub(super) cut: Vec<DeliveryId>,
    /// Responses of which more may be sent, and those that nobody waits for.
    pub(super) room: Vec<DeliveryId>,
    pub(super) unwanted: Vec<DeliveryId>,
    pub(super) renewed: Vec<Held>,
    pub(super) released: Vec<Held>,
    pub(super) relay_closed: Option<(Close, bool)>,
    pub(super) welcomed: bool,
    pub(super) offers: Vec<Offer>,
    /// Bodies as they grow.
    pub(super) bodies: BTreeMap<DeliveryId, Vec<u8>>,
    pub(super) confirmed: BTreeSet<Settled>,
    pub(super) cancelled: Vec<Cancel>,
    pub(super) drained: Option<Duration>,
    pub(super) suspects: usize,
    pub(super) rtts: Vec<Duration>,
    pub(super) agent_closed: Option<Close>,
    /// The names of the frames that were sent to the agent, in order.
    pub(super) sent_to_agent: Vec<&'static str>,
    pub(super) sent_to_relay: Vec<&'static str>,
}

impl Pair {
    /// One destination with this window.
    pub(super) fn new(deliveries: u64, bytes: u64) -> Self {
        let now = start();
        let config = AgentConfig {
            instance: AgentId::from_u128(1),
            name: "test".to_owned(),
            agent: "test/0".to_owned(),
            destinations: vec![(BILLING.to_owned(), Window { deliveries, bytes })],
            listen: None,
        };
        Self {
            now,
            relay: relay(now),
            agent: AgentSession::new(config.clone(), Vec::new(), Vec::new(), now),
            config,
            is_welcoming: true,
            delay: Duration::from_millis(10),
            is_cut: false,
            to_agent: Wire::new(),
            to_relay: Wire::new(),
            fate: Box::new(|_| Fate::Arrives),
            seen: Seen::default(),
        }
    }

    /// The same, already welcomed.
    pub(super) fn open(deliveries: u64, bytes: u64) -> Self {
        let mut pair = Self::new(deliveries, bytes);
        pair.run_for(Duration::from_millis(50));
        assert!(pair.seen.welcomed);
        pair
    }

    pub(super) fn judge(&mut self, fate: impl FnMut(Result<&ToAgent, &ToRelay>) -> Fate + 'static) {
        self.fate = Box::new(fate);
    }

    /// Builds both ends anew with what outlives a connection; frames on their way are gone.
    pub(super) fn reconnect(&mut self) {
        let holding = self.agent.holding();
        let unconfirmed = self.agent.unconfirmed();
        let bytes: BTreeMap<_, _> = self
            .seen
            .offers
            .iter()
            .map(|offer| (offer.delivery, offer.body_bytes))
            .collect();
        self.relay = relay(self.now);
        self.agent = AgentSession::new(self.config.clone(), holding.clone(), unconfirmed, self.now);
        for held in &holding {
            let body_bytes = bytes.get(&held.delivery).copied().unwrap_or(0);
            self.agent.charge(held, BILLING, body_bytes);
        }
        self.to_agent.clear();
        self.to_relay.clear();
        self.seen.free.clear();
        self.seen.relay_closed = None;
        self.seen.agent_closed = None;
        self.seen.welcomed = false;
        self.is_cut = false;
    }

    /// Welcomes the agent that has said Hello.
    pub(super) fn let_in(&mut self) {
        let hello = self.seen.hello.as_ref().unwrap();
        self.relay.welcome(welcome(hello), self.now);
    }

    /// Lets time pass, with everything that becomes due.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        let mut steps_in_place = 0;
        self.drain();
        while let Some(next) = self.next_wake().filter(|next| *next <= until) {
            steps_in_place = if next > self.now {
                0
            } else {
                steps_in_place + 1
            };
            assert!(steps_in_place < 10_000, "time stands still");
            self.now = self.now.max(next);
            self.step();
            self.drain();
        }
        self.now = until;
    }

    /// Offers a body; whether the relay could.
    pub(super) fn offer(&mut self, number: u128, attempt: u32, body: impl Into<Bytes>) -> bool {
        self.offer_this(offer(number, attempt, body))
    }

    /// Offers an attempt whose response somebody waits for.
    pub(super) fn ask(&mut self, number: u128, attempt: u32) {
        let mut offer = offer(number, attempt, "");
        offer.respond = true;
        assert!(self.offer_this(offer));
    }

    fn offer_this(&mut self, offer: Box<Offer>) -> bool {
        let size = offer.body.len() as u64;
        let free = self.seen.free.entry(BILLING.to_owned()).or_default();
        let fits = free.fits(size);
        assert_eq!(
            self.relay.has_credit(BILLING, size),
            fits,
            "both count alike"
        );
        let offered = self.relay.offer(offer).is_ok();
        assert_eq!(offered, fits);
        if offered {
            free.take(size);
        }
        offered
    }

    pub(super) fn finish(&mut self, number: u128, attempt: u32) {
        self.agent.finish(receipt(number, attempt), self.now);
    }

    pub(super) fn confirm_all(&mut self) {
        let settled = self.seen.receipts.iter().map(Receipt::key).collect();
        self.relay.confirm(settled);
    }

    fn next_wake(&self) -> Option<Instant> {
        [
            self.relay.poll_timeout(),
            self.agent.poll_timeout(),
            self.to_agent.front().map(|(at, _)| *at),
            self.to_relay.front().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whatever is due now, once.
    fn step(&mut self) {
        if let Some((_, frame)) = self.to_agent.pop_front_if(|(at, _)| *at <= self.now) {
            self.agent.handle_frame(frame, self.now).unwrap();
        } else if let Some((_, frame)) = self.to_relay.pop_front_if(|(at, _)| *at <= self.now) {
            self.relay.handle_frame(frame, self.now).unwrap();
        } else {
            if self.relay.poll_timeout().is_some_and(|at| at <= self.now) {
                self.relay.handle_timeout(self.now);
                let next = self.relay.poll_timeout();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "the relay's time-out moves on"
                );
            }
            if self.agent.poll_timeout().is_some_and(|at| at <= self.now) {
                self.agent.handle_timeout(self.now);
                let next = self.agent.poll_timeout();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "the agent's time-out moves on"
                );
            }
        }
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.relay.poll_output() {
            assert!(self.seen.relay_closed.is_none(), "{output:?} after Close");
            self.perform_relay(output);
        }
        while let Some(output) = self.agent.poll_output() {
            assert!(self.seen.agent_closed.is_none(), "{output:?} after Close");
            self.perform_agent(output);
        }
    }

    fn perform_relay(&mut self, output: RelayOutput) {
        match output {
            RelayOutput::Send(frame) => self.send_to_agent(frame),
            RelayOutput::Hello(hello) => {
                if self.is_welcoming {
                    self.relay.welcome(welcome(&hello), self.now);
                }
                self.seen.hello = Some(*hello);
            }
            RelayOutput::Credit {
                destination,
                deliveries,
                bytes,
            } => {
                let free = self.seen.free.entry(destination).or_default();
                free.add(deliveries, bytes);
            }
            RelayOutput::Receipt(receipt) => self.seen.receipts.push(*receipt),
            RelayOutput::ResponseChunk(chunk) => self.seen.responses.push(chunk),
            RelayOutput::ResponseCut { delivery, .. } => self.seen.cut.push(delivery),
            RelayOutput::Renew(held) => self.seen.renewed.extend(held),
            RelayOutput::Release(held) => self.seen.released.extend(held),
            RelayOutput::Rtt(rtt) => self.seen.rtts.push(rtt),
            RelayOutput::Close { close, said_bye } => {
                self.seen.relay_closed = Some((close, said_bye));
            }
        }
    }

    fn perform_agent(&mut self, output: AgentOutput) {
        match output {
            AgentOutput::Send(frame) => self.send_to_relay(frame),
            AgentOutput::Welcome(_) => self.seen.welcomed = true,
            AgentOutput::Offer(offer) => {
                self.seen.bodies.insert(offer.delivery, offer.body.to_vec());
                self.seen.offers.push(*offer);
            }
            AgentOutput::Body { delivery, part } => {
                self.seen.bodies.entry(delivery).or_default().extend(part);
            }
            AgentOutput::Confirmed(settled) => self.seen.confirmed.extend(settled),
            AgentOutput::Cancel(cancel) => self.seen.cancelled.push(cancel),
            AgentOutput::ResponseRoom { delivery, .. } => self.seen.room.push(delivery),
            AgentOutput::ResponseUnwanted { delivery, .. } => self.seen.unwanted.push(delivery),
            AgentOutput::Drain {
                reconnect_after, ..
            } => self.seen.drained = Some(reconnect_after),
            AgentOutput::Rtt(rtt) => self.seen.rtts.push(rtt),
            AgentOutput::Suspect => self.seen.suspects += 1,
            AgentOutput::Close(close) => self.seen.agent_closed = Some(close),
        }
    }

    fn send_to_agent(&mut self, frame: ToAgent) {
        self.seen.sent_to_agent.push(name_to_agent(&frame));
        let copies = copies((self.fate)(Ok(&frame)), self.is_cut);
        let frame = ToAgent::decode(frame.encode()).unwrap();
        for _ in 0..copies {
            self.to_agent
                .push_back((self.now + self.delay, frame.clone()));
        }
    }

    fn send_to_relay(&mut self, frame: ToRelay) {
        self.seen.sent_to_relay.push(name_to_relay(&frame));
        let copies = copies((self.fate)(Err(&frame)), self.is_cut);
        let frame = ToRelay::decode(frame.encode()).unwrap();
        for _ in 0..copies {
            self.to_relay
                .push_back((self.now + self.delay, frame.clone()));
        }
    }
}

fn copies(fate: Fate, is_cut: bool) -> usize {
    match fate {
        _ if is_cut => 0,
        Fate::Arrives => 1,
        Fate::Lost => 0,
        Fate::Doubled => 2,
    }
}

/// The only glance at a clock: virtual time has to start somewhere.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made of nothing; tests only use distances from it"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn relay(now: Instant) -> RelaySession {
    let config = RelayConfig {
        heartbeat: HEARTBEAT_INTERVAL,
        silence_max: SILENCE_MAX,
    };
    RelaySession::new(config, now)
}

pub(super) fn welcome(hello: &Hello) -> Welcome {
    let served = hello.destinations.iter().map(|offered| ServedDestination {
        name: offered.name.clone(),
        timeout_ms: 30_000,
    });
    Welcome {
        version: 0,
        session: SessionId::from_u128(1),
        heartbeat_ms: 0,
        silence_ms: 0,
        chunk_bytes_max: 0,
        destinations: served.collect(),
        node: None,
        listening: None,
    }
}

pub(super) fn lease(number: u128, attempt: u32) -> LeaseToken {
    LeaseToken(format!("{number}.{attempt}"))
}

pub(super) fn offer(number: u128, attempt: u32, body: impl Into<Bytes>) -> Box<Offer> {
    Box::new(Offer {
        delivery: DeliveryId::from_u128(number),
        event: EventId::from_u128(number),
        lease: lease(number, attempt),
        lease_ms: 60_000,
        attempt,
        destination: BILLING.to_owned(),
        source: "stripe".to_owned(),
        received_at_ms: 0,
        event_type: None,
        remote: None,
        public_origin: None,
        replay: None,
        respond: false,
        request: RequestHead {
            method: "POST".to_owned(),
            target: String::new(),
            headers: crate::frame::Headers::default(),
        },
        body_bytes: 0,
        used_deliveries: 0,
        used_bytes: 0,
        body: body.into(),
    })
}

pub(super) fn receipt(number: u128, attempt: u32) -> Receipt {
    Receipt {
        delivery: DeliveryId::from_u128(number),
        lease: lease(number, attempt),
        attempt,
        outcome: Outcome::Answered {
            status: 200,
            headers: crate::frame::Headers::default(),
            body_bytes: 0,
        },
        elapsed_ms: 1,
        response_start: Bytes::new(),
    }
}

fn name_to_agent(frame: &ToAgent) -> &'static str {
    match frame {
        ToAgent::Welcome(_) => "Welcome",
        ToAgent::Offer(_) => "Offer",
        ToAgent::Chunk(_) => "Chunk",
        ToAgent::Confirm(_) => "Confirm",
        ToAgent::Cancel(_) => "Cancel",
        ToAgent::Ping(_) => "Ping",
        ToAgent::Pong(_) => "Pong",
        ToAgent::ResponseCredit(_) => "ResponseCredit",
        ToAgent::Drain(_) => "Drain",
        ToAgent::Refuse(_) => "Refuse",
    }
}

fn name_to_relay(frame: &ToRelay) -> &'static str {
    match frame {
        ToRelay::Hello(_) => "Hello",
        ToRelay::Credit(_) => "Credit",
        ToRelay::Receipt(_) => "Receipt",
        ToRelay::ResponseChunk(_) => "ResponseChunk",
        ToRelay::Renew(_) => "Renew",
        ToRelay::Release(_) => "Release",
        ToRelay::Ping(_) => "Ping",
        ToRelay::Pong(_) => "Pong",
        ToRelay::Bye(_) => "Bye",
    }
}
