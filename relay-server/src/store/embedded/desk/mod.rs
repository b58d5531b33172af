//! The state of open deliveries, in memory. It, not the projection, decides what is due.
//!
//! Each destination has a desk. A desk knows two queues, one for replays of what is not ordered and one
//! for everything else, each through a [`window`] that is contiguous from the front up to its end:
//! what is owed up to there is in memory, or put out of it and read again at a known time. What lies
//! beyond is read from the projection when there is room.
//!
//! Three things are in memory beyond the windows: what is leased, what waits for a retry, and, so that
//! a backlog never delays it, what was just accepted and is not ordered. The windows pass over them
//! when they get there.
//!
//! [`lanes`] chooses among what is ready; [`keys`] lets only the head of each key be ready; [`load`]
//! reads. Pure: no I/O, no clock.

mod owed;

mod lanes;

mod keys;

mod window;

mod load;

mod leases;

mod endings;

mod parking;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use protocol::id::{DeliveryId, TenantId};

use self::{
    keys::{After, Joined, Keys},
    lanes::Lanes,
    load::desk_at,
    owed::{Open, Status},
    window::{Loading, QueuePlan, Window},
};
pub(crate) use self::{
    keys::{KeyLimits, KeyPlan},
    owed::{Owed, Picked},
    window::{LoadPlan, Loaded},
};
use super::journal::payload::Queue;
use crate::{
    clock::Timestamp,
    lifecycle::{Event, LIVE_FOR, Lane},
    store::DestinationKey,
};

/// How much may be in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Deliveries per destination that are ready or wait for their next attempt.
    pub(crate) window: usize,
    /// Of them waiting for their next attempt.
    pub(crate) waiting: usize,
    /// Of them just accepted, where the window does not reach the tail.
    pub(crate) live: usize,
    /// Replays per destination that are ready.
    pub(crate) replays: usize,
    /// With fewer ready, the queue is read on although much waits behind others of its key.
    pub(crate) starving: usize,
    /// Ordered deliveries per destination.
    pub(crate) keys: KeyLimits,
    /// Bytes of events, over all destinations.
    pub(crate) event_bytes: u64,
}

