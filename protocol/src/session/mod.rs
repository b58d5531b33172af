//! The two ends of a session as pure state machines.
//!
//! A driver owns the socket and the clock and decides nothing. It feeds a machine with `handle_*`
//! and its own wishes ([`RelaySession::offer`], [`AgentSession::finish`], ...), drains
//! `poll_output` until it is empty after every call, and calls `handle_timeout` when the instant of
//! `poll_timeout` has come. After an output of `Close` the machine says nothing more.
//!
//! While a socket takes no more, a driver may stop draining and go on reading: heartbeats and other
//! short frames overtake what waits, and so does the start of an offer the rest of a long body.
//!
//! A machine lives as long as one connection. What outlives it, the receipts that are not yet
//! confirmed and the attempts still being made, is handed to the next one.

mod agent;

mod close;

mod check;

mod heartbeat;

mod relay;

mod response;

mod transfer;

mod unconfirmed;

mod window;

pub use agent::{AgentConfig, AgentOutput, AgentSession, NotSent};
pub use close::{Close, CloseCode, Violation};
pub use relay::{NotOffered, RelayConfig, RelayOutput, RelaySession};
pub use window::{Allowance, Window};

#[cfg(test)]
mod tests;
