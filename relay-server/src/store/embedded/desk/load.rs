//! Reading beyond the windows: what to read, and how it joins what happened meanwhile.

use std::{collections::HashMap, time::Duration};

use super::{Desk, Desks, LoadPlan, Loaded, Owed, QueuePlan, keys::Joined, window::Loading};
use crate::{
    clock::Timestamp,
    store::{DestinationKey, embedded::journal::payload::Queue},
};

/// Rows read from the projection in one go.
pub(super) const LOAD_MAX: usize = 4096;

impl Desks {
    /// What to read for a desk, if anything. Then [`Desks::finish_load`] or [`Desks::cancel_load`]
    /// must follow.
    pub(crate) fn begin_load(&mut self, key: DestinationKey, now: Timestamp) -> Option<LoadPlan> {
        let limits = self.limits;
        let desk = self.desks.get_mut(&key)?;
        if desk.loading.is_some() {
            return None;
        }
        desk.keys.wake(now);
        let main = desk.plan_main(&limits);
        let replays = desk.plan_replays(&limits);
        let spilled = desk
            .spilled
            .is_some_and(|due| due <= now || desk.waiting <= limits.waiting / 2);
        let keys = desk.keys.plan(LOAD_MAX, &limits.keys);
        if main.most == 0 && replays.most == 0 && !spilled && keys.is_empty() {
            return None;
        }
        let passed_over = if main.most > 0 {
            desk.keys.to_pass_over()
        } else {
            Vec::new()
        };
        self.loads += 1;
        desk.loading = Some(Loading {
            ticket: self.loads,
            ..Loading::default()
        });
        self.index_spill(key);
        Some(LoadPlan {
            key,
            main,
            replays,
            passed_over,
            keys,
            waiting_most: if spilled {
                limits.waiting + LOAD_MAX
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
            // What arrived meanwhile was not taken into the windows, which end before it.
            let current = |loading: &mut Loading| loading.ticket == plan.ticket;
            if desk.loading.take_if(current).is_some() {
                for key in &plan.keys {
                    desk.keys.want_again(key);
                }
            }
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
        for (at, rows) in loaded.keys.into_iter().enumerate() {
            self.load_key(plan, at, rows, &loading, now);
        }
        let applied = loaded.applied;
        let main = self.load_queue(plan, Queue::Main, loaded.main, applied, &loading, now);
        let desk = desk_at(&mut self.desks, plan.key);
        for order in &plan.passed_over {
            desk.keys.passed_over(*order, plan.main.after);
        }
        let replays = self.load_queue(plan, Queue::Replays, loaded.replays, applied, &loading, now);
        if plan.waiting_most > 0 {
            self.load_waiting(plan, loaded.waiting, &loading, now);
        }
        for (queue, is_known) in [(Queue::Main, main), (Queue::Replays, replays)] {
            if is_known {
                self.join_tail(plan.key, queue, &loading, now);
            }
        }
        self.index_spill(plan.key);
    }

    /// The next rows of one key.
    fn load_key(
        &mut self,
        plan: &LoadPlan,
        at: usize,
        rows: Vec<Owed>,
        loading: &Loading,
        now: Timestamp,
    ) {
        let limits = self.limits.keys;
        let Some(of) = plan.keys.get(at) else {
            return;
        };
        if !desk_at(&mut self.desks, plan.key).keys.is_current(of) {
            return;
        }
        let complete = rows.len() < of.most;
        let mut read_to = of.after;
        for owed in rows {
            let place = owed.delivery.place;
            if !self.knows(&owed, loading) {
                let keys = &mut desk_at(&mut self.desks, plan.key).keys;
                match keys.follow(of.order, place, owed.delivery.id, &limits) {
                    Joined::Head => {
                        if !self.put(owed, None, now) {
                            return;
                        }
                    }
                    Joined::Behind => self.put_behind(owed, None),
                    Joined::Out => return,
                }
            }
            read_to = place;
        }
        let read_to = (!complete).then_some(read_to);
        desk_at(&mut self.desks, plan.key)
            .keys
            .read_to(of.order, read_to);
    }

    /// The rows that follow in a queue. True if all that was there before the load is known now.
    fn load_queue(
        &mut self,
        plan: &LoadPlan,
        queue: Queue,
        rows: Vec<Owed>,
        applied: u64,
        loading: &Loading,
        now: Timestamp,
    ) -> bool {
        let limits = self.limits.keys;
        let QueuePlan { most, at_tail, .. } = plan.of(queue);
        if most == 0 {
            return at_tail;
        }
        let complete = rows.len() < most;
        for owed in rows {
            let desk = desk_at(&mut self.desks, plan.key);
            let room = |order| desk.keys.has_room(order, &limits);
            if !owed.order.is_none_or(room) {
                return false;
            }
            let window = desk.window_mut(queue);
            window.end = window.end.max(owed.delivery.place);
            self.load(owed, loading, now);
        }
        if complete {
            // All that was owed up to `applied` is known; what came since is in `loading`.
            let window = desk_at(&mut self.desks, plan.key).window_mut(queue);
            window.end = window.end.max(applied.min(window.last));
        }
        complete
    }

    /// What came to the tail of a queue meanwhile; everything before it is known.
    fn join_tail(&mut self, key: DestinationKey, queue: Queue, loading: &Loading, now: Timestamp) {
        let limits = self.limits;
        for owed in loading
            .fresh
            .iter()
            .filter(|owed| owed.delivery.queue == queue)
        {
            let place = owed.delivery.place;
            let desk = desk_at(&mut self.desks, key);
            if place <= desk.window_mut(queue).end {
                continue;
            }
            if !desk.has_room(owed, &limits) {
                return;
            }
            desk.window_mut(queue).end = place;
            self.load(owed.clone(), loading, now);
        }
        if !loading.overflowed {
            let window = desk_at(&mut self.desks, key).window_mut(queue);
            window.end = window.end.max(window.last);
        }
    }

    /// One row, unless memory knows better.
    fn load(&mut self, owed: Owed, loading: &Loading, now: Timestamp) {
        if !self.knows(&owed, loading) {
            self.take_in(owed, None, now);
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
        desk.spilled = None;
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

pub(super) fn desk_at(desks: &mut HashMap<DestinationKey, Desk>, key: DestinationKey) -> &mut Desk {
    desks.entry(key).or_default()
}
