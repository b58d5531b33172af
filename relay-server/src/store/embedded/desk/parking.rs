//! Keys that are stopped by hand or by policy.

use super::{Desks, Status, load::desk_at};
use crate::{lifecycle::KeyDigest, store::DestinationKey};

impl Desks {
    /// Stops a key: what is being attempted goes on, nothing more of it is handed out. False if it
    /// was stopped already.
    pub(crate) fn park(&mut self, key: DestinationKey, order: KeyDigest) -> bool {
        let keys = &mut desk_at(&mut self.desks, key).keys;
        let Some((head, evicted)) = keys.park(order) else {
            return false;
        };
        self.forget_all(evicted);
        let is_leased = |status: &Status| matches!(status, Status::Leased(_));
        if let Some(id) = head
            && let Some(open) = self.open.get(&id)
            && !is_leased(&open.status)
        {
            self.forget(id);
            desk_at(&mut self.desks, key).keys.park_head(order);
        }
        self.index_spill(key);
        true
    }

    /// Lets a key go on. False if it was not stopped.
    pub(crate) fn resume(&mut self, key: DestinationKey, order: KeyDigest) -> bool {
        let keys = &mut desk_at(&mut self.desks, key).keys;
        let head = keys.head(order);
        let head = head
            .and_then(|id| self.open.get(&id))
            .map(|open| &open.owed.delivery);
        if !keys.resume(order, head.map(|head| (head.id, head.place))) {
            return false;
        }
        self.index_spill(key);
        self.freed.push(key);
        true
    }

    /// Whether another key may be stopped by policy or by hand.
    pub(crate) fn parks_more(&self, key: DestinationKey, most: usize) -> bool {
        let desk = self.desks.get(&key);
        desk.is_none_or(|desk| desk.keys.parked_count() < most)
    }
}
