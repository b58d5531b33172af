//! Due deliveries meet sessions with credit.
//!
//! One task owns the match. It sleeps until something wakes it, then makes passes: in each, every
//! tenant may hand out a bounded number of deliveries, its destinations in turn, so that no tenant
//! and no destination starves another. All claims of a pass are one call of the store.

mod line;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use protocol::id::{SessionId, TenantId};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use self::line::{Assigned, Line};
use crate::{
    settle::Settler,
    store::{DestinationKey, Due, Events, Held, Lease, Want},
};

/// Deliveries a tenant may hand out in one pass.
const TENANT_QUANTUM: u32 = 512;

/// Messages from sessions that may wait.
const MESSAGES_MAX: usize = 4096;

/// Expired leases settled in one go.
const EXPIRED_MAX: usize = 1024;

/// How long expired leases stay unclaimable while they are settled as lost.
const EXPIRED_HOLD: Duration = Duration::from_secs(10);

/// How long to wait when the store fails.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// The longest sleep, in case a clock jumps.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// The shortest sleep, so that a time just missed does not spin.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// What a session tells the dispatcher.
#[derive(Debug)]
pub enum Message {
    /// It serves a destination from now on. Credit comes separately.
    Join {
        /// The session.
        session: SessionId,
        /// The destination.
        key: DestinationKey,
        /// How long its leases last.
        ttl: Duration,
        /// Where its leases go.
        outlet: Outlet,
    },
    /// It takes more.
    Credit {
        /// The session.
        session: SessionId,
        /// The destination.
        key: DestinationKey,
        /// Further deliveries.
        deliveries: u64,
        /// Further body bytes.
        bytes: u64,
    },
    /// It serves nothing any more.
    Leave {
        /// The session.
        session: SessionId,
    },
}

/// Where the leases of one session go. Each delivery in it is covered by credit, so that a channel
/// of [`protocol::limits::WINDOW_DELIVERIES_MAX`] times its destinations never fills.
pub type Outlet = mpsc::Sender<Vec<Lease>>;

/// The sessions' end.
#[derive(Debug, Clone)]
pub struct DispatchHandle(mpsc::Sender<Message>);

impl DispatchHandle {
    /// Passes a message on; waits while the dispatcher is behind. Lost only when it has stopped.
    pub async fn send(&self, message: Message) {
        if self.0.send(message).await.is_err() {
            debug!("the dispatcher has stopped");
        }
    }
}

/// What woke the dispatcher.
enum Wake {
    Due(HashSet<DestinationKey>),
    Message(Message),
    Time,
    Stop,
}

/// Matches due deliveries with credit.
#[derive(Debug)]
pub struct Dispatcher {
    store: Arc<dyn Events>,
    due: Arc<Due>,
    settler: Arc<Settler>,
    messages: mpsc::Receiver<Message>,
    lines: BTreeMap<DestinationKey, Line>,
    /// The lines for which the store may have something due.
    ready: BTreeSet<DestinationKey>,
    /// The lines each session stands in.
    sessions: HashMap<SessionId, Vec<DestinationKey>>,
    /// Where each tenant's turn goes on.
    turns: BTreeMap<TenantId, DestinationKey>,
}

