//! What carries a link, and which to try: a WebSocket, or single requests where none gets through.
//!
//! The fall-back is remembered, so that an agent in a difficult network does not try in vain each time,
//! and forgotten as soon as a WebSocket works again, which is tried from time to time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::config::Transport;

/// How long it is remembered that WebSockets do not get through.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// When a WebSocket is tried again: soon at first, since what kept it away may have been an accident.
const UPWARD_MIN: Duration = Duration::from_secs(60);
const UPWARD_MAX: Duration = Duration::from_secs(600);

/// What carries a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    WebSocket,
    Poll,
}

/// What a dial tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// This and nothing else.
    Only(Carrier),
    /// This, and the other one if something in between takes offence at it.
    First(Carrier),
}

/// Decides what carries links.
#[derive(Debug)]
pub(crate) struct Choice {
    configured: Transport,
    /// What is tried first when both may be.
    preferred: Carrier,
    /// When a WebSocket is tried beside what works.
    upward_due: Option<Instant>,
    upward_tries: u32,
    /// The shortest and the longest pause before.
    upward_pauses: (Duration, Duration),
    memory: Memory,
}

impl Choice {
    /// What the configuration and the last run say.
    pub(crate) fn new(configured: Transport, memory: Memory, now: Instant) -> Self {
        let mut choice = Self {
            configured,
            preferred: Carrier::WebSocket,
            upward_due: None,
            upward_tries: 0,
            upward_pauses: (UPWARD_MIN, UPWARD_MAX),
            memory,
        };
        if configured == Transport::Auto && choice.memory.has_fallen_back(SystemTime::now()) {
            choice.preferred = Carrier::Poll;
            choice.upward_tries = u32::MAX;
            choice.plan_upward(now);
        }
        choice
    }

    /// What the next dial tries.
    pub(super) fn plan(&self) -> Plan {
        match self.configured {
            Transport::Auto => Plan::First(self.preferred),
            Transport::WebSocket => Plan::Only(Carrier::WebSocket),
            Transport::Poll => Plan::Only(Carrier::Poll),
        }
    }

    /// A session was welcomed over this.
    pub(super) fn welcomed(&mut self, carrier: Carrier, now: Instant) {
        if self.configured != Transport::Auto {
            return;
        }
        self.preferred = carrier;
        match carrier {
            Carrier::WebSocket => {
                self.upward_due = None;
                self.upward_tries = 0;
                self.memory.forget();
            }
            Carrier::Poll => {
                self.memory.remember(SystemTime::now());
                if self.upward_due.is_none() {
                    self.plan_upward(now);
                }
            }
        }
    }

    /// A link was opened over this, but nothing came of it: try the other one next.
    pub(super) fn unwelcomed(&mut self, carrier: Carrier) {
        if self.configured == Transport::Auto {
            self.preferred = match carrier {
                Carrier::WebSocket => Carrier::Poll,
                Carrier::Poll => Carrier::WebSocket,
            };
        }
    }

    /// When to try a WebSocket beside what works, if ever.
    pub(super) fn upward_due(&self) -> Option<Instant> {
        self.upward_due
    }

    /// It is being tried now.
    pub(super) fn tries_upward(&mut self, now: Instant) {
        self.upward_tries = self.upward_tries.saturating_add(1);
        self.plan_upward(now);
    }

    fn plan_upward(&mut self, now: Instant) {
        let pause = upward_pause(self.upward_pauses, self.upward_tries, rand::random());
        self.upward_due = Some(now + pause);
    }

    /// Tries a WebSocket again after so long, each time.
    #[cfg(test)]
    pub(crate) fn hasten(&mut self, pause: Duration) {
        self.upward_pauses = (pause, pause);
    }
}

/// The pause before the next try; `dice` is random in `0.0..1.0`.
fn upward_pause((shortest, longest): (Duration, Duration), tries: u32, dice: f64) -> Duration {
    let pause = shortest.saturating_mul(1 << tries.min(8)).min(longest);
    pause.mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
}

/// Where it is remembered that WebSockets do not get through.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In the data directory, if there is one.
    path: Option<PathBuf>,
    /// The way that it is true for: other relays and proxies may be different.
    way: String,
    is_kept: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    transport: String,
    way: String,
    until_ms: u64,
}

impl Memory {
    /// A memory for one way to a relay.
    pub(crate) fn new(directory: Option<&Path>, way: String) -> Self {
        Self {
            path: directory.map(|directory| directory.join("transport")),
            way,
            is_kept: false,
        }
    }

    fn has_fallen_back(&mut self, now: SystemTime) -> bool {
        let text = self.path.as_ref().map(fs::read_to_string);
        let Some(Ok(text)) = text else { return false };
        self.is_kept = true;
        // What cannot be read is as good as forgotten.
        let remembered: Option<Remembered> = serde_json::from_str(&text).ok();
        remembered.is_some_and(|remembered| {
            remembered.transport == Transport::Poll.to_string()
                && remembered.way == self.way
                && remembered.until_ms > ms(now)
        })
    }

