//! A simulated agent: the protocol's own session, and around it as little as an agent needs to be
//! honest: an inbox, a journal that outlives it, and calls.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{
    frame::{Held, Offer, Outcome, Receipt, Settled, ToAgent, ToRelay},
    id::{DeliveryId, SessionId},
    limits,
    session::{AgentConfig, AgentOutput, AgentSession, Window},
};

use super::{
    chance::{Dice, VirtualClock},
    check::{Check, Right},
    plan::{AgentPlan, DestinationPlan},
    watched::lock,
    wire::LinkId,
};
use crate::clock::Clock as _;

/// What an agent wants of the world.
#[derive(Debug)]
pub(super) enum Wish {
    Send(LinkId, ToRelay),
    /// This link is of no use any more.
    Hang(LinkId),
    /// Dial anew after so long.
    Dial(u64),
    /// Call the service of a destination with an event.
    Call(Call),
}

/// A call of a service.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) agent: usize,
    /// Which life of the agent makes it.
    pub(super) life: u64,
    pub(super) destination: usize,
    pub(super) right: Right,
    /// What the event says about itself: see [`super::world`].
    pub(super) target: String,
}

/// An agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) plan: AgentPlan,
    number: usize,
    clock: Arc<VirtualClock>,
    check: Arc<Mutex<Check>>,
    dice: Dice,
    names: BTreeMap<String, (usize, Duration)>,
    /// Survives the agent: successes, and what the relay has not confirmed.
    successes: BTreeMap<DeliveryId, Receipt>,
    unconfirmed: BTreeMap<Settled, Receipt>,
    /// Counts lives; odd while it lives.
    pub(super) life: u64,
    pub(super) is_stopping: bool,
    link: Option<Link>,
    /// The session before, which the next one replaces.
    before: Option<SessionId>,
    in_hand: BTreeMap<DeliveryId, InHand>,
    running: BTreeMap<usize, usize>,
    waiting: BTreeMap<usize, VecDeque<DeliveryId>>,
    wishes: Vec<Wish>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    session: AgentSession,
    welcomed: Option<SessionId>,
}

#[derive(Debug)]
struct InHand {
    held: Held,
    destination: usize,
    target: String,
    body_bytes: u64,
    is_running: bool,
}

fn right_of(held: &Held) -> Option<Right> {
    Some((held.delivery, held.lease.0.parse().ok()?))
}

impl Agent {
    pub(super) fn new(
        number: usize,
        plan: &AgentPlan,
        destinations: &[DestinationPlan],
        clock: &Arc<VirtualClock>,
        check: &Arc<Mutex<Check>>,
        dice: Dice,
    ) -> Self {
        let named = |index: &usize| {
            let destination = &destinations[*index];
            (destination.name.clone(), (*index, destination.timeout))
        };
        Self {
            names: plan.destinations.iter().map(named).collect(),
            plan: plan.clone(),
            number,
            clock: Arc::clone(clock),
            check: Arc::clone(check),
            dice,
            successes: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            life: 0,
            is_stopping: false,
            link: None,
            before: None,
            in_hand: BTreeMap::new(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            wishes: Vec::new(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.life % 2 == 1
    }

    /// Whether nothing is left for it to do or to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.in_hand.is_empty() && self.unconfirmed.is_empty()
    }

    pub(super) fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// Begins to live.
    pub(super) fn start(&mut self) {
        if !self.is_alive() {
            self.life += 1;
            self.wishes.push(Wish::Dial(0));
        }
    }

    /// Dies: what it had in hand is gone, its journal stays.
    pub(super) fn die(&mut self) {
        if !self.is_alive() {
            return;
        }
        self.life += 1;
        self.is_stopping = false;
        self.before = None;
        self.in_hand.clear();
        self.running.clear();
        self.waiting.clear();
        lock(&self.check).died(self.number);
        self.hang_up();
        self.wishes.clear();
    }

    /// Finishes what is running, gives the rest back, and says goodbye.
    pub(super) fn stop(&mut self) {
        if !self.is_alive() {
            return;
        }
        self.is_stopping = true;
        let waiting = self.in_hand.iter().filter(|(_, one)| !one.is_running);
        let waiting: Vec<_> = waiting.map(|(delivery, _)| *delivery).collect();
        if let Some(link) = &mut self.link {
            link.session.begin_drain();
        }
        for delivery in waiting {
            self.drop_waiting(delivery);
        }
        self.look_for_the_end();
    }

    fn look_for_the_end(&mut self) {
        if self.is_stopping
            && self.is_idle()
            && let Some(link) = &mut self.link
        {
            link.session.bye("the agent stops");
        }
    }

    /// The dialled link is there.
    pub(super) fn connected(&mut self, id: LinkId) {
        self.hang_up();
        let now = self.clock.instant();
        let (deliveries, bytes) = self.plan.window;
        let window = Window { deliveries, bytes };
        let config = AgentConfig {
            instance: self.plan.id,
            name: format!("agent-{}", self.number),
            agent: "simulated/0".to_owned(),
            destinations: self
                .names
                .keys()
                .map(|name| (name.clone(), window))
                .collect(),
            listen: None,
        };
        let holding: Vec<_> = self.in_hand.values().map(|one| one.held.clone()).collect();
        let unconfirmed = self.unconfirmed.values().cloned().collect();
        let mut session = AgentSession::new(config, holding, unconfirmed, now);
        for one in self.in_hand.values() {
            let name = self
                .names
                .iter()
                .find(|(_, (index, _))| *index == one.destination);
            if let Some((name, _)) = name {
                session.charge(&one.held, name, one.body_bytes);
            }
        }
        session.replace(self.before.as_slice());
        if self.is_stopping {
            session.begin_drain();
        }
        self.link = Some(Link {
            id,
            session,
            welcomed: None,
        });
        self.drain();
    }

    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            self.before = link.welcomed.or(self.before);
            self.wishes.push(Wish::Hang(link.id));
        }
    }

