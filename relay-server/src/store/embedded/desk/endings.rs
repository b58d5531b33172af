//! Settling attempts and ending deliveries.

use protocol::id::{DeliveryId, TenantId};

use super::{Desks, Meanwhile, Owed, Status, keys::Keys, load::desk_at};
use crate::{
    clock::Timestamp,
    lifecycle::{EndReason, Verdict},
    store::{
        DestinationKey, Held, LeaseInfo, Settled,
        embedded::journal::payload::{DeliveryRef, End, Settle},
    },
};

impl Desks {
    /// What a settlement would do, before it is written. `Ok` names the delivery; `Err(None)` that it
    /// is not in memory.
    pub(crate) fn begin_settle(
        &mut self,
        held: &Held,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<DeliveryRef, Option<Settled>> {
        let lease = self.held(held);
        let Some(open) = self.of_tenant(held.tenant, held.delivery) else {
            return Err(None);
        };
        if open.is_over() {
            if lease.is_some() {
                self.remove(held.delivery, now);
            }
            return Err(Some(Settled::AlreadySettled));
        }
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
    pub(crate) fn settle(&mut self, held: &Held, settle: &Settle, now: Timestamp) -> Settled {
        let id = held.delivery;
        let holder = self.held(held).is_some();
        let Some(open) = self.open.get_mut(&id) else {
            self.changed(settle.delivery.key, id, Meanwhile::Ended);
            return Settled::AlreadySettled;
        };
        if open.is_over() {
            if holder {
                self.remove(id, now);
            }
            return Settled::AlreadySettled;
        }
        let order = open.owed.order;
        let (at, spent) = match settle.verdict {
            Verdict::Deliver => {
                self.finish(id, holder, now);
                return Settled::Applied;
            }
            _ if !holder => return Settled::AlreadySettled,
            Verdict::Die { .. } => {
                if let Some(order) = order.filter(|_| settle.parks) {
                    self.park(settle.delivery.key, order);
                }
                self.remove(id, now);
                return Settled::Applied;
            }
            Verdict::Retry { at, spent } => (at, spent),
        };
        open.owed.attempts = open.owed.attempts.max(held.attempt);
        open.owed.spent = spent;
        open.owed.due = at;
        self.unlist(id);
        self.stand(id, now);
        Settled::Applied
    }

    /// A delivery has ended. If somebody else attempts it and it is ordered, the next of its key
    /// waits until that is over.
    fn finish(&mut self, id: DeliveryId, is_attempted_by_nobody: bool, now: Timestamp) {
        if let Some(open) = self.open.get_mut(&id)
            && let Status::Leased(lease) = &mut open.status
            && open.owed.order.is_some()
            && !is_attempted_by_nobody
        {
            lease.over = true;
            let key = open.owed.delivery.key;
            self.drop_event(id);
            self.changed(key, id, Meanwhile::Ended);
        } else {
            self.remove(id, now);
        }
    }

    /// The delivery as it is open in memory.
    pub(crate) fn owed(&self, tenant: TenantId, id: DeliveryId) -> Option<&Owed> {
        self.of_tenant(tenant, id).map(|open| &open.owed)
    }

    /// The lease of an open delivery, and until when it is.
    pub(crate) fn lease_of(
        &self,
        tenant: TenantId,
        id: DeliveryId,
    ) -> Option<(LeaseInfo, Timestamp)> {
        match self.of_tenant(tenant, id)?.status {
            Status::Leased(lease) if !lease.over => Some((lease.info, lease.until)),
            _ => None,
        }
    }

    /// Takes note that a delivery has ended. False if it is not open in memory.
    pub(crate) fn end(&mut self, end: &End, now: Timestamp) -> bool {
        let id = end.delivery.id;
        let Some(open) = self.open.get(&id) else {
            self.changed(end.delivery.key, id, Meanwhile::Ended);
            return false;
        };
        if open.is_over() {
            return false;
        }
        // What is quarantined was never sent.
        self.finish(id, end.reason == EndReason::Quarantined, now);
        true
    }

    /// Takes note that everything at a destination has ended.
    pub(crate) fn end_destination(&mut self, key: DestinationKey) {
        let of_key = |open: &&super::Open| open.owed.delivery.key == key;
        let ended = self.open.values().filter(of_key);
        let ended: Vec<DeliveryId> = ended.map(|open| open.owed.delivery.id).collect();
        for id in ended {
            self.unlist(id);
            self.take_out(id, Meanwhile::Ended);
        }
        let desk = desk_at(&mut self.desks, key);
        desk.keys = Keys::default();
        desk.spilled = None;
        // What is being read has ended.
        desk.loading = None;
        desk.main.end = desk.main.last;
        desk.replays.end = desk.replays.last;
        self.index_spill(key);
    }
}
