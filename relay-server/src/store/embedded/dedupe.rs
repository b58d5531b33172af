//! Which provider ids were accepted. Hashes find, exact ids decide: a hit is confirmed against the
//! stored event by the caller.
//!
//! Bounded per tenant: beyond [`PER_TENANT_MAX`] remembered ids the tenant's ids that end soonest are
//! forgotten early, with a warning. Two ids of one source whose keyed 64-bit hashes collide share a
//! slot; the later one keeps it.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::id::{SourceId, TenantId};
use tokio::sync::watch;
use tracing::warn;

use super::journal::{Position, erasing::erased_id};
use crate::{clock::Timestamp, store::StoreError};

/// Ids remembered per tenant.
pub(crate) const PER_TENANT_MAX: usize = 1_000_000;

/// Sweeps are spared below this many ids.
const SWEEP_MIN: usize = 1024;

type Name = (TenantId, SourceId, String);

/// What became of an acceptance that others waited for; none while it is under way.
type Fate = Option<Result<(), StoreError>>;

#[derive(Debug, Clone, Copy)]
struct Known {
    position: Position,
    until: Timestamp,
}

#[derive(Debug, Default)]
struct Memory {
    sources: HashMap<SourceId, HashMap<u64, Known>>,
    count: usize,
    /// Look for ended ones at this count.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Inner {
    tenants: HashMap<TenantId, Memory>,
    in_flight: HashMap<Name, watch::Sender<Fate>>,
}

/// The remembered ids.
#[derive(Debug)]
pub(crate) struct Dedupe {
    hasher: RandomState,
    per_tenant_max: usize,
    inner: Mutex<Inner>,
}

/// What is known about an id.
#[derive(Debug)]
pub(crate) enum Looked {
    /// Nothing; it is the caller's to accept.
    Free(Reservation),
    /// It is being accepted.
    InFlight(watch::Receiver<Fate>),
    /// Perhaps it was accepted: ask the record there.
    Found(Position),
}

/// The right to accept an id. Dropped unfulfilled, it lets the next one try.
#[derive(Debug)]
pub(crate) struct Reservation {
    dedupe: Arc<Dedupe>,
    name: Option<Name>,
}

