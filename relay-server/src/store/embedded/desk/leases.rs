//! Handing out, and what holders do with what they hold.

use std::time::Duration;

use protocol::id::DeliveryId;

use super::{Desks, Meanwhile, Open, Owed, Picked, Status, load::desk_at, owed::Leased};
use crate::{
    clock::Timestamp,
    store::{Adopted, DestinationKey, Held, LeaseInfo, LeaseToken, Want},
};

impl Desks {
    /// Hands out what is ready.
    pub(crate) fn claim(&mut self, want: &Want, now: Timestamp, picked: &mut Vec<Picked>) {
        self.age(want.key, now);
        let Some(desk) = self.desks.get_mut(&want.key) else {
            return;
        };
        let free = |max: u32| max.saturating_sub(desk.leased);
        let most = want.in_flight_max.map_or(u32::MAX, free);
        // Whether anything was held back is known when it frees: asking once too often is harmless.
        desk.held_back |= most < want.deliveries;
        let mut bytes = 0;
        for handed in 0..want.deliveries.min(most) {
            let Some(desk) = self.desks.get_mut(&want.key) else {
                return;
            };
            let Some((lane, id)) = desk.lanes.next() else {
                return;
            };
            let Some(open) = self.open.get(&id) else {
                return;
            };
            bytes += open.owed.body_bytes;
            if handed > 0 && bytes > want.bytes {
                return;
            }
            desk.lanes.took(lane);
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
            over: false,
        });
        self.deadlines.insert((until, id));
        desk_at(&mut self.desks, info.key).leased += 1;
        Some(info)
    }

    /// The lease, if this is it.
    pub(super) fn held(&self, held: &Held) -> Option<Leased> {
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
        if lease.over {
            self.remove(held.delivery, now);
            return Some(lease.info.key);
        }
        self.unlist(held.delivery);
        self.open.get_mut(&held.delivery)?.owed.due = Timestamp(0);
        self.stand(held.delivery, now);
        Some(lease.info.key)
    }

    /// Gives a lease back to its holder; `None` if the delivery is not in memory.
    pub(crate) fn adopt(&mut self, held: &Held, now: Timestamp, ttl: Duration) -> Option<Adopted> {
        if let Some(lease) = self.held(held) {
            if lease.over {
                // Its attempt may go on, and its key waits for that.
                return Some(Adopted::Lost);
            }
            self.extend(held.delivery, now.after(ttl));
            return Some(Adopted::Granted(lease.info));
        }
        match self.of_tenant(held.tenant, held.delivery)?.status {
            Status::Leased(_) | Status::Behind => Some(Adopted::Lost),
            Status::Loose => None,
            Status::Ready(_) | Status::Waiting(_) => self
                .lease(held.delivery, held.token, held.attempt, now, ttl)
                .map(Adopted::Granted),
        }
    }

    /// The same for a delivery that was looked up and is open. `is_first` of its key, if it has one:
    /// what is not at the head of its key is not attempted.
    pub(crate) fn adopt_found(
        &mut self,
        owed: Owed,
        is_first: bool,
        held: &Held,
        now: Timestamp,
        ttl: Duration,
    ) -> Adopted {
        let (id, key) = (owed.delivery.id, owed.delivery.key);
        let (order, place) = (owed.order, owed.delivery.place);
        if let Some(adopted) = self.adopt(held, now, ttl) {
            return adopted;
        }
        if self.meanwhile.contains_key(&id) {
            return Adopted::Lost;
        }
        self.insert_loose(owed);
        if let Some(order) = order {
            let keys = &mut desk_at(&mut self.desks, key).keys;
            if !is_first || !keys.can_lead(order) {
                return Adopted::Lost;
            }
            keys.lead(order, place, id);
            self.index_spill(key);
        }
        self.lease(id, held.token, held.attempt, now, ttl)
            .map_or(Adopted::Lost, Adopted::Granted)
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

    /// Begins to look for deliveries outside: what ends until [`Desks::end_lookup`] is known.
    pub(crate) fn begin_lookup(&mut self) {
        self.lookups += 1;
    }

    /// Ends a look-up. What nobody needed after all leaves memory again with the last one.
    pub(crate) fn end_lookup(&mut self) {
        self.lookups -= 1;
        if self.lookups > 0 {
            return;
        }
        self.meanwhile.clear();
        for id in std::mem::take(&mut self.loose) {
            if self.open.get(&id).is_some_and(Open::is_loose) {
                self.open.remove(&id);
            }
        }
    }

    /// Takes an open delivery that was looked up into memory, to be settled or ended.
    pub(crate) fn insert_loose(&mut self, owed: Owed) {
        let id = owed.delivery.id;
        if self.open.contains_key(&id) || self.meanwhile.get(&id) == Some(&Meanwhile::Ended) {
            return;
        }
        self.loose.push(id);
        let open = Open {
            owed,
            status: Status::Loose,
            event: None,
        };
        self.open.insert(id, open);
    }
}
