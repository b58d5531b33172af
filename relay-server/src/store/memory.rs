//! The reference store: the contract in the plainest words, in memory. For tests only.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId};

use super::{
    Adopted, Appended, AttemptRecord, AuditFilter, AuditRecord, Cursor, DeadLetter,
    DeadLetterFilter, DeliveryFilter, DeliverySummary, Depth, DestinationKey, Due, EndingFilter,
    Erased, Erasure, ErasureRecord, EventDetail, EventFilter, EventSummary, Events, Held, Keeping,
    Lease, LeaseInfo, LeaseToken, Match, NewDelivery, NewEvent, PARKED_MAX, Page, Parked, Put,
    Queries, Repeats, Replay, Replayable, Replayed, Resource, ResourceKind, Retention, Retentions,
    Selection, Settings, Settled, Settlement, Span, StoreError, Stored, Swept, Usage, Want,
};
use crate::{
    clock::{Clock, Timestamp},
    lifecycle::{
        DeliveryState, EndReason, Ending, Event, KeyDigest, Lane, OrderKey, Ready, RouteDecision,
        Spent, Turns, Verdict, Waiting,
    },
};

/// Keeps everything in memory and forgets it when dropped.
#[derive(Debug)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    due: Arc<Due>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    closed: bool,
    sequence: u64,
    leases: u64,
    events: BTreeMap<u64, Arc<Event>>,
    /// What else is known of each event.
    notes: HashMap<EventId, Notes>,
    /// By creation.
    deliveries: BTreeMap<u64, Row>,
    /// Provider ids: until when, and which event came first.
    remembered: HashMap<(SourceId, String), (Timestamp, EventId)>,
    resources: Vec<(Resource, bool)>,
    audit: Vec<AuditRecord>,
    token_uses: BTreeMap<u128, Timestamp>,
    erasures: Vec<(TenantId, ErasureRecord)>,
    /// Whose turn it is at each destination.
    turns: HashMap<DestinationKey, Turns>,
    /// Keys that have stopped, and since when.
    parked: HashMap<(DestinationKey, KeyDigest), Timestamp>,
    /// When it was last looked for what has fallen due.
    looked: Timestamp,
    /// Counts restarts.
    restarts: u64,
    lanes_are_inverted: bool,
}

#[derive(Debug, Default)]
struct Notes {
    decisions: Vec<RouteDecision>,
    remembered_until: Option<Timestamp>,
    repeats: Repeats,
}

#[derive(Debug)]
struct Row {
    id: DeliveryId,
    key: DestinationKey,
    event: Arc<Event>,
    /// Its place in the queue.
    place: u64,
    state: DeliveryState,
    attempts: u32,
    records: BTreeMap<u32, AttemptRecord>,
    spent: Spent,
    due: Timestamp,
    updated_at: Timestamp,
    reason: Option<String>,
    replay: Option<ReplayId>,
    superseded_by: Option<DeliveryId>,
    order: Option<OrderKey>,
    /// Since when it is owed.
    since: Timestamp,
    /// Until then somebody waits for the answer; zero if nobody ever did.
    waited_until: Timestamp,
    /// Of what has ended, too, if it is ordered: the next of its key waits for that.
    lease: Option<Leased>,
}

