//! Accepting events, and recognising repeats.

use std::sync::Arc;

use protocol::id::EventId;

use super::{
    core::{Core, Does, closed, hear},
    dedupe::{Looked, Reservation},
    journal::{
        Position, ReadError,
        payload::{Accept, Requeue},
        record::Kind,
    },
    projection::queries,
};
use crate::{
    clock::Timestamp,
    lifecycle::DeliveryState,
    store::{Appended, NewEvent, StoreError},
};

/// What a provider's id leads to.
enum Recognised {
    New(Option<Reservation>),
    Repeat { first: EventId, seq: u64 },
}

impl Core {
    pub(super) async fn append(self: &Arc<Self>, new: NewEvent) -> Result<Appended, StoreError> {
        self.admit().await?;
        let reservation = match self.recognise(&new).await? {
            Recognised::New(reservation) => reservation,
            Recognised::Repeat { first, seq } => {
                let reopened = self.reopen_dead(seq).await?;
                return Ok(Appended::Duplicate { first, reopened });
            }
        };
        let remembered_until = match reservation {
            Some(_) => self.clock.now().after(new.dedupe_window),
            None => Timestamp(0),
        };
        let accept = Accept {
            event: new.event,
            remembered_until,
            deliveries: new.deliveries,
        };
        let tenant = accept.event.tenant;
        let numbers = accept.numbers();
        let payload = accept.encode();
        // From here on the event's bytes are those of the payload: nothing of the request is kept.
        let Some(accept) = Accept::decode(&payload) else {
            return Err(StoreError::Unavailable(
                "an event could not be encoded".to_owned(),
            ));
        };
        let does = Does::Accept {
            event: Arc::new(accept.event),
            remembered_until,
            deliveries: accept.deliveries,
            reservation,
        };
        let answers = self.submit(vec![(Kind::Accept, tenant, payload, numbers, does)])?;
        for answer in answers {
            hear(answer).await?;
        }
        Ok(Appended::New)
    }

    /// Whether the provider's id was accepted before. Waits for one that is being accepted.
    async fn recognise(self: &Arc<Self>, new: &NewEvent) -> Result<Recognised, StoreError> {
        let event = &new.event;
        let Some(provider_id) = event.provider_id.as_deref() else {
            return Ok(Recognised::New(None));
        };
        let mut not = None;
        loop {
            let now = self.clock.now();
            let looked = self
                .dedupe
                .look(event.tenant, event.source, provider_id, now, not);
            match looked {
                Looked::Free(reservation) => return Ok(Recognised::New(Some(reservation))),
                Looked::InFlight(mut fate) => {
                    let fate = fate.wait_for(Option::is_some).await;
                    match fate.as_deref() {
                        Ok(Some(Err(error))) => return Err(error.clone()),
                        Ok(_) => {}
                        Err(_) => return Err(closed()),
                    }
                }
                Looked::Found(position) => {
                    let same = |found: &Accept| {
                        found.event.tenant == event.tenant
                            && found.event.source == event.source
                            && found.event.provider_id.as_deref() == Some(provider_id)
                    };
                    match self.read_accept(position).await? {
                        Some((seq, found)) if same(&found) => {
                            let first = found.event.id;
                            return Ok(Recognised::Repeat { first, seq });
                        }
                        // Another id, or one whose event is damaged: the repeat heals it.
                        _ => not = Some(position),
                    }
                }
            }
        }
    }

    /// The event at a position with its sequence; `None` if it is damaged.
    async fn read_accept(
        self: &Arc<Self>,
        position: Position,
    ) -> Result<Option<(u64, Accept)>, StoreError> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(position)).await;
        match read {
            Ok(Ok((header, payload))) => {
                Ok(Accept::decode(&payload).map(|accept| (header.seq, accept)))
            }
            Ok(Err(ReadError::Damaged(_))) => Ok(None),
            Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
            Err(_) => Err(closed()),
        }
    }

    /// Owes the dead deliveries of an event again.
    async fn reopen_dead(self: &Arc<Self>, event_seq: u64) -> Result<u32, StoreError> {
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

    async fn dead_of(
        self: &Arc<Self>,
        event_seq: u64,
    ) -> Result<Vec<super::desk::Owed>, StoreError> {
        let rows = self
            .projection
            .read(move |connection| queries::owed_of_events(connection, event_seq, event_seq + 1))
            .await?;
        Ok(rows
            .into_iter()
            .filter(|(state, _)| *state == DeliveryState::Dead)
            .map(|(_, owed)| owed)
            .collect())
    }

    /// Owes a dead delivery again. Its attempts go on counting: agents tell them apart by number.
    pub(super) async fn reopen(
        self: &Arc<Self>,
        mut owed: super::desk::Owed,
        event_seq: u64,
    ) -> Result<(), StoreError> {
        owed.first_attempt_at = None;
        owed.due = Timestamp(0);
        let requeue = Requeue {
            key: owed.delivery.key,
            id: owed.delivery.id,
            seq: owed.delivery.seq,
            event: owed.event,
            event_seq,
        };
        let does = Does::Reopen {
            requeue,
            owed: Box::new(owed),
        };
        self.write(Kind::Reopen, requeue.key.tenant, requeue.encode(), does)
            .await?;
        Ok(())
    }
}
