//! The agent's end of a session.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Close, Violation, Window};
use crate::{
    frame::{
        Cancel, Held, Listen, Offer, Receipt, ResponseChunk, ResponseCredit, Settled, ToAgent,
        ToRelay, Welcome,
    },
    id::{AgentId, DeliveryId},
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
    /// An attempt that is no longer wanted.
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
    /// A heartbeat stayed unanswered for [`crate::limits::HEARTBEAT_ANSWER_MAX`]: dial afresh beside this link.
    Suspect,
    /// Close the connection.
    Close(Close),
}

/// The agent's end of a session.
#[derive(Debug)]
pub struct AgentSession {}

impl AgentSession {
    /// Starts a session on a fresh connection: queues Hello, naming the attempts still `holding`,
    /// and after Welcome every receipt of `unconfirmed`.
    pub fn new(
        _config: AgentConfig,
        _holding: Vec<Held>,
        _unconfirmed: Vec<Receipt>,
        _now: Instant,
    ) -> Self {
        todo!()
    }

    /// Takes a frame from the relay.
    ///
    /// # Errors
    ///
    /// A [`Violation`]; Close is already queued, so the driver only drains the outputs.
    pub fn handle_frame(&mut self, _frame: ToAgent, _now: Instant) -> Result<(), Violation> {
        todo!()
    }

    /// Bytes that were not a frame: closes like any violation.
    pub fn handle_malformed(&mut self, _now: Instant) {
        todo!()
    }

    /// The connection ended without a word: queues `Close` unless already closed.
    pub fn handle_disconnect(&mut self) {
        todo!()
    }

    /// The instant of `poll_timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        todo!()
    }

    /// An attempt ended: frees its credit, sends the receipt now if the session is open, and again
    /// every [`crate::limits::RECEIPT_RESEND_AFTER`] until it is confirmed. Also for receipts that
    /// answer a repeated offer from the journal.
    pub fn finish(&mut self, _receipt: Receipt, _now: Instant) {
        todo!()
    }

    /// Hands an offer back unattempted, for instance while draining.
    pub fn release(&mut self, _held: Held) {
        todo!()
    }

    /// Sends part of a response (sync mode).
    pub fn respond(&mut self, _chunk: ResponseChunk) {
        todo!()
    }

    /// Stops taking offers: no more credit is granted. What arrives all the same is released.
    pub fn begin_drain(&mut self) {
        todo!()
    }

    /// Nothing is held any more: says Bye and closes.
    pub fn bye(&mut self, _reason: &str) {
        todo!()
    }

    /// Receipts that are still unconfirmed, for the next session.
    pub fn unconfirmed(&self) -> Vec<Receipt> {
        todo!()
    }
}
