//! The agent's end of a session.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Close, CloseCode, Violation, Window,
    check::clip_in_place,
    heartbeat::Heartbeat,
    response::{ResponseOutlet, Responses},
    transfer::Incoming,
    unconfirmed::Unconfirmed,
    window::Intake,
};
use crate::{
    frame::{
        Bye, Cancel, Held, LeaseToken, Listen, Offer, Receipt, ResponseChunk, Settled, ToAgent,
        ToRelay, Welcome,
    },
    id::{AgentId, DeliveryId, SessionId},
    limits::{HANDSHAKE_MAX, OUTPUTS_MAX, REPLACED_MAX},
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
    ResponseRoom {
        /// The delivery whose response it is.
        delivery: DeliveryId,
        /// The lease of its attempt.
        lease: LeaseToken,
        /// Body bytes that may be sent in all.
        bytes_max: u64,
    },
    /// Nobody waits for a response any more; the attempt goes on without it.
    ResponseUnwanted {
        /// The delivery whose response it is.
        delivery: DeliveryId,
        /// The lease of its attempt.
        lease: LeaseToken,
    },
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

mod take;

mod share;

mod respond;

mod send;

pub use respond::NotSent;

/// Names and sizes only: bodies belong in no log line.
impl fmt::Debug for AgentOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(frame) => f.debug_tuple("Send").field(frame).finish(),
            Self::Welcome(welcome) => f.debug_tuple("Welcome").field(welcome).finish(),
            Self::Offer(offer) => f.debug_tuple("Offer").field(offer).finish(),
            Self::Body { delivery, part } => f
                .debug_struct("Body")
                .field("delivery", delivery)
                .field("part_bytes", &part.len())
                .finish(),
            Self::Confirmed(settled) => f.debug_tuple("Confirmed").field(settled).finish(),
            Self::Cancel(cancel) => f.debug_tuple("Cancel").field(cancel).finish(),
            Self::ResponseRoom { delivery, .. } => {
                f.debug_tuple("ResponseRoom").field(delivery).finish()
            }
            Self::ResponseUnwanted { delivery, .. } => {
                f.debug_tuple("ResponseUnwanted").field(delivery).finish()
            }
            Self::Drain { reason, .. } => f.debug_tuple("Drain").field(reason).finish(),
            Self::Rtt(rtt) => f.debug_tuple("Rtt").field(rtt).finish(),
            Self::Suspect => f.write_str("Suspect"),
            Self::Close(close) => f.debug_tuple("Close").field(close).finish(),
        }
    }
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
    /// For Hello: sessions that this one takes the place of.
    replaces: Vec<SessionId>,
    /// Responses that a provider waits for and that are not complete.
    responses: Responses<ResponseOutlet>,
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
    Greeting {
        until: Instant,
        released: Vec<Held>,
        /// What Hello did not name.
        adopted: Vec<Held>,
    },
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
            replaces: Vec::new(),
            responses: Responses::new(),
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

    /// Takes the place of earlier sessions, whether the relay knows yet that they are over or not:
    /// what they were offered and nobody holds is offered anew at once. The newest stand last.
    /// Between [`Self::new`] and the first [`Self::poll_output`]; optional.
    pub fn replace(&mut self, sessions: &[SessionId]) {
        let first = sessions.len().saturating_sub(REPLACED_MAX);
        self.replaces = sessions[first..].to_vec();
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

impl AgentSession {
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
