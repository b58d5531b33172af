//! The sessions of a simulated relay, and what they hold, as `session::driver` and `session::serving`
//! do it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protocol::{
    frame::{
        self, Cancel, Hello, Offer, Receipt, RequestHead, ServedDestination, ToRelay, Welcome,
    },
    id::{DeliveryId, SessionId, TenantId},
    limits,
    session::{NotOffered, RelayConfig, RelayOutput, RelaySession},
};
use tokio::sync::mpsc;

use super::{Job, Relay, STORE_PAUSE_MS, Serving, Session, Settling};
use crate::{
    clock::Clock as _,
    settle::Reported,
    simulation::{
        Flaw,
        check::millis,
        plan::DestinationPlan,
        watched::{at_once, lock},
        wire::LinkId,
    },
    store::{Adopted, Events as _, Held, Lease},
};

impl Relay {
    pub(in crate::simulation) fn accept(&mut self, link: LinkId) {
        self.sessions_made += 1;
        let (outlet, leases) = mpsc::channel(limits::WINDOW_DELIVERIES_MAX as usize);
        let config = RelayConfig {
            heartbeat: limits::HEARTBEAT_INTERVAL,
            silence_max: limits::SILENCE_MAX,
        };
        let session = Session {
            id: SessionId::from_u128(self.sessions_made),
            machine: RelaySession::new(config, self.now()),
            outlet,
            leases,
            serving: None,
            is_replaced: false,
        };
        self.sessions.insert(link, session);
    }

    pub(in crate::simulation) fn handle_frame(&mut self, link: LinkId, frame: ToRelay) {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if let Err(violation) = session.machine.handle_frame(frame, now) {
            lock(&self.around.check)
                .fail(format!("the relay sees the protocol broken: {violation}"));
        }
        self.perform(link);
    }

