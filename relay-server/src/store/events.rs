//! The hot path: accept, hand out, settle.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId};

use super::{StoreError, Usage};
use crate::{
    clock::Timestamp,
    lifecycle::{
        AttemptReport, EndReason, Event, KeyDigest, OrderKey, RouteDecision, Spent, Verdict,
    },
};

/// A destination with its tenant: every call of the store is scoped by tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub destination: DestinationId,
}

/// An event to accept.
#[derive(Debug)]
pub struct NewEvent {
    /// The event. `event.provider_id` is the dedupe key, if there is one.
    pub event: Event,
    /// How long the provider's id is remembered from now. Ignored without one.
    pub dedupe_window: Duration,
    /// What is owed for it. Empty: no route matched; it is kept as unrouted.
    pub deliveries: Vec<NewDelivery>,
    /// What every route of its source said. Kept for explanations only.
    pub decisions: Vec<RouteDecision>,
    /// Whose answer somebody waits for.
    pub waited_for: Option<WaitedFor>,
}

/// A delivery whose answer somebody waits for: until then it is handed out before all others that are
/// live, however many of them there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitedFor {
    /// It is one of the new event's, and not ordered.
    pub delivery: DeliveryId,
    /// Nobody waits any more from then on.
    pub until: Timestamp,
}

/// A delivery to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its name.
    pub id: DeliveryId,
    /// Where it goes.
    pub destination: DestinationId,
    /// What it is ordered by, if it is: see [`Order::key_of`](crate::lifecycle::Order::key_of).
    pub order: Option<OrderKey>,
}

/// A stored event to deliver again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Whose it is.
    pub tenant: TenantId,
    /// The event.
    pub event: EventId,
    /// What asked for it: it delivers an event to a destination once.
    pub replay: ReplayId,
    /// The delivery to create.
    pub delivery: NewDelivery,
}

/// What became of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// It is owed, under the id that was asked for. Earlier deliveries of the event to the same
    /// destination are superseded by it.
    Owed,
    /// The same replay made this delivery of the event before.
    Repeated(DeliveryId),
    /// This earlier delivery of the event to the same destination is still owed: there is nothing
    /// to replay yet.
    StillOwed(DeliveryId),
    /// The tenant has no such event.
    Unknown,
}

/// What became of an event to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is durable.
    New,
    /// The same provider id was accepted within the window; that acceptance is durable.
    Duplicate {
        /// The event accepted first.
        first: EventId,
        /// How many of its dead deliveries this repeat reopened.
        reopened: u32,
    },
}

/// How much one destination may hand out.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Which destination.
    pub key: DestinationKey,
    /// Deliveries at most.
    pub deliveries: u32,
    /// Body bytes at most; the first delivery may be larger.
    pub bytes: u64,
    /// Deliveries that may be leased at this destination at a time, over all sessions. What it
    /// holds back marks the destination as due once a lease ends.
    pub in_flight_max: Option<u32>,
    /// How long the leases last.
    pub ttl: Duration,
}

/// The right to one attempt, as data: the store's incarnation and a counter that never repeats within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken {
    /// Drawn at random when a store starts.
    pub incarnation: u64,
    /// Counts leases.
    pub counter: u64,
}

impl LeaseToken {
    /// No lease: only a success counts under it.
    pub const NONE: Self = Self {
        incarnation: 0,
        counter: 0,
    };
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.incarnation, self.counter)
    }
}

impl FromStr for LeaseToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (incarnation, counter) = text.split_once('-').ok_or(())?;
        Ok(Self {
            incarnation: u64::from_str_radix(incarnation, 16).map_err(|_| ())?,
            counter: u64::from_str_radix(counter, 16).map_err(|_| ())?,
        })
    }
}

/// What a lease is about, without the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The right.
    pub token: LeaseToken,
    /// The destination, with its tenant.
    pub key: DestinationKey,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The event.
    pub event: EventId,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// When it was handed out for this attempt.
    pub leased_at: Timestamp,
    /// What earlier attempts have used up of the policy's limits.
    pub spent: Spent,
    /// What asked for the delivery, if it is a replay.
    pub replay: Option<ReplayId>,
}

/// One delivery handed out for one attempt.
#[derive(Debug, Clone)]
pub struct Lease {
    /// What it is about.
    pub info: LeaseInfo,
    /// What to deliver, checked against what was accepted.
    pub event: Arc<Event>,
}

/// A lease that somebody claims to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub tenant: TenantId,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The right.
    pub token: LeaseToken,
    /// The number of the attempt.
    pub attempt: u32,
}

impl Held {
    /// How its holder names a lease.
    pub fn of(lease: &LeaseInfo) -> Self {
        Self {
            tenant: lease.key.tenant,
            delivery: lease.delivery,
            token: lease.token,
            attempt: lease.attempt,
        }
    }
}