impl Dedupe {
    pub(crate) fn new(per_tenant_max: usize) -> Arc<Self> {
        Arc::new(Self {
            hasher: RandomState::new(),
            per_tenant_max,
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, source: SourceId, provider_id: &str) -> u64 {
        // An erased one is found by what is left of it.
        self.hasher.hash_one((source, erased_id(provider_id)))
    }

    /// Looks an id up. `not` is a record that turned out to hold another id, or no readable one.
    pub(crate) fn look(
        self: &Arc<Self>,
        tenant: TenantId,
        source: SourceId,
        provider_id: &str,
        now: Timestamp,
        not: Option<Position>,
    ) -> Looked {
        let hash = self.hash(source, provider_id);
        let name = (tenant, source, provider_id.to_owned());
        let mut inner = self.lock();
        if let Some(fate) = inner.in_flight.get(&name) {
            return Looked::InFlight(fate.subscribe());
        }
        let known = inner
            .tenants
            .get(&tenant)
            .and_then(|memory| memory.sources.get(&source)?.get(&hash))
            .filter(|known| known.until > now && Some(known.position) != not);
        if let Some(known) = known {
            return Looked::Found(known.position);
        }
        inner
            .in_flight
            .insert(name.clone(), watch::Sender::new(None));
        Looked::Free(Reservation {
            dedupe: self.clone(),
            name: Some(name),
        })
    }

    /// Remembers an id that was accepted earlier; a later acceptance that is known stays.
    pub(crate) fn recall(
        &self,
        tenant: TenantId,
        source: SourceId,
        provider_id: &str,
        position: Position,
        until: Timestamp,
    ) {
        let hash = self.hash(source, provider_id);
        let mut inner = self.lock();
        let memory = inner.tenants.entry(tenant).or_default();
        if memory.count < self.per_tenant_max {
            let ids = memory.sources.entry(source).or_default();
            if let std::collections::hash_map::Entry::Vacant(slot) = ids.entry(hash) {
                slot.insert(Known { position, until });
                memory.count += 1;
            }
        }
    }

    /// Forgets all ids of a source.
    pub(crate) fn forget(&self, tenant: TenantId, source: SourceId) {
        let mut inner = self.lock();
        if let Some(memory) = inner.tenants.get_mut(&tenant)
            && let Some(ids) = memory.sources.remove(&source)
        {
            memory.count -= ids.len();
        }
    }
}

impl Memory {
    fn sweep(&mut self, now: Timestamp, most: usize) {
        self.retain(|known| known.until > now);
        if self.count >= most {
            // The tenth that ends soonest goes, so that the next sweep is far.
            let mut ends: Vec<u64> = self
                .sources
                .values()
                .flat_map(|ids| ids.values().map(|known| known.until.0))
                .collect();
            let tenth = ends.len() / 10;
            let (_, end, _) = ends.select_nth_unstable(tenth);
            let end = *end;
            let before = self.count;
            self.retain(|known| known.until.0 > end);
            warn!(
                forgotten = before - self.count,
                "a tenant has more provider ids than are remembered; the oldest are forgotten"
            );
        }
        self.sweep_at = (self.count * 2).max(SWEEP_MIN).min(most);
    }

    fn retain(&mut self, keep: impl Fn(&Known) -> bool) {
        for ids in self.sources.values_mut() {
            ids.retain(|_, known| keep(known));
        }
        self.sources.retain(|_, ids| !ids.is_empty());
        self.count = self.sources.values().map(HashMap::len).sum();
    }
}

impl Reservation {
    /// The acceptance is durable.
    pub(crate) fn fulfil(mut self, position: Position, until: Timestamp, now: Timestamp) {
        let Some(name) = self.name.take() else {
            return;
        };
        let (tenant, source, provider_id) = &name;
        let hash = self.dedupe.hash(*source, provider_id);
        let mut inner = self.dedupe.lock();
        let memory = inner.tenants.entry(*tenant).or_default();
        if memory.count >= memory.sweep_at {
            memory.sweep(now, self.dedupe.per_tenant_max);
        }
        let ids = memory.sources.entry(*source).or_default();
        if ids.insert(hash, Known { position, until }).is_none() {
            memory.count += 1;
        }
        let fate = inner.in_flight.remove(&name);
        drop(inner);
        if let Some(fate) = fate {
            fate.send_replace(Some(Ok(())));
        }
    }

    /// The acceptance failed; whoever waited for it fails alike.
    pub(crate) fn fail(mut self, error: &StoreError) {
        self.release(error.clone());
    }

    fn release(&mut self, error: StoreError) {
        let Some(name) = self.name.take() else {
            return;
        };
        if let Some(fate) = self.dedupe.lock().in_flight.remove(&name) {
            fate.send_replace(Some(Err(error)));
        }
    }
}

impl Drop for Reservation {
    /// The caller went away before anything was written: nothing happened.
    fn drop(&mut self) {
        self.release(StoreError::Overloaded {
            retry_after: Duration::from_secs(1),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId::from_u128(1);
    const SOURCE: SourceId = SourceId::from_u128(2);
    const NOW: Timestamp = Timestamp(1000);

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn look(dedupe: &Arc<Dedupe>, id: &str, now: Timestamp) -> Looked {
        dedupe.look(TENANT, SOURCE, id, now, None)
    }

    fn accept(dedupe: &Arc<Dedupe>, id: &str, until: u64) {
        let Looked::Free(reservation) = look(dedupe, id, NOW) else {
            panic!("{id} is known");
        };
        reservation.fulfil(at(until), Timestamp(until), NOW);
    }

    #[test]
    fn remembers_until_the_window_ends() {
        let dedupe = Dedupe::new(10);
        accept(&dedupe, "a", 2000);

        assert!(matches!(look(&dedupe, "a", Timestamp(1999)), Looked::Found(it) if it == at(2000)));
        assert!(matches!(look(&dedupe, "b", NOW), Looked::Free(_)));
        assert!(matches!(
            look(&dedupe, "a", Timestamp(2000)),
            Looked::Free(_)
        ));
    }

    #[test]
    fn who_waits_shares_the_fate() {
        let dedupe = Dedupe::new(10);
        let Looked::Free(first) = look(&dedupe, "a", NOW) else {
            panic!("known");
        };
        let Looked::InFlight(waiting) = look(&dedupe, "a", NOW) else {
            panic!("not in flight");
        };
        first.fail(&StoreError::Full);
        assert_eq!(*waiting.borrow(), Some(Err(StoreError::Full)));

        let Looked::Free(second) = look(&dedupe, "a", NOW) else {
            panic!("the reservation was not released");
        };
        let Looked::InFlight(waiting) = look(&dedupe, "a", NOW) else {
            panic!("not in flight");
        };
        drop(second);
        assert!(matches!(
            *waiting.borrow(),
            Some(Err(StoreError::Overloaded { .. }))
        ));
    }

    #[test]
    fn a_tenant_has_a_bound_and_loses_the_oldest_first() {
        let dedupe = Dedupe::new(2000);
        for number in 0..3000_u64 {
            accept(&dedupe, &number.to_string(), 10_000 + number);
        }
        let kept = dedupe.lock().tenants[&TENANT].count;

        assert!((1500..=2000).contains(&kept), "{kept}");
        assert!(matches!(look(&dedupe, "2999", NOW), Looked::Found(_)));
        assert!(matches!(look(&dedupe, "0", NOW), Looked::Free(_)));

        dedupe.forget(TENANT, SOURCE);
        assert!(matches!(look(&dedupe, "2998", NOW), Looked::Free(_)));
        assert_eq!(dedupe.lock().tenants[&TENANT].count, 0);
    }
}
