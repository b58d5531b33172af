//! Changes become rows, in large transactions that carry how far they go: applying a change twice
//! is impossible, and what is accepted and settled within one transaction is written once.

use std::collections::{BTreeMap, HashMap};

use protocol::id::{AgentId, DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{ages::Ages, chores::move_to, queries::signed, schema::DEAD};
use crate::{
    clock::Timestamp,
    lifecycle::{DeliveryState, Ending, Event, OrderKey, Spent, Verdict},
    store::{
        DestinationKey, NewDelivery, Usage,
        embedded::journal::{
            Position,
            erasing::Erasing,
            payload::{
                Accept, DeliveryRef, End, EndDestination, ForgetSource, Park, Queue, Repeat,
                Requeue, Settle, encode_outcome, ending_number,
            },
            record::Kind,
            recovery::Replayed,
        },
    },
};

/// A durable change.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
    pub(crate) what: What,
}

/// What changed.
#[derive(Debug)]
pub(crate) enum What {
    Accept(Box<Accepted>),
    Settle(Box<Settle>),
    Reopen(Requeue),
    Deliver(Requeue),
    End(End),
    Park(Park),
    EndDestination(EndDestination),
    ForgetSource(ForgetSource),
    Repeat(Repeat),
    Erase(Erasing),
}

/// What lists show of an accepted event.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) id: EventId,
    pub(crate) tenant: TenantId,
    pub(crate) source: SourceId,
    pub(crate) received_at: Timestamp,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) event_type: Option<String>,
    pub(crate) provider_id: Option<String>,
    pub(crate) remembered_until: Timestamp,
    pub(crate) body_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) position: Position,
    pub(crate) deliveries: Vec<NewDelivery>,
}

impl Accepted {
    pub(crate) fn new(
        event: &Event,
        remembered_until: Timestamp,
        deliveries: Vec<NewDelivery>,
        position: Position,
    ) -> Self {
        Self {
            id: event.id,
            tenant: event.tenant,
            source: event.source,
            received_at: event.received_at,
            method: event.method.clone(),
            target: event.target.clone(),
            event_type: event.event_type.clone(),
            provider_id: event.provider_id.clone(),
            remembered_until,
            body_bytes: event.body.len() as u64,
            stored_bytes: event.stored_bytes(),
            position,
            deliveries,
        }
    }
}

impl Change {
    /// The change that a record of the journal stands for; `None` if it stands for none.
    pub(crate) fn from_record(replayed: &Replayed) -> Option<Self> {
        let payload = &replayed.found.payload;
        let what = match replayed.found.header.kind {
            Kind::Batch | Kind::Lost | Kind::Dropped => return None,
            Kind::Accept => {
                let accept = Accept::decode(payload)?;
                let position = Position {
                    segment: replayed.segment,
                    offset: replayed.found.offset,
                };
                What::Accept(Box::new(Accepted::new(
                    &accept.event,
                    accept.remembered_until,
                    accept.deliveries,
                    position,
                )))
            }
            Kind::Settle => What::Settle(Box::new(Settle::decode(payload)?)),
            Kind::Reopen => What::Reopen(Requeue::decode(payload)?),
            Kind::Deliver => What::Deliver(Requeue::decode(payload)?),
            Kind::End => What::End(End::decode(payload)?),
            Kind::Park => What::Park(Park::decode(payload)?),
            Kind::EndDestination => What::EndDestination(EndDestination::decode(payload)?),
            Kind::ForgetSource => What::ForgetSource(ForgetSource::decode(payload)?),
            Kind::Repeat => What::Repeat(Repeat::decode(payload)?),
            Kind::Erase => What::Erase(Erasing::decode(payload)?),
        };
        Some(Self {
            seq: replayed.found.header.seq,
            time: Timestamp(replayed.found.header.time),
            what,
        })
    }

    /// Whose event was accepted, and how many bytes it counts for.
    pub(crate) fn stored(&self) -> Option<(TenantId, u64)> {
        match &self.what {
            What::Accept(accepted) => Some((accepted.tenant, accepted.stored_bytes)),
            _ => None,
        }
    }

    /// The last sequence number it takes.
    fn last_seq(&self) -> u64 {
        match &self.what {
            What::Accept(accepted) => {
                self.seq + (accepted.deliveries.len() as u64).saturating_sub(1)
            }
            _ => self.seq,
        }
    }
}