impl Dispatcher {
    /// A dispatcher and the handle for sessions.
    pub fn new(
        store: Arc<dyn Events>,
        due: Arc<Due>,
        settler: Arc<Settler>,
    ) -> (Self, DispatchHandle) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let dispatcher = Self {
            store,
            due,
            settler,
            messages,
            lines: BTreeMap::new(),
            ready: BTreeSet::new(),
            sessions: HashMap::new(),
            turns: BTreeMap::new(),
        };
        (dispatcher, DispatchHandle(sender))
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let sleep = match self.hand_out().await {
                Ok(sleep) => sleep,
                Err(error) => {
                    error!(%error, "the store failed to hand out deliveries");
                    STORE_PAUSE
                }
            };
            match self.wait(sleep, &stop).await {
                Wake::Due(keys) => self.mark(keys),
                Wake::Message(message) => self.take(message),
                Wake::Time => self.time_has_come().await,
                Wake::Stop => return,
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
        }
    }

    async fn wait(&mut self, sleep: Duration, stop: &CancellationToken) -> Wake {
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            Some(message) = self.messages.recv() => Wake::Message(message),
            keys = self.due.wait() => Wake::Due(keys),
            () = time::sleep(sleep) => Wake::Time,
        }
    }

    fn mark(&mut self, keys: HashSet<DestinationKey>) {
        // Where nobody waits, joining marks it.
        self.ready
            .extend(keys.into_iter().filter(|key| self.lines.contains_key(key)));
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Join {
                session,
                key,
                ttl,
                outlet,
            } => {
                self.lines
                    .entry(key)
                    .or_default()
                    .join(session, ttl, outlet);
                self.sessions.entry(session).or_default().push(key);
                self.ready.insert(key);
            }
            Message::Credit {
                session,
                key,
                deliveries,
                bytes,
            } => {
                if let Some(line) = self.lines.get_mut(&key) {
                    line.credit(session, deliveries, bytes);
                }
            }
            Message::Leave { session } => {
                for key in self.sessions.remove(&session).unwrap_or_default() {
                    self.leave(session, key);
                }
            }
        }
    }

    fn leave(&mut self, session: SessionId, key: DestinationKey) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.leave(session);
        if line.is_empty() {
            self.lines.remove(&key);
            self.ready.remove(&key);
            if self.lines.range(line::keys_of(key.tenant)).next().is_none() {
                self.turns.remove(&key.tenant);
            }
        }
    }

    /// A retry fell due or a lease expired: settle what is lost, and look everywhere.
    async fn time_has_come(&mut self) {
        match self.store.take_expired(EXPIRED_HOLD, EXPIRED_MAX).await {
            Ok(expired) if expired.is_empty() => {}
            Ok(expired) => self.settler.settle_lost(expired).await,
            Err(error) => error!(%error, "the store failed to name expired leases"),
        }
        self.ready.extend(self.lines.keys());
    }

    /// Makes passes until nothing can be handed out, and tells how long to sleep then.
    async fn hand_out(&mut self) -> Result<Duration, crate::store::StoreError> {
        loop {
            let wants = self.plan();
            if wants.is_empty() {
                break;
            }
            let leases = self.store.claim(&wants).await?;
            self.note_dry(&wants, &leases);
            let orphans = self.assign(leases).await;
            if !orphans.is_empty() {
                self.store.release(&orphans).await?;
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
        }
        let now = self.store.now();
        let wake = self.store.next_wake().await?;
        Ok(wake.map_or(SLEEP_MAX, |at| at.since(now).clamp(SLEEP_MIN, SLEEP_MAX)))
    }

    /// One pass: what each tenant may claim, its destinations in turn.
    fn plan(&mut self) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut tenants: Vec<TenantId> = self.ready.iter().map(|key| key.tenant).collect();
        tenants.dedup();
        for tenant in tenants {
            self.plan_tenant(tenant, &mut wants);
        }
        wants
    }

    fn plan_tenant(&mut self, tenant: TenantId, wants: &mut Vec<Want>) {
        let mut keys: Vec<DestinationKey> =
            self.ready.range(line::keys_of(tenant)).copied().collect();
        if let Some(turn) = self.turns.get(&tenant) {
            let start = keys.partition_point(|key| key <= turn);
            keys.rotate_left(start);
        }
        let mut quantum = TENANT_QUANTUM;
        for key in keys {
            let Some(want) = self
                .lines
                .get(&key)
                .and_then(|line| line.want(key, quantum))
            else {
                continue;
            };
            quantum -= want.deliveries;
            wants.push(want);
            self.turns.insert(tenant, key);
            if quantum == 0 {
                return;
            }
        }
    }

    /// A destination that gave less than was wanted has no more for now.
    fn note_dry(&mut self, wants: &[Want], leases: &[Lease]) {
        let mut given: HashMap<DestinationKey, (u32, u64)> = HashMap::with_capacity(wants.len());
        for lease in leases {
            let (count, bytes) = given.entry(lease.info.key).or_default();
            *count += 1;
            *bytes += lease.event.body.len() as u64;
        }
        for want in wants {
            let (count, bytes) = given.get(&want.key).copied().unwrap_or_default();
            // With deliveries and bytes to spare, only the queue can have been short.
            if count == 0 || (count < want.deliveries && bytes < want.bytes / 2) {
                self.ready.remove(&want.key);
            }
        }
    }

    /// Gives every lease to the session with most room; returns those that nobody has room for.
    async fn assign(&mut self, leases: Vec<Lease>) -> Vec<Held> {
        let mut batches: BTreeMap<SessionId, (Outlet, Vec<Lease>)> = BTreeMap::new();
        let mut orphans = Vec::new();
        for lease in leases {
            let line = self.lines.get_mut(&lease.info.key);
            match line.and_then(|line| line.assign(lease.event.body.len() as u64)) {
                Some(Assigned { session, outlet }) => {
                    batches
                        .entry(session)
                        .or_insert_with(|| (outlet, Vec::new()))
                        .1
                        .push(lease);
                }
                None => orphans.push(held(&lease)),
            }
        }
        for (session, (outlet, batch)) in batches {
            if let Err(returned) = outlet.try_send(batch) {
                debug!(%session, "a session ended before its leases reached it");
                orphans.extend(returned.into_inner().iter().map(held));
                self.take(Message::Leave { session });
            }
        }
        orphans
    }
}

fn held(lease: &Lease) -> Held {
    Held {
        tenant: lease.info.key.tenant,
        delivery: lease.info.delivery,
        token: lease.info.token,
        attempt: lease.info.attempt,
    }
}
