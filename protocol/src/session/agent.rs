//! The agent's end of a session.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Close, CloseCode, Violation, Window,
    check::{check_lease, clip_in_place},
    heartbeat::{Beat, Heartbeat},
    transfer::Incoming,
    unconfirmed::Unconfirmed,
    window::Intake,
};
use crate::{
    frame::{
        Bye, Cancel, Chunk, Credit, Held, Hello, LeaseToken, Listen, Offer, OfferedDestination,
        Receipt, Release, ReleaseReason, Renew, ResponseChunk, ResponseCredit, Settled, ToAgent,
        ToRelay, Welcome,
    },
    id::{AgentId, DeliveryId},
    limits::{
        CHUNK_BYTES_MAX, CREDIT_DELAY_MAX, HANDSHAKE_MAX, LEASES_PER_FRAME_MAX, OUTPUTS_MAX,
        VERSION,
    },
};

/// What the agent brings to a session.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The installation.
    pub instance: AgentId,
    /// What people call it.
    pub name: String,
    /// Program and version.
    pub agent: String,
    /// Destinations to serve, each with how much it takes at once.
    pub destinations: Vec<(String, Window)>,
    /// An expiring destination to ask for, with how much it takes at once
    /// (the `deliveries` and `bytes` of [`Listen`] are filled in from the window).
    pub listen: Option<(Listen, Window)>,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum AgentOutput {
    /// Send a frame.
    Send(ToRelay),
    /// The session is open.
    Welcome(Box<Welcome>),
    /// An attempt to make. `offer.body` is the start of the body; while it is shorter than
    /// `body_bytes`, `Body` outputs with the rest follow.
    Offer(Box<Offer>),
    /// More of the body of an offer, in order and without gaps.
    Body {
        /// The delivery.
        delivery: DeliveryId,
        /// The next part.
        part: Bytes,
    },
    /// Receipts that the relay has settled durably: forget them.
    Confirmed(Vec<Settled>),
    /// An attempt that is no longer wanted: answer with `finish` or `release`. If its body was not
    /// complete it is released already, and no more of it comes.
    Cancel(Cancel),
    /// More of a response may be sent (sync mode).
    ResponseCredit(ResponseCredit),
    /// The relay asks us to leave: connect again after this long, finish what is in hand meanwhile.
    Drain {
        /// Why, for people.
        reason: String,
        /// When to connect again.
        reconnect_after: Duration,
    },
    /// A heartbeat was answered.
    Rtt(Duration),
    /// A heartbeat stayed unanswered for [`crate::limits::HEARTBEAT_ANSWER_MAX`] and nothing else was
    /// heard meanwhile: dial afresh beside this link. Once, until a heartbeat is answered again.
    Suspect,
    /// Close the connection.
    Close(Close),
}

/// The agent's end of a session.
#[derive(Debug)]
pub struct AgentSession {
    config: AgentConfig,
    /// The latest instant that was passed in.
    now: Instant,
    phase: Phase,
    is_draining: bool,
    end: End,
    intakes: BTreeMap<String, Intake>,
    /// When credit that was not urgent is granted.
    credit_due: Option<Instant>,
    /// Attempts in hand.
    held: BTreeMap<(DeliveryId, LeaseToken), Attempt>,
    unconfirmed: Unconfirmed,
    /// Short frames and news for the driver, in order.
    outputs: VecDeque<AgentOutput>,
    /// Receipts and responses in order; they may be long, so short frames overtake them.
    reports: VecDeque<Report>,
}

/// How far the session has come.
#[derive(Debug)]
enum Phase {
    /// Hello was not polled yet.
    New { until: Instant },
    /// Waits for Welcome.
    Greeting { until: Instant, released: Vec<Held> },
    /// Serves.
    Open(Heartbeat),
}

/// Whether and how the session ends.
#[derive(Debug)]
enum End {
    NotYet,
    /// Close once the outputs are drained.
    Queued {
        bye: Option<Bye>,
        close: Close,
    },
    Done,
}

/// An attempt in hand.
#[derive(Debug)]
struct Attempt {
    number: u32,
    /// Whose window it fills, if that is known.
    destination: Option<String>,
    body: Incoming,
}