/// A delivery created in this transaction.
struct Row {
    delivery: DeliveryRef,
    event_seq: u64,
    state: DeliveryState,
    attempts: u32,
    spent: Spent,
    due: Timestamp,
    updated_at: Timestamp,
    reason: Option<&'static str>,
    replay: Option<ReplayId>,
    superseded_by: Option<DeliveryId>,
    order: Option<OrderKey>,
    /// What came of the last attempt.
    ending: Option<i64>,
}

impl Row {
    fn new(
        change: &Change,
        delivery: DeliveryRef,
        event_seq: u64,
        order: Option<OrderKey>,
    ) -> Self {
        Self {
            delivery,
            event_seq,
            state: DeliveryState::Pending,
            attempts: 0,
            spent: Spent::default(),
            due: Timestamp(0),
            updated_at: change.time,
            reason: None,
            replay: None,
            superseded_by: None,
            order,
            ending: None,
        }
    }
}

/// Applies changes in one transaction and returns how far the projection then is.
pub(super) fn apply(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let applied: u64 = transaction
        .prepare_cached("SELECT seq FROM position")?
        .query_row([], |row| row.get(0))?;
    let mut batch = Batch {
        transaction,
        fresh: BTreeMap::new(),
        fresh_replays: HashMap::new(),
        usage: HashMap::new(),
        ages: Ages::default(),
        applied,
    };
    for change in changes {
        batch.apply(change)?;
    }
    batch.flush()?;
    batch.flush_usage()?;
    std::mem::take(&mut batch.ages).write(&batch.transaction)?;
    let applied = batch.applied;
    batch
        .transaction
        .prepare_cached("UPDATE position SET seq = ?1")?
        .execute([applied])?;
    batch.transaction.commit()?;
    Ok(applied)
}

struct Batch<'a> {
    transaction: Transaction<'a>,
    /// The deliveries created in this transaction, by their sequence.
    fresh: BTreeMap<u64, Row>,
    /// Those of them that are the last replay of an event to a destination.
    fresh_replays: HashMap<(u64, DestinationId), u64>,
    /// What was accepted of each tenant.
    usage: HashMap<TenantId, Usage>,
    /// When that was.
    ages: Ages,
    applied: u64,
}