impl Limits {
    /// Limits for a window of so many deliveries.
    pub(crate) fn new(window: usize, event_bytes: u64) -> Self {
        let window = window.max(1);
        Self {
            window,
            waiting: (window / 4).max(1),
            live: (window / 4).max(1),
            replays: (window / 4).max(1),
            starving: (window / 16).max(1),
            keys: KeyLimits {
                lines: window * 4,
                behind: window,
                behind_one: (window / 8).clamp(1, 1024),
            },
            event_bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Desk {
    /// What can be handed out.
    lanes: Lanes,
    keys: Keys,
    /// How many of the open deliveries in memory wait for their next attempt.
    waiting: usize,
    /// How many are leased.
    leased: u32,
    /// A claim got less because so many are leased: tell when one ends.
    held_back: bool,
    main: Window,
    replays: Window,
    /// The earliest due time of those that were put out of memory.
    spilled: Option<Timestamp>,
    /// The time that stands for this desk among all that have put something out of memory.
    indexed: Option<Timestamp>,
    loading: Option<Loading>,
}

impl Desk {
    fn window_mut(&mut self, queue: Queue) -> &mut Window {
        match queue {
            Queue::Main => &mut self.main,
            Queue::Replays => &mut self.replays,
        }
    }

    /// What the main window holds. Leases do not count: they are bounded by credit, and must not keep
    /// what is behind them from agents with more. Nor does what is behind the head of its key.
    fn queued(&self) -> usize {
        self.lanes.count(Lane::Live) + self.lanes.count(Lane::Backlog) + self.waiting
    }

    /// Whether one more can be taken in at the end of its window.
    fn has_room(&self, owed: &Owed, limits: &Limits) -> bool {
        match owed.delivery.queue {
            Queue::Main => {
                let key_fits = |order| self.keys.has_room(order, &limits.keys);
                self.queued() < limits.window && owed.order.is_none_or(key_fits)
            }
            Queue::Replays => self.lanes.count(Lane::Replay) < limits.replays,
        }
    }

    /// How much of the main queue to read: nothing while enough is ready or waits here.
    fn plan_main(&self, limits: &Limits) -> QueuePlan {
        let at_tail = self.main.reaches_tail();
        let queued = self.queued();
        let ready = queued - self.waiting;
        let behind = self.keys.behind() > limits.keys.behind / 2 && ready >= limits.starving;
        let wanted = queued <= limits.window / 2 && !behind && !self.keys.is_full(&limits.keys);
        self.main.plan(
            !at_tail && wanted,
            limits.window - queued.min(limits.window),
        )
    }

    fn plan_replays(&self, limits: &Limits) -> QueuePlan {
        let ready = self.lanes.count(Lane::Replay);
        let wanted = !self.replays.reaches_tail() && ready <= limits.replays / 2;
        self.replays
            .plan(wanted, limits.replays - ready.min(limits.replays))
    }

    /// When something that is out of memory is due next.
    fn next_spill(&self) -> Option<Timestamp> {
        let both = [self.spilled, self.keys.next_rest()];
        both.into_iter().flatten().min()
    }
}

/// What became of a delivery while others were looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Ended,
    /// Put out of memory: what was looked up may be out of date.
    Changed,
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
    meanwhile: HashMap<DeliveryId, Meanwhile>,
    /// What was looked up and is listed nowhere.
    loose: Vec<DeliveryId>,
    /// Destinations where something can be handed out that was held back.
    freed: Vec<DestinationKey>,
    /// Until then nothing is handed out that is ordered and was read back: agents say first what they
    /// still attempt.
    ordered_from: Timestamp,
    /// The last sequence that is durable and taken note of here.
    pub(crate) durable: u64,
}

impl Desks {
    pub(crate) fn new(
        limits: Limits,
        incarnation: u64,
        durable: u64,
        ordered_from: Timestamp,
    ) -> Self {
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
            meanwhile: HashMap::new(),
            loose: Vec::new(),
            freed: Vec::new(),
            ordered_from,
            durable,
        }
    }

    /// Notes at start that a queue has a backlog up to a place.
    pub(crate) fn backlog(&mut self, key: DestinationKey, queue: Queue, last: u64) {
        desk_at(&mut self.desks, key).window_mut(queue).last = last;
    }

    /// A new place at the tail of a queue.
    pub(crate) fn accept(&mut self, owed: Owed, event: Option<&Arc<Event>>, now: Timestamp) {
        let desk = desk_at(&mut self.desks, owed.delivery.key);
        let window = desk.window_mut(owed.delivery.queue);
        let at_tail = window.reaches_tail();
        let place = owed.delivery.place;
        window.last = place;
        if let Some(loading) = &mut desk.loading {
            loading.arrived(&owed);
        } else if at_tail && desk.has_room(&owed, &self.limits) {
            desk.window_mut(owed.delivery.queue).end = place;
            self.take_in(owed, event, now);
            return;
        }
        if owed.waited_until > now {
            self.take_in(owed, event, now);
        } else if owed.order.is_none() && owed.replay.is_none() {
            self.take_live(owed, event, now);
        }
    }

    /// A dead delivery is owed again, at the tail of its queue.
    pub(crate) fn reopen(&mut self, owed: Owed, now: Timestamp) {
        let id = owed.delivery.id;
        if self.open.contains_key(&id) {
            // Given up by hand, and the attempt of then goes on: its lease is worth nothing now.
            self.remove(id, now);
        }
        self.accept(owed, None, now);
    }

    /// Takes something just accepted into memory beyond the window, if there is room.
    fn take_live(&mut self, owed: Owed, event: Option<&Arc<Event>>, now: Timestamp) {
        let key = owed.delivery.key;
        let is_full = |desks: &mut Self| {
            desk_at(&mut desks.desks, key).lanes.count(Lane::Live) >= desks.limits.live
        };
        if is_full(self) {
            self.age(key, now);
        }
        if !is_full(self) {
            self.take_in(owed, event, now);
        }
    }

    /// What nobody waits for any more stands like everything else. What was live long enough joins the
    /// backlog; what lies beyond the window is read in its turn.
    fn age(&mut self, key: DestinationKey, now: Timestamp) {
        while let Some(desk) = self.desks.get(&key)
            && let Some(id) = desk.lanes.first_waited_for()
            && let Some(open) = self.open.get(&id)
            && open.owed.waited_until <= now
        {
            self.unlist(id);
            self.stand(id, now);
        }
        while let Some(desk) = self.desks.get_mut(&key)
            && let Some((place, id)) = desk.lanes.first_live()
            && let Some(open) = self.open.get_mut(&id)
            && now.since(open.owed.since) >= LIVE_FOR
        {
            if place <= desk.main.end {
                desk.lanes.remove(Lane::Live, place);
                desk.lanes.insert(Lane::Backlog, place, id);
                open.status = Status::Ready(Lane::Backlog);
                if self.event_bytes > self.limits.event_bytes / 2 {
                    self.drop_event(id);
                }
            } else if desk.loading.is_none() {
                self.forget(id);
            } else {
                // What is being read may be older than what is known here.
                return;
            }
        }
    }

    /// Takes a delivery in that comes after everything known of its key, if it is ordered.
    fn take_in(&mut self, owed: Owed, event: Option<&Arc<Event>>, now: Timestamp) {
        let Some(order) = owed.order else {
            self.put(owed, event, now);
            return;
        };
        let keys = &mut desk_at(&mut self.desks, owed.delivery.key).keys;
        match keys.join(
            order,
            owed.delivery.place,
            owed.delivery.id,
            &self.limits.keys,
        ) {
            Joined::Head => {
                self.put(owed, event, now);
            }
            Joined::Behind => self.put_behind(owed, event),
            Joined::Out => {}
        }
    }

    /// Lists a delivery whose turn it is: ready now, or waiting. False if it was put out of memory.
    fn put(&mut self, owed: Owed, event: Option<&Arc<Event>>, now: Timestamp) -> bool {
        let event = self.keep_event(owed.body_bytes, event, self.limits.event_bytes);
        let open = Open {
            owed,
            status: Status::Loose,
            event,
        };
        let id = open.owed.delivery.id;
        self.open.insert(id, open);
        self.stand(id, now)
    }

    fn put_behind(&mut self, owed: Owed, event: Option<&Arc<Event>>) {
        // It may take long: what goes at once comes first.
        let event = self.keep_event(owed.body_bytes, event, self.limits.event_bytes / 2);
        let open = Open {
            owed,
            status: Status::Behind,
            event,
        };
        self.open.insert(open.owed.delivery.id, open);
    }

    fn keep_event(
        &mut self,
        bytes: u64,
        event: Option<&Arc<Event>>,
        bytes_max: u64,
    ) -> Option<Arc<Event>> {
        let event = event.filter(|_| self.event_bytes + bytes <= bytes_max);
        if event.is_some() {
            self.event_bytes += bytes;
        }
        event.cloned()
    }

    /// Lists a delivery that is listed nowhere and whose turn it is. False if it was put out of memory.
    fn stand(&mut self, id: DeliveryId, now: Timestamp) -> bool {
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        let owed = &open.owed;
        let (key, place) = (owed.delivery.key, owed.delivery.place);
        let desk = desk_at(&mut self.desks, key);
        if let Some(order) = owed.order.filter(|order| desk.keys.is_parked(*order)) {
            desk.keys.park_head(order);
            self.forget(id);
            return false;
        }
        let mut until = owed.due;
        if owed.order.is_some() && owed.since.0 == 0 {
            until = until.max(self.ordered_from);
        }
        if until <= now {
            let lane = match owed.order {
                Some(_) => Lane::Backlog,
                // It is live for as long as somebody waits.
                None if owed.waited_until > now => Lane::Live,
                None => Lane::of(owed.replay.is_some(), now.since(owed.since)),
            };
            open.status = Status::Ready(lane);
            if owed.waited_until > now && lane == Lane::Live {
                desk.lanes.insert_waited_for(place, id);
            } else {
                desk.lanes.insert(lane, place, id);
            }
            return true;
        }
        let order = owed.order;
        self.drop_event(id);
        let desk = desk_at(&mut self.desks, key);
        if desk.waiting < self.limits.waiting {
            if let Some(open) = self.open.get_mut(&id) {
                open.status = Status::Waiting(until);
            }
            desk.waiting += 1;
            self.dues.insert((until, id));
            if let Some(order) = order.filter(|_| desk.keys.is_crowded(&self.limits.keys)) {
                let evicted = desk.keys.evict(order);
                self.forget_all(evicted);
            }
            return true;
        }
        self.forget(id);
        match order {
            None => self.note_spill(key, until),
            Some(order) => {
                let evicted = desk_at(&mut self.desks, key).keys.rest(order, place, until);
                self.forget_all(evicted);
                self.index_spill(key);
            }
        }
        false
    }

    /// Takes a delivery off the lists of its desk.
    fn unlist(&mut self, id: DeliveryId) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let (key, place) = (open.owed.delivery.key, open.owed.delivery.place);
        let Some(desk) = self.desks.get_mut(&key) else {
            return;
        };
        match std::mem::replace(&mut open.status, Status::Loose) {
            Status::Loose | Status::Behind => {}
            Status::Ready(lane) => desk.lanes.remove(lane, place),
            Status::Waiting(until) => {
                desk.waiting -= 1;
                self.dues.remove(&(until, id));
            }
            Status::Leased(lease) => {
                self.deadlines.remove(&(lease.until, id));
                desk.leased -= 1;
                if std::mem::take(&mut desk.held_back) {
                    self.freed.push(key);
                }
            }
        }
    }

