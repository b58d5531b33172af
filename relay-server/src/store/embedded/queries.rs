//! What people look at: the projection, once it has applied what was durable when they asked.

use async_trait::async_trait;
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, TenantId};

use super::{
    Embedded,
    journal::payload::Accept,
    projection::{queries, replays, waiting},
};
use crate::{
    lifecycle::{DeliveryState, Waiting},
    store::{
        AttemptRecord, Cursor, DeadLetter, DeadLetterFilter, DeliveryFilter, DeliverySummary,
        Depth, DestinationKey, EventDetail, EventFilter, EventSummary, Match, Page, Queries,
        Replayable, Span, StoreError,
    },
};

#[async_trait]
impl Queries for Embedded {
    async fn events(
        &self,
        tenant: TenantId,
        filter: &EventFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<EventSummary>, StoreError> {
        self.fresh().await?;
        let filter = filter.clone();
        self.core
            .projection
            .read(move |connection| {
                queries::events(connection, tenant, &filter, after.as_ref(), limit)
            })
            .await
    }

    async fn event(
        &self,
        tenant: TenantId,
        id: EventId,
    ) -> Result<Option<EventDetail>, StoreError> {
        self.fresh().await?;
        let found = self
            .core
            .projection
            .read(move |connection| queries::event(connection, tenant, id))
            .await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let (reader, position) = (self.core.reader.clone(), found.position);
        let read = tokio::task::spawn_blocking(move || reader.read(position)).await;
        let corrupt = |cause: &dyn std::fmt::Display| StoreError::Corrupt(format!("{id}: {cause}"));
        let (_, payload) = match read {
            Ok(read) => read.map_err(|cause| corrupt(&cause))?,
            Err(_) => return Err(super::core::closed()),
        };
        match Accept::decode(&payload) {
            Some(accept) if accept.event.id == id => Ok(Some(EventDetail {
                event: accept.event,
                deliveries: found.deliveries,
                decisions: accept.decisions,
                remembered_until: Some(accept.remembered_until).filter(|until| until.0 > 0),
                repeats: found.repeats,
            })),
            _ => Err(corrupt(&"its record holds something else")),
        }
    }

    async fn deliveries(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeliverySummary>, StoreError> {
        self.fresh().await?;
        let filter = filter.clone();
        self.core
            .projection
            .read(move |connection| {
                queries::deliveries(connection, tenant, &filter, after.as_ref(), limit)
            })
            .await
    }

    async fn attempts(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Vec<AttemptRecord>>, StoreError> {
        self.fresh().await?;
        self.core
            .projection
            .read(move |connection| queries::attempts(connection, tenant, delivery))
            .await
    }

    async fn dead_letters(
        &self,
        tenant: TenantId,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<DeadLetter>, StoreError> {
        self.fresh().await?;
        let filter = filter.clone();
        self.core
            .projection
            .read(move |connection| {
                replays::dead_letters(connection, tenant, &filter, after.as_ref(), limit)
            })
            .await
    }

    async fn select(
        &self,
        tenant: TenantId,
        selection: &Replayable,
        span: &Span,
        limit: u32,
    ) -> Result<Page<Match>, StoreError> {
        self.fresh().await?;
        let (selection, span) = (selection.clone(), span.clone());
        self.core
            .projection
            .read(move |connection| replays::select(connection, tenant, &selection, &span, limit))
            .await
    }

    async fn newest(&self) -> Result<Cursor, StoreError> {
        self.fresh().await?;
        self.core.projection.read(replays::newest).await
    }

    async fn replayed(
        &self,
        tenant: TenantId,
        replay: ReplayId,
        state: DeliveryState,
    ) -> Result<u64, StoreError> {
        self.fresh().await?;
        self.core
            .projection
            .read(move |connection| replays::replayed(connection, tenant, replay, state))
            .await
    }

    async fn waiting(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<Waiting>, StoreError> {
        self.fresh().await?;
        let leased = self.core.desks().lease_of(tenant, delivery);
        if let Some((lease, until)) = leased {
            return Ok(Some(Waiting::Leased {
                attempt: lease.attempt,
                since: lease.leased_at,
                until,
            }));
        }
        let now = self.core.clock.now();
        let ask = move |connection: &_| waiting::waiting(connection, tenant, delivery, now);
        self.core.projection.read(ask).await
    }

    async fn depth(
        &self,
        tenant: TenantId,
        destination: DestinationId,
    ) -> Result<Depth, StoreError> {
        self.fresh().await?;
        let key = DestinationKey {
            tenant,
            destination,
        };
        self.core
            .projection
            .read(move |connection| queries::depth(connection, key))
            .await
    }
}

impl Embedded {
    async fn fresh(&self) -> Result<(), StoreError> {
        self.core.check_open()?;
        self.core.caught_up().await
    }
}
