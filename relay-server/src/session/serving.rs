//! A welcomed session: what it serves, and its dealings with store, settler and dispatcher.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use protocol::{
    frame::{self, Hello, Offer, Receipt, RequestHead},
    id::{AgentId, DeliveryId, SessionId, TenantId},
    limits,
};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    admission::{Admitted, Served},
    answers::Answers,
    driver::{QUEUE_MAX, SessionContext},
    holdings::Holdings,
    registry::{LiveSession, lock},
    settling::Settling,
};
use crate::{
    dispatch::Outlet,
    settle::Reported,
    store::{Adopted, DestinationKey, Held, Lease, LeaseInfo},
};

/// How much longer than the grace period an instance's holdings are remembered.
const PRUNE_MARGIN: Duration = Duration::from_secs(2);

/// A welcomed session.
pub(super) struct Serving {
    context: Arc<SessionContext>,
    id: SessionId,
    tenant: TenantId,
    agent: AgentId,
    live: Arc<LiveSession>,
    by_name: HashMap<String, DestinationKey>,
    by_key: HashMap<DestinationKey, Served>,
    holdings: Arc<Mutex<Holdings>>,
    reported: mpsc::Sender<Reported>,
    listener: Option<DestinationKey>,
}

/// What became of the attempts that an agent brings from earlier sessions.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// They are the agent's.
    pub(super) granted: Vec<frame::Held>,
    /// They are not, or no longer.
    pub(super) lost: Vec<frame::Held>,
}

/// A session that is about to be welcomed.
pub(super) struct Opening<'a> {
    pub(super) id: SessionId,
    pub(super) tenant: TenantId,
    /// What carries it.
    pub(super) transport: &'static str,
    pub(super) hello: &'a Hello,
    pub(super) admitted: &'a Admitted,
    /// Tells the session that the agent takes nothing from it any more.
    pub(super) replaced: &'a CancellationToken,
}

impl Serving {
    /// Registers a session and starts settling what it will report.
    pub(super) fn open(
        context: &Arc<SessionContext>,
        opening: &Opening<'_>,
        confirmed: mpsc::Sender<Vec<frame::Settled>>,
    ) -> Self {
        let Opening {
            id,
            tenant,
            transport,
            hello,
            admitted,
            replaced,
        } = *opening;
        let agent = hello.instance;
        let live = context.registry.add(LiveSession {
            id,
            tenant,
            agent,
            name: hello.name.chars().take(64).collect(),
            program: hello.agent.chars().take(64).collect(),
            transport,
            destinations: admitted
                .served
                .iter()
                .map(|served| served.key.destination)
                .collect(),
            since: context.store.now(),
            rtt_us: 0.into(),
            replaced: replaced.clone(),
        });
        let holdings = context.registry.holdings((tenant, agent));
        lock(&holdings).join();
        let (reported, receiver) = mpsc::channel(QUEUE_MAX);
        let settling = Settling {
            tenant,
            agent,
            settler: Arc::clone(&context.settler),
            room: Arc::clone(&context.room),
            holdings: Arc::clone(&holdings),
            reported: receiver,
            confirmed,
        };
        context.tasks.spawn(settling.run());
        info!(session = %id, %agent, name = %live.name, transport, "an agent is connected");
        Self {
            context: Arc::clone(context),
            id,
            tenant,
            agent,
            live,
            by_name: admitted
                .served
                .iter()
                .map(|served| (served.name.clone(), served.key))
                .collect(),
            by_key: admitted
                .served
                .iter()
                .map(|served| (served.key, served.clone()))
                .collect(),
            holdings,
            reported,
            listener: admitted.listener,
        }
    }

    /// Gives the agent back what it still works on; what it does not name died with it.
    pub(super) async fn resume(&self, hello: &Hello) -> Resumed {
        for &session in &hello.replaces {
            self.replace(session);
        }
        let resumed = self.adopt(&hello.holding).await;
        if hello.holding.len() < limits::LEASES_PER_FRAME_MAX {
            let named: Vec<DeliveryId> = hello.holding.iter().map(|held| held.delivery).collect();
            let unbegun = lock(&self.holdings).take_unbegun(&hello.replaces, &named);
            self.context
                .return_leases(unbegun.iter().map(Held::of).collect())
                .await;
            let dead = lock(&self.holdings).take_orphans_but(&named);
            if !dead.is_empty() {
                info!(session = %self.id, attempts = dead.len(), "an agent came back without attempts it had");
                let deliveries: Vec<_> = dead.iter().map(|lease| lease.delivery).collect();
                self.context.settler.settle_lost(dead).await;
                for delivery in deliveries {
                    self.context.room.returned(self.tenant, delivery);
                }
            }
        }
        resumed
    }

