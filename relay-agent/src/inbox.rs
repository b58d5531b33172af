//! Admission: which offers are taken in hand, and how many of them are forwarded at a time.
//!
//! Decides only; it neither sends nor calls. A delivery is in hand at most once. If it is offered again
//! meanwhile, the work goes on and answers under the newer lease.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use protocol::{
    frame::{Cancel, Held, Offer},
    id::DeliveryId,
    limits::CHUNK_BYTES_MAX,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id},
};

use crate::{
    forward::{Attempt, EventBody, ResponsePart, Service},
    link::LinkId,
};

mod response;

use response::Response;

/// What is in hand, and what waits for its turn.
#[derive(Debug)]
pub struct Inbox {
    lanes: HashMap<String, LaneState>,
    in_hand: HashMap<DeliveryId, InHand>,
    /// Where calls send the responses that providers wait for.
    responses: mpsc::Sender<ResponsePart>,
    responses_made: u64,
}

#[derive(Debug)]
struct LaneState {
    service: Arc<Service>,
    /// What the relay allows at most.
    timeout_max: Option<Duration>,
    running: u32,
    waiting: VecDeque<DeliveryId>,
    /// Not configured any more: finishes what it has.
    is_closed: bool,
}

impl LaneState {
    fn has_room(&self) -> bool {
        self.running < self.service.concurrency()
    }

    /// The smaller of the service's and the relay's.
    fn timeout(&self) -> Duration {
        let own = self.service.timeout();
        self.timeout_max.map_or(own, |most| own.min(most))
    }
}

/// A delivery in hand.
#[derive(Debug)]
pub struct InHand {
    /// The lease it answers under: that of its newest offer.
    pub held: Held,
    /// The link of that offer.
    pub link: LinkId,
    /// The destination it is for.
    pub destination: String,
    /// Length of its body, in bytes.
    pub body_bytes: u64,
    arriving: Option<Arriving>,
    /// The response, while a provider waits for it.
    response: Option<Response>,
    stage: Stage,
}

/// A body whose rest is still to come.
#[derive(Debug)]
struct Arriving {
    parts: mpsc::Sender<Bytes>,
    remaining: u64,
}

#[derive(Debug)]
enum Stage {
    Waiting(Box<Attempt>),
    Running(Option<AbortHandle>),
}

impl InHand {
    fn is_called_by(&self, task: Id) -> bool {
        matches!(&self.stage, Stage::Running(Some(call)) if call.id() == task)
    }
}

/// What to do with an offer.
#[derive(Debug)]
pub enum Admission {
    /// Call the service now, and tell [`Inbox::running`].
    Start(Box<Attempt>),
    /// Nothing yet: it has its turn later.
    Waits,
    /// It is in hand already and answers under the new lease; the older one is to be released.
    Adopted {
        /// The older lease.
        older: Held,
    },
    /// The configuration names no target for it.
    Unserved(Box<Offer>),
}

impl Inbox {
    /// An inbox whose calls send responses there.
    pub(crate) fn new(responses: mpsc::Sender<ResponsePart>) -> Self {
        Self {
            lanes: HashMap::new(),
            in_hand: HashMap::new(),
            responses,
            responses_made: 0,
        }
    }

    /// Serves a destination from now on. What is in hand keeps the service it was offered with.
    pub fn serve(&mut self, destination: &str, service: Arc<Service>) {
        match self.lanes.get_mut(destination) {
            Some(lane) => {
                lane.service = service;
                lane.is_closed = false;
            }
            None => {
                let lane = LaneState {
                    service,
                    timeout_max: None,
                    running: 0,
                    waiting: VecDeque::new(),
                    is_closed: false,
                };
                self.lanes.insert(destination.to_owned(), lane);
            }
        }
    }

    /// Takes nothing more for other destinations than these. What is in hand goes on.
    pub fn serve_only(&mut self, is_served: impl Fn(&str) -> bool) {
        for (name, lane) in &mut self.lanes {
            lane.is_closed = !is_served(name);
        }
        self.lanes
            .retain(|_, lane| !lane.is_closed || lane.running > 0 || !lane.waiting.is_empty());
    }

    /// Whether a destination is served.
    pub fn serves(&self, destination: &str) -> bool {
        let lane = self.lanes.get(destination);
        lane.is_some_and(|lane| !lane.is_closed)
    }

    /// Heeds the time-out of the relay for a destination; ours may only be shorter.
    pub fn limit_timeout(&mut self, destination: &str, relay: Duration) {
        if let Some(lane) = self.lanes.get_mut(destination) {
            lane.timeout_max = Some(relay);
        }
    }