/// What became of a lease that an agent brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// It is (again) the agent's.
    Granted(LeaseInfo),
    /// The delivery is settled, or another agent's.
    Lost,
}

/// The outcome of an attempt and what it means.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Whose.
    pub tenant: TenantId,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The lease under which it was attempted.
    pub token: LeaseToken,
    /// The attempt.
    pub attempt: AttemptReport,
    /// What it means. `Deliver` settles an open delivery whoever holds the lease now; anything else
    /// only counts from the holder of the lease.
    pub verdict: Verdict,
    /// If it dies and is ordered, its key stops until somebody resumes it.
    pub park: bool,
}

/// What became of a key that is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// It has stopped.
    Done,
    /// It had stopped before.
    Already,
    /// Too many keys of this destination have stopped.
    TooMany,
}

/// Keys of one destination that may be stopped. Beyond, policy lets them go on.
pub const PARKED_MAX: usize = 10_000;

/// What became of a settlement. Each of them is durable when it is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The delivery is in the state of the verdict.
    Applied,
    /// It was settled before; nothing changed.
    AlreadySettled,
    /// A failure under a lease that is no longer valid; nothing changed.
    LeaseLost,
    /// No such delivery of this tenant (any more).
    Unknown,
}

/// The hot path of a store.
///
/// # Errors
///
/// See [`StoreError`]; after `Indeterminate` from `settle` repeat it: it is idempotent.
#[async_trait]
pub trait Events: fmt::Debug + Send + Sync + 'static {
    /// Accepts an event: the event, its deliveries and its dedupe key become durable in one atomic
    /// step, before this returns. Concurrent repeats wait for the first and share its fate.
    async fn append(&self, event: NewEvent) -> Result<Appended, StoreError>;

    /// Hands out due deliveries, each under a fresh lease. Damaged events are quarantined and
    /// reported, never handed out.
    ///
    /// What is ordered comes in the order of acceptance (replays and what is reopened: of being owed
    /// again), one of a key at a time: the next one only after the one before it has ended and nobody
    /// attempts it any more. Everything else comes by [`Lane`](crate::lifecycle::Lane), in that order
    /// within each.
    async fn claim(&self, wants: &[Want]) -> Result<Vec<Lease>, StoreError>;

    /// Settles attempts; durable before this returns. One answer per settlement, in order.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError>;

    /// Starts leases anew: each that is still valid lasts `ttl` from now. Also shortens.
    async fn renew(&self, leases: &[Held], ttl: Duration) -> Result<(), StoreError>;

    /// Returns leases unattempted: due at once, counting as no attempt. Invalid ones are ignored.
    async fn release(&self, leases: &[Held]) -> Result<(), StoreError>;

    /// Takes back what an agent still works on after a reconnect or a restart of the relay. A lease
    /// that is still valid, or whose delivery is open and unleased, is the agent's (again) under the
    /// token it holds.
    async fn adopt(&self, leases: &[Held], ttl: Duration) -> Result<Vec<Adopted>, StoreError>;

    /// Leases whose deadline has passed, for the caller to settle as lost. They stay unclaimable for
    /// `hold`; unsettled ones are then returned again. At most `most`.
    async fn take_expired(&self, hold: Duration, most: usize)
    -> Result<Vec<LeaseInfo>, StoreError>;

    /// The earliest time at which a delivery falls due or a lease expires, if any is known.
    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Creates new deliveries of stored events, each at the tail of its queue; durable before this
    /// returns. One answer per replay, in order. After an error some may have been made: repeating
    /// the call makes the others.
    async fn replay(&self, replays: &[Replay]) -> Result<Vec<Replayed>, StoreError>;

    /// Ends one open delivery. False if it is not open.
    async fn end(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: EndReason,
    ) -> Result<bool, StoreError>;

    /// Stops a key of a destination: what is being attempted goes on, nothing more of it is handed
    /// out until it is resumed, restarts or not.
    async fn park(&self, key: DestinationKey, order: OrderKey) -> Result<Parked, StoreError>;

    /// Lets a key go on. False if it was not stopped.
    async fn resume(&self, key: DestinationKey, order: KeyDigest) -> Result<bool, StoreError>;

    /// Ends every open delivery of a destination, and forgets which of its keys are stopped.
    async fn end_destination(
        &self,
        key: DestinationKey,
        reason: EndReason,
    ) -> Result<(), StoreError>;

    /// Forgets remembered provider ids of a deleted source.
    async fn forget_source(&self, tenant: TenantId, source: SourceId) -> Result<(), StoreError>;

    /// How much of a tenant's is stored.
    fn usage(&self, tenant: TenantId) -> Usage;

    /// The store's time.
    fn now(&self) -> Timestamp;

    /// Whether events can be accepted right now; the error says why not. For `/readyz`.
    fn accepting(&self) -> Result<(), StoreError>;

    /// Makes everything durable and stops. Later calls answer `Unavailable`.
    async fn close(&self);
}