    /// Ends a session of the same agent and takes it out of the lines, so that what comes back is not
    /// handed to it again.
    fn replace(&self, session: SessionId) {
        let instance = (self.tenant, self.agent);
        if session != self.id && self.context.registry.replace(instance, session) {
            self.context.dispatch.leave(session);
        }
    }

    async fn adopt(&self, named: &[frame::Held]) -> Resumed {
        let mut resumed = Resumed::default();
        let pairs: Vec<_> = named
            .iter()
            .filter_map(|held| Some((held, self.parse(held)?)))
            .collect();
        let held: Vec<_> = pairs.iter().map(|(_, held)| *held).collect();
        if held.is_empty() {
            return resumed;
        }
        let ttl = self
            .by_key
            .values()
            .map(Served::ttl)
            .max()
            .unwrap_or(limits::LEASE_MARGIN);
        let adopted = match self.context.store.adopt(&held, ttl).await {
            Ok(adopted) => adopted,
            Err(error) => {
                warn!(%error, "the store could not say what an agent still holds");
                return resumed;
            }
        };
        let mut holdings = lock(&self.holdings);
        for ((held, _), adopted) in pairs.into_iter().zip(adopted) {
            match adopted {
                Adopted::Granted(lease) if self.by_key.contains_key(&lease.key) => {
                    holdings.hold(lease, self.id, Instant::now() + ttl);
                    resumed.granted.push(held.clone());
                }
                Adopted::Granted(_) | Adopted::Lost => resumed.lost.push(held.clone()),
            }
        }
        resumed
    }

    /// Takes a place in the dispatcher's lines.
    pub(super) fn join(&self, outlet: &Outlet) {
        let dispatch = &self.context.dispatch;
        for served in self.by_key.values() {
            dispatch.join(
                self.id,
                self.agent,
                served.key,
                served.ttl(),
                outlet.clone(),
            );
        }
        let held = lock(&self.holdings).of(self.id);
        dispatch.adopted(self.agent, &held);
    }

    pub(super) fn credit(&self, destination: &str, deliveries: u64, bytes: u64) {
        if let Some(&key) = self.by_name.get(destination) {
            let dispatch = &self.context.dispatch;
            dispatch.credit(self.id, key, deliveries, bytes);
        }
    }

    /// Lets a lease go whose delivery is being ended: it is not claimed again meanwhile, and the agent has
    /// its credit as before.
    pub(super) fn refuse(&self, lease: &Lease) {
        let dispatch = &self.context.dispatch;
        dispatch.returned(&[Held::of(&lease.info)]);
        let bytes = lease.event.body.len() as u64;
        dispatch.credit(self.id, lease.info.key, 1, bytes);
    }

    /// The frame for a lease, which is the agent's from here on; `None` if it is not for this session,
    /// or this session is over.
    pub(super) fn take(&self, lease: &Lease, answers: &Answers) -> Option<Box<Offer>> {
        let served = self.by_key.get(&lease.info.key)?;
        {
            let mut holdings = lock(&self.holdings);
            if self.live.replaced.is_cancelled() {
                return None;
            }
            holdings.hold(lease.info, self.id, Instant::now() + served.ttl());
        }
        let event = &lease.event;
        let token = frame::LeaseToken(lease.info.token.to_string());
        let respond = answers.offered(self.tenant, lease.info.delivery, &token);
        let directory = self.context.tenancy.directory();
        let source = directory.source(event.tenant, event.source);
        Some(Box::new(Offer {
            delivery: lease.info.delivery,
            event: event.id,
            lease: token,
            lease_ms: u64::try_from(served.ttl().as_millis()).unwrap_or(u64::MAX),
            attempt: lease.info.attempt,
            destination: served.name.clone(),
            source: source.map_or_else(
                || event.source.to_string(),
                |live| live.source.name.as_str().to_owned(),
            ),
            received_at_ms: event.received_at.0,
            event_type: event.event_type.clone(),
            remote: event.remote.map(|remote| remote.to_string()),
            public_origin: Some(origin(&self.context.public_url).to_owned()),
            replay: lease.info.replay,
            respond,
            request: RequestHead {
                method: event.method.clone(),
                target: event.target.clone(),
                headers: self.context.headers(event, served.key),
            },
            body_bytes: event.body.len() as u64,
            used_deliveries: 0,
            used_bytes: 0,
            body: event.body.clone(),
        }))
    }

    /// Gives back what could not be offered.
    pub(super) async fn put_back(&self, leases: &[LeaseInfo]) {
        {
            let mut holdings = lock(&self.holdings);
            for lease in leases {
                holdings.drop_attempt(lease.delivery, lease.attempt);
            }
        }
        self.context
            .return_leases(leases.iter().map(Held::of).collect())
            .await;
    }

