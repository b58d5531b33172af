//! Erasing events: by id, by what they hold, or all of a tenant.
//!
//! 1. A record says what is erased and by whose wish: from then on it happens, crash or not.
//! 2. What is still owed ends, and nothing more is written about these events.
//! 3. Lists show them without content.
//! 4. The journal is read through. Records with content are first noted with what stays of them, then
//!    overwritten, then synced, file by file.
//! 5. A record says that it is done.
//!
//! A start finds those without the last record and does 2 to 5 again; what was noted and perhaps half
//! overwritten comes first.

use std::{collections::HashSet, sync::Arc};

use protocol::id::{DeliveryId, EventId, TenantId};
use tracing::{info, warn};

use super::super::{
    core::{Answer, Core, Does, closed, hear},
    journal::{
        erasing::{Begun, Erasing, Spot},
        payload::{Accept, Park, Requeue, Settle},
        record::Kind,
        recovery,
        segment::{self, Found, Segment},
    },
    projection::chores::{self, Chore},
};
use crate::{
    lifecycle::EndReason,
    store::{Erased, Erasure, Selection, StoreError},
};

/// Events of one erasure; more are for the next.
const EVENTS_MAX: usize = 500_000;

/// Records noted and overwritten at once.
const SPOTS: usize = 512;

/// Rows changed at once.
const ROWS: usize = 512;

impl Core {
    /// Erases events for good. Durable, and complete, when it returns.
    pub(super) async fn erase(self: &Arc<Self>, erasure: Erasure) -> Result<Erased, StoreError> {
        self.check_writable()?;
        let _turn = self.ledger.turn.lock().await;
        self.caught_up().await?;
        let (events, more) = self.select(erasure.tenant, &erasure.selection).await?;
        let all = matches!(erasure.selection, Selection::All);
        if events.is_empty() && !all {
            return Ok(Erased::default());
        }
        let begun = Begun {
            tenant: erasure.tenant,
            by: erasure.by,
            what: erasure.what,
            all,
            events,
        };
        let seq = self
            .note(begun.tenant, Erasing::Begun(begun.clone()))
            .await?;
        let events = self.carry_out(seq, &begun).await?;
        Ok(Erased {
            number: Some(seq),
            events,
            more,
        })
    }

    /// Finishes what a crash cut off.
    pub(super) async fn finish_erasures(self: &Arc<Self>) -> Result<(), StoreError> {
        let _turn = self.ledger.turn.lock().await;
        self.caught_up().await?;
        let unfinished = self.projection.read(chores::unfinished_erasures).await?;
        for (seq, begun) in unfinished {
            let Some(begun) = begun else { continue };
            warn!(number = seq, "an erasure was cut off and goes on");
            self.repeat_spots(seq).await?;
            self.carry_out(seq, &begun).await?;
        }
        Ok(())
    }

    async fn carry_out(self: &Arc<Self>, seq: u64, begun: &Begun) -> Result<u64, StoreError> {
        self.caught_up().await?;
        let events = self.listed(seq, begun).await?;
        for tail in events.chunks(ROWS) {
            self.end_all(begun.tenant, tail).await?;
        }
        // What was on its way about them is written before this is.
        let spots = Vec::new();
        self.note(begun.tenant, Erasing::Spots { of: seq, spots })
            .await?;
        for rows in events.chunks(ROWS) {
            self.projection
                .have_done(Chore::Blank(rows.to_vec()))
                .await?;
        }
        let mut erased = Erasee::new(seq, begun);
        for segment in self.segments().await? {
            self.overwrite(segment, &mut erased).await?;
        }
        self.note(begun.tenant, Erasing::Done { of: seq }).await?;
        info!(number = seq, events = erased.count, "events are erased");
        Ok(erased.count)
    }

    /// Writes an entry and tells its sequence.
    async fn note(self: &Arc<Self>, tenant: TenantId, entry: Erasing) -> Result<u64, StoreError> {
        let does = Does::Erase(entry.clone());
        let payload = entry.encode();
        let mut answers = self.submit(vec![(Kind::Erase, tenant, payload, 1, does)])?;
        match answers.pop() {
            Some(answer) => match hear(answer).await? {
                Answer::Noted(seq) => Ok(seq),
                _ => Ok(0),
            },
            None => Ok(0),
        }
    }

    /// The sequences of the events that are meant, and whether there are more.
    async fn select(
        self: &Arc<Self>,
        tenant: TenantId,
        selection: &Selection,
    ) -> Result<(Vec<u64>, bool), StoreError> {
        let matches = match selection {
            Selection::All => return Ok((Vec::new(), false)),
            Selection::Event(id) => {
                let id: EventId = *id;
                let found = self
                    .projection
                    .read(move |connection| chores::event_seq(connection, tenant, id))
                    .await?;
                return Ok((found.into_iter().collect(), false));
            }
            Selection::Matching(matches) => matches.clone(),
        };
        // Not by the lists: what retention let go may still be in the journal.
        let mut events = Vec::new();
        for segment in self.segments().await? {
            for found in self.read_segment(&segment).await? {
                let accept = match found.header.kind {
                    Kind::Accept => Accept::decode(&found.payload),
                    _ => None,
                };
                let is_meant = |accept: &Accept| {
                    let event = &accept.event;
                    event.tenant == tenant && !event.is_erased() && matches(event)
                };
                if accept.is_some_and(|accept| is_meant(&accept)) {
                    events.push(found.header.seq);
                }
                if events.len() == EVENTS_MAX {
                    return Ok((events, true));
                }
            }
        }
        events.dedup();
        Ok((events, false))
    }

