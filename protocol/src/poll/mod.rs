//! The fall-back transport: the frames of a session over single HTTP requests, for networks where
//! WebSockets do not get through.
//!
//! Requests and answers are lost, repeated and delayed; frames must not be. So both directions are
//! cut into numbered batches, of which at most one is under way: the agent repeats an upward batch
//! until it is taken, the relay a downward one until a poll says that it was received.
//!
//! - [`Request`], [`Answer`]: the bodies, and their bytes;
//! - [`RelayPipe`], [`AgentPipe`]: the two ends, pure like the machines of [`crate::session`], which know
//!   nothing of this.

mod message;

mod batch;

mod relay;

mod agent;

pub use agent::AgentPipe;
pub use message::{Answer, Farewell, Request};
pub use relay::{PollTicket, RelayPipe, Upward};

#[cfg(test)]
mod tests;