    /// Takes an offer.
    pub fn admit(&mut self, mut offer: Box<Offer>, link: LinkId) -> Admission {
        let held = Held {
            delivery: offer.delivery,
            lease: offer.lease.clone(),
            attempt: offer.attempt,
        };
        if let Some(in_hand) = self.in_hand.get_mut(&offer.delivery) {
            if in_hand.arriving.is_none() {
                let older = std::mem::replace(&mut in_hand.held, held);
                in_hand.link = link;
                // What has begun belongs to the older lease, and nobody waits under the newer one.
                let has_begun = |response: &mut Response| response.has_begun();
                if !offer.respond || in_hand.response.as_mut().is_some_and(has_begun) {
                    in_hand.response = None;
                }
                return Admission::Adopted { older };
            }
            // The rest of that body will not come any more.
            self.drop_delivery(offer.delivery);
        }
        if !self.lanes.contains_key(&offer.destination) {
            return Admission::Unserved(offer);
        }
        let (response, responder) = self.begin_response(&offer).unzip();
        let lane = self.lanes.get_mut(&offer.destination);
        let Some(lane) = lane.filter(|lane| !lane.is_closed) else {
            return Admission::Unserved(offer);
        };
        let (body, arriving) = split_body(&mut offer);
        let destination = offer.destination.clone();
        let body_bytes = offer.body_bytes;
        let attempt = Box::new(Attempt {
            offer,
            body,
            service: lane.service.clone(),
            timeout: lane.timeout(),
            responder,
        });
        let delivery = held.delivery;
        let (stage, admission) = if lane.has_room() {
            lane.running += 1;
            (Stage::Running(None), Admission::Start(attempt))
        } else {
            // Whoever is waited for goes before the others, in the order among themselves.
            let is_waited_for = |other: &DeliveryId| {
                let other = self.in_hand.get(other);
                other.is_some_and(|other| other.response.is_some())
            };
            let place = match response {
                Some(_) => lane.waiting.partition_point(is_waited_for),
                None => lane.waiting.len(),
            };
            lane.waiting.insert(place, delivery);
            (Stage::Waiting(attempt), Admission::Waits)
        };
        self.in_hand.insert(
            delivery,
            InHand {
                held,
                link,
                destination,
                body_bytes,
                arriving,
                response,
                stage,
            },
        );
        admission
    }

    /// The call of a delivery has begun.
    pub fn running(&mut self, delivery: DeliveryId, call: AbortHandle) {
        if let Some(in_hand) = self.in_hand.get_mut(&delivery) {
            in_hand.stage = Stage::Running(Some(call));
        }
    }

    /// Hands on more of a body.
    pub fn body(&mut self, delivery: DeliveryId, link: LinkId, part: Bytes) {
        let Some(in_hand) = self.in_hand.get_mut(&delivery) else {
            return;
        };
        if in_hand.link != link {
            return;
        }
        let Some(arriving) = &mut in_hand.arriving else {
            return;
        };
        arriving.remaining = arriving.remaining.saturating_sub(part.len() as u64);
        // There is room for every part the protocol allows. What comes in more of them than that ends
        // as a body cut short: the sender is dropped, and the call fails without harm.
        let taken = arriving.parts.try_send(part).is_ok();
        if arriving.remaining == 0 || !taken {
            in_hand.arriving = None;
        }
    }

    /// A call has ended: what it answers, and the attempt whose turn it is now.
    ///
    /// Nothing if that call is no longer the one of the delivery.
    pub fn finished(
        &mut self,
        delivery: DeliveryId,
        call: Id,
    ) -> Option<(InHand, Option<Box<Attempt>>)> {
        let in_hand = self.in_hand.get(&delivery)?;
        if !in_hand.is_called_by(call) {
            return None;
        }
        let in_hand = self.in_hand.remove(&delivery)?;
        let next = self.free(&in_hand.destination);
        Some((in_hand, next))
    }

    /// The delivery whose call is a certain task.
    pub fn called_by(&self, call: Id) -> Option<DeliveryId> {
        let mut calls = self.in_hand.iter();
        calls.find_map(|(delivery, in_hand)| in_hand.is_called_by(call).then_some(*delivery))
    }

    /// An attempt is no longer wanted: what is to be released, if its call has not begun. A call that
    /// has begun goes on and is reported, unless its body can never be complete.
    pub fn cancel(&mut self, cancel: &Cancel) -> Option<Held> {
        let in_hand = self.in_hand.get(&cancel.delivery)?;
        if in_hand.held.lease != cancel.lease {
            return None;
        }
        let is_cut = in_hand.arriving.is_some();
        if !is_cut && matches!(in_hand.stage, Stage::Running(_)) {
            return None;
        }
        let in_hand = self.drop_delivery(cancel.delivery)?;
        // The session has already released what never was complete.
        (!is_cut).then_some(in_hand.held)
    }

    /// A link is gone. Bodies that were arriving on it never will be complete: those deliveries are
    /// dropped, and the relay offers them anew. The rest goes on.
    pub fn link_lost(&mut self, link: LinkId) {
        self.cut_responses(link);
        let cut: Vec<_> = self
            .in_hand
            .iter()
            .filter(|(_, in_hand)| in_hand.link == link && in_hand.arriving.is_some())
            .map(|(delivery, _)| *delivery)
            .collect();
        for delivery in cut {
            self.drop_delivery(delivery);
        }
    }

