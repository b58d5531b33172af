//! Offers and long bodies on their way out.

use super::{RelayOutput, RelaySession};
use crate::{
    frame::{Cancel, Held, LeaseToken, Offer, ToAgent},
    id::DeliveryId,
    session::{Window, transfer::Outgoing},
};

impl RelaySession {
    /// The next offer or chunk, in turn: neither keeps the other waiting.
    pub(super) fn next_body_frame(&mut self) -> Option<ToAgent> {
        self.is_chunks_turn = !self.is_chunks_turn;
        if self.is_chunks_turn {
            self.next_chunk().or_else(|| self.next_offer())
        } else {
            self.next_offer().or_else(|| self.next_chunk())
        }
    }

    pub(super) fn next_offer(&mut self) -> Option<ToAgent> {
        let mut offer = self.offers.pop_front()?;
        if let Some(outlet) = self.outlets.get_mut(&offer.destination) {
            outlet.stamp(&mut offer);
        }
        if offer.respond {
            self.expect_response(offer.delivery, offer.lease.clone());
        }
        self.transfers.extend(Outgoing::split(&mut offer));
        Some(ToAgent::Offer(offer))
    }

    pub(super) fn next_chunk(&mut self) -> Option<ToAgent> {
        let mut transfer = self.transfers.pop_front()?;
        let chunk = transfer.next_chunk();
        if !transfer.is_done() {
            self.transfers.push_back(transfer);
        }
        Some(ToAgent::Chunk(chunk))
    }

    pub(super) fn take_unsent(&mut self, cancel: &Cancel) -> Option<Box<Offer>> {
        let position = self
            .offers
            .iter()
            .position(|offer| offer.delivery == cancel.delivery && offer.lease == cancel.lease)?;
        self.offers.remove(position)
    }

    /// Undoes an offer that was not sent.
    pub(super) fn give_back(&mut self, offer: &Offer) {
        if let Some(outlet) = self.outlets.get_mut(&offer.destination) {
            outlet.free.add(1, offer.body_bytes);
        }
        let freed = Window {
            deliveries: 1,
            bytes: offer.body_bytes,
        };
        self.announce_credit(offer.destination.clone(), freed);
        self.outputs.push_back(RelayOutput::Release(vec![Held {
            delivery: offer.delivery,
            lease: offer.lease.clone(),
            attempt: offer.attempt,
        }]));
    }

    pub(super) fn drop_transfer(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        self.transfers
            .retain(|transfer| !transfer.is_of(delivery, lease));
    }
}