#[derive(Debug, Clone, Copy)]
struct Leased {
    info: LeaseInfo,
    until: Timestamp,
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>, due: Arc<Due>) -> Arc<Self> {
        let inner = Mutex::default();
        Arc::new(Self { clock, due, inner })
    }

    /// Breaks the rule of lanes on purpose: who comes last goes first.
    pub fn invert_lanes(&self) {
        if let Ok(mut inner) = self.open() {
            inner.lanes_are_inverted = true;
        }
    }

    /// As after a restart of the relay: leases are forgotten and everything is backlog.
    pub fn restart(&self) {
        if let Ok(mut inner) = self.open() {
            inner.restarts += 1;
            inner.turns.clear();
            for row in inner.deliveries.values_mut() {
                row.lease = None;
                row.since = Timestamp(0);
                self.due.mark([row.key]);
            }
        }
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        Ok(inner)
    }
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn event(&self, tenant: TenantId, id: EventId) -> Option<(u64, Arc<Event>)> {
        self.events
            .iter()
            .find(|(_, event)| event.id == id && event.tenant == tenant)
            .map(|(seq, event)| (*seq, event.clone()))
    }

    fn row(&mut self, tenant: TenantId, id: DeliveryId) -> Option<&mut Row> {
        self.deliveries
            .values_mut()
            .find(|row| row.id == id && row.key.tenant == tenant)
    }

    fn add(
        &mut self,
        event: &Arc<Event>,
        delivery: NewDelivery,
        replay: Option<ReplayId>,
        now: Timestamp,
    ) -> &mut Row {
        let place = self.next();
        let key = DestinationKey {
            tenant: event.tenant,
            destination: delivery.destination,
        };
        let row = Row {
            id: delivery.id,
            key,
            event: event.clone(),
            place,
            state: DeliveryState::Pending,
            attempts: 0,
            records: BTreeMap::new(),
            spent: Spent::default(),
            due: Timestamp(0),
            updated_at: now,
            reason: None,
            replay,
            superseded_by: None,
            order: delivery.order,
            since: now,
            waited_until: Timestamp(0),
            lease: None,
        };
        self.deliveries.entry(place).or_insert(row)
    }

    fn leased_at(&self, key: DestinationKey) -> u32 {
        let leased = self
            .deliveries
            .values()
            .filter(|row| row.key == key && row.lease.is_some());
        u32::try_from(leased.count()).unwrap_or(u32::MAX)
    }

    /// Whether nothing of its key comes before an open delivery.
    fn is_first(&self, row: &Row) -> bool {
        let Some(order) = row.digest() else {
            return true;
        };
        let is_before = |other: &Row| {
            other.lease.is_some() || (other.state.is_open() && other.place < row.place)
        };
        let mut others = self
            .deliveries
            .values()
            .filter(|other| other.key == row.key && other.id != row.id);
        !others.any(|other| other.digest() == Some(order) && is_before(other))
    }

    /// What an open delivery waits for.
    fn waiting(&self, row: &Row, now: Timestamp) -> Waiting {
        if let Some(lease) = row.lease {
            return Waiting::Leased {
                attempt: lease.info.attempt,
                since: lease.info.leased_at,
                until: lease.until,
            };
        }
        let of_key = |other: &&Row| {
            other.key == row.key && other.state.is_open() && other.digest() == row.digest()
        };
        if let Some(order) = row.digest() {
            if let Some(since) = self.parked.get(&(row.key, order)) {
                return Waiting::Parked { since: *since };
            }
            let line = self.deliveries.values().filter(of_key);
            let head = line.min_by_key(|other| other.place);
            if let Some(head) = head.filter(|head| head.id != row.id) {
                return Waiting::Behind { delivery: head.id };
            }
        }
        if row.due > now {
            return Waiting::Retry { at: row.due };
        }
        Waiting::Turn
    }

    /// The first of each lane that can be handed out at a destination.
    fn firsts(&self, key: DestinationKey, now: Timestamp) -> BTreeMap<Lane, (u64, u64)> {
        let mut firsts = BTreeMap::new();
        let due = self.deliveries.iter().filter(|(_, row)| {
            row.key == key && row.state.is_open() && row.lease.is_none() && row.due <= now
        });
        let goes_on = |row: &Row| {
            let order = row.digest();
            order.is_none_or(|order| !self.parked.contains_key(&(key, order)))
        };
        for (seq, row) in due.filter(|(_, row)| goes_on(row) && self.is_first(row)) {
            let turn = (row.waited_until <= now, row.place, *seq);
            let first = firsts.entry(row.lane(now)).or_insert(turn);
            *first = (*first).min(turn);
        }
        let seqs = firsts
            .into_iter()
            .map(|(lane, (_, place, seq))| (lane, (place, seq)));
        seqs.collect()
    }

    /// What is handed out next at a destination, and from which lane.
    fn next_of(&self, key: DestinationKey, now: Timestamp) -> Option<(Lane, u64)> {
        let firsts = self.firsts(key, now);
        if self.lanes_are_inverted {
            let last = firsts.last_key_value();
            return last.map(|(lane, (_, seq))| (*lane, *seq));
        }
        let turns = self.turns.get(&key).copied().unwrap_or_default();
        let lane = turns.next(ready(&firsts))?;
        firsts.get(&lane).map(|(_, seq)| (lane, *seq))
    }

    fn took(&mut self, key: DestinationKey, lane: Lane, now: Timestamp) {
        let ready = ready(&self.firsts(key, now));
        self.turns.entry(key).or_default().took(lane, ready);
    }

    fn replay(&mut self, new: &Replay, now: Timestamp) -> Replayed {
        let found = self.event(new.tenant, new.event);
        let Some((_, event)) = found.filter(|(_, event)| !event.is_erased()) else {
            return Replayed::Unknown;
        };
        let destination = new.delivery.destination;
        let mut earlier: Vec<&mut Row> = self
            .deliveries
            .values_mut()
            .filter(|row| row.event.id == event.id && row.key.destination == destination)
            .collect();
        if let Some(row) = earlier.iter().find(|row| row.replay == Some(new.replay)) {
            return Replayed::Repeated(row.id);
        }
        if let Some(row) = earlier.iter().find(|row| row.state.is_open()) {
            return Replayed::StillOwed(row.id);
        }
        for row in &mut earlier {
            row.superseded_by.get_or_insert(new.delivery.id);
        }
        self.add(&event, new.delivery.clone(), Some(new.replay), now);
        Replayed::Owed
    }

    fn event_matches(&self, event: &Event, filter: &EventFilter) -> bool {
        let mut deliveries = self.of_event(event.id);
        let delivery_matches = if filter.unrouted {
            deliveries.next().is_none()
        } else if filter.destination.is_some() || filter.state.is_some() {
            deliveries.any(|row| {
                filter
                    .destination
                    .is_none_or(|it| it == row.key.destination)
                    && filter.state.is_none_or(|it| it == row.state)
            })
        } else {
            true
        };
        filter.id.is_none_or(|it| it == event.id)
            && filter.source.is_none_or(|it| it == event.source)
            && (filter.event_type.is_none() || filter.event_type == event.event_type)
            && filter.since.is_none_or(|since| event.received_at >= since)
            && filter.until.is_none_or(|until| event.received_at < until)
            && delivery_matches
    }

    fn matched(&self, event: &Event, dead: Option<&Row>) -> Match {
        Match {
            event: event.id,
            source: event.source,
            dead: dead.map(|row| (row.id, row.key.destination)),
            deliveries: self
                .of_event(event.id)
                .map(|row| (row.key.destination, row.state))
                .collect(),
        }
    }

    fn of_event(&self, id: EventId) -> impl Iterator<Item = &Row> {
        self.deliveries
            .values()
            .filter(move |row| row.event.id == id)
    }
}