    pub(super) fn report(&self, receipt: Receipt) {
        let lease = lock(&self.holdings).get(receipt.delivery).filter(|lease| {
            lease.attempt == receipt.attempt && lease.token.to_string() == receipt.lease.0
        });
        if self.reported.try_send(Reported { receipt, lease }).is_err() {
            // It stays unconfirmed, so the agent sends it again.
            debug!(session = %self.id, "too many receipts at once");
        }
    }

    /// The agent still works on these. Some may be of an earlier session that held more than one
    /// Hello can name.
    pub(super) async fn renew(&self, named: &[frame::Held]) {
        let mut by_ttl: BTreeMap<Duration, Vec<Held>> = BTreeMap::new();
        let mut unknown = Vec::new();
        {
            let mut holdings = lock(&self.holdings);
            for wire in named {
                let Some(held) = self.parse(wire) else {
                    continue;
                };
                let ours = holdings
                    .get(held.delivery)
                    .filter(|lease| lease.token == held.token);
                let Some(served) = ours.and_then(|lease| self.by_key.get(&lease.key)) else {
                    unknown.push(wire.clone());
                    continue;
                };
                holdings.renew(held.delivery, self.id, Instant::now() + served.ttl());
                by_ttl.entry(served.ttl()).or_default().push(held);
            }
            holdings.prune(Instant::now());
        }
        self.adopt(&unknown).await;
        for (ttl, held) in by_ttl {
            if let Err(error) = self.context.store.renew(&held, ttl).await {
                warn!(%error, "leases could not be renewed");
            }
        }
    }

    pub(super) async fn release(&self, named: &[frame::Held]) {
        let held: Vec<_> = named.iter().filter_map(|held| self.parse(held)).collect();
        {
            let mut holdings = lock(&self.holdings);
            for held in &held {
                holdings.drop_lease(held.delivery, held.token);
            }
        }
        self.context.return_leases(held).await;
    }

    pub(super) fn note_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.live.rtt_us.store(micros, Ordering::Relaxed);
    }

    /// Leaves nothing behind but, without Bye, what the agent may come back for.
    pub(super) async fn end(self, said_bye: bool) {
        lock(&self.holdings).leave();
        if said_bye {
            let held: Vec<_> = lock(&self.holdings)
                .take_all_of(self.id)
                .iter()
                .map(Held::of)
                .collect();
            self.context.return_leases(held).await;
        } else {
            self.keep_for_return().await;
        }
        if let Some(listener) = self.listener {
            self.context.tenancy.listener_left(listener.destination);
        }
        self.context.registry.remove(self.id);
    }

    async fn keep_for_return(&self) {
        let grace = self.context.grace;
        let held: Vec<_> = lock(&self.holdings)
            .orphan(self.id, Instant::now() + grace)
            .iter()
            .map(Held::of)
            .collect();
        if held.is_empty() {
            return;
        }
        debug!(session = %self.id, leases = held.len(), "keeping leases for an agent's return");
        if let Err(error) = self.context.store.renew(&held, grace).await {
            warn!(%error, "leases could not be kept for an agent's return");
        }
        // The dispatcher sleeps until the old deadline.
        self.context.dispatch.wake();
        let (registry, stop) = (
            Arc::clone(&self.context.registry),
            self.context.stop.clone(),
        );
        let instance = (self.tenant, self.agent);
        self.context.tasks.spawn(async move {
            tokio::select! {
                () = time::sleep(grace + PRUNE_MARGIN) => registry.prune(instance, Instant::now()),
                () = stop.cancelled() => {}
            }
        });
    }

    fn parse(&self, held: &frame::Held) -> Option<Held> {
        let token = held.lease.0.parse().ok()?;
        Some(Held {
            tenant: self.tenant,
            delivery: held.delivery,
            token,
            attempt: held.attempt,
        })
    }
}

impl SessionContext {
    /// Returns leases unattempted.
    pub(super) async fn return_leases(&self, held: Vec<Held>) {
        if held.is_empty() {
            return;
        }
        let returned: Vec<_> = held
            .iter()
            .map(|held| (held.tenant, held.delivery))
            .collect();
        self.dispatch.returned(&held);
        if let Err(error) = self.store.release(&held).await {
            warn!(%error, "leases could not be returned; they will run out");
        }
        for (tenant, delivery) in returned {
            self.room.returned(tenant, delivery);
        }
    }
}

/// Scheme and host of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_and_host() {
        assert_eq!(
            origin("https://hooks.example.com/base"),
            "https://hooks.example.com"
        );
        assert_eq!(origin("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
    }
}
