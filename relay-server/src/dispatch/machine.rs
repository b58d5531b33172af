//! The match as a state machine: pure, without clock, store or channels. Fed with `handle_*`, asked
//! with `plan` and `poll_timeout`; the driver, or a simulation, does the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use protocol::id::{AgentId, DeliveryId, SessionId, TenantId};

use super::{
    bucket::Bucket,
    fairness::{DELIVERY_COST, ROUND_COST, Rounds},
    line::{Can, Line, Until, keys_of},
    rules::{Rules, TenantRules},
    view::LineView,
};
use crate::{
    clock::Timestamp,
    lifecycle::{Excuse, Sign},
    store::{DestinationKey, Held, Lease, LeaseInfo, Want},
};

/// How long an agent that left is remembered where its service was down or it has work in hand.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Agents that left and are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Now, by the clock that runs on and by the wall's.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For waits and rates.
    pub instant: Instant,
    /// For schedules and the age of events.
    pub time: Timestamp,
}

/// Matches due deliveries with credit.
#[derive(Debug, Default)]
pub struct Dispatch {
    lines: BTreeMap<DestinationKey, Line>,
    /// The lines each session stands in.
    sessions: HashMap<SessionId, Vec<DestinationKey>>,
    tenants: BTreeMap<TenantId, Tenant>,
    turns: Rounds<TenantId>,
    /// Lines that can hand out now, and lines that can at a later time.
    able: BTreeSet<DestinationKey>,
    later: Alarms,
    /// Who has what in hand.
    hands: HashMap<DeliveryId, Hand>,
    /// Agents that left and when they are forgotten.
    left: BTreeSet<(Instant, DestinationKey, AgentId)>,
    /// Something can be handed out, or will be sooner, since [`Self::take_news`].
    news: bool,
}

/// What the lines of a tenant share.
#[derive(Debug, Default)]
struct Tenant {
    rules: TenantRules,
    bucket: Option<Bucket>,
    turns: Rounds<DestinationKey>,
}

/// A delivery in an agent's hands.
#[derive(Debug, Clone, Copy)]
struct Hand {
    agent: AgentId,
    key: DestinationKey,
    attempt: u32,
    /// By then it has been heard of, or never will be.
    until: Instant,
}

/// When lines wait for a time, by either clock.
#[derive(Debug, Default)]
struct Alarms {
    instants: BTreeSet<(Instant, DestinationKey)>,
    times: BTreeSet<(Timestamp, DestinationKey)>,
    set: HashMap<DestinationKey, Until>,
}

/// What becomes of claimed leases.
#[derive(Debug, Default)]
pub struct Assigned {
    /// Who gets what.
    pub batches: BTreeMap<SessionId, Vec<Lease>>,
    /// Nobody has room for these: release them.
    pub orphans: Vec<Held>,
    /// Their events are too old: end them as expired.
    pub aged: Vec<Held>,
}

impl Dispatch {
    /// A session serves a destination from now on. Credit comes separately.
    pub fn handle_join(
        &mut self,
        session: SessionId,
        agent: AgentId,
        key: DestinationKey,
        ttl: Duration,
        (rules, tenant): (Rules, TenantRules),
        moment: Moment,
    ) {
        self.tenants.entry(key.tenant).or_default();
        self.set_tenant(key.tenant, tenant, moment);
        let line = self
            .lines
            .entry(key)
            .or_insert_with(|| Line::new(Rules::default(), moment.instant));
        line.set_rules(rules, moment.instant);
        line.join(session, agent, ttl, moment.instant);
        // What waited while nobody served it was not counted.
        line.due = true;
        self.sessions.entry(session).or_default().push(key);
        self.refresh(key, moment);
    }

