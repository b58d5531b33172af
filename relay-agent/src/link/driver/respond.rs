//! Responses that providers wait for, from calls to sessions.

use protocol::{frame::LeaseToken, id::DeliveryId};

use super::Driver;
use crate::{forward::ResponsePart, link::LinkId};

impl Driver {
    /// Sends part of a response, over one link from its first part to its last.
    pub(super) fn respond(&mut self, part: ResponsePart) {
        let delivery = part.delivery;
        let Some(outgoing) = self.inbox.outgoing(&part) else {
            return;
        };
        let link = match outgoing.begun_on {
            Some(link) => self.link(link),
            None => self.link_for(outgoing.offered_on),
        };
        let Some(link) = link else {
            return self.inbox.keep_response(part);
        };
        let id = link.id;
        match link.session.respond(outgoing.chunk) {
            Ok(()) => self.inbox.responded(delivery, id),
            Err(_) => self.inbox.end_response(delivery),
        }
    }

    /// Sends what calls have said before they ended.
    pub(super) fn respond_all(&mut self) {
        while let Ok(part) = self.responses.try_recv() {
            self.respond(part);
        }
    }

    /// A new session takes over responses of which nothing was sent.
    pub(super) fn respond_over(&mut self, link: LinkId) {
        let waiting: Vec<_> = self
            .inbox
            .complete()
            .filter(|in_hand| in_hand.may_respond())
            .map(|in_hand| in_hand.held.clone())
            .collect();
        for held in waiting {
            if let Some(link) = self.link(link) {
                link.session.may_respond(&held);
            }
            for part in self.inbox.take_kept(held.delivery) {
                self.respond(part);
            }
        }
    }

    pub(super) fn response_room(
        &mut self,
        delivery: DeliveryId,
        lease: &LeaseToken,
        bytes_max: u64,
    ) {
        self.inbox.response_room(delivery, lease, bytes_max);
    }

    pub(super) fn response_unwanted(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        self.inbox.unwanted(delivery, lease);
    }
}
