//! The wire between a Hookferry relay and its agents.
//!
//! This crate is pure: it performs no I/O, reads no clock, draws no random numbers and knows no
//! async runtime. Time comes in as an argument, bytes come in and go out, and both session state
//! machines can therefore be tested as a pair in virtual time.
//!
//! In the order in which a session uses them:
//!
//! - [`id`]: the identifiers that travel in frames;
//! - [`limits`]: every bound of the protocol, in one place;
//! - [`frame`]: who may say what ([`frame::ToAgent`], [`frame::ToRelay`]);
//! - [`codec`]: frames to bytes and back;
//! - [`poll`]: frames over single HTTP requests, where WebSockets do not get through;
//! - [`session`]: the two state machines, [`session::RelaySession`] and [`session::AgentSession`];
//! - [`code`]: what can go wrong in either program, in words.

pub mod id;

pub mod limits;

pub mod frame;

pub mod codec;

pub mod poll;

pub mod session;

pub mod code;

#[cfg(test)]
mod dice;
