//! What people look at. Every answer is scoped to one tenant and reflects everything that was
//! durable when the question came, waiting a bounded time for a projection that lags behind.

use std::fmt;

use async_trait::async_trait;
use protocol::id::{
    AgentId, AttemptId, DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId,
};

use super::StoreError;
use crate::{
    clock::Timestamp,
    lifecycle::{AttemptOutcome, DeliveryState, Ending, Event, RouteDecision, Waiting},
};

/// Where a page starts; opaque to everyone but the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// One page of a list, newest first unless it says otherwise. It may hold fewer rows than asked for,
/// even none, although there are more: what a filter asks for may be rare.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page starts, if there is one.
    pub next: Option<Cursor>,
}

/// Which events to list. Empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only this one.
    pub id: Option<EventId>,
    /// Accepted by this source.
    pub source: Option<SourceId>,
    /// With a delivery to this destination.
    pub destination: Option<DestinationId>,
    /// With a delivery in this state.
    pub state: Option<DeliveryState>,
    /// Without any delivery.
    pub unrouted: bool,
    /// Of this type.
    pub event_type: Option<String>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
}

/// An event in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSummary {
    /// Its name.
    pub id: EventId,
    /// The source that accepted it.
    pub source: SourceId,
    /// When.
    pub received_at: Timestamp,
    /// The method.
    pub method: String,
    /// The path below the source's URL and the query.
    pub target: String,
    /// Its type, where known.
    pub event_type: Option<String>,
    /// The provider's id, where known.
    pub provider_id: Option<String>,
    /// The length of the body, in bytes.
    pub body_bytes: u64,
    /// Its deliveries and their states.
    pub deliveries: Vec<(DeliveryId, DestinationId, DeliveryState)>,
}

/// One event, whole.
#[derive(Debug, Clone)]
pub struct EventDetail {
    /// The event, checked against what was accepted.
    pub event: Event,
    /// Its deliveries.
    pub deliveries: Vec<DeliverySummary>,
    /// What every route of its source said when it was accepted.
    pub decisions: Vec<RouteDecision>,
    /// Until when its provider's id is remembered, if it came with one.
    pub remembered_until: Option<Timestamp>,
    /// What the provider sent again meanwhile.
    pub repeats: Repeats,
}

/// Repeats of an event that were recognised by its provider's id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repeats {
    /// How many.
    pub count: u64,
    /// When the last one came.
    pub last_at: Option<Timestamp>,
}

/// Which deliveries to list. Empty fields match everything.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Of this event.
    pub event: Option<EventId>,
    /// To this destination.
    pub destination: Option<DestinationId>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Made by this replay.
    pub replay: Option<ReplayId>,
}

/// Which dead letters to list or to replay. Empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only this one.
    pub id: Option<DeliveryId>,
    /// Of events that this source accepted.
    pub source: Option<SourceId>,
    /// To this destination.
    pub destination: Option<DestinationId>,
    /// Of this event.
    pub event: Option<EventId>,
    /// Of events of this type.
    pub event_type: Option<String>,
    /// Given up for this reason, as a code.
    pub reason: Option<String>,
    /// Whose last attempt ended so.
    pub last: Option<EndingFilter>,
    /// Of events received at or after.
    pub since: Option<Timestamp>,
    /// Of events received before.
    pub until: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Whether at most a few can match, found by an id.
    pub fn names_one(&self) -> bool {
        self.id.is_some() || self.event.is_some()
    }
}

/// How a last attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndingFilter {
    /// With a status from the first to the last of these.
    Status(u16, u16),
    /// Exactly so.
    Is(Ending),
}

impl EndingFilter {
    /// Whether an attempt that ended so is meant.
    pub fn takes(self, ending: Ending) -> bool {
        match (self, ending) {
            (Self::Status(from, to), Ending::Answered(status)) => (from..=to).contains(&status),
            (Self::Status(..), _) => false,
            (Self::Is(wanted), ending) => wanted == ending,
        }
    }
}