    /// A frame has come.
    pub(super) fn handle_frame(&mut self, id: LinkId, frame: ToAgent) {
        let now = self.clock.instant();
        let Some(link) = self.link.as_mut().filter(|link| link.id == id) else {
            return;
        };
        if let Err(violation) = link.session.handle_frame(frame, now) {
            let number = self.number;
            lock(&self.check).fail(format!(
                "agent {number} sees the protocol broken: {violation}"
            ));
        }
        self.drain();
    }

    /// A link has ended.
    pub(super) fn handle_gone(&mut self, id: LinkId) {
        if let Some(link) = self.link.as_mut().filter(|link| link.id == id) {
            link.session.handle_disconnect();
            self.drain();
        }
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        let at = self.link.as_ref()?.session.poll_timeout()?;
        Some(self.clock.ms_of(at))
    }

    pub(super) fn handle_timeout(&mut self) {
        let now = self.clock.instant();
        if let Some(link) = &mut self.link {
            link.session.handle_timeout(now);
            self.drain();
        }
    }

    /// Nobody listens at the other end.
    pub(super) fn not_connected(&mut self) {
        let wait = self.dice.between(100, 1_500);
        self.wishes.push(Wish::Dial(wait));
    }

    pub(super) fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    fn drain(&mut self) {
        while let Some(link) = &mut self.link {
            let id = link.id;
            let Some(output) = link.session.poll_output() else {
                return;
            };
            match output {
                AgentOutput::Send(frame) => self.wishes.push(Wish::Send(id, frame)),
                AgentOutput::Welcome(welcome) => link.welcomed = Some(welcome.session),
                AgentOutput::Offer(offer) => self.admit(&offer),
                AgentOutput::Confirmed(receipts) => {
                    for key in receipts {
                        self.unconfirmed.remove(&key);
                    }
                    self.look_for_the_end();
                }
                AgentOutput::Cancel(cancel) => {
                    let in_hand = self.in_hand.get(&cancel.delivery);
                    if in_hand.is_some_and(|one| !one.is_running && one.held.lease == cancel.lease)
                    {
                        self.drop_waiting(cancel.delivery);
                    }
                }
                AgentOutput::Suspect => {
                    self.hang_up();
                    self.wishes.push(Wish::Dial(0));
                }
                AgentOutput::Close(close) => {
                    let number = self.number;
                    lock(&self.check)
                        .tell(|| format!("agent {number}: its link ends: {}", close.reason));
                    self.hang_up();
                    let wait = self.dice.between(50, 1_500);
                    if !(self.is_stopping && self.is_idle()) {
                        self.wishes.push(Wish::Dial(wait));
                    }
                }
                AgentOutput::Drain { .. }
                | AgentOutput::Body { .. }
                | AgentOutput::ResponseRoom { .. }
                | AgentOutput::ResponseUnwanted { .. }
                | AgentOutput::Rtt(_) => {}
            }
        }
    }