    /// The events in the lists.
    async fn listed(self: &Arc<Self>, seq: u64, begun: &Begun) -> Result<Vec<u64>, StoreError> {
        if !begun.all {
            return Ok(begun.events.clone());
        }
        let tenant = begun.tenant;
        self.projection
            .read(move |connection| chores::events_of(connection, tenant, seq))
            .await
    }

    async fn end_all(self: &Arc<Self>, tenant: TenantId, events: &[u64]) -> Result<(), StoreError> {
        let asked = events.to_vec();
        let open: Vec<DeliveryId> = self
            .projection
            .read(move |connection| {
                let mut open = Vec::new();
                for seq in asked {
                    open.extend(chores::open_of(connection, seq)?);
                }
                Ok(open)
            })
            .await?;
        for delivery in open {
            self.end(tenant, delivery, EndReason::Cancelled).await?;
        }
        Ok(())
    }

    async fn segments(self: &Arc<Self>) -> Result<Vec<Segment>, StoreError> {
        let fs = self.space.fs();
        let segments = tokio::task::spawn_blocking(move || recovery::in_use(&*fs));
        Ok(segments.await.map_err(|_| closed())??)
    }

    async fn read_segment(self: &Arc<Self>, segment: &Segment) -> Result<Vec<Found>, StoreError> {
        let segment = segment.clone();
        let read = tokio::task::spawn_blocking(move || {
            let data = segment.read_all();
            data.map(|data| segment::scan(&data, segment.uid).found)
        });
        let read = read.await.map_err(|_| closed())?;
        read.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn overwrite(
        self: &Arc<Self>,
        segment: Segment,
        erased: &mut Erasee<'_>,
    ) -> Result<(), StoreError> {
        let found = self.read_segment(&segment).await?;
        let mut spots = Vec::new();
        for found in &found {
            if erased.means(found) {
                spots.extend(Spot::of(segment.number, found));
            }
        }
        for spots in spots.chunks(SPOTS) {
            let entry = Erasing::Spots {
                of: erased.seq,
                spots: spots.to_vec(),
            };
            self.note(erased.begun.tenant, entry).await?;
            write_over(segment.clone(), spots.to_vec()).await?;
        }
        Ok(())
    }

    /// Overwrites once more what was noted.
    async fn repeat_spots(self: &Arc<Self>, erasure: u64) -> Result<(), StoreError> {
        let segments = self.segments().await?;
        for segment in &segments {
            for found in self.read_segment(segment).await? {
                if found.header.kind != Kind::Erase {
                    continue;
                }
                let Some(Erasing::Spots { of, spots }) = Erasing::decode(&found.payload) else {
                    continue;
                };
                let number = spots.first().map(|spot| spot.segment);
                let target = segments.iter().find(|it| Some(it.number) == number);
                if let Some(target) = target.filter(|_| of == erasure) {
                    write_over(target.clone(), spots).await?;
                }
            }
        }
        Ok(())
    }
}

async fn write_over(segment: Segment, spots: Vec<Spot>) -> Result<(), StoreError> {
    let written = tokio::task::spawn_blocking(move || {
        for spot in &spots {
            spot.overwrite(segment.uid, &*segment.file)?;
        }
        segment.file.sync()
    });
    let written = written.await.map_err(|_| closed())?;
    written.map_err(|error| StoreError::Indeterminate(format!("an erasure: {error}")))
}

/// Which records are about what is erased, as the journal is read through.
struct Erasee<'a> {
    seq: u64,
    begun: &'a Begun,
    events: HashSet<u64>,
    deliveries: HashSet<u64>,
    count: u64,
}

impl<'a> Erasee<'a> {
    fn new(seq: u64, begun: &'a Begun) -> Self {
        Self {
            seq,
            begun,
            events: begun.events.iter().copied().collect(),
            deliveries: HashSet::new(),
            count: 0,
        }
    }

    /// Whether it is the tenant's and older than the wish to erase all of it.
    fn is_own(&self, tenant: TenantId, seq: u64) -> bool {
        self.begun.all && tenant == self.begun.tenant && seq < self.seq
    }

    fn means(&mut self, found: &Found) -> bool {
        let seq = found.header.seq;
        match found.header.kind {
            Kind::Accept => {
                let accept = Accept::decode(&found.payload).filter(|accept| {
                    self.events.contains(&seq) || self.is_own(accept.event.tenant, seq)
                });
                if let Some(accept) = &accept {
                    self.count += 1;
                    self.deliveries.extend(seq..seq + accept.numbers());
                }
                accept.is_some()
            }
            Kind::Deliver => {
                let requeue = Requeue::decode(&found.payload).filter(|requeue| {
                    self.events.contains(&requeue.event_seq) || self.is_own(requeue.key.tenant, seq)
                });
                if requeue.is_some() {
                    self.deliveries.insert(seq);
                }
                requeue.is_some()
            }
            Kind::Settle => Settle::decode(&found.payload).is_some_and(|settle| {
                let delivery = settle.delivery;
                self.deliveries.contains(&delivery.seq)
                    || self.is_own(delivery.key.tenant, delivery.seq)
            }),
            Kind::Park => {
                Park::decode(&found.payload).is_some_and(|park| self.is_own(park.key.tenant, seq))
            }
            _ => false,
        }
    }
}