impl Row {
    fn digest(&self) -> Option<KeyDigest> {
        self.order.as_ref().map(|order| order.digest)
    }

    fn lane(&self, now: Timestamp) -> Lane {
        match self.order {
            Some(_) => Lane::Backlog,
            None if self.waited_until > now => Lane::Live,
            None => Lane::of(self.replay.is_some(), now.since(self.since)),
        }
    }

    fn has_lease(&self, token: LeaseToken) -> bool {
        self.lease.is_some_and(|lease| lease.info.token == token)
    }

    fn holds(&self, held: &Held) -> bool {
        self.state.is_open() && self.has_lease(held.token)
    }

    /// Whether it is dead, and nothing took its place since.
    fn is_given_up(&self) -> bool {
        self.state == DeliveryState::Dead && self.superseded_by.is_none()
    }

    /// How its last attempt ended.
    fn last(&self) -> Option<Ending> {
        let (_, record) = self.records.last_key_value()?;
        Some(Ending::from(&record.outcome))
    }

    fn is_dead_letter(&self, filter: &DeadLetterFilter) -> bool {
        let event = &self.event;
        let last = |wanted: EndingFilter| self.last().is_some_and(|last| wanted.takes(last));
        self.is_given_up()
            && filter.id.is_none_or(|it| it == self.id)
            && filter.event.is_none_or(|it| it == event.id)
            && filter.source.is_none_or(|it| it == event.source)
            && filter
                .destination
                .is_none_or(|it| it == self.key.destination)
            && (filter.event_type.is_none() || filter.event_type == event.event_type)
            && (filter.reason.is_none() || filter.reason == self.reason)
            && filter.last.is_none_or(last)
            && filter.since.is_none_or(|since| event.received_at >= since)
            && filter.until.is_none_or(|until| event.received_at < until)
    }

    fn reopen(&mut self, place: u64, now: Timestamp) {
        self.state = DeliveryState::Pending;
        self.place = place;
        self.spent = Spent::default();
        self.since = now;
        self.lease = None;
        self.due = Timestamp(0);
        self.reason = None;
        self.updated_at = now;
    }

    fn finish(&mut self, reason: EndReason, now: Timestamp) {
        self.state = reason.state();
        self.reason = Some(reason.as_str().to_owned());
        self.updated_at = now;
        // What is quarantined was never sent.
        if self.order.is_none() || reason == EndReason::Quarantined {
            self.lease = None;
        }
    }

    fn lease(
        &mut self,
        token: LeaseToken,
        attempt: u32,
        now: Timestamp,
        ttl: Duration,
    ) -> LeaseInfo {
        let info = LeaseInfo {
            token,
            key: self.key,
            delivery: self.id,
            event: self.event.id,
            attempt,
            leased_at: now,
            spent: self.spent,
            replay: self.replay,
        };
        let until = now.after(ttl);
        self.lease = Some(Leased { info, until });
        info
    }