    fn admit(&mut self, offer: &Offer) {
        let held = Held {
            delivery: offer.delivery,
            lease: offer.lease.clone(),
            attempt: offer.attempt,
        };
        let known = self.successes.get(&offer.delivery).or_else(|| {
            let attempt = offer.attempt;
            self.unconfirmed.get(&Settled {
                delivery: offer.delivery,
                attempt,
            })
        });
        if let Some(receipt) = known.cloned() {
            return self.report(receipt, &held);
        }
        let Some(right) = right_of(&held) else { return };
        if let Some(in_hand) = self.in_hand.get_mut(&offer.delivery) {
            let older = std::mem::replace(&mut in_hand.held, held);
            let mut check = lock(&self.check);
            check.in_hand(self.number, right);
            if let Some(older) = right_of(&older).filter(|older| *older != right) {
                check.let_go(self.number, &older);
            }
            drop(check);
            if let Some(link) = &mut self.link {
                link.session.release(older);
            }
            return;
        }
        let Some(&(destination, _)) = self.names.get(&offer.destination) else {
            return;
        };
        lock(&self.check).in_hand(self.number, right);
        let in_hand = InHand {
            held,
            destination,
            target: offer.request.target.clone(),
            body_bytes: offer.body_bytes,
            is_running: false,
        };
        self.in_hand.insert(offer.delivery, in_hand);
        self.waiting
            .entry(destination)
            .or_default()
            .push_back(offer.delivery);
        self.start_next(destination);
    }

    fn start_next(&mut self, destination: usize) {
        let running = self.running.entry(destination).or_default();
        let waiting = self.waiting.entry(destination).or_default();
        while *running < self.plan.concurrency
            && let Some(delivery) = waiting.pop_front()
        {
            let Some(one) = self.in_hand.get_mut(&delivery) else {
                continue;
            };
            let Some(right) = right_of(&one.held) else {
                continue;
            };
            *running += 1;
            one.is_running = true;
            self.wishes.push(Wish::Call(Call {
                agent: self.number,
                life: self.life,
                destination,
                right,
                target: one.target.clone(),
            }));
        }
    }

    /// A call has ended.
    pub(super) fn called(&mut self, call: &Call, outcome: Outcome, elapsed_ms: u64) {
        if call.life != self.life {
            return;
        }
        let Some(one) = self.in_hand.remove(&call.right.0) else {
            return;
        };
        if let Some(running) = self.running.get_mut(&one.destination) {
            *running -= 1;
        }
        if let Some(right) = right_of(&one.held) {
            lock(&self.check).let_go(self.number, &right);
        }
        let receipt = Receipt {
            delivery: one.held.delivery,
            lease: one.held.lease.clone(),
            attempt: one.held.attempt,
            outcome,
            elapsed_ms,
            response_start: bytes::Bytes::new(),
        };
        self.report(receipt, &one.held);
        self.start_next(one.destination);
        self.drain();
    }

    /// Keeps what came of an attempt, and reports it under the lease it is asked for now.
    fn report(&mut self, mut receipt: Receipt, held: &Held) {
        receipt.lease = held.lease.clone();
        receipt.attempt = held.attempt;
        if matches!(
            receipt.outcome,
            Outcome::Answered {
                status: 200..300,
                ..
            }
        ) {
            self.successes.insert(receipt.delivery, receipt.clone());
        }
        self.unconfirmed.insert(receipt.key(), receipt.clone());
        if self.unconfirmed.len() > limits::UNCONFIRMED_MAX {
            lock(&self.check).fail("an agent keeps more receipts than it may".to_owned());
        }
        let now = self.clock.instant();
        if let Some(link) = &mut self.link {
            link.session.finish(receipt, now);
        }
    }

    fn drop_waiting(&mut self, delivery: DeliveryId) {
        let Some(one) = self.in_hand.remove(&delivery) else {
            return;
        };
        if let Some(waiting) = self.waiting.get_mut(&one.destination) {
            waiting.retain(|other| *other != delivery);
        }
        if let Some(right) = right_of(&one.held) {
            lock(&self.check).let_go(self.number, &right);
        }
        if let Some(link) = &mut self.link {
            link.session.release(one.held);
        }
    }

    /// What it makes of silence: how long its service may take.
    pub(super) fn timeout_ms(&self, destination: usize) -> u64 {
        let known = self.names.values().find(|(index, _)| *index == destination);
        known.map_or(30_000, |(_, timeout)| super::check::millis(*timeout))
    }
}