    pub(in crate::simulation) fn handle_gone(&mut self, link: LinkId) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.machine.handle_disconnect();
            self.perform(link);
        }
    }

    pub(super) fn perform(&mut self, link: LinkId) {
        while let Some(session) = self.sessions.get_mut(&link) {
            let Some(output) = session.machine.poll_output() else {
                return;
            };
            match output {
                RelayOutput::Send(frame) => self.sent.push((link, frame)),
                RelayOutput::Hello(hello) => self.answer_hello(link, &hello),
                RelayOutput::Close { said_bye, .. } => return self.leave(link, said_bye),
                news => self.pass_on(link, news),
            }
        }
    }

    fn pass_on(&mut self, link: LinkId, news: RelayOutput) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let (id, Some(serving)) = (session.id, session.serving.clone()) else {
            return;
        };
        match news {
            RelayOutput::Credit {
                destination,
                deliveries,
                bytes,
            } => {
                if let Some((key, _)) = serving.served.get(&destination) {
                    self.dispatch.credit(id, *key, deliveries, bytes);
                }
            }
            RelayOutput::Receipt(receipt) => self.report(link, &serving, *receipt),
            RelayOutput::Renew(held) => self.renew(id, &serving, &held),
            RelayOutput::Release(held) => {
                let held: Vec<_> = held
                    .iter()
                    .filter_map(|held| parse(serving.tenant, held))
                    .collect();
                if let Some(holdings) = self.holdings.get_mut(&serving.agent) {
                    for held in &held {
                        holdings.drop_lease(held.delivery, held.token);
                    }
                }
                self.return_leases(held);
            }
            RelayOutput::ResponseChunk(_)
            | RelayOutput::ResponseCut { .. }
            | RelayOutput::Rtt(_)
            | RelayOutput::Send(_)
            | RelayOutput::Hello(_)
            | RelayOutput::Close { .. } => {}
        }
    }

    fn answer_hello(&mut self, link: LinkId, hello: &Hello) {
        let destinations = Arc::clone(&self.around.destinations);
        let find = |name: &String| destinations.iter().find(|plan| plan.name == *name);
        let named = hello
            .destinations
            .iter()
            .filter_map(|offered| find(&offered.name));
        let served: BTreeMap<_, _> = named
            .map(|plan| {
                (
                    plan.name.clone(),
                    (plan.key, plan.timeout + limits::LEASE_MARGIN),
                )
            })
            .collect();
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let id = session.id;
        let tenant = served
            .values()
            .next()
            .map_or(TenantId::from_u128(0), |(key, _)| key.tenant);
        let serving = Serving {
            agent: hello.instance,
            tenant,
            served,
        };
        session.serving = Some(serving.clone());
        self.holdings.entry(serving.agent).or_default().join();
        let lost = self.resume(id, &serving, hello);
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let now = self.around.clock.instant();
        session
            .machine
            .welcome(welcome(id, &destinations, &serving), now);
        for held in lost {
            session.machine.cancel(Cancel {
                delivery: held.delivery,
                lease: held.lease,
                reason: "the delivery is settled, or another agent has it".to_owned(),
            });
        }
        for (key, ttl) in serving.served.values() {
            let outlet = session.outlet.clone();
            self.dispatch.join(id, serving.agent, *key, *ttl, outlet);
        }
        let mut held = self.holdings.entry(serving.agent).or_default().of(id);
        held.sort_by_key(|lease| lease.delivery);
        self.dispatch.adopted(serving.agent, &held);
    }

    /// Gives the agent back what it still works on; what it does not name died with it.
    fn resume(&mut self, id: SessionId, serving: &Serving, hello: &Hello) -> Vec<frame::Held> {
        for replaced in hello.replaces.iter().filter(|replaced| **replaced != id) {
            let old = self
                .sessions
                .values_mut()
                .find(|session| session.id == *replaced);
            if let Some(old) = old {
                old.is_replaced = true;
                old.machine.replace();
                self.dispatch.leave(*replaced);
            }
        }
        let lost = self.adopt(id, serving, &hello.holding);
        let named: Vec<DeliveryId> = hello.holding.iter().map(|held| held.delivery).collect();
        let holdings = self.holdings.entry(serving.agent).or_default();
        let mut unbegun = holdings.take_unbegun(&hello.replaces, &named);
        unbegun.sort_by_key(|lease| lease.delivery);
        self.return_leases(unbegun.iter().map(Held::of).collect());
        let holdings = self.holdings.entry(serving.agent).or_default();
        let mut dead = holdings.take_orphans_but(&named);
        dead.sort_by_key(|lease| lease.delivery);
        if !dead.is_empty() {
            at_once(self.settler.settle_lost(dead));
        }
        lost
    }

    fn adopt(
        &mut self,
        id: SessionId,
        serving: &Serving,
        named: &[frame::Held],
    ) -> Vec<frame::Held> {
        let pairs: Vec<_> = named
            .iter()
            .filter_map(|held| Some((held, parse(serving.tenant, held)?)))
            .collect();
        let held: Vec<_> = pairs.iter().map(|(_, held)| *held).collect();
        let ttl = serving.served.values().map(|(_, ttl)| *ttl).max();
        let ttl = ttl.unwrap_or(limits::LEASE_MARGIN);
        let Ok(adopted) = at_once(self.around.store.adopt(&held, ttl)) else {
            return Vec::new();
        };
        let until = self.now() + ttl;
        let holdings = self.holdings.entry(serving.agent).or_default();
        let mut lost = Vec::new();
        for ((held, _), adopted) in pairs.into_iter().zip(adopted) {
            match adopted {
                Adopted::Granted(lease) => holdings.hold(lease, id, until),
                Adopted::Lost => lost.push(held.clone()),
            }
        }
        lost
    }

    fn renew(&mut self, id: SessionId, serving: &Serving, named: &[frame::Held]) {
        let now = self.now();
        let holdings = self.holdings.entry(serving.agent).or_default();
        let (mut unknown, mut renewed) = (Vec::new(), Vec::new());
        for wire in named {
            let Some(held) = parse(serving.tenant, wire) else {
                continue;
            };
            let ours = holdings
                .get(held.delivery)
                .filter(|lease| lease.token == held.token);
            let ttl = ours.and_then(|lease| {
                let mut served = serving.served.values();
                served
                    .find(|(key, _)| *key == lease.key)
                    .map(|(_, ttl)| *ttl)
            });
            match ttl {
                Some(ttl) => {
                    holdings.renew(held.delivery, id, now + ttl);
                    renewed.push((held, ttl));
                }
                None => unknown.push(wire.clone()),
            }
        }
        holdings.prune(now);
        self.adopt(id, serving, &unknown);
        for (held, ttl) in renewed {
            let _ = at_once(self.around.store.renew(&[held], ttl));
        }
    }

    pub(super) fn offer(&mut self, link: LinkId, batch: Vec<Lease>) {
        let mut returned = Vec::new();
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        for lease in batch {
            let info = lease.info;
            let serving = session.serving.as_ref().filter(|_| !session.is_replaced);
            let served = serving.and_then(|serving| {
                let mut served = serving.served.iter();
                let (name, (_, ttl)) = served.find(|(_, (key, _))| *key == info.key)?;
                Some((serving.agent, name.clone(), *ttl))
            });
            let Some((agent, name, ttl)) = served else {
                returned.push(info);
                continue;
            };
            self.holdings
                .entry(agent)
                .or_default()
                .hold(info, session.id, now + ttl);
            if let Err(NotOffered(_)) = session.machine.offer(offer(&lease, name, ttl)) {
                returned.push(info);
            }
        }
        let agent = session.serving.as_ref().map(|serving| serving.agent);
        if let Some(holdings) = agent.and_then(|agent| self.holdings.get_mut(&agent)) {
            for info in &returned {
                holdings.drop_attempt(info.delivery, info.attempt);
            }
        }
        self.return_leases(returned.iter().map(Held::of).collect());
    }

    fn return_leases(&self, held: Vec<Held>) {
        if !held.is_empty() {
            self.dispatch.returned(&held);
            let _ = at_once(self.around.store.release(&held));
        }
    }

    /// A receipt: under which lease it counts is decided now, what it means when it is settled.
    fn report(&mut self, link: LinkId, serving: &Serving, receipt: Receipt) {
        let holdings = self.holdings.entry(serving.agent).or_default();
        let lease = holdings.get(receipt.delivery).filter(|lease| {
            let is_this =
                lease.attempt == receipt.attempt && lease.token.to_string() == receipt.lease.0;
            is_this || self.around.flaw == Some(Flaw::StaleFailuresCount)
        });
        let settling = self.settlings.entry(link).or_insert_with(|| Settling {
            agent: serving.agent,
            tenant: serving.tenant,
            reported: Vec::new(),
            is_busy: false,
        });
        settling.reported.push(Reported { receipt, lease });
        if !settling.is_busy {
            settling.is_busy = true;
            let takes = self.store_ms();
            self.later(takes, Job::Settle(link));
        }
    }

    pub(super) fn settle(&mut self, link: LinkId) {
        let Some(settling) = self.settlings.get_mut(&link) else {
            return;
        };
        let (agent, tenant) = (settling.agent, settling.tenant);
        let reported = std::mem::take(&mut settling.reported);
        if reported.is_empty() {
            self.settlings.remove(&link);
            return;
        }
        let settled = at_once(self.settler.settle(tenant, agent, reported));
        let rest = match settled {
            Ok(settled) => {
                if let Some(holdings) = self.holdings.get_mut(&agent) {
                    for one in &settled {
                        holdings.drop_attempt(one.delivery, one.attempt);
                    }
                }
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.machine.confirm(settled);
                    self.perform(link);
                }
                0
            }
            Err(_) => STORE_PAUSE_MS,
        };
        let takes = rest + self.store_ms();
        self.later(takes, Job::Settle(link));
    }

    /// Leaves nothing behind but, without Bye, what the agent may come back for.
    fn leave(&mut self, link: LinkId, said_bye: bool) {
        let Some(mut session) = self.sessions.remove(&link) else {
            return;
        };
        self.dispatch.leave(session.id);
        self.closed.push(link);
        session.leases.close();
        while let Ok(batch) = session.leases.try_recv() {
            self.return_leases(batch.iter().map(|lease| Held::of(&lease.info)).collect());
        }
        let Some(Serving { agent, .. }) = session.serving else {
            return;
        };
        let grace = limits::GRACE;
        let until = self.now() + grace;
        let holdings = self.holdings.entry(agent).or_default();
        holdings.leave();
        if said_bye || self.around.flaw == Some(Flaw::GraceForgotten) {
            let mut held = holdings.take_all_of(session.id);
            held.sort_by_key(|lease| lease.delivery);
            return self.return_leases(held.iter().map(Held::of).collect());
        }
        let mut held = holdings.orphan(session.id, until);
        held.sort_by_key(|lease| lease.delivery);
        if held.is_empty() {
            return;
        }
        let held: Vec<_> = held.iter().map(Held::of).collect();
        let _ = at_once(self.around.store.renew(&held, grace));
        self.later(millis(grace) + 2_000, Job::Prune(agent));
    }
}

