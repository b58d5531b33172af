//! Handing deliveries out: from memory, and from the journal when memory holds only their place.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tracing::error;

use super::{
    core::{Core, closed},
    desk::{LoadPlan, Picked},
    journal::{ReadError, payload::Accept, record::Header},
    projection::queries,
};
use crate::{
    clock::Timestamp,
    lifecycle::{EndReason, Event},
    store::{Adopted, Held, Lease, StoreError, Want},
};

/// The longest a claim waits for a backlog to be read before it comes back empty.
const LOAD_PATIENCE: Duration = Duration::from_secs(2);

impl Core {
    pub(super) async fn claim(self: &Arc<Self>, wants: &[Want]) -> Result<Vec<Lease>, StoreError> {
        self.check_open()?;
        let deadline = tokio::time::Instant::now() + LOAD_PATIENCE;
        let picked = loop {
            // Registered before looking: a load that ends in between is not missed.
            let loaded = self.loaded.notified();
            let (picked, loads, loading) = self.pick(wants);
            for plan in loads {
                self.start_load(plan);
            }
            if !picked.is_empty() || !loading {
                break picked;
            }
            // Nothing to hand out but a backlog that is being read.
            if tokio::time::timeout_at(deadline, loaded).await.is_err() {
                break picked;
            }
        };
        self.leases(picked).await
    }

    fn pick(&self, wants: &[Want]) -> (Vec<Picked>, Vec<LoadPlan>, bool) {
        let now = self.clock.now();
        let mut picked = Vec::new();
        let mut desks = self.desks();
        desks.promote(now);
        for want in wants {
            desks.claim(want, now, &mut picked);
        }
        let loads = wants
            .iter()
            .filter_map(|want| desks.begin_load(want.key, now))
            .collect();
        let loading = wants.iter().any(|want| desks.is_loading(want.key));
        (picked, loads, loading)
    }

    /// Reads rows for a desk in the background.
    fn start_load(self: &Arc<Self>, plan: LoadPlan) {
        let core = self.clone();
        let plan = Arc::new(plan);
        // Bounded: one per desk at a time, and each ends within the projection's patience.
        tokio::spawn(async move {
            let loaded = match core.projection.caught_up(plan.durable).await {
                Ok(()) => {
                    let asked = plan.clone();
                    core.projection
                        .read(move |connection| queries::load(connection, &asked))
                        .await
                }
                Err(error) => Err(error),
            };
            let now = core.clock.now();
            match loaded {
                Ok(loaded) => core.desks().finish_load(&plan, loaded, now),
                Err(error) => {
                    error!(%error, "could not read a backlog; it is tried again");
                    core.desks().cancel_load(&plan);
                }
            }
            core.due.mark([plan.key]);
            core.loaded.notify_waiters();
        });
    }

    /// Puts events to what was picked; what is damaged is quarantined.
    async fn leases(self: &Arc<Self>, picked: Vec<Picked>) -> Result<Vec<Lease>, StoreError> {
        let positions: Vec<_> = picked
            .iter()
            .filter(|picked| picked.event.is_none())
            .map(|picked| picked.owed.position)
            .collect();
        let mut read = if positions.is_empty() {
            Vec::new()
        } else {
            let reader = self.reader.clone();
            let read = tokio::task::spawn_blocking(move || {
                positions
                    .into_iter()
                    .map(|position| reader.read(position))
                    .collect::<Vec<_>>()
            });
            read.await.map_err(|_| closed())?
        }
        .into_iter();
        let mut leases = Vec::with_capacity(picked.len());
        for picked in picked {
            let event = match &picked.event {
                Some(event) => Some(event.clone()),
                None => match read.next() {
                    Some(read) => self.checked(&picked, read).await?,
                    None => None,
                },
            };
            leases.extend(event.map(|event| Lease {
                info: picked.info,
                event,
            }));
        }
        Ok(leases)
    }

    /// The event as it was read; `None` after it was quarantined or given back.
    async fn checked(
        self: &Arc<Self>,
        picked: &Picked,
        read: Result<(Header, Bytes), ReadError>,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let delivery = picked.owed.delivery;
        let cause = match read {
            Ok((_, payload)) => match Accept::decode(&payload) {
                Some(accept) if accept.event.is_erased() => {
                    // Owed again since: there is nothing left to deliver.
                    self.write_end(delivery, EndReason::Cancelled).await?;
                    return Ok(None);
                }
                Some(accept) if accept.event.id == picked.owed.event => {
                    return Ok(Some(Arc::new(accept.event)));
                }
                _ => "its record holds something else".to_owned(),
            },
            Err(ReadError::Io(cause)) => {
                // The disk may recover; the lease runs out and the attempt is made again.
                error!(delivery = %delivery.id, %cause, "a stored event cannot be read");
                return Ok(None);
            }
            Err(damaged) => damaged.to_string(),
        };
        error!(delivery = %delivery.id, event = %picked.owed.event, cause,
            "a stored event is damaged and is not delivered; have the provider send it again");
        self.write_end(delivery, EndReason::Quarantined).await?;
        Ok(None)
    }

    pub(super) async fn adopt(
        self: &Arc<Self>,
        leases: &[Held],
        ttl: Duration,
    ) -> Result<Vec<Adopted>, StoreError> {
        self.check_open()?;
        let now = self.clock.now();
        let _lookup = self.lookup();
        let mut adopted = self.adopt_listed(leases, now, ttl);
        let missing: HashSet<usize> = adopted
            .iter()
            .enumerate()
            .filter(|(_, adopted)| adopted.is_none())
            .map(|(at, _)| at)
            .collect();
        for &at in &missing {
            let held = &leases[at];
            let (tenant, delivery) = (held.tenant, held.delivery);
            self.caught_up().await?;
            let found = self
                .projection
                .read(move |connection| {
                    let Some((state, owed)) = queries::delivery(connection, tenant, delivery)?
                    else {
                        return Ok(None);
                    };
                    let is_first = queries::is_first(connection, &owed)?;
                    Ok(Some((owed, is_first)).filter(|_| state.is_open()))
                })
                .await?;
            if let Some((owed, is_first)) = found {
                let mut desks = self.desks();
                adopted[at] = Some(desks.adopt_found(owed, is_first, held, now, ttl));
            }
        }
        let lost = |adopted: Option<Adopted>| adopted.unwrap_or(Adopted::Lost);
        Ok(adopted.into_iter().map(lost).collect())
    }

    fn adopt_listed(&self, leases: &[Held], now: Timestamp, ttl: Duration) -> Vec<Option<Adopted>> {
        let mut desks = self.desks();
        leases
            .iter()
            .map(|held| desks.adopt(held, now, ttl))
            .collect()
    }
}
