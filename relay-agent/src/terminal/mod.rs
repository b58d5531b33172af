//! What people see: an interactive screen, or one line an event and a line whenever the connection
//! changes. Lines of events go to the standard output, everything else to the standard error.

mod line;

mod lines;

mod log;

mod screen;

pub use line::Line;
pub(crate) use line::for_people;
pub use lines::Lines;
pub use log::Log;
pub use screen::{Screen, give_terminal_back};

use std::{io::IsTerminal, time::Duration};

use protocol::frame::Welcome;

use crate::{
    explain::Failure,
    forward::{Attempt, Outcome},
};

/// Shows what happens. Must not block: the loop that calls it also answers heartbeats.
pub trait View: Send {
    /// A call begins.
    fn started(&mut self, _attempt: &Attempt) {}

    /// A call has ended.
    fn delivered(&mut self, outcome: &Outcome);

    /// The state of the agent changed.
    fn news(&mut self, news: &News<'_>);
}

/// How wide texts for people are: as wide as the terminal, within reason.
pub fn width() -> usize {
    let terminal = std::io::stdout()
        .is_terminal()
        .then(terminal_size::terminal_size)
        .flatten();
    terminal.map_or(80, |(width, _)| usize::from(width.0).clamp(40, 100))
}

/// A change of state.
#[derive(Debug)]
pub enum News<'a> {
    /// A session is open.
    Connected {
        /// Where.
        url: &'a str,
        /// Over single requests: no WebSocket gets through, or none was wanted.
        is_fallback: bool,
        /// What the relay said.
        welcome: &'a Welcome,
    },
    /// A heartbeat was answered.
    Heartbeat {
        /// The time between.
        rtt: Duration,
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
