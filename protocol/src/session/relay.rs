//! The relay's end of a session.

use std::time::{Duration, Instant};

use super::{Close, Violation};
use crate::frame::{
    Cancel, Drain, Held, Hello, Offer, Receipt, Refuse, ResponseChunk, ResponseCredit, Settled,
    ToAgent, ToRelay, Welcome,
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
    /// Part of a service's response (sync mode).
    ResponseChunk(ResponseChunk),
    /// The agent still works on these: renew their leases.
    Renew(Vec<Held>),
    /// The agent hands these back: they may go to others at once.
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

/// The relay's end of a session.
#[derive(Debug)]
pub struct RelaySession {}

impl RelaySession {
    /// A connection whose token was accepted; waits for Hello at most [`crate::limits::HANDSHAKE_MAX`].
    pub fn new(_config: RelayConfig, _now: Instant) -> Self {
        todo!()
    }

    /// Takes a frame from the agent.
    ///
    /// # Errors
    ///
    /// A [`Violation`]; Refuse and Close are already queued, so the driver only drains the outputs.
    pub fn handle_frame(&mut self, _frame: ToRelay, _now: Instant) -> Result<(), Violation> {
        todo!()
    }

    /// Bytes that were not a frame: refuses and closes like any violation.
    pub fn handle_malformed(&mut self, _now: Instant) {
        todo!()
    }

    /// The connection ended without a word: queues `Close` with `said_bye` false unless already closed.
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
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        todo!()
    }

    /// Lets the agent in; the initial credit of Hello becomes `Credit` outputs after Welcome.
    /// A `listen` destination gets its credit from [`crate::frame::Listen`].
    pub fn welcome(&mut self, _welcome: Welcome, _now: Instant) {
        todo!()
    }

    /// Turns the agent away and closes with the code that fits.
    pub fn refuse(&mut self, _refuse: Refuse) {
        todo!()
    }

    /// Whether an offer of this size fits the free credit of a destination.
    pub fn has_credit(&self, _destination: &str, _body_bytes: u64) -> bool {
        todo!()
    }

    /// Hands over an attempt, chunked if its body is long. `used_*` are filled in here; `offer.body`
    /// is the whole body.
    ///
    /// # Errors
    ///
    /// [`NotOffered`] when credit is missing or the session is not open or draining: release the lease.
    pub fn offer(&mut self, _offer: Box<Offer>) -> Result<(), NotOffered> {
        todo!()
    }

    /// Tells the agent that receipts are settled and durable.
    pub fn confirm(&mut self, _receipts: Vec<Settled>) {
        todo!()
    }

    /// Withdraws an attempt.
    pub fn cancel(&mut self, _cancel: Cancel) {
        todo!()
    }

    /// Lets more of a response come (sync mode).
    pub fn response_credit(&mut self, _credit: ResponseCredit) {
        todo!()
    }

    /// Asks the agent to finish and leave; nothing is offered any more. Receipts are still taken
    /// until the agent says Bye or the driver closes.
    pub fn drain(&mut self, _drain: Drain) {
        todo!()
    }

    /// Ends the session now.
    pub fn close(&mut self, _close: Close) {
        todo!()
    }
}