    fn settle(&mut self, settlement: Settlement, now: Timestamp) -> Settled {
        if !self.state.is_open() {
            if self.has_lease(settlement.token) {
                self.lease = None;
            }
            return Settled::AlreadySettled;
        }
        let lease = self
            .lease
            .filter(|lease| lease.info.token == settlement.token);
        if settlement.verdict != Verdict::Deliver && lease.is_none() {
            return Settled::LeaseLost;
        }
        let number = settlement.attempt.number;
        self.attempts = self.attempts.max(number);
        let report = settlement.attempt;
        let record = AttemptRecord {
            id: report.id,
            number,
            agent: report.agent,
            ended_at: report.ended_at,
            elapsed_ms: report.elapsed_ms,
            outcome: report.outcome,
        };
        self.records.insert(number, record);
        self.updated_at = now;
        if lease.is_some() || self.order.is_none() {
            self.lease = None;
        }
        match settlement.verdict {
            Verdict::Deliver => self.state = DeliveryState::Delivered,
            Verdict::Retry { at, spent } => {
                self.state = DeliveryState::Retry;
                self.spent = spent;
                self.due = at;
            }
            Verdict::Die { reason } => {
                self.state = DeliveryState::Dead;
                self.reason = Some(reason.as_str().to_owned());
            }
        }
        Settled::Applied
    }

    fn summary(&self) -> DeliverySummary {
        DeliverySummary {
            id: self.id,
            event: self.event.id,
            destination: self.key.destination,
            state: self.state,
            attempts: self.attempts,
            received_at: self.event.received_at,
            updated_at: self.updated_at,
            next_attempt_at: self
                .state
                .is_open()
                .then_some(self.due)
                .filter(|due| due.0 > 0),
            reason: self.reason.clone(),
            replay: self.replay,
            superseded_by: self.superseded_by,
        }
    }
}

fn ready(firsts: &BTreeMap<Lane, (u64, u64)>) -> Ready {
    Ready {
        live: firsts.contains_key(&Lane::Live),
        backlog: firsts.contains_key(&Lane::Backlog),
        replay: firsts.contains_key(&Lane::Replay),
    }
}

