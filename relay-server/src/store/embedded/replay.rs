//! Owing stored events again: replays, and what a provider's repeat reopens.

use std::{collections::HashMap, sync::Arc};

use protocol::id::{DeliveryId, DestinationId, EventId};

use super::{
    core::{Answer, Core, Does, hear},
    desk::Owed,
    journal::{
        payload::{DeliveryRef, Requeue},
        record::Kind,
    },
    projection::queries::{self, Known, Standing},
};
use crate::{
    clock::Timestamp,
    lifecycle::{DeliveryState, Spent},
    store::{DestinationKey, Replay, Replayed, StoreError},
};

impl Core {
    pub(super) async fn replay(
        self: &Arc<Self>,
        replays: &[Replay],
    ) -> Result<Vec<Replayed>, StoreError> {
        self.check_writable()?;
        // One at a time: what is decided by looking at earlier deliveries stays true until written.
        let _turn = self.requeues.lock().await;
        self.caught_up().await?;
        let wanted: Vec<_> = replays.iter().map(|new| (new.tenant, new.event)).collect();
        let events = self
            .projection
            .read(move |connection| {
                let known = |(tenant, event)| queries::known(connection, tenant, event);
                wanted.into_iter().map(known).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let (replayed, records) = decide(replays, &events);
        for answer in self.submit(records)? {
            hear(answer).await?;
        }
        Ok(replayed)
    }

    /// Owes the dead deliveries of an event again.
    pub(super) async fn reopen_dead(self: &Arc<Self>, event_seq: u64) -> Result<u32, StoreError> {
        self.caught_up().await?;
        if self.dead_of(event_seq).await?.is_empty() {
            return Ok(0);
        }
        let _turn = self.requeues.lock().await;
        self.caught_up().await?;
        let mut reopened = 0;
        for owed in self.dead_of(event_seq).await? {
            self.reopen(owed, event_seq).await?;
            reopened += 1;
        }
        Ok(reopened)
    }

    /// What was given up and not replayed since.
    async fn dead_of(self: &Arc<Self>, event_seq: u64) -> Result<Vec<Owed>, StoreError> {
        let rows = self
            .projection
            .read(move |connection| queries::owed_of_events(connection, event_seq, event_seq + 1))
            .await?;
        let is_dead = |row: &Standing| row.state == DeliveryState::Dead && !row.superseded;
        let dead = rows.into_iter().filter(is_dead);
        Ok(dead.map(|row| row.owed).collect())
    }

    /// Owes a dead delivery again. Its attempts go on counting: agents tell them apart by number.
    async fn reopen(
        self: &Arc<Self>,
        mut owed: Owed,
        event_seq: u64,
    ) -> Result<Answer, StoreError> {
        owed.spent = Spent::default();
        owed.due = Timestamp(0);
        let requeue = Requeue {
            key: owed.delivery.key,
            id: owed.delivery.id,
            seq: owed.delivery.seq,
            event: owed.event,
            event_seq,
            replay: None,
            order: None,
        };
        let (tenant, payload) = (requeue.key.tenant, requeue.encode());
        let does = Does::Reopen {
            requeue,
            owed: Box::new(owed),
        };
        self.write(Kind::Reopen, tenant, payload, does).await
    }
}

type Records = Vec<(Kind, protocol::id::TenantId, bytes::Bytes, u64, Does)>;

/// What becomes of each replay, and the records of those that make a delivery.
fn decide(replays: &[Replay], events: &[Option<Known>]) -> (Vec<Replayed>, Records) {
    let mut records = Vec::new();
    // What this call itself makes.
    let mut made: HashMap<(EventId, DestinationId), &Replay> = HashMap::new();
    let decided = replays.iter().zip(events).map(|(new, known)| {
        let Some(known) = known else {
            return Replayed::Unknown;
        };
        let place = (new.event, new.delivery.destination);
        if let Some(first) = made.get(&place) {
            return already(first.replay == new.replay, first.delivery.id);
        }
        let earlier = || {
            let rows = known.deliveries.iter();
            rows.filter(|row| row.owed.delivery.key.destination == place.1)
        };
        let repeated = earlier().find(|row| row.owed.replay == Some(new.replay));
        let open = || earlier().find(|row| row.state.is_open());
        if let Some(row) = repeated.or_else(open) {
            return already(repeated.is_some(), row.owed.delivery.id);
        }
        made.insert(place, new);
        records.push(record(new, known));
        Replayed::Owed
    });
    let decided = decided.collect();
    (decided, records)
}

fn already(by_the_same: bool, delivery: DeliveryId) -> Replayed {
    if by_the_same {
        Replayed::Repeated(delivery)
    } else {
        Replayed::StillOwed(delivery)
    }
}

fn record(new: &Replay, known: &Known) -> (Kind, protocol::id::TenantId, bytes::Bytes, u64, Does) {
    let key = DestinationKey {
        tenant: new.tenant,
        destination: new.delivery.destination,
    };
    let requeue = Requeue {
        key,
        id: new.delivery.id,
        seq: 0,
        event: new.event,
        event_seq: known.seq,
        replay: Some(new.replay),
        order: new.delivery.order.clone(),
    };
    let owed = Owed {
        delivery: DeliveryRef {
            key,
            id: new.delivery.id,
            seq: 0,
            place: 0,
            queue: requeue.queue(),
        },
        event: new.event,
        position: known.position,
        body_bytes: known.body_bytes,
        attempts: 0,
        spent: Spent::default(),
        due: Timestamp(0),
        replay: Some(new.replay),
        order: new.delivery.order.as_ref().map(|order| order.digest),
        since: Timestamp(0),
        waited_until: Timestamp(0),
    };
    let payload = requeue.encode();
    let does = Does::Deliver {
        requeue,
        owed: Box::new(owed),
    };
    (Kind::Deliver, new.tenant, payload, 1, does)
}
