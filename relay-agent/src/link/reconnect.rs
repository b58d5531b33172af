//! When to dial: at once at first and when a link is in doubt, with a pause after a failure.

use std::time::{Duration, Instant};

use super::backoff;

/// When to dial next. Knows no sockets; the driver tells it what happened.
#[derive(Debug)]
pub(super) struct Reconnect {
    due: Instant,
    /// Since when there has been no session.
    outage_since: Option<Instant>,
}

impl Reconnect {
    /// Dials at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            outage_since: Some(now),
        }
    }

    /// When the next dial is due, if one is wanted.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A session is open.
    pub(super) fn welcomed(&mut self) {
        self.outage_since = None;
    }

    /// A dial failed, or a session ended: how long until the next.
    pub(super) fn failed(&mut self, now: Instant, asked: Option<Duration>) -> Duration {
        let since = *self.outage_since.get_or_insert(now);
        let wait = backoff::wait(now.duration_since(since), asked, rand::random());
        self.due = now + wait;
        wait
    }

    /// Dials after a while and a little more, so that not all agents of a relay come at once; without a
    /// failure.
    pub(super) fn after(&mut self, now: Instant, wait: Duration) {
        self.due = now + backoff::wait(Duration::ZERO, Some(wait), rand::random());
    }

    /// Dials at once.
    pub(super) fn now(&mut self, now: Instant) {
        self.due = now;
    }
}