    /// Puts a delivery out of memory; it stays owed.
    fn forget(&mut self, id: DeliveryId) {
        self.unlist(id);
        self.take_out(id, Meanwhile::Changed);
    }

    fn forget_all(&mut self, ids: Vec<DeliveryId>) {
        for id in ids {
            self.forget(id);
        }
    }

    /// Removes a delivery that is no longer open; the next of its key has its turn.
    fn remove(&mut self, id: DeliveryId, now: Timestamp) {
        self.unlist(id);
        let Some(Open { owed, .. }) = self.take_out(id, Meanwhile::Ended) else {
            return;
        };
        let Some(order) = owed.order else {
            return;
        };
        let key = owed.delivery.key;
        let keys = &mut desk_at(&mut self.desks, key).keys;
        match keys.leave(order, owed.delivery.place, id, &self.limits.keys) {
            After::Next(next) => {
                self.stand(next, now);
                self.freed.push(key);
            }
            After::Out => {
                self.index_spill(key);
                self.freed.push(key);
            }
            After::Nothing => {}
        }
    }

    fn take_out(&mut self, id: DeliveryId, why: Meanwhile) -> Option<Open> {
        self.drop_event(id);
        let open = self.open.remove(&id)?;
        self.changed(open.owed.delivery.key, id, why);
        Some(open)
    }

