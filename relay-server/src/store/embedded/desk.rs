//! The state of open deliveries, in memory. It, not the projection, decides what is due.
//!
//! Each destination has a desk: a window over its queue that is contiguous from the front up to
//! `window_end`. Everything owed up to there is in memory (or spilled with a due time to come); what
//! lies beyond is read from the projection when there is room. A live event enters memory only when
//! the window reaches the queue's tail. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use protocol::id::{DeliveryId, EventId, ReplayId, TenantId};

use super::journal::{Position, payload::DeliveryRef};
use crate::{
    clock::Timestamp,
    lifecycle::{Event, KeyDigest, Spent, Verdict},
    store::{Adopted, DestinationKey, Held, LeaseInfo, LeaseToken, Settled, Want},
};

/// How much may be in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Deliveries per destination.
    pub(crate) window: usize,
    /// Of them waiting for their next attempt.
    pub(crate) waiting: usize,
    /// Bytes of events, over all destinations.
    pub(crate) event_bytes: u64,
}

/// Rows read from the projection in one go.
const LOAD_MAX: usize = 4096;

/// Live deliveries remembered while rows are read.
const FRESH_MAX: usize = 16_384;

/// An open delivery as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) delivery: DeliveryRef,
    pub(crate) event: EventId,
    pub(crate) position: Position,
    pub(crate) body_bytes: u64,
    /// Attempts that have ended.
    pub(crate) attempts: u32,
    /// What attempts have used up of the policy's limits.
    pub(crate) spent: Spent,
    /// The earliest next attempt; zero for at once.
    pub(crate) due: Timestamp,
    /// What asked for it, if it is a replay.
    pub(crate) replay: Option<ReplayId>,
    /// The key that it waits its turn with, if it is ordered.
    pub(crate) order: Option<KeyDigest>,
}

#[derive(Debug, Clone, Copy)]
enum Status {
    Ready,
    Waiting,
    Leased(Leased),
}

#[derive(Debug, Clone, Copy)]
struct Leased {
    info: LeaseInfo,
    until: Timestamp,
    /// A failure is being written: the lease may not change hands.
    settling: bool,
}

#[derive(Debug)]
struct Open {
    owed: Owed,
    status: Status,
    event: Option<Arc<Event>>,
}

#[derive(Debug, Default)]
struct Desk {
    /// What can be handed out, by place.
    ready: BTreeMap<u64, DeliveryId>,
    /// How many of the open deliveries in memory wait for their next attempt.
    waiting: usize,
    /// How many are leased.
    leased: u32,
    /// A claim got less because so many are leased: tell when one ends.
    held_back: bool,
    /// Up to this place everything owed is known.
    window_end: u64,
    /// The last place given.
    last: u64,
    /// The earliest due time of those that were put out of memory.
    spilled: Option<Timestamp>,
    loading: Option<Loading>,
}

impl Desk {
    /// What the window holds. Leases do not count: they are bounded by credit, and must not keep
    /// what is behind them from agents with more.
    fn queued(&self) -> usize {
        self.ready.len() + self.waiting
    }
}

/// What happens while rows are read, and may not be undone by them.
#[derive(Debug, Default)]
struct Loading {
    ticket: u64,
    changed: HashSet<DeliveryId>,
    fresh: Vec<Owed>,
    overflowed: bool,
}

/// Rows to read for a desk. They must reflect everything up to `durable`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadPlan {
    pub(crate) key: DestinationKey,
    /// Rows after this place, in order of place.
    pub(crate) after: u64,
    pub(crate) most: usize,
    /// Rows up to `after` that wait, in order of due time.
    pub(crate) waiting_most: usize,
    pub(crate) durable: u64,
    ticket: u64,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) rows: Vec<Owed>,
    pub(crate) waiting: Vec<Owed>,
    /// How far the projection was.
    pub(crate) applied: u64,
}

/// A delivery handed out, perhaps without its event.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) info: LeaseInfo,
    pub(crate) owed: Owed,
    pub(crate) event: Option<Arc<Event>>,
}

