//! The relay's end of a session.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    Close, CloseCode, Violation, Window,
    check::{clip_in_place, millis},
    heartbeat::{Beat, Heartbeat},
    response::{ResponseIntake, Responses},
    transfer::Outgoing,
    window::Outlet,
};
use crate::{
    frame::{
        Cancel, Confirm, Drain, Held, Hello, LeaseToken, Offer, Receipt, Refuse, RefuseCode,
        ResponseChunk, Settled, ToAgent, ToRelay, Welcome,
    },
    id::DeliveryId,
    limits::{
        BODY_BYTES_MAX, CHUNK_BYTES_MAX, HANDSHAKE_MAX, HEARTBEAT_INTERVAL_MIN,
        LEASES_PER_FRAME_MAX, OUTPUTS_MAX, RETRY_AFTER_TROUBLE, VERSION,
    },
};

/// What the relay decides before an agent is heard.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// How often to ask whether the agent is alive.
    pub heartbeat: Duration,
    /// Silence after which the agent is presumed gone.
    pub silence_max: Duration,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum RelayOutput {
    /// Send a frame.
    Send(ToAgent),
    /// The agent asks to be let in: check it, then call `welcome` or `refuse`.
    Hello(Box<Hello>),
    /// More may be offered for a destination: increments, to be added to what was free.
    ///
    /// A dispatcher that keeps count outside feeds them to an [`super::Allowance`] of its own and takes its
    /// offers from it; both counts then agree, also for events larger than the window.
    Credit {
        /// The destination.
        destination: String,
        /// Further deliveries.
        deliveries: u64,
        /// Further body bytes.
        bytes: u64,
    },
    /// An attempt ended: settle it, then call `confirm` once the settlement is durable.
    Receipt(Box<Receipt>),
    /// Part of a service's response that somebody waits for (sync mode), in order and without gaps:
    /// the first with the head, the end marked `last`. Call `response_taken` as it is passed on.
    ResponseChunk(ResponseChunk),
    /// A response that has begun will never be complete.
    ResponseCut {
        /// The delivery whose response it is.
        delivery: DeliveryId,
        /// The lease of its attempt.
        lease: LeaseToken,
    },
    /// The agent still works on these: renew their leases.
    Renew(Vec<Held>),
    /// The agent hands these back, or they were never sent: they may go to others at once.
    Release(Vec<Held>),
    /// A heartbeat was answered.
    Rtt(Duration),
    /// Close the connection. `said_bye` tells whether the agent left on purpose, so that its leases
    /// return at once instead of being reserved for its return.
    Close {
        /// Why.
        close: Close,
        /// Whether the agent left on purpose.
        said_bye: bool,
    },
}

/// An offer that the agent's credit does not cover; nothing was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct NotOffered(pub Box<Offer>);

mod take;

mod body;

mod respond;

/// The relay's end of a session.
#[derive(Debug)]
pub struct RelaySession {
    config: RelayConfig,
    /// The latest instant that was passed in.
    now: Instant,
    phase: Phase,
    is_draining: bool,
    end: End,
    outlets: BTreeMap<String, Outlet>,
    /// Short frames and news for the driver, in order.
    outputs: VecDeque<RelayOutput>,
    /// Offers that wait to be sent.
    offers: VecDeque<Box<Offer>>,
    /// The rest of long bodies; each gives one chunk in turn.
    transfers: VecDeque<Outgoing>,
    is_chunks_turn: bool,
    /// Responses that somebody waits for and that are not complete.
    responses: Responses<ResponseIntake>,
}

/// How far the session has come.
#[derive(Debug)]
enum Phase {
    /// Waits for Hello.
    Connected { until: Instant },
    /// Waits for the driver's decision.
    Greeted {
        until: Instant,
        credit: BTreeMap<String, Window>,
        listen: Option<Window>,
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
        close: Close,
        said_bye: bool,
    },
    Done,
}

impl RelaySession {
    /// A connection whose token was accepted; waits for Hello at most [`crate::limits::HANDSHAKE_MAX`].
    pub fn new(config: RelayConfig, now: Instant) -> Self {
        let heartbeat = config.heartbeat.max(HEARTBEAT_INTERVAL_MIN);
        Self {
            config: RelayConfig {
                heartbeat,
                silence_max: config.silence_max.max(heartbeat),
            },
            now,
            phase: Phase::Connected {
                until: now + HANDSHAKE_MAX,
            },
            is_draining: false,
            end: End::NotYet,
            outlets: BTreeMap::new(),
            outputs: VecDeque::new(),
            offers: VecDeque::new(),
            transfers: VecDeque::new(),
            is_chunks_turn: false,
            responses: Responses::new(),
        }
    }

