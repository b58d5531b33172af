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
    lifecycle::{AttemptOutcome, DeliveryState, Event, RouteDecision, Waiting},
};

/// Where a page starts; opaque to everyone but the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// One page of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page starts, if there is one.
    pub next: Option<Cursor>,
}

/// Which events to list. Empty fields match everything.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
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