/// All desks.
#[derive(Debug)]
pub(crate) struct Desks {
    limits: Limits,
    incarnation: u64,
    counter: u64,
    loads: u64,
    desks: HashMap<DestinationKey, Desk>,
    open: HashMap<DeliveryId, Open>,
    /// When leases end and waits are over.
    deadlines: BTreeSet<(Timestamp, DeliveryId)>,
    dues: BTreeSet<(Timestamp, DeliveryId)>,
    spills: BTreeSet<(Timestamp, DestinationKey)>,
    event_bytes: u64,
    lookups: usize,
    settled_meanwhile: HashSet<DeliveryId>,
    /// Destinations where a lease ended that held others back.
    freed: Vec<DestinationKey>,
    /// The last sequence that is durable and taken note of here.
    pub(crate) durable: u64,
}

impl Desks {
    pub(crate) fn new(limits: Limits, incarnation: u64, durable: u64) -> Self {
        Self {
            limits,
            incarnation,
            counter: 0,
            loads: 0,
            desks: HashMap::new(),
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            dues: BTreeSet::new(),
            spills: BTreeSet::new(),
            event_bytes: 0,
            lookups: 0,
            settled_meanwhile: HashSet::new(),
            freed: Vec::new(),
            durable,
        }
    }

    /// Notes at start that a destination has a backlog up to a place.
    pub(crate) fn backlog(&mut self, key: DestinationKey, last: u64) {
        self.desks.entry(key).or_default().last = last;
    }

    /// A new place at the tail of a queue.
    pub(crate) fn accept(&mut self, owed: Owed, event: Option<&Arc<Event>>) {
        let desk = self.desks.entry(owed.delivery.key).or_default();
        let at_tail = desk.window_end >= desk.last;
        let place = owed.delivery.place;
        desk.last = place;
        if let Some(loading) = &mut desk.loading {
            loading.changed.remove(&owed.delivery.id);
            if loading.fresh.len() < FRESH_MAX {
                loading.fresh.push(owed);
            } else {
                loading.overflowed = true;
            }
        } else if at_tail && desk.queued() < self.limits.window {
            desk.window_end = place;
            self.insert(owed, event, Timestamp(0));
        }
    }

    /// Begins to look for a delivery outside: what is settled until [`Desks::end_lookup`] is known.
    pub(crate) fn begin_lookup(&mut self) {
        self.lookups += 1;
    }

    /// Ends a look-up.
    pub(crate) fn end_lookup(&mut self) {
        self.lookups -= 1;
        if self.lookups == 0 {
            self.settled_meanwhile.clear();
        }
    }

    /// Takes an open delivery that was looked up into memory, wherever it stands in its queue.
    pub(crate) fn insert_loose(&mut self, owed: Owed, now: Timestamp) {
        let id = owed.delivery.id;
        if !self.open.contains_key(&id) && !self.settled_meanwhile.contains(&id) {
            self.insert(owed, None, now);
        }
    }

    fn insert(&mut self, owed: Owed, event: Option<&Arc<Event>>, now: Timestamp) {
        let id = owed.delivery.id;
        let desk = self.desks.entry(owed.delivery.key).or_default();
        let waits = owed.due > now;
        let status = if waits {
            desk.waiting += 1;
            self.dues.insert((owed.due, id));
            Status::Waiting
        } else {
            desk.ready.insert(owed.delivery.place, id);
            Status::Ready
        };
        let bytes = owed.body_bytes;
        let event = event
            .filter(|_| self.event_bytes + bytes <= self.limits.event_bytes)
            .cloned();
        if event.is_some() {
            self.event_bytes += bytes;
        }
        let open = Open {
            owed,
            status,
            event,
        };
        self.open.insert(id, open);
    }