    /// A session takes more.
    pub fn handle_credit(
        &mut self,
        session: SessionId,
        key: DestinationKey,
        deliveries: u64,
        bytes: u64,
        moment: Moment,
    ) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.credit(session, deliveries, bytes);
            self.refresh(key, moment);
        }
    }

    /// A session serves nothing any more.
    pub fn handle_leave(&mut self, session: SessionId, moment: Moment) {
        for key in self.sessions.remove(&session).unwrap_or_default() {
            let Some(line) = self.lines.get_mut(&key) else {
                continue;
            };
            if let Some(agent) = line.leave(session) {
                let until = moment.instant + REMEMBERED;
                self.left.insert((until, key, agent));
            }
            self.refresh(key, moment);
        }
        while self.left.len() > REMEMBERED_MAX
            && let Some((_, key, agent)) = self.left.pop_first()
        {
            self.forget(key, agent, moment);
        }
    }

    /// The settings of a destination have changed, or it is gone.
    pub fn handle_rules(&mut self, key: DestinationKey, rules: Option<Rules>, moment: Moment) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.set_rules(rules.unwrap_or_default(), moment.instant);
            self.refresh(key, moment);
        }
    }

    /// The settings of a tenant have changed.
    pub fn handle_tenant_rules(&mut self, tenant: TenantId, rules: TenantRules, moment: Moment) {
        if self.set_tenant(tenant, rules, moment) {
            let keys: Vec<_> = self
                .lines
                .range(keys_of(tenant))
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                self.refresh(key, moment);
            }
        }
    }

    fn set_tenant(&mut self, tenant: TenantId, rules: TenantRules, moment: Moment) -> bool {
        let Some(known) = self.tenants.get_mut(&tenant) else {
            return false;
        };
        if known.rules == rules {
            return false;
        }
        if known.rules.rate_per_second != rules.rate_per_second {
            let bucket = |rate| Bucket::new(rate, moment.instant);
            known.bucket = rules.rate_per_second.map(bucket);
        }
        known.rules = rules;
        true
    }

    /// The store may have something due for these.
    pub fn handle_due(&mut self, keys: impl IntoIterator<Item = DestinationKey>, moment: Moment) {
        for key in keys {
            // Where nobody stands, joining looks.
            if let Some(line) = self.lines.get_mut(&key) {
                line.due = true;
                self.refresh(key, moment);
            }
        }
    }

    /// An attempt has ended at an agent: whether an outage excuses it. `luck` is uniform in 0..1.
    pub fn handle_outcome(
        &mut self,
        agent: AgentId,
        lease: &LeaseInfo,
        sign: Sign,
        moment: Moment,
        luck: f64,
    ) -> Excuse {
        let key = lease.key;
        // A repeated receipt tells nothing new.
        let is_news = self.take_hand(lease.delivery, Some((agent, lease.attempt)));
        let Some(line) = self.lines.get_mut(&key) else {
            return Excuse::None;
        };
        let (policy, free) = (line.rules.breaker, line.free_of(agent));
        let is_well_elsewhere = line.is_well_elsewhere(agent);
        let Some(health) = line.change(agent) else {
            return Excuse::None;
        };
        if is_news.is_some() {
            let now = moment.instant;
            health.handle_sign(&policy, lease.delivery, sign, free, now, luck);
        }
        let excused_before = (lease.attempt - 1).saturating_sub(lease.spent.attempts);
        let excuse = match health.excuses(sign, excused_before) {
            false => Excuse::None,
            true if is_well_elsewhere && sign == Sign::Unreachable => Excuse::Agent,
            true => Excuse::Outage,
        };
        self.refresh(key, moment);
        excuse
    }

    /// An agent that came back still works on a delivery.
    pub fn handle_adopt(&mut self, agent: AgentId, lease: &LeaseInfo, moment: Moment) {
        let known = self.hands.get(&lease.delivery);
        if known.is_some_and(|hand| hand.attempt >= lease.attempt) {
            return;
        }
        let Some(line) = self.lines.get_mut(&lease.key) else {
            return;
        };
        let until = line.unheard_until(agent, moment.instant);
        if let Some(health) = line.change(agent) {
            health.in_hand = health.in_hand.saturating_add(1);
            let hand = Hand {
                agent,
                key: lease.key,
                attempt: lease.attempt,
                until,
            };
            self.hands.insert(lease.delivery, hand);
        }
    }

    /// A delivery came back unattempted, was lost, or was never handed over.
    pub fn handle_return(&mut self, delivery: DeliveryId, attempt: u32, moment: Moment) {
        let newest = self.hands.get(&delivery).map(|hand| hand.attempt);
        if newest.is_none_or(|newest| newest > attempt) {
            return;
        }
        let Some(hand) = self.take_hand(delivery, None) else {
            return;
        };
        if let Some(line) = self.lines.get_mut(&hand.key)
            && let Some(health) = line.change(hand.agent)
        {
            health.handle_return(delivery, moment.instant);
            self.refresh(hand.key, moment);
        }
    }

    /// Takes a delivery out of the hands it is in, of this agent and attempt if given.
    fn take_hand(&mut self, delivery: DeliveryId, of: Option<(AgentId, u32)>) -> Option<Hand> {
        let hand = self.hands.get(&delivery)?;
        if of.is_some_and(|of| of != (hand.agent, hand.attempt)) {
            return None;
        }
        self.hands.remove(&delivery)
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, moment: Moment) {
        for key in self.later.take_over(moment) {
            if let Some(line) = self.lines.get_mut(&key) {
                line.unblock();
                self.refresh(key, moment);
            }
        }
        while let Some(&(until, key, agent)) = self.left.first()
            && until <= moment.instant
        {
            self.left.pop_first();
            self.forget(key, agent, moment);
        }
    }

    /// Forgets deliveries that nobody will speak of any more. Looks at all of them: now and then.
    pub fn handle_silence(&mut self, moment: Moment) {
        let vanished: Vec<_> = self
            .hands
            .iter()
            .filter(|(_, hand)| hand.until <= moment.instant)
            .map(|(delivery, hand)| (*delivery, hand.attempt))
            .collect();
        for (delivery, attempt) in vanished {
            self.handle_return(delivery, attempt, moment);
        }
    }

    fn forget(&mut self, key: DestinationKey, agent: AgentId, moment: Moment) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.forget(agent);
            self.refresh(key, moment);
        }
    }

    /// How long until something can be handed out that cannot be now.
    pub fn poll_timeout(&self, moment: Moment) -> Option<Duration> {
        self.later.next(moment)
    }

    /// Whether `plan` or `poll_timeout` may answer otherwise than before.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// One round: what to claim. Every want must be answered by [`Self::handle_claimed`] or
    /// [`Self::handle_failed`].
    pub fn plan(&mut self, moment: Moment) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut tenants: Vec<TenantId> = self.able.iter().map(|key| key.tenant).collect();
        tenants.dedup();
        let mut left = ROUND_COST;
        for (tenant, share) in self.turns.round(&tenants, ROUND_COST) {
            let planned = self.plan_tenant(tenant, share, moment, &mut wants);
            left = left.saturating_sub(planned);
            self.turns.served(tenant);
            if left == 0 {
                break;
            }
        }
        wants
    }

    /// What a tenant may claim for `share`, its destinations in turn; answers how much of it is
    /// planned.
    fn plan_tenant(
        &mut self,
        tenant: TenantId,
        share: u64,
        moment: Moment,
        wants: &mut Vec<Want>,
    ) -> u64 {
        let keys: Vec<_> = self.able.range(keys_of(tenant)).copied().collect();
        let Some(shared) = self.tenants.get_mut(&tenant) else {
            return 0;
        };
        let now = moment.instant;
        let mut planned = 0;
        let mut changed = Vec::with_capacity(keys.len());
        for (key, budget) in shared.turns.round(&keys, share) {
            let Some(line) = self.lines.get_mut(&key) else {
                continue;
            };
            let budget = budget.min(share.saturating_sub(planned)).max(DELIVERY_COST);
            let mut most = u32::try_from(budget / DELIVERY_COST).unwrap_or(u32::MAX);
            if let Some(bucket) = &shared.bucket {
                most = most.min(bucket.available(now));
            }
            changed.push(key);
            let Some(want) = line.claim(key, most, budget, now) else {
                continue;
            };
            if let Some(bucket) = &mut shared.bucket {
                bucket.take(want.deliveries, now);
            }
            planned += u64::from(want.deliveries) * DELIVERY_COST;
            shared.turns.served(key);
            wants.push(want);
            if planned >= share {
                break;
            }
        }
        for key in changed {
            self.refresh(key, moment);
        }
        planned
    }

    /// The store could not answer `wants`: they are asked for again.
    pub fn handle_failed(&mut self, wants: &[Want], moment: Moment) {
        self.handle_claimed(wants, Vec::new(), moment);
        self.handle_due(wants.iter().map(|want| want.key), moment);
    }

    /// The store has answered `wants`.
    pub fn handle_claimed(
        &mut self,
        wants: &[Want],
        leases: Vec<Lease>,
        moment: Moment,
    ) -> Assigned {
        let mut given: HashMap<DestinationKey, (u32, u64)> = HashMap::with_capacity(wants.len());
        for lease in &leases {
            let (count, cost) = given.entry(lease.info.key).or_default();
            *count += 1;
            *cost += DELIVERY_COST + lease.event.body.len() as u64;
        }
        for want in wants {
            let (count, cost) = given.get(&want.key).copied().unwrap_or_default();
            if let Some(tenant) = self.tenants.get_mut(&want.key.tenant) {
                self.turns.charge(want.key.tenant, cost);
                tenant.turns.charge(want.key, cost);
                if let Some(bucket) = &mut tenant.bucket {
                    bucket.give_back(want.deliveries.saturating_sub(count));
                }
            }
            if let Some(line) = self.lines.get_mut(&want.key) {
                line.claimed(want, count);
            }
        }
        let mut assigned = Assigned::default();
        for lease in leases {
            self.assign(lease, moment, &mut assigned);
        }
        let keys: HashSet<_> = wants.iter().map(|want| want.key).collect();
        for key in keys {
            self.refresh(key, moment);
        }
        assigned
    }

    /// Gives a lease to the session that should have it.
    fn assign(&mut self, lease: Lease, moment: Moment, assigned: &mut Assigned) {
        let info = lease.info;
        let Some(line) = self.lines.get_mut(&info.key) else {
            return assigned.orphans.push(Held::of(&info));
        };
        let is_original = info.replay.is_none();
        if is_original && line.rules.is_too_old(lease.event.received_at, moment.time) {
            return assigned.aged.push(Held::of(&info));
        }
        let bytes = lease.event.body.len() as u64;
        let Some((session, agent, until)) = line.assign(info.delivery, bytes, moment.instant)
        else {
            return assigned.orphans.push(Held::of(&info));
        };
        let hand = Hand {
            agent,
            key: info.key,
            attempt: info.attempt,
            until,
        };
        if let Some(before) = self.hands.insert(info.delivery, hand) {
            self.replaced(info.delivery, before, moment);
        }
        assigned.batches.entry(session).or_default().push(lease);
    }

    /// The store hands a delivery out again of which nothing was heard: it was lost.
    fn replaced(&mut self, delivery: DeliveryId, before: Hand, moment: Moment) {
        if let Some(line) = self.lines.get_mut(&before.key)
            && let Some(health) = line.change(before.agent)
        {
            health.handle_return(delivery, moment.instant);
        }
    }

    /// What an agent has in hand of a destination.
    #[cfg(test)]
    pub(crate) fn in_hands(&self, agent: AgentId, key: DestinationKey) -> Vec<DeliveryId> {
        let of_agent = |hand: &Hand| hand.agent == agent && hand.key == key;
        let hands = self.hands.iter().filter(|(_, hand)| of_agent(hand));
        hands.map(|(delivery, _)| *delivery).collect()
    }

    /// Every line with somebody in it.
    pub fn keys(&self) -> impl Iterator<Item = DestinationKey> {
        self.lines.keys().copied()
    }

    /// How a destination is doing, for people. `None` where no agent is and none was lately.
    pub fn view(&self, key: DestinationKey, moment: Moment) -> Option<LineView> {
        let line = self.lines.get(&key)?;
        Some(LineView::of(line, moment))
    }

    /// The agent that has a delivery in hand.
    pub fn holder(&self, delivery: DeliveryId) -> Option<AgentId> {
        self.hands.get(&delivery).map(|hand| hand.agent)
    }

    /// Puts a line where it belongs after anything about it has changed.
    fn refresh(&mut self, key: DestinationKey, moment: Moment) {
        let Some(line) = self.lines.get(&key) else {
            return;
        };
        let can = (line.due && !line.claiming).then(|| line.can(moment));
        let tenant = self.tenants.get(&key.tenant);
        let spent = tenant
            .and_then(|tenant| tenant.bucket)
            .filter(|bucket| bucket.available(moment.instant) == 0);
        let until = match (can, spent) {
            (Some(Can::Go), None) => {
                self.later.clear(key);
                self.news |= self.able.insert(key);
                return;
            }
            (Some(Can::Go), Some(bucket)) => Some(Until::Instant(bucket.ready_at())),
            (Some(Can::Later(_, until)), _) => Some(until),
            (Some(Can::Wait(_)) | None, _) => None,
        };
        self.able.remove(&key);
        match until {
            Some(until) => {
                self.later.set(key, until);
                self.news = true;
            }
            None => self.later.clear(key),
        }
        if line.is_empty() {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: DestinationKey) {
        self.lines.remove(&key);
        if self.lines.range(keys_of(key.tenant)).next().is_none() {
            self.tenants.remove(&key.tenant);
        }
    }
}

