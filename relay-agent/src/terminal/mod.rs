//! What people see: one line an event, and a line whenever the connection changes.
//!
//! Events go to the standard output, everything else to the standard error.

mod line;

mod lines;

mod log;

pub use line::Line;
pub use lines::Lines;
pub use log::Log;

use std::time::Duration;

use protocol::frame::Welcome;

use crate::{explain::Failure, forward::Outcome};

/// Shows what happens. Must not block: the loop that calls it also answers heartbeats.
pub trait View: Send {
    /// A call has ended.
    fn delivered(&mut self, outcome: &Outcome);

    /// The state of the agent changed.
    fn news(&mut self, news: &News<'_>);
}

/// A change of state.
#[derive(Debug)]
pub enum News<'a> {
    /// A session is open.
    Connected {
        /// Where.
        url: &'a str,
        /// What the relay said.
        welcome: &'a Welcome,
    },
    /// A heartbeat stayed unanswered; another connection is being opened.
    Suspect,
    /// There is no session.
    Lost {
        /// Why.
        failure: &'a Failure,
        /// How long until the next try.
        wait: Duration,
    },
    /// The relay goes away and asked for a new connection.
    RelayDrains {
        /// Why.
        reason: &'a str,
    },
    /// The agent was asked to stop.
    Stopping {
        /// Deliveries that are finished first.
        in_hand: usize,
    },
}
