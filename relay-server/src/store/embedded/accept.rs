//! Accepting events, and recognising repeats.

use std::sync::Arc;

use protocol::id::{EventId, TenantId};
use tracing::debug;

use super::{
    core::{Core, Does, closed, hear},
    dedupe::{Looked, Reservation},
    journal::{
        Position, ReadError,
        erasing::erased_id,
        payload::{Accept, Repeat},
        record::Kind,
    },
};
use crate::{
    clock::Timestamp,
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
                self.note_repeat(new.event.tenant, seq).await;
                return Ok(Appended::Duplicate { first, reopened });
            }
        };
        let remembered_until = match reservation {
            Some(_) => self.clock.now().after(new.dedupe_window),
            None => Timestamp(0),
        };
        let waited_for = new.waited_for;
        let accept = Accept {
            event: new.event,
            remembered_until,
            deliveries: new.deliveries,
            decisions: new.decisions,
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
            waited_for,
            reservation,
        };
        let answers = self.submit(vec![(Kind::Accept, tenant, payload, numbers, does)])?;
        for answer in answers {
            hear(answer).await?;
        }
        Ok(Appended::New)
    }

    /// Counts a repeat. It is answered like the first whether or not that works.
    async fn note_repeat(self: &Arc<Self>, tenant: TenantId, event_seq: u64) {
        let repeat = Repeat { event_seq };
        let does = Does::Repeat(repeat);
        let noted = self.write(Kind::Repeat, tenant, repeat.encode(), does);
        if let Err(error) = noted.await {
            debug!(%error, "a repeat could not be counted");
        }
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
                            && found.event.provider_id.as_deref().is_some_and(|known| {
                                known == provider_id
                                    || (found.event.is_erased() && known == erased_id(provider_id))
                            })
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
}
