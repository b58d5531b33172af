//! Responses that providers wait for, on their way from calls to links.

use bytes::Bytes;
use protocol::{
    frame::{Held, LeaseToken, Offer, ResponseChunk},
    id::DeliveryId,
};

use super::{InHand, Inbox};
use crate::{
    forward::{Responder, ResponsePart, Valve, respond},
    link::LinkId,
};

/// A response that a provider waits for.
#[derive(Debug)]
pub(super) struct Response {
    /// Tells it from that of an earlier call of the delivery.
    call: u64,
    valve: Valve,
    /// The link it travels on, once it has begun.
    link: Option<LinkId>,
    /// What came while there was no link; bounded by the first credit.
    pending: Vec<ResponsePart>,
}

impl Response {
    /// Whether any of it was sent.
    pub(super) fn has_begun(&self) -> bool {
        self.link.is_some()
    }
}

/// Where to send a part of a response.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The link it has begun on; none before, when the one to report over will do.
    pub(crate) begun_on: Option<LinkId>,
    /// The link of its offer.
    pub(crate) offered_on: LinkId,
    pub(crate) chunk: ResponseChunk,
}

impl Inbox {
    /// Both ends of the response to an offer, if a provider waits for it.
    pub(super) fn begin_response(&mut self, offer: &Offer) -> Option<(Response, Responder)> {
        if !offer.respond {
            return None;
        }
        self.responses_made += 1;
        let call = self.responses_made;
        let (valve, responder) = respond(offer.delivery, call, self.responses.clone());
        let response = Response {
            call,
            valve,
            link: None,
            pending: Vec::new(),
        };
        Some((response, responder))
    }

    /// A part of a response that is still wanted, with its way.
    pub(crate) fn outgoing(&self, part: &ResponsePart) -> Option<Outgoing> {
        let in_hand = self.in_hand.get(&part.delivery)?;
        let response = in_hand.response.as_ref()?;
        (response.call == part.call).then(|| Outgoing {
            begun_on: response.link,
            offered_on: in_hand.link,
            chunk: chunk(&in_hand.held, part),
        })
    }

    /// A part was sent on a link.
    pub(crate) fn responded(&mut self, delivery: DeliveryId, link: LinkId) {
        if let Some(response) = self.response(delivery) {
            response.link = Some(link);
        }
    }

    /// There is no link: keeps a part for the next one, unless the response has begun.
    pub(crate) fn keep_response(&mut self, part: ResponsePart) {
        let delivery = part.delivery;
        match self.response(delivery) {
            Some(response) if !response.has_begun() => response.pending.push(part),
            _ => self.end_response(delivery),
        }
    }

    /// Takes what was kept for a link.
    pub(crate) fn take_kept(&mut self, delivery: DeliveryId) -> Vec<ResponsePart> {
        self.response(delivery)
            .map_or_else(Vec::new, |response| std::mem::take(&mut response.pending))
    }

    /// Nobody waits for a response any more: its call reads the rest for itself.
    pub(crate) fn end_response(&mut self, delivery: DeliveryId) {
        if let Some(in_hand) = self.in_hand.get_mut(&delivery) {
            in_hand.response = None;
        }
    }

    /// The same, if it is still that of this lease.
    pub(crate) fn unwanted(&mut self, delivery: DeliveryId, lease: &LeaseToken) {
        let in_hand = self.in_hand.get(&delivery);
        if in_hand.is_some_and(|in_hand| in_hand.held.lease == *lease) {
            self.end_response(delivery);
        }
    }

    /// More of a response may come.
    pub(crate) fn response_room(
        &mut self,
        delivery: DeliveryId,
        lease: &LeaseToken,
        bytes_max: u64,
    ) {
        if let Some(in_hand) = self.in_hand.get(&delivery)
            && in_hand.held.lease == *lease
            && let Some(response) = &in_hand.response
        {
            response.valve.open_to(bytes_max);
        }
    }

    /// A link is gone, and with it the rest of every response that had begun on it.
    pub(super) fn cut_responses(&mut self, link: LinkId) {
        for in_hand in self.in_hand.values_mut() {
            let is_on_it = |response: &mut super::Response| response.link == Some(link);
            in_hand.response.take_if(is_on_it);
        }
    }

    fn response(&mut self, delivery: DeliveryId) -> Option<&mut Response> {
        self.in_hand.get_mut(&delivery)?.response.as_mut()
    }
}

impl InHand {
    /// Whether a provider may still get its response over another link.
    pub(crate) fn may_respond(&self) -> bool {
        let response = self.response.as_ref();
        response.is_some_and(|response| !response.has_begun())
    }
}

fn chunk(held: &Held, part: &ResponsePart) -> ResponseChunk {
    ResponseChunk {
        delivery: held.delivery,
        lease: held.lease.clone(),
        head: part.head.clone(),
        offset: 0,
        last: part.is_last,
        part: Bytes::clone(&part.bytes),
    }
}