    /// Attempts whose turn has come because others were dropped.
    pub fn next_ready(&mut self) -> Option<Box<Attempt>> {
        let destination = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.has_room() && !lane.waiting.is_empty())
            .map(|(destination, _)| destination.clone())?;
        self.start_next(&destination)
    }

    /// Takes back everything whose call has not begun.
    pub fn take_waiting(&mut self) -> Vec<InHand> {
        self.take_waiting_if(|_| true)
    }

    /// Takes back what was offered on a link and whose call has not begun.
    pub fn take_waiting_of(&mut self, link: LinkId) -> Vec<InHand> {
        self.take_waiting_if(|in_hand| in_hand.link == link)
    }

    fn take_waiting_if(&mut self, is_wanted: impl Fn(&InHand) -> bool) -> Vec<InHand> {
        let waiting = self.in_hand.iter().filter(|(_, in_hand)| {
            matches!(in_hand.stage, Stage::Waiting(_)) && is_wanted(in_hand)
        });
        let waiting: Vec<_> = waiting.map(|(delivery, _)| *delivery).collect();
        waiting
            .into_iter()
            .filter_map(|delivery| self.drop_delivery(delivery))
            .collect()
    }

    /// Gives up everything in hand; calls are aborted.
    pub fn abandon(&mut self) -> Vec<InHand> {
        let deliveries: Vec<_> = self.in_hand.keys().copied().collect();
        deliveries
            .into_iter()
            .filter_map(|delivery| self.drop_delivery(delivery))
            .collect()
    }

    /// What is in hand with its whole body.
    pub fn complete(&self) -> impl Iterator<Item = &InHand> {
        self.in_hand
            .values()
            .filter(|in_hand| in_hand.arriving.is_none())
    }

    /// Gives a new link what is in hand of links that do not serve: all whose body is here.
    pub fn take_over(&mut self, link: LinkId, serving: &[LinkId]) -> Vec<&InHand> {
        self.reassign(link, |in_hand| !serving.contains(&in_hand.link))
    }

    /// Gives a link what is in hand of another one that is gone.
    pub fn hand_over(&mut self, gone: LinkId, heir: LinkId) -> Vec<&InHand> {
        self.reassign(heir, |in_hand| in_hand.link == gone)
    }

    fn reassign(&mut self, link: LinkId, is_meant: impl Fn(&InHand) -> bool) -> Vec<&InHand> {
        let meant = self
            .in_hand
            .values_mut()
            .filter(|in_hand| in_hand.arriving.is_none() && is_meant(in_hand));
        meant
            .map(|in_hand| {
                in_hand.link = link;
                &*in_hand
            })
            .collect()
    }

    /// How many deliveries are in hand.
    pub fn len(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether nothing is in hand.
    pub fn is_empty(&self) -> bool {
        self.in_hand.is_empty()
    }

    fn drop_delivery(&mut self, delivery: DeliveryId) -> Option<InHand> {
        let in_hand = self.in_hand.remove(&delivery)?;
        let lane = self.lanes.get_mut(&in_hand.destination);
        match (&in_hand.stage, lane) {
            (Stage::Running(call), Some(lane)) => {
                if let Some(call) = call {
                    call.abort();
                }
                lane.running -= 1;
            }
            (Stage::Waiting(_), Some(lane)) => lane.waiting.retain(|other| *other != delivery),
            (_, None) => {}
        }
        Some(in_hand)
    }

    fn free(&mut self, destination: &str) -> Option<Box<Attempt>> {
        let lane = self.lanes.get_mut(destination)?;
        lane.running = lane.running.saturating_sub(1);
        self.start_next(destination)
    }

    fn start_next(&mut self, destination: &str) -> Option<Box<Attempt>> {
        let lane = self.lanes.get_mut(destination)?;
        if !lane.has_room() {
            // There may be less of it than there was.
            return None;
        }
        let in_hand = self.in_hand.get_mut(&lane.waiting.pop_front()?)?;
        lane.running += 1;
        match std::mem::replace(&mut in_hand.stage, Stage::Running(None)) {
            Stage::Waiting(attempt) => Some(attempt),
            Stage::Running(_) => None,
        }
    }
}

/// Takes the body out of an offer; what is missing of it arrives through a channel.
fn split_body(offer: &mut Offer) -> (EventBody, Option<Arriving>) {
    let start = std::mem::take(&mut offer.body);
    let missing = offer.body_bytes.saturating_sub(start.len() as u64);
    if missing == 0 {
        return (EventBody::whole(start), None);
    }
    let parts_max = missing.div_ceil(CHUNK_BYTES_MAX as u64) as usize + 1;
    let (parts, rest) = mpsc::channel(parts_max);
    let body = EventBody::arriving(start, rest, offer.body_bytes);
    (
        body,
        Some(Arriving {
            parts,
            remaining: missing,
        }),
    )
}

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests;