    /// Takes a frame from the agent.
    ///
    /// # Errors
    ///
    /// A [`Violation`]; Refuse and Close are already queued, so the driver only drains the outputs.
    pub fn handle_frame(&mut self, frame: ToRelay, now: Instant) -> Result<(), Violation> {
        if self.is_ended() {
            return Ok(());
        }
        self.advance(now);
        if let Phase::Open(heartbeat) = &mut self.phase {
            heartbeat.hear(self.now);
        }
        let taken = if self.outputs.len() >= OUTPUTS_MAX {
            Err(Violation("the agent talks without listening"))
        } else {
            self.take(frame)
        };
        taken.inspect_err(|violation| self.refuse_violation(violation))
    }

    /// Bytes that were not a frame: refuses and closes like any violation.
    pub fn handle_malformed(&mut self, now: Instant) {
        if !self.is_ended() {
            self.advance(now);
            self.refuse_violation(&Violation("a message was not a frame"));
        }
    }

    /// The connection ended without a word: queues `Close` with `said_bye` false unless already closed.
    pub fn handle_disconnect(&mut self) {
        self.end(
            Close::new(CloseCode::Silent, "the connection ended without a word"),
            false,
        );
    }

    /// The agent takes nothing from this session any more, it has a newer one.
    pub fn replace(&mut self) {
        let close = Close::new(CloseCode::Replaced, "the agent has opened a newer session");
        self.end(close, false);
    }