    /// Takes a delivery off its desk's lists, leaving it in `open` only.
    fn unlist(&mut self, id: DeliveryId) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        let Some(desk) = self.desks.get_mut(&open.owed.delivery.key) else {
            return;
        };
        match open.status {
            Status::Ready => {
                desk.ready.remove(&open.owed.delivery.place);
            }
            Status::Waiting => {
                desk.waiting -= 1;
                self.dues.remove(&(open.owed.due, id));
            }
            Status::Leased(lease) => {
                self.deadlines.remove(&(lease.until, id));
                desk.leased -= 1;
                if std::mem::take(&mut desk.held_back) {
                    self.freed.push(open.owed.delivery.key);
                }
            }
        }
    }

    /// Forgets a delivery: it is settled, or spilled.
    fn remove(&mut self, id: DeliveryId) {
        self.unlist(id);
        self.drop_event(id);
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        if let Some(desk) = self.desks.get_mut(&open.owed.delivery.key) {
            if self.lookups > 0 {
                self.settled_meanwhile.insert(id);
            }
            if let Some(loading) = &mut desk.loading {
                loading.changed.insert(id);
            }
        }
    }

    fn drop_event(&mut self, id: DeliveryId) {
        if let Some(open) = self.open.get_mut(&id)
            && open.event.take().is_some()
        {
            self.event_bytes -= open.owed.body_bytes;
        }
    }

    /// Queues a delivery that is not listed: ready now, or waiting; beyond the bound it is spilled.
    fn relist(&mut self, id: DeliveryId, now: Timestamp) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let Some(desk) = self.desks.get_mut(&open.owed.delivery.key) else {
            return;
        };
        let due = open.owed.due;
        if due <= now {
            open.status = Status::Ready;
            desk.ready.insert(open.owed.delivery.place, id);
            return;
        }
        desk.waiting += 1;
        open.status = Status::Waiting;
        self.dues.insert((due, id));
        let spill =
            desk.waiting > self.limits.waiting && open.owed.delivery.place <= desk.window_end;
        let key = open.owed.delivery.key;
        self.drop_event(id);
        if spill {
            self.remove(id);
            self.note_spill(key, due);
        }
    }

    fn note_spill(&mut self, key: DestinationKey, due: Timestamp) {
        let desk = self.desks.entry(key).or_default();
        if desk.spilled.is_none_or(|earliest| due < earliest) {
            if let Some(earliest) = desk.spilled.replace(due) {
                self.spills.remove(&(earliest, key));
            }
            self.spills.insert((due, key));
        }
    }

    /// Makes ready what waited long enough; names the destinations.
    pub(crate) fn promote(&mut self, now: Timestamp) -> HashSet<DestinationKey> {
        let mut keys = HashSet::new();
        while let Some(&(due, id)) = self.dues.first()
            && due <= now
        {
            self.unlist(id);
            self.dues.remove(&(due, id));
            self.relist(id, now);
            keys.extend(self.open.get(&id).map(|open| open.owed.delivery.key));
        }
        let spilled = self.spills.iter().take_while(|(due, _)| *due <= now);
        keys.extend(spilled.map(|(_, key)| *key));
        keys
    }

    /// The next time at which something happens by itself.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let due = self.dues.first().map(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let spill = self.spills.first().map(|(at, _)| *at);
        [due, deadline, spill].into_iter().flatten().min()
    }

    /// Hands out what is ready.
    pub(crate) fn claim(&mut self, want: &Want, now: Timestamp, picked: &mut Vec<Picked>) {
        let Some(desk) = self.desks.get_mut(&want.key) else {
            return;
        };
        let most = want
            .in_flight_max
            .map_or(u32::MAX, |max| max.saturating_sub(desk.leased));
        // Whether anything was held back is known when it frees: asking once too often is harmless.
        desk.held_back |= most < want.deliveries;
        let mut bytes = 0;
        for handed in 0..want.deliveries.min(most) {
            let Some(desk) = self.desks.get_mut(&want.key) else {
                return;
            };
            let Some((_, &id)) = desk.ready.first_key_value() else {
                return;
            };
            let Some(open) = self.open.get(&id) else {
                desk.ready.pop_first();
                continue;
            };
            bytes += open.owed.body_bytes;
            if handed > 0 && bytes > want.bytes {
                return;
            }
            self.counter += 1;
            let token = LeaseToken {
                incarnation: self.incarnation,
                counter: self.counter,
            };
            let attempt = open.owed.attempts + 1;
            let Some(info) = self.lease(id, token, attempt, now, want.ttl) else {
                return;
            };
            let Some(open) = self.open.get(&id) else {
                return;
            };
            picked.push(Picked {
                info,
                owed: open.owed.clone(),
                event: open.event.clone(),
            });
        }
    }

    fn lease(
        &mut self,
        id: DeliveryId,
        token: LeaseToken,
        attempt: u32,
        now: Timestamp,
        ttl: Duration,
    ) -> Option<LeaseInfo> {
        self.unlist(id);
        let open = self.open.get_mut(&id)?;
        let info = LeaseInfo {
            token,
            key: open.owed.delivery.key,
            delivery: id,
            event: open.owed.event,
            attempt,
            leased_at: now,
            spent: open.owed.spent,
            replay: open.owed.replay,
        };
        let until = now.after(ttl);
        open.status = Status::Leased(Leased {
            info,
            until,
            settling: false,
        });
        self.deadlines.insert((until, id));
        if let Some(desk) = self.desks.get_mut(&info.key) {
            desk.leased += 1;
        }
        Some(info)
    }

    /// Names the destinations where a lease ended that held others back.
    pub(crate) fn take_freed(&mut self) -> Vec<DestinationKey> {
        std::mem::take(&mut self.freed)
    }

    fn of_tenant(&self, tenant: TenantId, id: DeliveryId) -> Option<&Open> {
        self.open
            .get(&id)
            .filter(|open| open.owed.delivery.key.tenant == tenant)
    }

    /// The lease, if this is it and nothing is being decided about it.
    fn held(&self, held: &Held) -> Option<Leased> {
        match self.of_tenant(held.tenant, held.delivery)?.status {
            Status::Leased(lease) if lease.info.token == held.token => Some(lease),
            _ => None,
        }
    }

    fn extend(&mut self, id: DeliveryId, until: Timestamp) {
        if let Some(open) = self.open.get_mut(&id)
            && let Status::Leased(lease) = &mut open.status
        {
            self.deadlines.remove(&(lease.until, id));
            lease.until = until;
            self.deadlines.insert((until, id));
        }
    }

    /// Starts a lease anew.
    pub(crate) fn renew(&mut self, held: &Held, until: Timestamp) {
        if self.held(held).is_some() {
            self.extend(held.delivery, until);
        }
    }

    /// Takes a lease back unattempted.
    pub(crate) fn release(&mut self, held: &Held, now: Timestamp) -> Option<DestinationKey> {
        let lease = self.held(held).filter(|lease| !lease.settling)?;
        self.unlist(held.delivery);
        self.open.get_mut(&held.delivery)?.owed.due = Timestamp(0);
        self.relist(held.delivery, now);
        Some(lease.info.key)
    }

    /// Gives a lease back to its holder; `None` if the delivery is not in memory.
    pub(crate) fn adopt(&mut self, held: &Held, now: Timestamp, ttl: Duration) -> Option<Adopted> {
        if let Some(lease) = self.held(held) {
            self.extend(held.delivery, now.after(ttl));
            return Some(Adopted::Granted(lease.info));
        }
        match self.of_tenant(held.tenant, held.delivery)?.status {
            Status::Leased(_) => Some(Adopted::Lost),
            Status::Ready | Status::Waiting => self
                .lease(held.delivery, held.token, held.attempt, now, ttl)
                .map(Adopted::Granted),
        }
    }

    /// Leases that are over; they are kept for `hold`.
    pub(crate) fn take_expired(
        &mut self,
        now: Timestamp,
        hold: Duration,
        most: usize,
    ) -> Vec<LeaseInfo> {
        let over = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let over: Vec<DeliveryId> = over.take(most).map(|(_, id)| *id).collect();
        let mut infos = Vec::with_capacity(over.len());
        for id in over {
            self.extend(id, now.after(hold));
            if let Some(open) = self.open.get(&id)
                && let Status::Leased(lease) = open.status
                && !lease.settling
            {
                infos.push(lease.info);
            }
        }
        infos
    }

    /// What a settlement would do, before it is written. `Ok` names the delivery; `Err(None)` that it
    /// is not in memory.
    pub(crate) fn begin_settle(
        &mut self,
        held: &Held,
        verdict: Verdict,
    ) -> Result<DeliveryRef, Option<Settled>> {
        let lease = self.held(held);
        let Some(open) = self.of_tenant(held.tenant, held.delivery) else {
            return Err(None);
        };
        if verdict != Verdict::Deliver && lease.is_none() {
            return Err(Some(Settled::LeaseLost));
        }
        let delivery = open.owed.delivery;
        if lease.is_some() {
            self.mark_settling(held.delivery, true);
        }
        Ok(delivery)
    }

    /// A settlement was not written.
    pub(crate) fn abandon_settle(&mut self, held: &Held) {
        if self.held(held).is_some() {
            self.mark_settling(held.delivery, false);
        }
    }

    fn mark_settling(&mut self, id: DeliveryId, settling: bool) {
        if let Some(open) = self.open.get_mut(&id)
            && let Status::Leased(lease) = &mut open.status
        {
            lease.settling = settling;
        }
    }

    /// Takes note that a settlement is durable.
    pub(crate) fn settle(&mut self, held: &Held, verdict: Verdict, now: Timestamp) -> Settled {
        let holder = self.held(held).is_some();
        let Some(open) = self.open.get_mut(&held.delivery) else {
            return Settled::AlreadySettled;
        };
        let Verdict::Retry { at, spent } = verdict else {
            self.remove(held.delivery);
            return Settled::Applied;
        };
        if !holder {
            return Settled::AlreadySettled;
        }
        open.owed.attempts = open.owed.attempts.max(held.attempt);
        open.owed.spent = spent;
        self.unlist(held.delivery);
        if let Some(open) = self.open.get_mut(&held.delivery) {
            open.owed.due = at;
        }
        self.relist(held.delivery, now);
        Settled::Applied
    }

    /// The delivery as it is open in memory.
    pub(crate) fn owed(&self, tenant: TenantId, id: DeliveryId) -> Option<&Owed> {
        self.of_tenant(tenant, id).map(|open| &open.owed)
    }

    /// Takes note that a delivery has ended. False if it is not open in memory.
    pub(crate) fn end(&mut self, id: DeliveryId) -> bool {
        let known = self.open.contains_key(&id);
        self.remove(id);
        known
    }

    /// Takes note that everything at a destination has ended.
    pub(crate) fn end_destination(&mut self, key: DestinationKey) {
        let of_key = |open: &&Open| open.owed.delivery.key == key;
        let ended = self.open.values().filter(of_key);
        let ended: Vec<DeliveryId> = ended.map(|open| open.owed.delivery.id).collect();
        for id in ended {
            self.remove(id);
        }
        let desk = self.desks.entry(key).or_default();
        if let Some(due) = desk.spilled.take() {
            self.spills.remove(&(due, key));
        }
        // What is being read has ended.
        desk.loading = None;
        desk.window_end = desk.last;
    }

    /// What to read for a desk, if anything. Then [`Desks::finish_load`] or [`Desks::cancel_load`]
    /// must follow.
    pub(crate) fn begin_load(&mut self, key: DestinationKey, now: Timestamp) -> Option<LoadPlan> {
        let desk = self.desks.get_mut(&key)?;
        if desk.loading.is_some() {
            return None;
        }
        let beyond = desk.window_end < desk.last && desk.queued() <= self.limits.window / 2;
        let spilled = desk
            .spilled
            .is_some_and(|due| due <= now || desk.waiting <= self.limits.waiting / 2);
        if !beyond && !spilled {
            return None;
        }
        self.loads += 1;
        desk.loading = Some(Loading {
            ticket: self.loads,
            ..Loading::default()
        });
        let room = self
            .limits
            .window
            .saturating_sub(desk.queued())
            .min(LOAD_MAX);
        Some(LoadPlan {
            key,
            after: desk.window_end,
            most: room.max(1),
            waiting_most: if spilled {
                self.limits.waiting + LOAD_MAX
            } else {
                0
            },
            durable: self.durable,
            ticket: self.loads,
        })
    }

    /// Whether rows for a desk are being read.
    pub(crate) fn is_loading(&self, key: DestinationKey) -> bool {
        self.desks
            .get(&key)
            .is_some_and(|desk| desk.loading.is_some())
    }

    /// The rows could not be read.
    pub(crate) fn cancel_load(&mut self, plan: &LoadPlan) {
        if let Some(desk) = self.desks.get_mut(&plan.key) {
            // What arrived meanwhile was not taken into the window, which ends before it.
            let current = |loading: &mut Loading| loading.ticket == plan.ticket;
            desk.loading.take_if(current);
        }
    }

    /// Joins what was read with what happened meanwhile.
    pub(crate) fn finish_load(&mut self, plan: &LoadPlan, loaded: Loaded, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(&plan.key) else {
            return;
        };
        let current = |loading: &mut Loading| loading.ticket == plan.ticket;
        let Some(loading) = desk.loading.take_if(current) else {
            return;
        };
        if plan.waiting_most > 0 {
            self.load_waiting(plan, loaded.waiting, &loading, now);
        }
        let complete = loaded.rows.len() < plan.most;
        for owed in loaded.rows {
            let place = owed.delivery.place;
            self.load(owed, &loading, now);
            let desk = desk_at(&mut self.desks, plan.key);
            desk.window_end = desk.window_end.max(place);
        }
        if complete {
            self.join_tail(plan.key, loaded.applied, &loading, now);
        }
    }

    /// All that was owed up to `applied` is known; what came since is in `loading`.
    fn join_tail(&mut self, key: DestinationKey, applied: u64, loading: &Loading, now: Timestamp) {
        let window = self.limits.window;
        let desk = desk_at(&mut self.desks, key);
        desk.window_end = desk.window_end.max(applied.min(desk.last));
        for owed in &loading.fresh {
            let place = owed.delivery.place;
            let desk = desk_at(&mut self.desks, key);
            if place <= desk.window_end {
                continue;
            }
            if desk.queued() >= window {
                return;
            }
            desk.window_end = place;
            self.load(owed.clone(), loading, now);
        }
        if !loading.overflowed {
            let desk = desk_at(&mut self.desks, key);
            desk.window_end = desk.window_end.max(desk.last);
        }
    }

    /// One row, unless memory knows better.
    fn load(&mut self, owed: Owed, loading: &Loading, now: Timestamp) {
        let id = owed.delivery.id;
        if loading.changed.contains(&id) || self.open.contains_key(&id) {
            return;
        }
        let key = owed.delivery.key;
        let waiting = desk_at(&mut self.desks, key).waiting;
        if owed.due > now && waiting >= self.limits.waiting {
            self.note_spill(key, owed.due);
        } else {
            self.insert(owed, None, now);
        }
    }

    fn load_waiting(
        &mut self,
        plan: &LoadPlan,
        rows: Vec<Owed>,
        loading: &Loading,
        now: Timestamp,
    ) {
        let desk = desk_at(&mut self.desks, plan.key);
        if let Some(due) = desk.spilled.take() {
            self.spills.remove(&(due, plan.key));
        }
        let cut = rows.len() >= plan.waiting_most;
        let last = rows.last().map(|owed| owed.due);
        for owed in rows {
            self.load(owed, loading, now);
        }
        if let Some(due) = last.filter(|_| cut) {
            self.note_spill(plan.key, due);
        }
        // What was spilled while rows were read may not be among them.
        if !loading.changed.is_empty() {
            self.note_spill(plan.key, now.after(Duration::from_secs(1)));
        }
    }
}

fn desk_at(desks: &mut HashMap<DestinationKey, Desk>, key: DestinationKey) -> &mut Desk {
    desks.entry(key).or_default()
}