#[derive(Debug)]
enum Report {
    Receipt(Settled),
    Response(ResponseChunk),
}

impl AgentSession {
    /// Starts a session on a fresh connection: queues Hello, naming the attempts still `holding`,
    /// and after Welcome every receipt of `unconfirmed`.
    pub fn new(
        config: AgentConfig,
        holding: Vec<Held>,
        unconfirmed: Vec<Receipt>,
        now: Instant,
    ) -> Self {
        let intakes = config
            .destinations
            .iter()
            .map(|(name, window)| (name.clone(), Intake::new(*window)))
            .collect();
        let held = holding.into_iter().map(|held| {
            let attempt = Attempt {
                number: held.attempt,
                destination: None,
                body: Incoming::whole(0),
            };
            ((held.delivery, held.lease), attempt)
        });
        let mut session = Self {
            config,
            now,
            phase: Phase::New {
                until: now + HANDSHAKE_MAX,
            },
            is_draining: false,
            end: End::NotYet,
            intakes,
            credit_due: None,
            held: held.collect(),
            unconfirmed: Unconfirmed::default(),
            outputs: VecDeque::new(),
            reports: VecDeque::new(),
        };
        for receipt in unconfirmed {
            session.keep(receipt);
        }
        session
    }

    /// Counts an attempt of `holding` against the window of its destination, so that a reconnect does
    /// not add a whole window to what is still in hand. Between [`Self::new`] and the first
    /// [`Self::poll_output`]; optional.
    pub fn charge(&mut self, held: &Held, destination: &str, body_bytes: u64) {
        let key = (held.delivery, held.lease.clone());
        let (Some(attempt), Some(intake)) =
            (self.held.get_mut(&key), self.intakes.get_mut(destination))
        else {
            return;
        };
        if attempt.destination.is_none() && matches!(self.phase, Phase::New { .. }) {
            attempt.destination = Some(destination.to_owned());
            attempt.body = Incoming::whole(body_bytes);
            intake.hold(body_bytes);
        }
    }

    /// Takes a frame from the relay.
    ///
    /// # Errors
    ///
    /// A [`Violation`]; Close is already queued, so the driver only drains the outputs.
    pub fn handle_frame(&mut self, frame: ToAgent, now: Instant) -> Result<(), Violation> {
        if self.is_ended() {
            return Ok(());
        }
        self.advance(now);
        if let Phase::Open(heartbeat) = &mut self.phase {
            heartbeat.hear(self.now);
        }
        let taken = if self.outputs.len() >= OUTPUTS_MAX {
            Err(Violation("the relay talks without listening"))
        } else {
            self.take(frame)
        };
        taken.inspect_err(|violation| self.end_with(CloseCode::Violation, &violation.to_string()))
    }

    /// Bytes that were not a frame: closes like any violation.
    pub fn handle_malformed(&mut self, now: Instant) {
        self.advance(now);
        self.end_with(CloseCode::Violation, "a message was not a frame");
    }

    /// The connection ended without a word: queues `Close` unless already closed.
    pub fn handle_disconnect(&mut self) {
        self.end_with(CloseCode::Silent, "the connection ended without a word");
    }

    /// The relay closed the connection with a close frame: queues `Close` with what it said, unless
    /// already closed (a Refuse says more).
    pub fn handle_close(&mut self, code: u16, reason: &str) {
        match CloseCode::from_u16(code) {
            Some(code) => self.end_with(code, reason),
            None => self.handle_disconnect(),
        }
    }

