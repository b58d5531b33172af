//! When to ask whether the peer is alive, and when to presume that it is not.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Violation;
use crate::{
    frame::{Ping, Pong},
    limits::{
        HEARTBEAT_ANSWER_MAX, HEARTBEAT_INTERVAL_MIN, PINGS_AT_ONCE_MAX, PINGS_PER_SECOND_MAX,
    },
};

/// Unanswered heartbeats that are remembered; only the newest can still give a round trip.
const UNANSWERED_MAX: usize = 8;

/// What has become due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a heartbeat.
    Ping(Ping),
    /// A heartbeat stays unanswered and nothing else was heard either.
    Suspect,
    /// The peer has been silent for too long.
    Silent,
}

/// One end's heartbeat.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    silence_max: Duration,
    /// When any frame was last heard.
    heard: Instant,
    next_ping: Instant,
    next_nonce: u64,
    /// Nonces and when they were sent, oldest first.
    unanswered: VecDeque<(u64, Instant)>,
    is_suspect: bool,
    budget: PingBudget,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration, silence_max: Duration, now: Instant) -> Self {
        let interval = interval.max(HEARTBEAT_INTERVAL_MIN);
        Self {
            interval,
            silence_max: silence_max.max(interval),
            heard: now,
            next_ping: now + interval,
            next_nonce: 1,
            unanswered: VecDeque::new(),
            is_suspect: false,
            budget: PingBudget {
                pings: PINGS_AT_ONCE_MAX,
                refilled: now,
            },
        }
    }

    /// Asks at once whether the peer is alive.
    pub(super) fn probe(&mut self, now: Instant) {
        self.next_ping = self.next_ping.min(now);
    }

    /// Any frame is a sign of life.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Answers the peer's heartbeat, unless it asks too often.
    pub(super) fn answer(&mut self, ping: Ping, now: Instant) -> Result<Pong, Violation> {
        self.budget.spend(now)?;
        Ok(Pong { nonce: ping.nonce })
    }

    /// Takes an answer; gives the round trip if it was waited for.
    pub(super) fn take_answer(&mut self, pong: Pong, now: Instant) -> Option<Duration> {
        let position = self
            .unanswered
            .iter()
            .position(|&(nonce, _)| nonce == pong.nonce)?;
        let (_, sent) = self.unanswered.drain(..=position).next_back()?;
        self.is_suspect = false;
        Some(now.saturating_duration_since(sent))
    }

    /// The next thing that is due, if any. Call it until it gives none.
    pub(super) fn due(&mut self, now: Instant) -> Option<Beat> {
        if now >= self.heard + self.silence_max {
            return Some(Beat::Silent);
        }
        if self.suspect_at().is_some_and(|at| now >= at) {
            self.is_suspect = true;
            return Some(Beat::Suspect);
        }
        if now >= self.next_ping {
            return Some(Beat::Ping(self.ping(now)));
        }
        None
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let regular = self.next_ping.min(self.heard + self.silence_max);
        self.suspect_at().map_or(regular, |at| regular.min(at))
    }

    fn ping(&mut self, now: Instant) -> Ping {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.next_ping = now + self.interval;
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((nonce, now));
        Ping { nonce }
    }

    /// A link that still brings frames is not suspect, however late the answer is.
    fn suspect_at(&self) -> Option<Instant> {
        let &(_, sent) = self.unanswered.front()?;
        (!self.is_suspect).then(|| sent.max(self.heard) + HEARTBEAT_ANSWER_MAX)
    }
}

/// How many more heartbeats the peer may send.
#[derive(Debug)]
struct PingBudget {
    pings: u32,
    refilled: Instant,
}

impl PingBudget {
    fn spend(&mut self, now: Instant) -> Result<(), Violation> {
        let period = Duration::from_secs(1) / PINGS_PER_SECOND_MAX;
        let idle = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(idle.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
        if self.pings.saturating_add(earned) >= PINGS_AT_ONCE_MAX {
            self.pings = PINGS_AT_ONCE_MAX;
            self.refilled = now;
        } else {
            self.pings += earned;
            self.refilled += period * earned;
        }
        if self.pings == 0 {
            return Err(Violation("heartbeats come faster than the protocol allows"));
        }
        self.pings -= 1;
        Ok(())
    }
}