fn parse(tenant: TenantId, held: &frame::Held) -> Option<Held> {
    Some(Held {
        tenant,
        delivery: held.delivery,
        token: held.lease.0.parse().ok()?,
        attempt: held.attempt,
    })
}

fn welcome(session: SessionId, destinations: &[DestinationPlan], serving: &Serving) -> Welcome {
    let served = destinations
        .iter()
        .filter(|plan| serving.served.contains_key(&plan.name));
    let destinations = served.map(|plan| ServedDestination {
        name: plan.name.clone(),
        timeout_ms: millis(plan.timeout),
    });
    Welcome {
        version: limits::VERSION,
        session,
        heartbeat_ms: 0,
        silence_ms: 0,
        chunk_bytes_max: 0,
        destinations: destinations.collect(),
        node: None,
        listening: None,
    }
}

fn offer(lease: &Lease, destination: String, ttl: Duration) -> Box<Offer> {
    let (info, event) = (&lease.info, &lease.event);
    Box::new(Offer {
        delivery: info.delivery,
        event: event.id,
        lease: frame::LeaseToken(info.token.to_string()),
        lease_ms: millis(ttl),
        attempt: info.attempt,
        destination,
        source: "simulated".to_owned(),
        received_at_ms: event.received_at.0,
        event_type: None,
        remote: None,
        public_origin: None,
        replay: info.replay,
        respond: false,
        request: RequestHead {
            method: event.method.clone(),
            target: event.target.clone(),
            headers: event.headers.clone(),
        },
        body_bytes: event.body.len() as u64,
        used_deliveries: 0,
        used_bytes: 0,
        body: event.body.clone(),
    })
}