#[async_trait]
impl Events for Memory {
    async fn append(&self, new: NewEvent) -> Result<Appended, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let event = Arc::new(new.event);
        if let Some(provider_id) = event.provider_id.clone() {
            let name = (event.source, provider_id);
            if let Some(&(until, first)) = inner.remembered.get(&name)
                && until > now
            {
                let mut reopened = 0;
                let dead: Vec<u64> = inner
                    .deliveries
                    .iter()
                    .filter(|(_, row)| row.event.id == first && row.is_given_up())
                    .map(|(seq, _)| *seq)
                    .collect();
                for seq in dead {
                    let place = inner.next();
                    if let Some(row) = inner.deliveries.get_mut(&seq) {
                        row.reopen(place, now);
                        reopened += 1;
                        self.due.mark([row.key]);
                    }
                }
                let repeats = &mut inner.notes.entry(first).or_default().repeats;
                repeats.count += 1;
                repeats.last_at = Some(now);
                return Ok(Appended::Duplicate { first, reopened });
            }
            inner
                .remembered
                .insert(name, (now.after(new.dedupe_window), event.id));
        }
        let notes = Notes {
            decisions: new.decisions,
            remembered_until: event
                .provider_id
                .as_ref()
                .map(|_| now.after(new.dedupe_window)),
            repeats: Repeats::default(),
        };
        inner.notes.insert(event.id, notes);
        let seq = inner.next();
        inner.events.insert(seq, event.clone());
        let waited_for = |id| new.waited_for.filter(|it| it.delivery == id);
        for delivery in new.deliveries {
            self.due.mark([DestinationKey {
                tenant: event.tenant,
                destination: delivery.destination,
            }]);
            let until = waited_for(delivery.id).map(|it| it.until);
            let row = inner.add(&event, delivery, None, now);
            row.waited_until = until.unwrap_or(Timestamp(0));
        }
        Ok(Appended::New)
    }

    async fn claim(&self, wants: &[Want]) -> Result<Vec<Lease>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let mut leases = Vec::new();
        for want in wants {
            let leased = inner.leased_at(want.key);
            let free = |max: u32| max.saturating_sub(leased);
            let most = want
                .in_flight_max
                .map_or(u32::MAX, free)
                .min(want.deliveries);
            let mut bytes = 0;
            for handed in 0..most {
                let Some((lane, seq)) = inner.next_of(want.key, now) else {
                    break;
                };
                let counter = inner.leases + 1;
                let Some(row) = inner.deliveries.get_mut(&seq) else {
                    break;
                };
                bytes += row.event.body.len() as u64;
                if handed > 0 && bytes > want.bytes {
                    break;
                }
                let token = LeaseToken {
                    incarnation: inner.restarts + 1,
                    counter,
                };
                inner.took(want.key, lane, now);
                let Some(row) = inner.deliveries.get_mut(&seq) else {
                    break;
                };
                let info = row.lease(token, row.attempts + 1, now, want.ttl);
                let event = row.event.clone();
                inner.leases = counter;
                leases.push(Lease { info, event });
            }
        }
        Ok(leases)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        Ok(settlements
            .into_iter()
            .map(
                |settlement| match inner.row(settlement.tenant, settlement.delivery) {
                    Some(row) => {
                        self.due.mark([row.key]);
                        let dies = matches!(settlement.verdict, Verdict::Die { .. });
                        let park = settlement.park && dies;
                        let settled = row.settle(settlement, now);
                        let parked = row.digest().map(|order| ((row.key, order), now));
                        let parked = parked.filter(|_| park && settled == Settled::Applied);
                        inner.parked.extend(parked);
                        settled
                    }
                    None => Settled::Unknown,
                },
            )
            .collect())
    }

    async fn renew(&self, leases: &[Held], ttl: Duration) -> Result<(), StoreError> {
        let until = self.clock.now().after(ttl);
        let mut inner = self.open()?;
        for held in leases {
            if let Some(row) = inner.row(held.tenant, held.delivery)
                && row.holds(held)
                && let Some(lease) = &mut row.lease
            {
                lease.until = until;
            }
        }
        Ok(())
    }

    async fn release(&self, leases: &[Held]) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        for held in leases {
            if let Some(row) = inner.row(held.tenant, held.delivery)
                && row.has_lease(held.token)
            {
                row.lease = None;
                row.due = Timestamp(0);
                self.due.mark([row.key]);
            }
        }
        Ok(())
    }

    async fn adopt(&self, leases: &[Held], ttl: Duration) -> Result<Vec<Adopted>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let behind: HashSet<DeliveryId> = inner
            .deliveries
            .values()
            .filter(|row| row.state.is_open() && !inner.is_first(row))
            .map(|row| row.id)
            .collect();
        let adopt = |held: &Held| {
            let Some(row) = inner.row(held.tenant, held.delivery) else {
                return Adopted::Lost;
            };
            if row.holds(held)
                && let Some(lease) = &mut row.lease
            {
                lease.until = now.after(ttl);
                return Adopted::Granted(lease.info);
            }
            if !row.state.is_open() || row.lease.is_some() || behind.contains(&row.id) {
                return Adopted::Lost;
            }
            Adopted::Granted(row.lease(held.token, held.attempt, now, ttl))
        };
        Ok(leases.iter().map(adopt).collect())
    }

    async fn take_expired(
        &self,
        hold: Duration,
        most: usize,
    ) -> Result<Vec<LeaseInfo>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let expired = inner
            .deliveries
            .values_mut()
            .filter_map(|row| row.lease.as_mut())
            .filter(|lease| lease.until <= now)
            .take(most);
        Ok(expired
            .map(|lease| {
                lease.until = now.after(hold);
                lease.info
            })
            .collect())
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let looked = std::mem::replace(&mut inner.looked, now).min(now);
        let mut next: Option<Timestamp> = None;
        for row in inner.deliveries.values() {
            let at = match row.lease {
                Some(lease) => lease.until,
                None if row.state.is_open() && row.due > now => row.due,
                None => {
                    // Nobody else says that its time has come.
                    if row.state.is_open() && row.due > looked {
                        self.due.mark([row.key]);
                    }
                    continue;
                }
            };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        Ok(next)
    }

    async fn replay(&self, replays: &[Replay]) -> Result<Vec<Replayed>, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let replayed = replays.iter().map(|new| inner.replay(new, now)).collect();
        self.due.mark(replays.iter().map(|new| DestinationKey {
            tenant: new.tenant,
            destination: new.delivery.destination,
        }));
        Ok(replayed)
    }

    async fn end(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: EndReason,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        match inner.row(tenant, delivery) {
            Some(row) if row.state.is_open() => {
                row.finish(reason, now);
                self.due.mark([row.key]);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn park(&self, key: DestinationKey, order: OrderKey) -> Result<Parked, StoreError> {
        let mut inner = self.open()?;
        let count = inner
            .parked
            .iter()
            .filter(|((of, _), _)| *of == key)
            .count();
        if count >= PARKED_MAX {
            return Ok(Parked::TooMany);
        }
        let now = self.clock.now();
        Ok(match inner.parked.entry((key, order.digest)) {
            Entry::Occupied(_) => Parked::Already,
            Entry::Vacant(new) => {
                new.insert(now);
                Parked::Done
            }
        })
    }

    async fn resume(&self, key: DestinationKey, order: KeyDigest) -> Result<bool, StoreError> {
        self.due.mark([key]);
        Ok(self.open()?.parked.remove(&(key, order)).is_some())
    }

    async fn end_destination(
        &self,
        key: DestinationKey,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        for row in inner.deliveries.values_mut().filter(|row| row.key == key) {
            if row.state.is_open() {
                row.finish(reason, now);
            }
            row.lease = None;
        }
        inner.parked.retain(|(of, _), _| *of != key);
        Ok(())
    }

    async fn forget_source(&self, _tenant: TenantId, source: SourceId) -> Result<(), StoreError> {
        self.open()?.remembered.retain(|name, _| name.0 != source);
        Ok(())
    }

    fn usage(&self, tenant: TenantId) -> Usage {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let own = inner.events.values().filter(|event| event.tenant == tenant);
        own.fold(Usage::default(), |usage, event| Usage {
            events: usage.events + 1,
            bytes: usage.bytes + event.stored_bytes(),
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn accepting(&self) -> Result<(), StoreError> {
        self.open().map(drop)
    }

    async fn close(&self) {
        if let Ok(mut inner) = self.open() {
            inner.closed = true;
        }
    }
}

fn page<T>(mut rows: Vec<(u64, T)>, after: Option<Cursor>, limit: u32) -> Page<T> {
    let before = after.map_or(u64::MAX, |cursor| cursor.0.parse().unwrap_or(0));
    rows.retain(|(seq, _)| *seq < before);
    rows.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    let limit = limit.clamp(1, 250) as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|(seq, _)| Cursor(seq.to_string()));
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    Page { rows, next }
}

impl Inner {
    /// Sequences of a tenant's events that no longer need to be kept, oldest first.
    fn excess(&self, tenant: TenantId, retention: &Retention, now: Timestamp) -> Vec<u64> {
        let own = || {
            self.events
                .iter()
                .filter(|(_, event)| event.tenant == tenant)
        };
        let most = |most: Option<u64>, has: u64| most.map_or(0, |most| has.saturating_sub(most));
        let events = most(retention.events, own().count() as u64);
        let all: u64 = own().map(|(_, event)| event.stored_bytes()).sum();
        let bytes = most(retention.bytes, all);
        let (mut count, mut sum, mut gone) = (0, 0, Vec::new());
        for (seq, event) in own() {
            let age = now.since(event.received_at);
            if age <= retention.age && count >= events && sum >= bytes {
                break;
            }
            count += 1;
            sum += event.stored_bytes();
            let mut of_event = self.of_event(event.id);
            let keeps =
                |row: &Row| row.state.is_open() || (row.is_given_up() && age <= retention.dead_age);
            if !of_event.any(keeps) {
                gone.push(*seq);
            }
        }
        gone
    }
}

#[async_trait]
impl Keeping for Memory {
    async fn retain(&self, retentions: &dyn Retentions) -> Result<Swept, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let tenants: HashSet<TenantId> = inner.events.values().map(|event| event.tenant).collect();
        let mut swept = Swept::default();
        for tenant in tenants {
            let retention = retentions.of(tenant);
            for row in inner.deliveries.values_mut() {
                let age = now.since(row.event.received_at);
                let is_own = row.key.tenant == tenant;
                if is_own && row.state.is_open() && age > retention.pending_age {
                    row.finish(EndReason::Expired, now);
                    swept.expired += 1;
                }
            }
            for seq in inner.excess(tenant, &retention, now) {
                if let Some(event) = inner.events.remove(&seq) {
                    inner.deliveries.retain(|_, row| row.event.id != event.id);
                    swept.events += 1;
                }
            }
        }
        Ok(swept)
    }

    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let is_meant = |event: &Event| {
            event.tenant == erasure.tenant
                && !event.is_erased()
                && match &erasure.selection {
                    Selection::Event(id) => event.id == *id,
                    Selection::Matching(matches) => matches(event),
                    Selection::All => true,
                }
        };
        let meant = inner.events.iter().filter(|(_, event)| is_meant(event));
        let meant: Vec<u64> = meant.map(|(seq, _)| *seq).collect();
        for seq in &meant {
            let Some(event) = inner.events.get_mut(seq) else {
                continue;
            };
            let mut blank = (**event).clone();
            blank.method = String::new();
            blank.target = String::new();
            blank.headers.0.clear();
            blank.body = bytes::Bytes::new();
            blank.event_type = None;
            blank.remote = None;
            *event = Arc::new(blank);
            let event = event.clone();
            for row in inner.deliveries.values_mut() {
                if row.event.id == event.id {
                    row.event = event.clone();
                    if row.state.is_open() {
                        row.finish(EndReason::Cancelled, now);
                    }
                }
            }
        }
        let events = meant.len() as u64;
        let number = (events > 0).then(|| inner.next());
        if let Some(number) = number {
            inner.erasures.push((
                erasure.tenant,
                ErasureRecord {
                    number,
                    at: now,
                    by: erasure.by,
                    what: erasure.what,
                    events: Some(events),
                    done: true,
                },
            ));
        }
        Ok(Erased {
            number,
            events,
            more: false,
        })
    }

    async fn finish_erasures(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn erasures(
        &self,
        tenant: TenantId,
        most: u32,
    ) -> Result<Vec<ErasureRecord>, StoreError> {
        let inner = self.open()?;
        let own = inner.erasures.iter().rev().filter(|(of, _)| *of == tenant);
        let own = own.map(|(_, record)| record.clone());
        Ok(own.take(most as usize).collect())
    }

    fn stored(&self) -> Stored {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let tenants: HashSet<TenantId> = inner.events.values().map(|event| event.tenant).collect();
        drop(inner);
        Stored {
            tenants: tenants.into_iter().map(|id| (id, self.usage(id))).collect(),
            ..Stored::default()
        }
    }
}

#[async_trait]
impl Queries for Memory {
    async fn events(
        &self,
        tenant: TenantId,
        filter: &EventFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<EventSummary>, StoreError> {
        let inner = self.open()?;
        let rows = inner
            .events
            .iter()
            .filter(|(_, event)| event.tenant == tenant && inner.event_matches(event, filter))
            .map(|(seq, event)| {
                let summary = EventSummary {
                    id: event.id,
                    source: event.source,
                    received_at: event.received_at,
                    method: event.method.clone(),
                    target: event.target.clone(),
                    event_type: event.event_type.clone(),
                    provider_id: event.provider_id.clone(),
                    body_bytes: event.body.len() as u64,
                    deliveries: inner
                        .of_event(event.id)
                        .map(|row| (row.id, row.key.destination, row.state))
                        .collect(),
                };
                (*seq, summary)
            })
            .collect();
        Ok(page(rows, after, limit))
    }

    async fn event(
        &self,
        tenant: TenantId,
        id: EventId,
    ) -> Result<Option<EventDetail>, StoreError> {
        let inner = self.open()?;
        Ok(inner.event(tenant, id).map(|(_, event)| {
            let notes = inner.notes.get(&id);
            EventDetail {
                event: (*event).clone(),
                deliveries: inner.of_event(id).map(Row::summary).collect(),
                decisions: notes
                    .map(|notes| notes.decisions.clone())
                    .unwrap_or_default(),
                remembered_until: notes.and_then(|notes| notes.remembered_until),
                repeats: notes.map(|notes| notes.repeats).unwrap_or_default(),
            }
        }))
    }

    async fn deliveries(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeliverySummary>, StoreError> {
        let inner = self.open()?;
        let rows = inner
            .deliveries
            .iter()
            .filter(|(_, row)| {
                row.key.tenant == tenant
                    && filter.event.is_none_or(|it| it == row.event.id)
                    && filter
                        .destination
                        .is_none_or(|it| it == row.key.destination)
                    && filter.state.is_none_or(|it| it == row.state)
                    && filter.replay.is_none_or(|it| row.replay == Some(it))
            })
            .map(|(seq, row)| (*seq, row.summary()))
            .collect();
        Ok(page(rows, after, limit))
    }

    async fn attempts(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Vec<AttemptRecord>>, StoreError> {
        let mut inner = self.open()?;
        Ok(inner
            .row(tenant, delivery)
            .map(|row| row.records.values().cloned().collect()))
    }

    async fn dead_letters(
        &self,
        tenant: TenantId,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeadLetter>, StoreError> {
        let inner = self.open()?;
        let dead = inner
            .deliveries
            .iter()
            .filter(|(_, row)| row.key.tenant == tenant && row.is_dead_letter(filter));
        let letter = |(seq, row): (&u64, &Row)| {
            let letter = DeadLetter {
                delivery: row.summary(),
                source: row.event.source,
                event_type: row.event.event_type.clone(),
                last: row.last(),
            };
            (*seq, letter)
        };
        Ok(page(dead.map(letter).collect(), after, limit))
    }

    async fn select(
        &self,
        tenant: TenantId,
        selection: &Replayable,
        span: &Span,
        limit: u32,
    ) -> Result<Page<Match>, StoreError> {
        let inner = self.open()?;
        let place = |cursor: &Cursor| cursor.0.parse::<u64>().ok();
        let after = span.after.as_ref();
        let after = after.map_or(0, |cursor| place(cursor).unwrap_or(u64::MAX));
        let upto = place(&span.upto).unwrap_or(0);
        let within = |seq: &u64| *seq > after && *seq <= upto;
        let mut rows: Vec<(u64, Match)> = match selection {
            Replayable::Events(filter) => inner
                .events
                .iter()
                .filter(|(seq, event)| {
                    within(seq)
                        && event.tenant == tenant
                        && !event.is_erased()
                        && inner.event_matches(event, filter)
                })
                .map(|(seq, event)| (*seq, inner.matched(event, None)))
                .collect(),
            Replayable::DeadLetters(filter) => inner
                .deliveries
                .iter()
                .filter(|(seq, row)| {
                    within(seq)
                        && row.key.tenant == tenant
                        && !row.event.is_erased()
                        && row.is_dead_letter(filter)
                })
                .map(|(seq, row)| (*seq, inner.matched(&row.event, Some(row))))
                .collect(),
        };
        let limit = limit.clamp(1, 250) as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more);
        Ok(Page {
            next: next.map(|(seq, _)| Cursor(seq.to_string())),
            rows: rows.into_iter().map(|(_, row)| row).collect(),
        })
    }

    async fn newest(&self) -> Result<Cursor, StoreError> {
        Ok(Cursor(self.open()?.sequence.to_string()))
    }

    async fn replayed(
        &self,
        tenant: TenantId,
        replay: ReplayId,
        state: DeliveryState,
    ) -> Result<u64, StoreError> {
        let inner = self.open()?;
        let made = inner.deliveries.values().filter(|row| {
            row.key.tenant == tenant && row.replay == Some(replay) && row.state == state
        });
        Ok(made.count() as u64)
    }

    async fn waiting(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Waiting>, StoreError> {
        let now = self.clock.now();
        let inner = self.open()?;
        let mut rows = inner.deliveries.values();
        let row = rows.find(|row| row.id == delivery && row.key.tenant == tenant);
        Ok(row
            .filter(|row| row.state.is_open())
            .map(|row| inner.waiting(row, now)))
    }

    async fn depth(
        &self,
        tenant: TenantId,
        destination: DestinationId,
    ) -> Result<Depth, StoreError> {
        let inner = self.open()?;
        let key = DestinationKey {
            tenant,
            destination,
        };
        let mut depth = Depth::default();
        for row in inner.deliveries.values().filter(|row| row.key == key) {
            if row.state.is_open() {
                let received = row.event.received_at;
                depth.open += 1;
                depth.oldest_open = Some(
                    depth
                        .oldest_open
                        .map_or(received, |oldest| oldest.min(received)),
                );
            } else if row.is_given_up() {
                depth.dead += 1;
            }
        }
        Ok(depth)
    }
}

#[async_trait]
impl Settings for Memory {
    async fn load(&self) -> Result<Vec<Resource>, StoreError> {
        let inner = self.open()?;
        let live = inner.resources.iter().filter(|(_, removed)| !removed);
        Ok(live.map(|(resource, _)| resource.clone()).collect())
    }

    async fn put(&self, resource: Resource, expected: Option<u64>) -> Result<Put, StoreError> {
        let now = self.clock.now();
        let mut inner = self.open()?;
        let same = |it: &Resource| it.kind == resource.kind && it.id == resource.id;
        let current = inner
            .resources
            .iter()
            .find(|(it, removed)| same(it) && !removed)
            .map(|(it, _)| it.version);
        let exists = inner.resources.iter().any(|(it, _)| same(it));
        if current != expected || (expected.is_none() && exists) {
            return Ok(Put::Conflict { current });
        }
        if inner.resources.iter().any(|(it, removed)| {
            !removed
                && !same(it)
                && it.kind == resource.kind
                && it.tenant == resource.tenant
                && it.name == resource.name
        }) {
            return Ok(Put::NameTaken);
        }
        let version = expected.map_or(1, |version| version + 1);
        if let Some((it, _)) = inner.resources.iter_mut().find(|(it, _)| same(it)) {
            *it = Resource {
                version,
                created_at: it.created_at,
                updated_at: now,
                ..resource
            };
        } else {
            let created = Resource {
                version,
                created_at: now,
                updated_at: now,
                ..resource
            };
            inner.resources.push((created, false));
        }
        Ok(Put::Stored(version))
    }

    async fn remove(&self, kind: ResourceKind, id: u128) -> Result<bool, StoreError> {
        let mut inner = self.open()?;
        let found = inner
            .resources
            .iter_mut()
            .find(|(it, removed)| it.kind == kind && it.id == id && !removed);
        Ok(found.is_some_and(|(_, removed)| {
            *removed = true;
            true
        }))
    }

    async fn removed(
        &self,
        kind: ResourceKind,
    ) -> Result<Vec<(u128, Option<TenantId>)>, StoreError> {
        let inner = self.open()?;
        let removed = inner
            .resources
            .iter()
            .filter(|(it, removed)| it.kind == kind && *removed);
        Ok(removed.map(|(it, _)| (it.id, it.tenant)).collect())
    }

    async fn note_token_uses(&self, uses: Vec<(u128, Timestamp)>) -> Result<(), StoreError> {
        self.open()?.token_uses.extend(uses);
        Ok(())
    }

    async fn token_uses(&self) -> Result<Vec<(u128, Timestamp)>, StoreError> {
        let inner = self.open()?;
        Ok(inner.token_uses.iter().map(|(id, at)| (*id, *at)).collect())
    }

    async fn append_audit(&self, record: AuditRecord) -> Result<u64, StoreError> {
        let mut inner = self.open()?;
        inner.audit.push(record);
        Ok(inner.audit.len() as u64)
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, AuditRecord)>, StoreError> {
        let inner = self.open()?;
        let numbered = inner.audit.iter().enumerate().rev();
        let numbered = numbered.map(|(index, record)| (index as u64 + 1, record));
        let found = numbered.filter(|(seq, record)| {
            before.is_none_or(|before| *seq < before) && filter.takes(record)
        });
        let found = found.map(|(seq, record)| (seq, record.clone()));
        Ok(found.take(limit as usize).collect())
    }
}
