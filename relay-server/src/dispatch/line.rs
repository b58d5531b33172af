//! One destination: the sessions that serve it, how much each still takes, and what holds the
//! destination back. Pure.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use protocol::{
    id::{AgentId, DeliveryId, DestinationId, SessionId, TenantId},
    session::Allowance,
};

use super::{
    bucket::Bucket,
    health::Health,
    machine::Moment,
    rules::{Rules, Wait},
};
use crate::store::{DestinationKey, Want};

/// All destinations of a tenant.
pub(super) fn keys_of(tenant: TenantId) -> RangeInclusive<DestinationKey> {
    let key = |destination| DestinationKey {
        tenant,
        destination: DestinationId::from_u128(destination),
    };
    key(0)..=key(u128::MAX)
}

/// The sessions that serve one destination.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) rules: Rules,
    /// Who was served last stands last.
    seats: Vec<Seat>,
    /// The agents of the seats, and those that left not long ago.
    healths: BTreeMap<AgentId, Health>,
    bucket: Option<Bucket>,
    /// The store may have something due.
    pub(super) due: bool,
    /// The store is asked for something.
    pub(super) claiming: bool,
    /// Nobody has room for the next delivery, however much is free: wait for more.
    blocked: bool,
}

/// One session at a destination.
#[derive(Debug)]
struct Seat {
    session: SessionId,
    agent: AgentId,
    ttl: Duration,
    free: Allowance,
}

/// What a line can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Can {
    /// Hand out.
    Go,
    /// Nothing until somebody says something.
    Wait(Wait),
    /// Nothing until then, or until somebody says something.
    Later(Wait, Until),
}

/// A time by either clock: schedules follow the wall's, everything else runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Instant(Instant),
    Time(crate::clock::Timestamp),
}