/// A delivery that policy gave up and that was not replayed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The delivery; `updated_at` is when it died.
    pub delivery: DeliverySummary,
    /// The source that accepted the event.
    pub source: SourceId,
    /// The event's type, where known.
    pub event_type: Option<String>,
    /// How its last attempt ended, if there was one.
    pub last: Option<Ending>,
}

/// What a replay takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayable {
    /// Events.
    Events(EventFilter),
    /// Dead letters.
    DeadLetters(DeadLetterFilter),
}

/// A part of a list that goes from the oldest to the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// After this place; from the oldest if none.
    pub after: Option<Cursor>,
    /// Up to this place: see [`Queries::newest`].
    pub upto: Cursor,
}

/// Something that a replay takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The event.
    pub event: EventId,
    /// The source that accepted it.
    pub source: SourceId,
    /// The dead letter that matched, and where it was to go.
    pub dead: Option<(DeliveryId, DestinationId)>,
    /// Where the event went, and where those deliveries stand.
    pub deliveries: Vec<(DestinationId, DeliveryState)>,
}

/// A delivery in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySummary {
    /// Its name.
    pub id: DeliveryId,
    /// What is delivered.
    pub event: EventId,
    /// Where to.
    pub destination: DestinationId,
    /// Where it stands.
    pub state: DeliveryState,
    /// How many attempts have ended.
    pub attempts: u32,
    /// When the event was received.
    pub received_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The earliest next attempt, if one is owed.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it is dead or ended, as a code.
    pub reason: Option<String>,
    /// What asked for it, if it is a replay.
    pub replay: Option<ReplayId>,
    /// The later replay to the same destination that took its place.
    pub superseded_by: Option<DeliveryId>,
}

/// An attempt in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Its name.
    pub id: AttemptId,
    /// Its number, from 1.
    pub number: u32,
    /// Who made it.
    pub agent: Option<AgentId>,
    /// When its outcome reached the relay.
    pub ended_at: Timestamp,
    /// How long the service took, in milliseconds.
    pub elapsed_ms: u64,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// How much waits at a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Deliveries that are owed an attempt.
    pub open: u64,
    /// Deliveries that policy gave up, without those that were replayed since.
    pub dead: u64,
    /// When the oldest open delivery's event was received.
    pub oldest_open: Option<Timestamp>,
}

/// What people look at.
#[async_trait]
pub trait Queries: fmt::Debug + Send + Sync + 'static {
    /// Events, newest first. `limit` is 1 to 250.
    async fn events(
        &self,
        tenant: TenantId,
        filter: &EventFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<EventSummary>, StoreError>;

    /// One event, whole. `Corrupt` if its stored bytes are damaged.
    async fn event(&self, tenant: TenantId, id: EventId)
    -> Result<Option<EventDetail>, StoreError>;

    /// Deliveries, newest first. `limit` is 1 to 250.
    async fn deliveries(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeliverySummary>, StoreError>;

    /// The attempts of a delivery, first to last. `None` if the tenant has no such delivery.
    async fn attempts(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Vec<AttemptRecord>>, StoreError>;

    /// Dead letters, newest first. `limit` is 1 to 250.
    async fn dead_letters(
        &self,
        tenant: TenantId,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeadLetter>, StoreError>;

    /// What a replay may take, oldest first. `limit` is 1 to 250.
    async fn select(
        &self,
        tenant: TenantId,
        selection: &Replayable,
        span: &Span,
        limit: u32,
    ) -> Result<Page<Match>, StoreError>;

    /// The place in the lists of [`Self::select`] before which everything is that is durable now.
    async fn newest(&self) -> Result<Cursor, StoreError>;

    /// How many deliveries of a replay are in a state.
    async fn replayed(
        &self,
        tenant: TenantId,
        replay: ReplayId,
        state: DeliveryState,
    ) -> Result<u64, StoreError>;

    /// What an open delivery waits for, as far as the store decides it. `None` if the tenant has no
    /// such open delivery.
    async fn waiting(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Waiting>, StoreError>;

    /// How much waits at a destination.
    async fn depth(
        &self,
        tenant: TenantId,
        destination: DestinationId,
    ) -> Result<Depth, StoreError>;
}