    /// What is being read or looked up may say otherwise: memory knows better.
    fn changed(&mut self, key: DestinationKey, id: DeliveryId, how: Meanwhile) {
        if self.lookups > 0 {
            self.meanwhile.insert(id, how);
        }
        if let Some(desk) = self.desks.get_mut(&key)
            && let Some(loading) = &mut desk.loading
        {
            loading.changed.insert(id);
        }
    }

    /// Whether memory knows better than a row that was read.
    fn knows(&self, owed: &Owed, loading: &Loading) -> bool {
        let id = owed.delivery.id;
        let listed = |open: &Open| !matches!(open.status, Status::Loose);
        loading.changed.contains(&id) || self.open.get(&id).is_some_and(listed)
    }

    fn drop_event(&mut self, id: DeliveryId) {
        if let Some(open) = self.open.get_mut(&id)
            && open.event.take().is_some()
        {
            self.event_bytes -= open.owed.body_bytes;
        }
    }

    fn note_spill(&mut self, key: DestinationKey, due: Timestamp) {
        let desk = desk_at(&mut self.desks, key);
        desk.spilled = Some(desk.spilled.map_or(due, |earliest| earliest.min(due)));
        self.index_spill(key);
    }

    /// Keeps the time at which a desk has something out of memory that is due.
    fn index_spill(&mut self, key: DestinationKey) {
        let desk = desk_at(&mut self.desks, key);
        let next = desk.next_spill();
        let before = std::mem::replace(&mut desk.indexed, next);
        if before != next {
            if let Some(before) = before {
                self.spills.remove(&(before, key));
            }
            if let Some(next) = next {
                self.spills.insert((next, key));
            }
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
            self.stand(id, now);
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

    /// Names the destinations where something can be handed out that was held back.
    pub(crate) fn take_freed(&mut self) -> Vec<DestinationKey> {
        std::mem::take(&mut self.freed)
    }

    fn of_tenant(&self, tenant: TenantId, id: DeliveryId) -> Option<&Open> {
        self.open
            .get(&id)
            .filter(|open| open.owed.delivery.key.tenant == tenant)
    }
}