impl Line {
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        let mut line = Self {
            rules: Rules::default(),
            seats: Vec::new(),
            healths: BTreeMap::new(),
            bucket: None,
            due: false,
            claiming: false,
            blocked: false,
        };
        line.set_rules(rules, now);
        line
    }

    /// Heeds other settings. A rate starts anew when it changes.
    pub(super) fn set_rules(&mut self, rules: Rules, now: Instant) {
        let rate = self.bucket.map(|bucket| bucket.per_second());
        if rate != rules.rate_per_second {
            self.bucket = rules.rate_per_second.map(|rate| Bucket::new(rate, now));
        }
        self.rules = rules;
    }

    /// Whether nobody stands here and nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty() && self.healths.is_empty()
    }

    pub(super) fn join(&mut self, session: SessionId, agent: AgentId, ttl: Duration, now: Instant) {
        self.seats.retain(|seat| seat.session != session);
        self.healths
            .entry(agent)
            .or_insert_with(|| Health::new(now));
        self.seats.push(Seat {
            session,
            agent,
            ttl,
            free: Allowance::default(),
        });
    }

    /// A session has left. Names its agent if that is to be remembered without a session.
    pub(super) fn leave(&mut self, session: SessionId) -> Option<AgentId> {
        let at = self.seats.iter().position(|seat| seat.session == session)?;
        let agent = self.seats.remove(at).agent;
        if self.is_seated(agent) {
            return None;
        }
        if self.healths.get(&agent).is_some_and(Health::is_at_rest) {
            self.healths.remove(&agent);
            return None;
        }
        Some(agent)
    }

    /// Forgets an agent that has not come back.
    pub(super) fn forget(&mut self, agent: AgentId) {
        if !self.is_seated(agent) {
            self.healths.remove(&agent);
        }
    }

    fn is_seated(&self, agent: AgentId) -> bool {
        self.seats.iter().any(|seat| seat.agent == agent)
    }

    pub(super) fn credit(&mut self, session: SessionId, deliveries: u64, bytes: u64) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.session == session) {
            seat.free.add(deliveries, bytes);
            self.blocked = false;
        }
    }

    /// Something has changed by itself: whoever had no room may have some.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// What the line can do.
    pub(super) fn can(&self, moment: Moment) -> Can {
        match self.rules.rest(moment.time) {
            Some(wait @ Wait::Paused { until: None }) => return Can::Wait(wait),
            Some(wait @ (Wait::Paused { until: Some(until) } | Wait::Maintenance { until })) => {
                return Can::Later(wait, Until::Time(until));
            }
            Some(_) | None => {}
        }
        if self.seats.is_empty() {
            return Can::Wait(Wait::NoAgent);
        }
        if self.blocked || self.room(moment.instant).deliveries == 0 {
            return self.without_room(moment.instant);
        }
        match &self.bucket {
            Some(bucket) if bucket.available(moment.instant) == 0 => {
                Can::Later(Wait::Rate, Until::Instant(bucket.ready_at()))
            }
            _ => Can::Go,
        }
    }

    fn without_room(&self, now: Instant) -> Can {
        let seated = || {
            self.seats
                .iter()
                .filter_map(|seat| self.healths.get(&seat.agent))
        };
        let wait = if seated().all(|health| health.breaker.is_open()) {
            Wait::Outage
        } else {
            Wait::Room
        };
        // A probe that is due already waits for credit.
        let probe = seated()
            .filter_map(|health| health.breaker.poll_timeout())
            .filter(|at| *at > now)
            .min();
        match probe {
            Some(at) => Can::Later(wait, Until::Instant(at)),
            None => Can::Wait(wait),
        }
    }

    /// How much its sessions take now.
    fn room(&self, now: Instant) -> Room {
        let mut room = Room::default();
        let mut left: BTreeMap<AgentId, u64> = BTreeMap::new();
        for seat in self.seats.iter().filter(|seat| seat.free.fits(0)) {
            let Some(health) = self.healths.get(&seat.agent) else {
                continue;
            };
            let left = left
                .entry(seat.agent)
                .or_insert_with(|| u64::from(health.room(now)));
            let deliveries = seat.free.deliveries().min(*left);
            if deliveries == 0 {
                continue;
            }
            *left -= deliveries;
            room.deliveries = room.deliveries.saturating_add(deliveries);
            let bytes = u64::try_from(seat.free.bytes()).unwrap_or(0);
            room.bytes = room.bytes.saturating_add(bytes);
            room.ttl = room.ttl.max(seat.ttl);
        }
        room
    }

    /// How much to claim, at most `deliveries` and `bytes`; `None` if nobody has room. What it may
    /// take of the rate is reserved until [`Self::claimed`].
    pub(super) fn claim(
        &mut self,
        key: DestinationKey,
        deliveries: u32,
        bytes: u64,
        now: Instant,
    ) -> Option<Want> {
        let room = self.room(now);
        let mut most = u32::try_from(room.deliveries)
            .unwrap_or(u32::MAX)
            .min(deliveries);
        if let Some(bucket) = &mut self.bucket {
            most = most.min(bucket.available(now));
            bucket.take(most, now);
        }
        if most == 0 {
            return None;
        }
        self.claiming = true;
        self.due = false;
        Some(Want {
            key,
            deliveries: most,
            bytes: room.bytes.min(bytes),
            in_flight_max: self.rules.in_flight_max,
            ttl: room.ttl,
        })
    }

    /// The store has answered with this many.
    pub(super) fn claimed(&mut self, want: &Want, given: u32) {
        self.claiming = false;
        // Only nothing at all says for sure that nothing is left.
        self.due |= given > 0;
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(want.deliveries.saturating_sub(given));
        }
    }

    /// Chooses who gets a delivery. A service that may be back is tried first; then comes the session
    /// with most free deliveries among those with room for `bytes`, of several the one that has waited
    /// longest, so that little work is spread, too.
    pub(super) fn assign(
        &mut self,
        delivery: DeliveryId,
        bytes: u64,
        now: Instant,
    ) -> Option<(SessionId, AgentId, Instant)> {
        let with_room = self.seats.iter().enumerate().filter(|(_, seat)| {
            let health = self.healths.get(&seat.agent);
            seat.free.fits(bytes) && health.is_some_and(|health| health.room(now) > 0)
        });
        let chosen = with_room.min_by_key(|(_, seat)| {
            let probes = self
                .healths
                .get(&seat.agent)
                .is_some_and(|health| health.breaker.is_open());
            (!probes, Reverse(seat.free.deliveries()))
        });
        let Some((index, _)) = chosen else {
            self.blocked = true;
            return None;
        };
        self.seats[index..].rotate_left(1);
        let seat = self.seats.last_mut()?;
        seat.free.take(bytes);
        let (session, agent) = (seat.session, seat.agent);
        let until = self.unheard_until(agent, now);
        if let Some(health) = self.healths.get_mut(&agent) {
            health.handle_hand_out(delivery, until);
        }
        Some((session, agent, until))
    }

    /// When nothing will be heard any more of what an agent has in hand. Renewals may stretch a lease;
    /// nothing worse follows than one more probe.
    pub(super) fn unheard_until(&self, agent: AgentId, now: Instant) -> Instant {
        let of_agent = self.seats.iter().filter(|seat| seat.agent == agent);
        now + of_agent.map(|seat| seat.ttl).max().unwrap_or_default() * 2
    }

    /// An agent's health, to change it.
    pub(super) fn change(&mut self, agent: AgentId) -> Option<&mut Health> {
        self.blocked = false;
        self.healths.get_mut(&agent)
    }

    /// Every agent that serves, with what it takes besides what it has in hand.
    pub(super) fn agents(&self) -> impl Iterator<Item = (AgentId, &Health)> {
        self.healths
            .iter()
            .filter(|(agent, _)| self.is_seated(**agent))
            .map(|(agent, health)| (*agent, health))
    }

    /// What the sessions of an agent take besides what it has in hand.
    pub(super) fn free_of(&self, agent: AgentId) -> u64 {
        let of_agent = self.seats.iter().filter(|seat| seat.agent == agent);
        of_agent.map(|seat| seat.free.deliveries()).sum()
    }

    /// Whether another agent reaches the service.
    pub(super) fn is_well_elsewhere(&self, agent: AgentId) -> bool {
        self.agents()
            .any(|(other, health)| other != agent && !health.breaker.is_open())
    }
}

#[derive(Debug, Default)]
struct Room {
    deliveries: u64,
    bytes: u64,
    ttl: Duration,
}
