//! Stopping: take nothing more, finish, report, hand the rest back, say Bye.

use std::time::{Duration, Instant};

use super::{Driver, Phase};
use crate::{explain::Failure, forward::CallError, terminal::News};

/// How long a stopping agent waits for the relay to confirm what it reported.
const CONFIRM_MAX: Duration = Duration::from_secs(3);

/// How far a stop has come.
pub(super) struct Stopping {
    /// When what is still in hand is given up.
    until: Instant,
    /// When unconfirmed receipts are not waited for any longer; set once nothing is in hand.
    confirm_until: Option<Instant>,
    has_said_bye: bool,
    /// Why, unless it was asked for.
    pub(super) failure: Option<Failure>,
}

impl Stopping {
    /// When the next step is due at the latest.
    pub(super) fn due(&self) -> Instant {
        self.confirm_until.unwrap_or(self.until)
    }
}

impl Driver {
    /// Takes nothing more and hands back what has not begun.
    pub(super) fn begin_stop(&mut self, failure: Option<Failure>) {
        if self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        self.stopping = Some(Stopping {
            until: now + self.grace,
            confirm_until: None,
            has_said_bye: false,
            failure,
        });
        self.dialling = None;
        for link in &mut self.links {
            link.session.begin_drain();
        }
        for in_hand in self.inbox.take_waiting() {
            self.release(&in_hand.held);
        }
        self.news(&News::Stopping {
            in_hand: self.inbox.len(),
        });
    }

    /// Goes on with a stop. Whether it is complete.
    pub(super) fn advance_stop(&mut self) -> bool {
        let Some(stopping) = &mut self.stopping else {
            return false;
        };
        let now = Instant::now();
        if !self.inbox.is_empty() && now < stopping.until {
            return false;
        }
        let confirm_until = *stopping.confirm_until.get_or_insert(now + CONFIRM_MAX);
        let has_said_bye = stopping.has_said_bye;
        self.give_up();
        if !has_said_bye {
            let is_heard = self
                .links
                .iter()
                .any(|link| link.phase != Phase::Opening && !link.is_suspect);
            if is_heard && !self.report.is_settled() && now < confirm_until {
                return false;
            }
            self.say_bye();
        }
        self.links.is_empty()
    }

    /// Gives up what is still in hand. The relay learns of it, so that it need not wait for a lease.
    fn give_up(&mut self) {
        let abandoned = self.inbox.abandon();
        if abandoned.is_empty() {
            return;
        }
        let held = abandoned.into_iter().map(|in_hand| in_hand.held);
        let receipts = self.report.give_up(held.collect(), &CallError::Abandoned);
        self.send(receipts);
    }

    fn say_bye(&mut self) {
        for link in &mut self.links {
            link.session.bye("the agent stops");
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.has_said_bye = true;
        }
        self.perform_outputs();
    }
}