impl Alarms {
    fn set(&mut self, key: DestinationKey, until: Until) {
        self.clear(key);
        match until {
            Until::Instant(instant) => self.instants.insert((instant, key)),
            Until::Time(time) => self.times.insert((time, key)),
        };
        self.set.insert(key, until);
    }

    fn clear(&mut self, key: DestinationKey) {
        match self.set.remove(&key) {
            Some(Until::Instant(instant)) => self.instants.remove(&(instant, key)),
            Some(Until::Time(time)) => self.times.remove(&(time, key)),
            None => false,
        };
    }

    fn next(&self, moment: Moment) -> Option<Duration> {
        let instant = self.instants.first();
        let instant = instant.map(|(at, _)| at.saturating_duration_since(moment.instant));
        let time = self.times.first().map(|(at, _)| at.since(moment.time));
        [instant, time].into_iter().flatten().min()
    }

    fn take_over(&mut self, moment: Moment) -> Vec<DestinationKey> {
        let instants = self.instants.iter();
        let over = instants.take_while(|(at, _)| *at <= moment.instant);
        let mut keys: Vec<_> = over.map(|(_, key)| *key).collect();
        let over = self.times.iter().take_while(|(at, _)| *at <= moment.time);
        keys.extend(over.map(|(_, key)| *key));
        for key in &keys {
            self.clear(*key);
        }
        keys
    }
}