    /// The instant of `poll_timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_ended() {
            return;
        }
        self.advance(now);
        match &mut self.phase {
            Phase::Connected { until } if now >= *until => {
                self.end(Close::new(CloseCode::Silent, "no Hello in time"), false);
            }
            Phase::Greeted { until, .. } if now >= *until => self.refuse(Refuse {
                code: RefuseCode::Unavailable,
                detail: "the relay could not answer Hello in time; connect again".to_owned(),
                retry_after_ms: Some(millis(RETRY_AFTER_TROUBLE)),
            }),
            Phase::Connected { .. } | Phase::Greeted { .. } => {}
            Phase::Open(heartbeat) => loop {
                match heartbeat.due(now) {
                    Some(Beat::Ping(ping)) => {
                        self.outputs
                            .push_back(RelayOutput::Send(ToAgent::Ping(ping)));
                    }
                    Some(Beat::Suspect) => {}
                    Some(Beat::Silent) => {
                        let close = Close::new(CloseCode::Silent, "nothing heard for too long");
                        return self.end(close, false);
                    }
                    None => return,
                }
            },
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_ended() {
            return None;
        }
        Some(match &self.phase {
            Phase::Connected { until } | Phase::Greeted { until, .. } => *until,
            Phase::Open(heartbeat) => heartbeat.poll_timeout(),
        })
    }

    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some(frame) = self.next_body_frame() {
            return Some(RelayOutput::Send(frame));
        }
        match std::mem::replace(&mut self.end, End::Done) {
            End::Queued { close, said_bye } => Some(RelayOutput::Close { close, said_bye }),
            other => {
                self.end = other;
                None
            }
        }
    }

    /// Lets the agent in; the initial credit of Hello becomes `Credit` outputs after Welcome.
    /// A `listen` destination gets its credit from [`crate::frame::Listen`].
    ///
    /// The version, heartbeat, silence and chunk size are filled in here.
    pub fn welcome(&mut self, mut welcome: Welcome, now: Instant) {
        if self.is_ended() {
            return;
        }
        self.advance(now);
        let Phase::Greeted { credit, listen, .. } = &mut self.phase else {
            return;
        };
        let mut credit = std::mem::take(credit);
        let listen = listen.take();
        if let (Some(listening), Some(window)) = (&welcome.listening, listen) {
            credit.insert(listening.destination.clone(), window);
        }
        welcome.version = VERSION;
        welcome.heartbeat_ms = millis(self.config.heartbeat);
        welcome.silence_ms = millis(self.config.silence_max);
        welcome.chunk_bytes_max = CHUNK_BYTES_MAX as u64;
        let served: Vec<String> = welcome
            .destinations
            .iter()
            .map(|destination| destination.name.clone())
            .collect();

        self.phase = Phase::Open(Heartbeat::new(
            self.config.heartbeat,
            self.config.silence_max,
            now,
        ));
        self.send(ToAgent::Welcome(welcome));
        for destination in served {
            let initial = credit.remove(&destination).unwrap_or(Window::NONE);
            self.outlets
                .insert(destination.clone(), Outlet::new(initial));
            self.announce_credit(destination, initial);
        }
    }

    /// Turns the agent away and closes with the code that fits.
    pub fn refuse(&mut self, mut refuse: Refuse) {
        if self.is_ended() {
            return;
        }
        clip_in_place(&mut refuse.detail);
        let close = Close::of_refusal(&refuse);
        self.send(ToAgent::Refuse(refuse));
        self.end(close, false);
    }

    /// Whether an offer of this size fits the free credit of a destination, and would be sent.
    pub fn has_credit(&self, destination: &str, body_bytes: u64) -> bool {
        self.is_offering()
            && body_bytes <= BODY_BYTES_MAX
            && self
                .outlets
                .get(destination)
                .is_some_and(|outlet| outlet.free.fits(body_bytes))
    }

    /// Hands over an attempt, chunked if its body is long. `used_*` and `body_bytes` are filled in
    /// here; `offer.body` is the whole body.
    ///
    /// # Errors
    ///
    /// [`NotOffered`] when credit is missing or the session is not open or draining: release the lease.
    pub fn offer(&mut self, mut offer: Box<Offer>) -> Result<(), NotOffered> {
        offer.body_bytes = offer.body.len() as u64;
        if !self.has_credit(&offer.destination, offer.body_bytes) {
            return Err(NotOffered(offer));
        }
        if let Some(outlet) = self.outlets.get_mut(&offer.destination) {
            outlet.free.take(offer.body_bytes);
        }
        // Whoever is waited for goes before the others, in the order among themselves.
        let place = match offer.respond {
            true => self.offers.partition_point(|waiting| waiting.respond),
            false => self.offers.len(),
        };
        self.offers.insert(place, offer);
        Ok(())
    }

    /// Tells the agent that receipts are settled and durable.
    pub fn confirm(&mut self, receipts: Vec<Settled>) {
        for receipts in receipts.chunks(LEASES_PER_FRAME_MAX) {
            self.send_if_open(ToAgent::Confirm(Confirm {
                receipts: receipts.to_vec(),
            }));
        }
    }

    /// Withdraws an attempt. It is answered by a receipt or a release all the same; an offer that
    /// was not sent yet is released here, and its credit is free again. Nobody waits for its response
    /// any more.
    pub fn cancel(&mut self, mut cancel: Cancel) {
        if let Some(offer) = self.take_unsent(&cancel) {
            self.give_back(&offer);
            return;
        }
        self.drop_transfer(cancel.delivery, &cancel.lease);
        self.responses
            .remove(&(cancel.delivery, cancel.lease.clone()));
        clip_in_place(&mut cancel.reason);
        self.send_if_open(ToAgent::Cancel(cancel));
    }

    /// Asks the agent to finish and leave; nothing is offered any more, and what was not sent yet is
    /// released. Receipts are still taken until the agent says Bye or the driver closes.
    pub fn drain(&mut self, mut drain: Drain) {
        if !self.is_offering() {
            return;
        }
        self.is_draining = true;
        clip_in_place(&mut drain.reason);
        self.send(ToAgent::Drain(drain));
        for offer in std::mem::take(&mut self.offers) {
            self.give_back(&offer);
        }
    }

    /// Whether the session has ended, though not all of its last words may have been polled.
    pub fn is_ended(&self) -> bool {
        !matches!(self.end, End::NotYet)
    }

    /// Ends the session now.
    pub fn close(&mut self, close: Close) {
        self.end(close, false);
    }

    fn announce_credit(&mut self, destination: String, more: Window) {
        if more != Window::NONE {
            self.outputs.push_back(RelayOutput::Credit {
                destination,
                deliveries: more.deliveries,
                bytes: more.bytes,
            });
        }
    }

    fn refuse_violation(&mut self, violation: &Violation) {
        self.refuse(Refuse {
            code: RefuseCode::Violation,
            detail: violation.to_string(),
            retry_after_ms: Some(millis(RETRY_AFTER_TROUBLE)),
        });
    }

    fn send(&mut self, frame: ToAgent) {
        self.outputs.push_back(RelayOutput::Send(frame));
    }

    fn send_if_open(&mut self, frame: ToAgent) {
        if !self.is_ended() && matches!(self.phase, Phase::Open(_)) {
            self.send(frame);
        }
    }

    fn end(&mut self, close: Close, said_bye: bool) {
        if self.is_ended() {
            return;
        }
        self.offers.clear();
        self.transfers.clear();
        self.cut_responses();
        self.end = End::Queued {
            close: close.clipped(),
            said_bye,
        };
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn is_offering(&self) -> bool {
        matches!(self.phase, Phase::Open(_)) && !self.is_draining && !self.is_ended()
    }
}