    fn remember(&mut self, now: SystemTime) {
        let remembered = Remembered {
            transport: Transport::Poll.to_string(),
            way: self.way.clone(),
            until_ms: ms(now + REMEMBERED),
        };
        let Some(path) = &self.path else { return };
        match write(path, &remembered) {
            Ok(()) => self.is_kept = true,
            Err(error) => debug!(%error, "Cannot remember what carries the session"),
        }
    }

    fn forget(&mut self) {
        if !std::mem::take(&mut self.is_kept) {
            return;
        }
        if let Some(Err(error)) = self.path.as_ref().map(fs::remove_file) {
            debug!(%error, "Cannot forget what carries the session");
        }
    }
}

/// First beside, so that a crash leaves no half of it.
fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, serde_json::to_vec(remembered)?)?;
    fs::rename(&beside, path)
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "wss://relay.test/agent/v1/connect";

    fn choice(directory: &Path, configured: Transport) -> Choice {
        Choice::new(
            configured,
            Memory::new(Some(directory), RELAY.to_owned()),
            Instant::now(),
        )
    }

    #[test]
    fn the_fall_back_is_remembered_until_a_websocket_works() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut first = choice(directory.path(), Transport::Auto);
        assert_eq!(first.plan(), Plan::First(Carrier::WebSocket));
        assert_eq!(first.upward_due(), None);
        first.welcomed(Carrier::Poll, now);
        assert_eq!(first.plan(), Plan::First(Carrier::Poll));
        let due = first.upward_due().unwrap();
        assert!(due - now >= UPWARD_MIN.mul_f64(0.8) && due - now <= UPWARD_MIN.mul_f64(1.2));

        let mut second = choice(directory.path(), Transport::Auto);
        assert_eq!(second.plan(), Plan::First(Carrier::Poll));
        assert!(second.upward_due().unwrap() - now >= UPWARD_MAX.mul_f64(0.8));
        second.welcomed(Carrier::WebSocket, now);
        assert_eq!(
            (second.plan(), second.upward_due()),
            (Plan::First(Carrier::WebSocket), None)
        );
        let third = choice(directory.path(), Transport::Auto);
        assert_eq!(third.plan(), Plan::First(Carrier::WebSocket));
    }

    #[test]
    fn what_is_remembered_holds_for_one_way_and_some_time() {
        let directory = tempfile::tempdir().unwrap();
        choice(directory.path(), Transport::Auto).welcomed(Carrier::Poll, Instant::now());
        let memory = |way: &str| Memory::new(Some(directory.path()), way.to_owned());
        let now = SystemTime::now();
        assert!(memory(RELAY).has_fallen_back(now));
        assert!(!memory(RELAY).has_fallen_back(now + REMEMBERED));
        assert!(!memory("wss://other.test").has_fallen_back(now));
        fs::write(directory.path().join("transport"), "nonsense").unwrap();
        assert!(!memory(RELAY).has_fallen_back(now));
        assert!(!Memory::new(None, RELAY.to_owned()).has_fallen_back(now));
    }

    #[test]
    fn a_configured_transport_is_all_that_is_tried() {
        let directory = tempfile::tempdir().unwrap();
        for (configured, carrier) in [
            (Transport::WebSocket, Carrier::WebSocket),
            (Transport::Poll, Carrier::Poll),
        ] {
            let mut choice = choice(directory.path(), configured);
            choice.welcomed(Carrier::Poll, Instant::now());
            choice.unwelcomed(carrier);
            assert_eq!(choice.plan(), Plan::Only(carrier));
            assert_eq!(choice.upward_due(), None);
        }
        assert!(!directory.path().join("transport").exists());
    }

    #[test]
    fn a_link_that_nobody_welcomes_makes_the_other_one_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut choice = choice(directory.path(), Transport::Auto);
        choice.unwelcomed(Carrier::WebSocket);
        assert_eq!(choice.plan(), Plan::First(Carrier::Poll));
        choice.unwelcomed(Carrier::Poll);
        assert_eq!(choice.plan(), Plan::First(Carrier::WebSocket));
        assert!(
            !directory.path().join("transport").exists(),
            "nothing is proven"
        );
    }

    #[test]
    fn pauses_grow_and_are_spread() {
        for (tries, dice, expected_ms) in [
            (0, 0.5, 60_000),
            (1, 0.5, 120_000),
            (4, 0.5, 600_000),
            (u32::MAX, 0.0, 480_000),
            (u32::MAX, 1.0, 720_000),
        ] {
            assert_eq!(
                upward_pause((UPWARD_MIN, UPWARD_MAX), tries, dice).as_millis(),
                expected_ms,
                "{tries} {dice}"
            );
        }
    }
}