    /// The instant of `poll_timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_ended() {
            return;
        }
        self.advance(now);
        match &self.phase {
            Phase::New { until } | Phase::Greeting { until, .. } => {
                if now >= *until {
                    self.end_with(CloseCode::Silent, "no Welcome in time");
                }
            }
            Phase::Open(_) => {
                self.beat();
                self.grant_due();
                while let Some(key) = self.unconfirmed.take_due(self.now) {
                    self.reports.push_back(Report::Receipt(key));
                }
            }
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_ended() {
            return None;
        }
        match &self.phase {
            Phase::New { until } | Phase::Greeting { until, .. } => Some(*until),
            Phase::Open(heartbeat) => [
                Some(heartbeat.poll_timeout()),
                self.credit_due,
                self.unconfirmed.next_due(),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        if let (Phase::New { until }, End::NotYet) = (&self.phase, &self.end) {
            let until = *until;
            return Some(AgentOutput::Send(ToRelay::Hello(self.greet(until))));
        }
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some(frame) = self.next_report() {
            return Some(AgentOutput::Send(frame));
        }
        match std::mem::replace(&mut self.end, End::Done) {
            End::Queued {
                bye: Some(bye),
                close,
            } => {
                self.end = End::Queued { bye: None, close };
                Some(AgentOutput::Send(ToRelay::Bye(bye)))
            }
            End::Queued { bye: None, close } => Some(AgentOutput::Close(close)),
            other => {
                self.end = other;
                None
            }
        }
    }

    /// An attempt ended: frees its credit, sends the receipt now if the session is open, and again
    /// every [`crate::limits::RECEIPT_RESEND_AFTER`] until it is confirmed. Also for receipts that
    /// answer a repeated offer from the journal.
    ///
    /// What is longer than a receipt may be is cut: the response start, `detail`, and headers.
    pub fn finish(&mut self, receipt: Receipt, now: Instant) {
        self.advance(now);
        self.let_go(receipt.delivery, &receipt.lease);
        let key = self.keep(receipt);
        if self.is_open() {
            self.reports.push_back(Report::Receipt(key));
        }
    }

    /// Hands an offer back unattempted, for instance while draining.
    pub fn release(&mut self, held: Held) {
        self.let_go(held.delivery, &held.lease);
        match &mut self.phase {
            Phase::New { .. } => {}
            Phase::Greeting { released, .. } => released.push(held),
            Phase::Open(_) => self.send_release(vec![held]),
        }
    }

    /// Sends part of a response (sync mode), in several frames if it is long. Its place among
    /// receipts is kept. How much may be sent is the driver's to watch.
    pub fn respond(&mut self, chunk: ResponseChunk) {
        if !self.is_open() {
            return;
        }
        let mut rest = chunk;
        while rest.part.len() > CHUNK_BYTES_MAX {
            let after = rest.part.split_off(CHUNK_BYTES_MAX);
            let next = ResponseChunk {
                head: None,
                offset: rest.offset.saturating_add(rest.part.len() as u64),
                part: after,
                ..rest.clone()
            };
            rest.last = false;
            self.reports.push_back(Report::Response(rest));
            rest = next;
        }
        self.reports.push_back(Report::Response(rest));
    }

    /// Stops taking offers: no more credit is granted. What arrives all the same is released.
    pub fn begin_drain(&mut self) {
        self.is_draining = true;
        self.credit_due = None;
    }

    /// Nothing is held any more: says Bye, after the receipts that still wait to be sent, and closes.
    pub fn bye(&mut self, reason: &str) {
        if self.is_ended() {
            return;
        }
        let mut bye = Bye {
            reason: reason.to_owned(),
        };
        clip_in_place(&mut bye.reason);
        self.end = End::Queued {
            bye: (!matches!(self.phase, Phase::New { .. })).then_some(bye),
            close: Close::new(CloseCode::Normal, reason),
        };
    }

    /// Receipts that are still unconfirmed, for the next session.
    pub fn unconfirmed(&self) -> Vec<Receipt> {
        self.unconfirmed.receipts().cloned().collect()
    }

    /// Attempts in hand whose body is complete, for the next session.
    pub fn holding(&self) -> Vec<Held> {
        let complete = self
            .held
            .iter()
            .filter(|(_, attempt)| attempt.body.is_complete());
        complete.map(held).collect()
    }
}

/// Frames from the relay.
impl AgentSession {
    fn take(&mut self, frame: ToAgent) -> Result<(), Violation> {
        match (&mut self.phase, frame) {
            (_, ToAgent::Refuse(refuse)) => {
                self.end_as(Close::of_refusal(&refuse));
                Ok(())
            }
            (Phase::New { .. }, _) => Err(Violation("a frame came before Hello was sent")),
            (Phase::Greeting { released, .. }, ToAgent::Welcome(welcome)) => {
                let released = std::mem::take(released);
                self.take_welcome(welcome, released)
            }
            (Phase::Greeting { .. }, _) => Err(Violation("a frame came before Welcome")),
            (Phase::Open(heartbeat), ToAgent::Ping(ping)) => {
                let pong = heartbeat.answer(ping, self.now)?;
                self.send(ToRelay::Pong(pong));
                Ok(())
            }
            (Phase::Open(heartbeat), ToAgent::Pong(pong)) => {
                let rtt = heartbeat.take_answer(pong, self.now);
                self.outputs.extend(rtt.map(AgentOutput::Rtt));
                Ok(())
            }
            (Phase::Open(_), frame) => self.take_work(frame),
        }
    }

    fn take_work(&mut self, frame: ToAgent) -> Result<(), Violation> {
        match frame {
            ToAgent::Offer(offer) => self.take_offer(offer)?,
            ToAgent::Chunk(chunk) => self.take_chunk(chunk)?,
            ToAgent::Confirm(confirm) => self.take_confirm(confirm.receipts)?,
            ToAgent::Cancel(cancel) => self.take_cancel(cancel),
            ToAgent::ResponseCredit(credit) => {
                self.outputs.push_back(AgentOutput::ResponseCredit(credit));
            }
            ToAgent::Drain(drain) => self.outputs.push_back(AgentOutput::Drain {
                reason: drain.reason,
                reconnect_after: Duration::from_millis(drain.reconnect_after_ms),
            }),
            ToAgent::Welcome(_) => return Err(Violation("a second Welcome")),
            ToAgent::Ping(_) | ToAgent::Pong(_) | ToAgent::Refuse(_) => {}
        }
        Ok(())
    }

    fn take_welcome(&mut self, welcome: Welcome, released: Vec<Held>) -> Result<(), Violation> {
        if welcome.version != VERSION {
            return Err(Violation("Welcome names a version that Hello did not"));
        }
        if let (Some(listening), Some((_, window))) = (&welcome.listening, &self.config.listen) {
            let mut intake = Intake::new(*window);
            intake.grant();
            self.intakes.insert(listening.destination.clone(), intake);
        }
        self.intakes.retain(|name, _| {
            welcome
                .destinations
                .iter()
                .any(|served| served.name == *name)
        });
        self.phase = Phase::Open(Heartbeat::new(
            Duration::from_millis(welcome.heartbeat_ms),
            Duration::from_millis(welcome.silence_ms),
            self.now,
        ));
        self.outputs
            .push_back(AgentOutput::Welcome(Box::new(welcome)));
        // Hello named the first ones only; what it named and was handed back since is released.
        if self.held.len() > LEASES_PER_FRAME_MAX {
            self.renew();
        }
        if !released.is_empty() {
            self.send_release(released);
        }
        self.reports
            .extend(self.unconfirmed.keys().map(Report::Receipt));
        // Attempts that ended since Hello have left room.
        self.credit_due = Some(self.now);
        Ok(())
    }

    fn take_offer(&mut self, offer: Box<Offer>) -> Result<(), Violation> {
        check_lease(&offer.lease)?;
        if offer.attempt == 0 {
            return Err(Violation("attempts are counted from 1"));
        }
        let body = Incoming::start(&offer)?;
        let key = (offer.delivery, offer.lease.clone());
        let Some(intake) = self.intakes.get_mut(&offer.destination) else {
            return Err(Violation("an offer for a destination that is not served"));
        };
        intake.arrive(&offer)?;
        if self.held.contains_key(&key) || self.is_answered(&offer) {
            self.grant_soon();
            return Ok(());
        }
        if self.is_draining {
            let (delivery, lease) = key;
            let attempt = offer.attempt;
            self.send_release(vec![Held {
                delivery,
                lease,
                attempt,
            }]);
            return Ok(());
        }
        self.abandon_incomplete(offer.delivery);
        self.take_in_hand(key, &offer, body);
        self.outputs.push_back(AgentOutput::Offer(offer));
        Ok(())
    }

    fn take_in_hand(&mut self, key: (DeliveryId, LeaseToken), offer: &Offer, body: Incoming) {
        if let Some(intake) = self.intakes.get_mut(&offer.destination) {
            intake.hold(offer.body_bytes);
            // What was lost on the way leaves room again.
            if intake.has_ungranted() {
                self.grant_soon();
            }
        }
        let attempt = Attempt {
            number: offer.attempt,
            destination: Some(offer.destination.clone()),
            body,
        };
        self.held.insert(key, attempt);
    }

    fn take_chunk(&mut self, chunk: Chunk) -> Result<(), Violation> {
        // A chunk may have been on its way while its attempt ended.
        let Some(attempt) = self.held.get_mut(&(chunk.delivery, chunk.lease.clone())) else {
            return Ok(());
        };
        if attempt.body.take(&chunk)? {
            self.outputs.push_back(AgentOutput::Body {
                delivery: chunk.delivery,
                part: chunk.part,
            });
        }
        Ok(())
    }

    fn take_confirm(&mut self, receipts: Vec<Settled>) -> Result<(), Violation> {
        if receipts.len() > LEASES_PER_FRAME_MAX {
            return Err(Violation("a frame confirms too many receipts"));
        }
        let was_full = self.unconfirmed.is_full();
        for key in &receipts {
            self.unconfirmed.remove(*key);
        }
        if was_full {
            self.grant_soon();
        }
        self.outputs.push_back(AgentOutput::Confirmed(receipts));
        Ok(())
    }

    fn take_cancel(&mut self, cancel: Cancel) {
        let key = (cancel.delivery, cancel.lease.clone());
        let incomplete = self
            .held
            .get_key_value(&key)
            .filter(|(_, attempt)| !attempt.body.is_complete())
            .map(held);
        self.outputs.push_back(AgentOutput::Cancel(cancel));
        if let Some(held) = incomplete {
            self.release(held);
        }
    }

    /// Whether the answer to this very attempt is already on its way.
    fn is_answered(&self, offer: &Offer) -> bool {
        let key = Settled {
            delivery: offer.delivery,
            attempt: offer.attempt,
        };
        self.unconfirmed
            .get(key)
            .is_some_and(|receipt| receipt.lease == offer.lease)
    }

    /// A delivery that is offered anew under another lease: what came of its body is of no use.
    fn abandon_incomplete(&mut self, delivery: DeliveryId) {
        let incomplete = self
            .held
            .range((delivery, LeaseToken(String::new()))..)
            .take_while(|((other, _), _)| *other == delivery)
            .find(|(_, attempt)| !attempt.body.is_complete())
            .map(held);
        if let Some(held) = incomplete {
            self.outputs.push_back(AgentOutput::Cancel(Cancel {
                delivery,
                lease: held.lease.clone(),
                reason: "offered anew before its body was complete".to_owned(),
            }));
            self.release(held);
        }
    }
}

/// Frames to the relay.
impl AgentSession {
    fn greet(&mut self, until: Instant) -> Hello {
        let config = &self.config;
        let mut destinations = Vec::with_capacity(config.destinations.len());
        for (name, _) in &config.destinations {
            let initial = self
                .intakes
                .get_mut(name)
                .map_or(Window::NONE, Intake::grant);
            destinations.push(OfferedDestination {
                name: name.clone(),
                deliveries: initial.deliveries,
                bytes: initial.bytes,
            });
        }
        let listen = config.listen.as_ref().map(|(listen, window)| {
            let window = window.clamped();
            Listen {
                deliveries: window.deliveries,
                bytes: window.bytes,
                ..listen.clone()
            }
        });
        self.phase = Phase::Greeting {
            until,
            released: Vec::new(),
        };
        Hello {
            versions: vec![VERSION],
            instance: self.config.instance,
            name: self.config.name.clone(),
            agent: self.config.agent.clone(),
            destinations,
            holding: self
                .held
                .iter()
                .take(LEASES_PER_FRAME_MAX)
                .map(held)
                .collect(),
            listen,
        }
    }

    fn beat(&mut self) {
        while let Phase::Open(heartbeat) = &mut self.phase {
            match heartbeat.due(self.now) {
                Some(Beat::Ping(ping)) => {
                    self.send(ToRelay::Ping(ping));
                    self.renew();
                }
                Some(Beat::Suspect) => self.outputs.push_back(AgentOutput::Suspect),
                Some(Beat::Silent) => {
                    return self.end_with(CloseCode::Silent, "nothing heard for too long");
                }
                None => return,
            }
        }
    }

    fn renew(&mut self) {
        let held: Vec<Held> = self.held.iter().map(held).collect();
        for leases in held.chunks(LEASES_PER_FRAME_MAX) {
            self.send(ToRelay::Renew(Renew {
                leases: leases.to_vec(),
            }));
        }
    }

    fn send_release(&mut self, leases: Vec<Held>) {
        let reason = if self.is_draining {
            ReleaseReason::Draining
        } else {
            ReleaseReason::Busy
        };
        for leases in leases.chunks(LEASES_PER_FRAME_MAX) {
            self.send(ToRelay::Release(Release {
                leases: leases.to_vec(),
                reason,
            }));
        }
    }

    fn next_report(&mut self) -> Option<ToRelay> {
        loop {
            match self.reports.pop_front()? {
                Report::Response(chunk) => return Some(ToRelay::ResponseChunk(chunk)),
                Report::Receipt(key) => {
                    if let Some(receipt) = self.unconfirmed.send(key, self.now) {
                        return Some(ToRelay::Receipt(Box::new(receipt)));
                    }
                }
            }
        }
    }

    /// Keeps a receipt until it is confirmed.
    fn keep(&mut self, mut receipt: Receipt) -> Settled {
        receipt.clip();
        self.unconfirmed.insert(receipt)
    }

    /// Takes an attempt out of the agent's hands and its window.
    fn let_go(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        let Some(attempt) = self.held.remove(&(delivery, lease.clone())) else {
            return;
        };
        let Some(destination) = attempt.destination else {
            return;
        };
        let Some(intake) = self.intakes.get_mut(&destination) else {
            return;
        };
        intake.free(attempt.body.body_bytes);
        if intake.is_grant_urgent() && self.may_grant() {
            self.grant(destination);
        } else {
            self.grant_soon();
        }
    }

    fn grant_soon(&mut self) {
        if self.may_grant() {
            self.credit_due.get_or_insert(self.now + CREDIT_DELAY_MAX);
        }
    }

    fn grant_due(&mut self) {
        if self.credit_due.is_none_or(|due| due > self.now) {
            return;
        }
        self.credit_due = None;
        if !self.may_grant() {
            return;
        }
        let waiting = self
            .intakes
            .iter()
            .filter(|(_, intake)| intake.has_ungranted());
        let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for destination in waiting {
            self.grant(destination);
        }
    }

    fn grant(&mut self, destination: String) {
        if let Some(intake) = self.intakes.get_mut(&destination) {
            let total = intake.grant();
            self.send(ToRelay::Credit(Credit {
                destination,
                deliveries: total.deliveries,
                bytes: total.bytes,
            }));
        }
    }

    /// Nothing more is let in while draining, or while the relay confirms nothing.
    fn may_grant(&self) -> bool {
        self.is_open() && !self.is_draining && !self.unconfirmed.is_full()
    }

    fn send(&mut self, frame: ToRelay) {
        if !self.is_ended() {
            self.outputs.push_back(AgentOutput::Send(frame));
        }
    }

    fn end_with(&mut self, code: CloseCode, reason: &str) {
        self.end_as(Close::new(code, reason));
    }

    /// Ends without another word; receipts that were not sent go to the next session.
    fn end_as(&mut self, close: Close) {
        if self.is_ended() {
            return;
        }
        self.reports.clear();
        self.end = End::Queued { bye: None, close };
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_)) && !self.is_ended()
    }

    fn is_ended(&self) -> bool {
        !matches!(self.end, End::NotYet)
    }
}

fn held((key, attempt): (&(DeliveryId, LeaseToken), &Attempt)) -> Held {
    let (delivery, lease) = key;
    Held {
        delivery: *delivery,
        lease: lease.clone(),
        attempt: attempt.number,
    }
}
