//! Settling attempts, ending deliveries.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use protocol::{
    id::{DeliveryId, SourceId, TenantId},
    limits::RESPONSE_START_BYTES_MAX,
};

use tracing::error;

use super::{
    core::{Answer, Core, Does, hear},
    desk::{Desks, Owed},
    journal::{
        payload::{DeliveryRef, End, EndDestination, ForgetSource, Park, Settle},
        record::Kind,
    },
    projection::queries,
};
use crate::{
    clock::Timestamp,
    lifecycle::{AttemptOutcome, DeliveryState, EndReason, KeyDigest, OrderKey, Verdict},
    store::{DestinationKey, Held, PARKED_MAX, Parked, Settled, Settlement, StoreError},
};

impl Core {
    pub(super) async fn settle(
        self: &Arc<Self>,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Settled>, StoreError> {
        self.check_writable()?;
        let _lookup = self.lookup();
        let mut found = Found::new();
        let begun = loop {
            let missing = {
                let mut desks = self.desks();
                let missing = missing(&desks, &settlements, &found);
                if missing.is_empty() {
                    break begin(&mut desks, settlements, found, self.clock.now());
                }
                missing
            };
            for (tenant, delivery) in missing {
                found.insert(delivery, self.find(tenant, delivery).await?);
            }
        };
        // Nothing is awaited between beginning and submitting: a caller that goes away in between
        // would leave leases behind that look as if they were being settled.
        let Begun {
            mut answers,
            places,
            records,
        } = begun;
        let freed = self.desks().take_freed();
        self.due.mark(freed);
        for (at, answer) in places.into_iter().zip(self.submit(records)?) {
            if let Answer::Settled(settled) = hear(answer).await? {
                answers[at] = Some(settled);
            }
        }
        let unknown = |answer: Option<Settled>| answer.unwrap_or(Settled::Unknown);
        Ok(answers.into_iter().map(unknown).collect())
    }

    /// A delivery as the projection has it, with everything durable applied. When it is open and in
    /// memory meanwhile, memory counts.
    pub(super) async fn find(
        self: &Arc<Self>,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Option<(DeliveryState, Owed)>, StoreError> {
        self.caught_up().await?;
        self.projection
            .read(move |connection| queries::delivery(connection, tenant, delivery))
            .await
    }

    pub(super) async fn end(
        self: &Arc<Self>,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: EndReason,
    ) -> Result<bool, StoreError> {
        self.check_writable()?;
        let _lookup = self.lookup();
        let listed = self.desks().owed(tenant, delivery).cloned();
        let owed = match listed {
            Some(owed) => owed,
            None => match self.find(tenant, delivery).await? {
                Some((state, owed)) if state.is_open() => {
                    self.desks().insert_loose(owed.clone());
                    owed
                }
                _ => return Ok(false),
            },
        };
        self.write_end(owed.delivery, reason).await
    }

    pub(super) async fn park(
        self: &Arc<Self>,
        key: DestinationKey,
        order: OrderKey,
    ) -> Result<Parked, StoreError> {
        self.check_writable()?;
        if !self.desks().parks_more(key, PARKED_MAX) {
            return Ok(Parked::TooMany);
        }
        let changed = self.write_park(key, order, true).await?;
        Ok(if changed {
            Parked::Done
        } else {
            Parked::Already
        })
    }

    pub(super) async fn resume(
        self: &Arc<Self>,
        key: DestinationKey,
        digest: KeyDigest,
    ) -> Result<bool, StoreError> {
        self.check_writable()?;
        let text = Box::default();
        self.write_park(key, OrderKey { digest, text }, false).await
    }

    async fn write_park(
        self: &Arc<Self>,
        key: DestinationKey,
        order: OrderKey,
        parked: bool,
    ) -> Result<bool, StoreError> {
        let park = Park { key, order, parked };
        let payload = park.encode();
        let answer = self
            .write(Kind::Park, key.tenant, payload, Does::Park(park))
            .await?;
        Ok(answer == Answer::Changed(true))
    }

    /// Ends one delivery for good.
    pub(super) async fn write_end(
        self: &Arc<Self>,
        delivery: DeliveryRef,
        reason: EndReason,
    ) -> Result<bool, StoreError> {
        let end = End { delivery, reason };
        let tenant = delivery.key.tenant;
        let answer = self
            .write(Kind::End, tenant, end.encode(), Does::End(end))
            .await?;
        Ok(answer == Answer::Changed(true))
    }

    pub(super) async fn end_destination(
        self: &Arc<Self>,
        key: DestinationKey,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let end = EndDestination { key, reason };
        let does = Does::EndDestination(end);
        self.write(Kind::EndDestination, key.tenant, end.encode(), does)
            .await?;
        Ok(())
    }

    pub(super) async fn forget_source(
        self: &Arc<Self>,
        tenant: TenantId,
        source: SourceId,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let forget = ForgetSource { tenant, source };
        let does = Does::ForgetSource(forget);
        self.write(Kind::ForgetSource, tenant, forget.encode(), does)
            .await?;
        Ok(())
    }
}

/// What the projection says of deliveries that are not in memory.
type Found = HashMap<DeliveryId, Option<(DeliveryState, Owed)>>;

/// Settlements on their way to the journal.
struct Begun {
    /// What can be answered already.
    answers: Vec<Option<Settled>>,
    /// Which settlement each record is of.
    places: Vec<usize>,
    records: Vec<(Kind, TenantId, Bytes, u64, Does)>,
}

/// Deliveries that are neither in memory nor looked up.
fn missing(
    desks: &Desks,
    settlements: &[Settlement],
    found: &Found,
) -> Vec<(TenantId, DeliveryId)> {
    let is_missing = |one: &&Settlement| {
        desks.owed(one.tenant, one.delivery).is_none() && !found.contains_key(&one.delivery)
    };
    let named = |one: &Settlement| (one.tenant, one.delivery);
    settlements.iter().filter(is_missing).map(named).collect()
}

/// Marks leases as being settled and makes the records that settle them.
fn begin(
    desks: &mut Desks,
    settlements: Vec<Settlement>,
    mut found: Found,
    now: Timestamp,
) -> Begun {
    let mut begun = Begun {
        answers: vec![None; settlements.len()],
        places: Vec::new(),
        records: Vec::new(),
    };
    for (at, settlement) in settlements.into_iter().enumerate() {
        if desks.owed(settlement.tenant, settlement.delivery).is_none() {
            match found.remove(&settlement.delivery).flatten() {
                Some((state, owed)) if state.is_open() => desks.insert_loose(owed),
                Some(_) => begun.answers[at] = Some(Settled::AlreadySettled),
                None => begun.answers[at] = Some(Settled::Unknown),
            }
        }
        if begun.answers[at].is_some() {
            continue;
        }
        let parks = settlement.park && may_park(desks, &settlement);
        match desks.begin_settle(&held(&settlement), settlement.verdict, now) {
            Ok(delivery) => {
                let tenant = settlement.tenant;
                let (settle, token) = record(delivery, settlement, parks);
                let (payload, settle) = (settle.encode(), Box::new(settle));
                let does = Does::Settle { settle, token };
                begun.records.push((Kind::Settle, tenant, payload, 1, does));
                begun.places.push(at);
            }
            // Looked up as open, and settled while it was.
            Err(settled) => begun.answers[at] = Some(settled.unwrap_or(Settled::AlreadySettled)),
        }
    }
    begun
}

/// Whether a key stops when the delivery at its head dies. Beyond the bound it goes on.
fn may_park(desks: &Desks, settlement: &Settlement) -> bool {
    let Some(owed) = desks.owed(settlement.tenant, settlement.delivery) else {
        return false;
    };
    let dies = matches!(settlement.verdict, Verdict::Die { .. }) && owed.order.is_some();
    let may = dies && desks.parks_more(owed.delivery.key, PARKED_MAX);
    if dies && !may {
        error!(destination = %owed.delivery.key.destination,
            "too many keys are parked: this one goes on; resume or skip some");
    }
    may
}

fn held(settlement: &Settlement) -> Held {
    Held {
        tenant: settlement.tenant,
        delivery: settlement.delivery,
        token: settlement.token,
        attempt: settlement.attempt.number,
    }
}

fn record(
    delivery: DeliveryRef,
    settlement: Settlement,
    parks: bool,
) -> (Settle, crate::store::LeaseToken) {
    let mut attempt = settlement.attempt;
    if let AttemptOutcome::Answered { response_start, .. } = &mut attempt.outcome
        && response_start.len() > RESPONSE_START_BYTES_MAX
    {
        *response_start = response_start.slice(..RESPONSE_START_BYTES_MAX);
    }
    let settle = Settle {
        delivery,
        attempt,
        verdict: settlement.verdict,
        parks,
    };
    (settle, settlement.token)
}