impl Batch<'_> {
    fn apply(&mut self, change: &Change) -> rusqlite::Result<()> {
        if change.seq <= self.applied {
            // A copy in a younger segment: only where it is has changed.
            if let What::Accept(accepted) = &change.what {
                move_to(&self.transaction, [(change.seq, accepted.position.pack())])?;
            }
            return Ok(());
        }
        match &change.what {
            What::Accept(accepted) => self.accept(change, accepted)?,
            What::Settle(settle) => self.settle(change, settle)?,
            What::Reopen(requeue) => self.reopen(change, requeue)?,
            What::Deliver(requeue) => self.deliver(change, requeue)?,
            What::End(end) => self.end(change, end)?,
            What::Park(park) => self.park(change, park)?,
            What::EndDestination(end) => self.end_destination(change, end)?,
            What::Erase(erasing) => self.erase(change, erasing)?,
            What::ForgetSource(forget) => {
                self.transaction
                    .prepare_cached("INSERT OR REPLACE INTO forgotten VALUES (?1, ?2)")?
                    .execute(params![blob(forget.source.as_u128()), change.seq])?;
                self.transaction
                    .prepare_cached("DELETE FROM remembered WHERE source = ?1")?
                    .execute([blob(forget.source.as_u128())])?;
            }
            What::Repeat(repeat) => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO repeats VALUES (?1, 1, ?2) ON CONFLICT (event_seq)
                         DO UPDATE SET count = count + 1, last_at = ?2",
                    )?
                    .execute(params![repeat.event_seq, change.time.0])?;
            }
        }
        self.applied = change.last_seq();
        Ok(())
    }

    fn accept(&mut self, change: &Change, accepted: &Accepted) -> rusqlite::Result<()> {
        self.ages.note(change.seq, accepted.received_at);
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO events
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)",
            )?
            .execute(params![
                change.seq,
                blob(accepted.id.as_u128()),
                blob(accepted.tenant.as_u128()),
                blob(accepted.source.as_u128()),
                accepted.received_at.0,
                accepted.method,
                accepted.target,
                accepted.event_type,
                accepted.provider_id,
                accepted.remembered_until.0,
                accepted.body_bytes,
                accepted.position.pack(),
                accepted.stored_bytes,
            ])?;
        let usage = self.usage.entry(accepted.tenant).or_default();
        usage.events += 1;
        usage.bytes += accepted.stored_bytes;
        for (seq, new) in (change.seq..).zip(&accepted.deliveries) {
            let key = DestinationKey {
                tenant: accepted.tenant,
                destination: new.destination,
            };
            let delivery = DeliveryRef {
                key,
                id: new.id,
                seq,
                place: seq,
                queue: Queue::Main,
            };
            let row = Row::new(change, delivery, change.seq, new.order.clone());
            self.fresh.insert(seq, row);
        }
        Ok(())
    }

    fn settle(&mut self, change: &Change, settle: &Settle) -> rusqlite::Result<()> {
        let attempt = &settle.attempt;
        let (state, due, reason) = match settle.verdict {
            Verdict::Deliver => (DeliveryState::Delivered, Timestamp(0), None),
            Verdict::Retry { at, .. } => (DeliveryState::Retry, at, None),
            Verdict::Die { reason } => (DeliveryState::Dead, Timestamp(0), Some(reason.as_str())),
        };
        let spent = spent_of(settle.verdict);
        let ending = ending_number(Ending::from(&attempt.outcome));
        // A failure that was recorded already, or whose delivery went on, changes nothing.
        let least = if settle.verdict == Verdict::Deliver {
            u32::MAX
        } else {
            attempt.number
        };
        let changed = if let Some(row) = self.fresh.get_mut(&settle.delivery.seq) {
            let counts = row.state.is_open() && row.attempts <= least;
            if counts {
                row.state = state;
                row.attempts = row.attempts.max(attempt.number);
                row.spent = spent;
                row.due = due;
                row.reason = reason;
                row.updated_at = change.time;
                row.ending = Some(ending);
            }
            counts
        } else {
            let changed = self
                .transaction
                .prepare_cached(
                    "UPDATE deliveries SET state = ?2, attempts = max(attempts, ?3),
                       spent_attempts = ?4, spent_ms = ?5, due = ?6, updated_at = ?7, reason = ?8,
                       ending = ?10
                     WHERE seq = ?1 AND state <= 1 AND attempts <= ?9",
                )?
                .execute(params![
                    settle.delivery.seq,
                    state_number(state),
                    attempt.number,
                    spent.attempts,
                    spent.window_ms,
                    due.0,
                    change.time.0,
                    reason,
                    least,
                    ending,
                ])?;
            if changed > 0 {
                self.update_pending(&settle.delivery, state, due)?;
            }
            changed > 0
        };
        if changed {
            self.transaction
                .prepare_cached("INSERT OR REPLACE INTO attempts VALUES (?1,?2,?3,?4,?5,?6,?7)")?
                .execute(params![
                    settle.delivery.seq,
                    attempt.number,
                    blob(attempt.id.as_u128()),
                    attempt.agent.map(AgentId::as_u128).map(blob),
                    attempt.ended_at.0,
                    attempt.elapsed_ms,
                    &encode_outcome(&attempt.outcome)[..],
                ])?;
        }
        if changed && settle.parks {
            self.park_with(change, &settle.delivery)?;
        }
        Ok(())
    }

    fn update_pending(
        &self,
        delivery: &DeliveryRef,
        state: DeliveryState,
        due: Timestamp,
    ) -> rusqlite::Result<()> {
        let destination = blob(delivery.key.destination.as_u128());
        let queue = delivery.queue as u8;
        if state.is_open() {
            self.transaction
                .prepare_cached(
                    "UPDATE pending SET due = ?4
                     WHERE destination = ?1 AND queue = ?2 AND place = ?3",
                )?
                .execute(params![destination, queue, delivery.place, due.0])?;
        } else {
            self.transaction
                .prepare_cached(
                    "DELETE FROM pending WHERE destination = ?1 AND queue = ?2 AND place = ?3",
                )?
                .execute(params![destination, queue, delivery.place])?;
        }
        Ok(())
    }

    fn reopen(&mut self, change: &Change, requeue: &Requeue) -> rusqlite::Result<()> {
        self.flush()?;
        let changed = self
            .transaction
            .prepare_cached(
                "UPDATE deliveries SET state = 0, place = ?2, spent_attempts = 0, spent_ms = 0,
                   due = 0, reason = NULL, updated_at = ?3 WHERE seq = ?1 AND state = ?4",
            )?
            .execute(params![requeue.seq, change.seq, change.time.0, DEAD])?;
        if changed > 0 {
            self.transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO pending
                     SELECT destination, replay IS NOT NULL AND order_key IS NULL, place, seq, due,
                       order_key FROM deliveries WHERE seq = ?1",
                )?
                .execute([requeue.seq])?;
        }
        Ok(())
    }

    fn deliver(&mut self, change: &Change, requeue: &Requeue) -> rusqlite::Result<()> {
        let known = self
            .transaction
            .prepare_cached("SELECT 1 FROM events WHERE seq = ?1")?
            .query_row([requeue.event_seq], |_| Ok(()))
            .optional()?;
        if known.is_some() {
            self.supersede(requeue)?;
            let delivery = DeliveryRef {
                key: requeue.key,
                id: requeue.id,
                seq: change.seq,
                place: change.seq,
                queue: requeue.queue(),
            };
            let order = requeue.order.clone();
            let mut row = Row::new(change, delivery, requeue.event_seq, order);
            row.replay = requeue.replay;
            self.fresh.insert(change.seq, row);
            let place = (requeue.event_seq, requeue.key.destination);
            self.fresh_replays.insert(place, change.seq);
        }
        Ok(())
    }

    /// A replay takes the place of what the event's deliveries to its destination came to.
    fn supersede(&mut self, requeue: &Requeue) -> rusqlite::Result<()> {
        let destination = requeue.key.destination;
        let replay = self
            .fresh_replays
            .get(&(requeue.event_seq, destination))
            .and_then(|seq| self.fresh.get_mut(seq));
        if let Some(row) = replay {
            row.superseded_by = Some(requeue.id);
            return Ok(());
        }
        // The deliveries an event came with follow its own sequence.
        let came_with = self
            .fresh
            .range_mut(requeue.event_seq..)
            .map(|(_, row)| row)
            .take_while(|row| row.event_seq == requeue.event_seq);
        for row in came_with.filter(|row| row.delivery.key.destination == destination) {
            row.superseded_by = Some(requeue.id);
        }
        self.transaction
            .prepare_cached(
                "UPDATE deliveries SET superseded_by = ?3
                 WHERE event_seq = ?1 AND destination = ?2 AND superseded_by IS NULL",
            )?
            .execute(params![
                requeue.event_seq,
                blob(destination.as_u128()),
                blob(requeue.id.as_u128()),
            ])?;
        Ok(())
    }

    fn end(&mut self, change: &Change, end: &End) -> rusqlite::Result<()> {
        let state = end.reason.state();
        if let Some(row) = self.fresh.get_mut(&end.delivery.seq) {
            if row.state.is_open() {
                row.state = state;
                row.updated_at = change.time;
                row.reason = Some(end.reason.as_str());
            }
            return Ok(());
        }
        let changed = self
            .transaction
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, updated_at = ?3, reason = ?4
                 WHERE seq = ?1 AND state <= 1",
            )?
            .execute(params![
                end.delivery.seq,
                state_number(state),
                change.time.0,
                end.reason.as_str(),
            ])?;
        if changed > 0 {
            self.update_pending(&end.delivery, state, Timestamp(0))?;
        }
        Ok(())
    }

    /// Only the record of it: rows lose their content step by step.
    fn erase(&mut self, change: &Change, erasing: &Erasing) -> rusqlite::Result<()> {
        match erasing {
            Erasing::Begun(begun) => {
                let events = (!begun.all).then_some(begun.events.len());
                self.transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO erasures VALUES (?1,?2,?3,?4,?5,?6,0,?7)",
                    )?
                    .execute(params![
                        change.seq,
                        change.time.0,
                        blob(begun.tenant.as_u128()),
                        begun.by,
                        begun.what,
                        events,
                        &erasing.encode()[..],
                    ])?;
            }
            Erasing::Spots { .. } => {}
            Erasing::Done { of } => {
                self.transaction
                    .prepare_cached("UPDATE erasures SET done = 1, begun = NULL WHERE seq = ?1")?
                    .execute([of])?;
            }
        }
        Ok(())
    }

    fn end_destination(&mut self, change: &Change, end: &EndDestination) -> rusqlite::Result<()> {
        self.flush()?;
        let state = end.reason.state();
        let destination = blob(end.key.destination.as_u128());
        self.transaction
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, updated_at = ?3, reason = ?4
                 WHERE seq IN (SELECT seq FROM pending WHERE destination = ?1) AND tenant = ?5",
            )?
            .execute(params![
                destination,
                state_number(state),
                change.time.0,
                end.reason.as_str(),
                blob(end.key.tenant.as_u128()),
            ])?;
        for table in ["pending", "parked"] {
            self.transaction
                .prepare_cached(&format!("DELETE FROM {table} WHERE destination = ?1"))?
                .execute([destination])?;
        }
        Ok(())
    }

    fn park(&mut self, change: &Change, park: &Park) -> rusqlite::Result<()> {
        let destination = blob(park.key.destination.as_u128());
        let order = signed(park.order.digest);
        if park.parked {
            self.transaction
                .prepare_cached("INSERT OR IGNORE INTO parked VALUES (?1,?2,?3,?4,?5,NULL)")?
                .execute(params![
                    destination,
                    order,
                    blob(park.key.tenant.as_u128()),
                    park.order.text,
                    change.time.0,
                ])?;
        } else {
            self.transaction
                .prepare_cached("DELETE FROM parked WHERE destination = ?1 AND order_key = ?2")?
                .execute(params![destination, order])?;
        }
        Ok(())
    }

    /// A key stops with the delivery that died at its head.
    fn park_with(&mut self, change: &Change, delivery: &DeliveryRef) -> rusqlite::Result<()> {
        self.flush()?;
        self.transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO parked
                 SELECT destination, order_key, tenant, order_text, ?2, id FROM deliveries
                 WHERE seq = ?1 AND order_key IS NOT NULL",
            )?
            .execute(params![delivery.seq, change.time.0])?;
        Ok(())
    }

    fn flush_usage(&mut self) -> rusqlite::Result<()> {
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO usage VALUES (?1, ?2, ?3) ON CONFLICT (tenant)
             DO UPDATE SET events = events + ?2, bytes = bytes + ?3",
        )?;
        for (tenant, usage) in self.usage.drain() {
            add.execute(params![blob(tenant.as_u128()), usage.events, usage.bytes])?;
        }
        Ok(())
    }

    /// Writes the deliveries created in this transaction as they are now.
    fn flush(&mut self) -> rusqlite::Result<()> {
        self.fresh_replays.clear();
        for (seq, row) in std::mem::take(&mut self.fresh) {
            let destination = blob(row.delivery.key.destination.as_u128());
            let order = row.order.as_ref().map(|order| signed(order.digest));
            self.transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO deliveries
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18)",
                )?
                .execute(params![
                    seq,
                    blob(row.delivery.id.as_u128()),
                    row.event_seq,
                    blob(row.delivery.key.tenant.as_u128()),
                    destination,
                    row.delivery.place,
                    state_number(row.state),
                    row.attempts,
                    row.spent.attempts,
                    row.spent.window_ms,
                    row.due.0,
                    row.updated_at.0,
                    row.reason,
                    row.replay.map(ReplayId::as_u128).map(blob),
                    row.superseded_by.map(DeliveryId::as_u128).map(blob),
                    order,
                    row.order.as_ref().map(|order| &*order.text),
                    row.ending,
                ])?;
            if row.state.is_open() {
                self.transaction
                    .prepare_cached("INSERT OR REPLACE INTO pending VALUES (?1,?2,?3,?4,?5,?6)")?
                    .execute(params![
                        destination,
                        row.delivery.queue as u8,
                        row.delivery.place,
                        seq,
                        row.due.0,
                        order,
                    ])?;
            }
        }
        Ok(())
    }
}

/// What attempts have used up counts for the next attempt only.
fn spent_of(verdict: Verdict) -> Spent {
    match verdict {
        Verdict::Retry { spent, .. } => spent,
        Verdict::Deliver | Verdict::Die { .. } => Spent::default(),
    }
}

/// Ids sort as blobs like the ids themselves.
pub(super) fn blob(id: u128) -> [u8; 16] {
    id.to_be_bytes()
}

/// The number of a state; the order of [`DeliveryState::ALL`] is part of the schema.
pub(super) fn state_number(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Pending => 0,
        DeliveryState::Retry => 1,
        DeliveryState::Delivered => 2,
        DeliveryState::Dead => DEAD,
        DeliveryState::Cancelled => 4,
        DeliveryState::Expired => 5,
        DeliveryState::Quarantined => 6,
    }
}

/// What [`state_number`] made.
pub(super) fn state_of(number: i64) -> Option<DeliveryState> {
    let all = DeliveryState::ALL;
    all.into_iter().find(|state| state_number(*state) == number)
}
