//! What systemd is told (sd_notify), if it runs the agent. The protocol's variables are its own
//! business, so they are read here and not in `config`; without them nothing is sent.
//!
//! The watchdog is answered by the loop that does all the work, from [`Supervisor::turn`]: while that
//! loop hangs, nobody else speaks up for it.

use std::time::{Duration, Instant};

use crate::terminal::for_people;

/// Nothing is due for as long as anybody cares.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What systemd knows, and what it wants to hear next.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// How often the watchdog is answered, if there is one.
    every: Option<Duration>,
    answer_due: Instant,
    /// When the agent is called ready even without a session; none once it was called so.
    ready_due: Option<Instant>,
}

impl Supervisor {
    pub(super) fn new(now: Instant, ready_within: Duration) -> Self {
        // Thrice within its patience, as two answers may be late.
        let every = notify::watchdog().map(|patience| patience / 3);
        Self {
            every,
            answer_due: now,
            ready_due: Some(now + ready_within),
        }
    }

    /// When [`Self::turn`] has something to do.
    pub(super) fn due(&self) -> Instant {
        let far = self.answer_due + FAR;
        let answer = self.every.map_or(far, |_| self.answer_due);
        self.ready_due.map_or(answer, |ready| ready.min(answer))
    }

    /// The loop lives.
    pub(super) fn turn(&mut self, now: Instant) {
        if let Some(every) = self.every.filter(|_| now >= self.answer_due) {
            self.answer_due = now + every;
            notify::send(&[notify::State::Watchdog]);
        }
        if self.ready_due.is_some_and(|due| now >= due) {
            self.ready("not connected to the relay yet");
        }
    }

    /// The agent serves: tells so for the first time, and from then on only the text.
    pub(super) fn ready(&mut self, text: &str) {
        match self.ready_due.take() {
            Some(_) => notify::send(&[notify::State::Ready, status(&for_people(text))]),
            None => self.status(text),
        }
    }

    /// How things are, in a line.
    pub(super) fn status(&self, text: &str) {
        notify::send(&[status(&for_people(text))]);
    }

    /// The agent was asked to stop.
    pub(super) fn stopping(&self, text: &str) {
        notify::send(&[notify::State::Stopping, status(&for_people(text))]);
    }

    /// The configuration is being read again. Before the agent was ready this would say that it is.
    pub(super) fn reloading(&self) {
        if self.ready_due.is_none() {
            notify::reloading();
        }
    }

    /// The configuration was read again, whatever came of it.
    pub(super) fn reloaded(&self, text: &str) {
        let text = for_people(text);
        match self.ready_due {
            None => notify::send(&[notify::State::Ready, status(&text)]),
            Some(_) => notify::send(&[status(&text)]),
        }
    }
}

fn status(text: &str) -> notify::State<'_> {
    notify::State::Status(text)
}

#[cfg(unix)]
mod notify {
    use std::time::Duration;

    pub(super) use sd_notify::NotifyState as State;
    use tracing::debug;

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())
    }

    pub(super) fn send(states: &[State<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            debug!(%error, "Cannot tell systemd");
        }
    }

    pub(super) fn reloading() {
        match State::monotonic_usec_now() {
            Ok(now) => send(&[State::Reloading, now]),
            Err(error) => debug!(%error, "There is no monotonic clock"),
        }
    }
}

#[cfg(not(unix))]
mod notify {
    use std::time::Duration;

    pub(super) enum State<'a> {
        Ready,
        Stopping,
        Watchdog,
        Status(#[expect(dead_code, reason = "nobody listens here")] &'a str),
    }

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn send(_states: &[State<'_>]) {}

    pub(super) fn reloading() {}
}
