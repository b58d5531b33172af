//! All exchanges of the relay, and how many there may be.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{
    frame::{LeaseToken, ResponseHead},
    id::{DeliveryId, EventId, SourceId, TenantId},
};

use super::{Exchange, Flow, Pipe};
use crate::store::DestinationKey;

/// How long a lease of a delivery that was ended may still be on its way to a session.
const LEASE_ON_ITS_WAY_MAX: Duration = Duration::from_secs(30);

/// Ended deliveries that are remembered for that.
const ENDED_MAX: usize = 64 * 1024;

/// Held requests at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) relay: usize,
    pub(crate) tenant: usize,
    pub(crate) source: usize,
}

impl Limits {
    /// A tenant may have half of all places, a source a quarter.
    pub(crate) fn of_relay(places: usize) -> Self {
        Self {
            relay: places,
            tenant: (places / 2).max(1),
            source: (places / 4).max(1),
        }
    }
}

/// Which limit is reached, the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Relay,
    Tenant,
    Source,
}

/// All exchanges of the relay.
#[derive(Debug)]
pub(crate) struct Room {
    limits: Limits,
    /// How many exchanges and ended deliveries there are: most relays have none, and then nobody locks.
    known: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_event: HashMap<EventId, Arc<Exchange>>,
    by_delivery: HashMap<DeliveryId, Arc<Exchange>>,
    /// Deliveries that were ended because nobody answered in time.
    ended: VecDeque<(Instant, DeliveryId)>,
    has_ended: HashSet<DeliveryId>,
    held: usize,
    by_tenant: HashMap<TenantId, usize>,
    by_source: HashMap<SourceId, usize>,
}

/// One held request; there is room for another once it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    tenant: TenantId,
    source: SourceId,
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            known: AtomicUsize::new(0),
            inner: Mutex::default(),
        })
    }

    /// Takes a place for one request.
    pub(crate) fn admit(
        self: &Arc<Self>,
        tenant: TenantId,
        source: SourceId,
    ) -> Result<Arc<Place>, Full> {
        let mut inner = self.inner();
        let full = |full, count: usize, max| if count >= max { Err(full) } else { Ok(()) };
        let of_source = inner.by_source.get(&source).copied().unwrap_or(0);
        full(Full::Source, of_source, self.limits.source)?;
        let of_tenant = inner.by_tenant.get(&tenant).copied().unwrap_or(0);
        full(Full::Tenant, of_tenant, self.limits.tenant)?;
        full(Full::Relay, inner.held, self.limits.relay)?;
        inner.held += 1;
        inner.by_tenant.insert(tenant, of_tenant + 1);
        inner.by_source.insert(source, of_source + 1);
        drop(inner);
        Ok(Arc::new(Place {
            room: Arc::clone(self),
            tenant,
            source,
        }))
    }

    /// How many requests of a source are held.
    pub(crate) fn held_of(&self, source: SourceId) -> usize {
        self.inner().by_source.get(&source).copied().unwrap_or(0)
    }

    /// Opens an exchange, unless the event has one: then that is the `Err`.
    pub(crate) fn open(
        &self,
        event: EventId,
        delivery: DeliveryId,
        key: DestinationKey,
        is_only_chance: bool,
        place: Arc<Place>,
    ) -> Result<Arc<Exchange>, Arc<Exchange>> {
        let mut inner = self.inner();
        if let Some(known) = inner.by_event.get(&event) {
            return Err(Arc::clone(known));
        }
        let exchange = Exchange::new(event, delivery, key, is_only_chance, place);
        inner.by_event.insert(event, Arc::clone(&exchange));
        inner.by_delivery.insert(delivery, Arc::clone(&exchange));
        self.count(&inner);
        Ok(exchange)
    }

    /// The exchange of an event.
    pub(crate) fn find(&self, event: EventId) -> Option<Arc<Exchange>> {
        self.inner().by_event.get(&event).cloned()
    }

    /// Forgets an exchange that is over.
    pub(crate) fn close(&self, exchange: &Exchange) {
        let mut inner = self.inner();
        inner.by_event.remove(&exchange.event);
        inner.by_delivery.remove(&exchange.delivery);
        self.count(&inner);
    }

    /// A delivery has ended in the store. A lease of it may be on its way all the same.
    pub(crate) fn note_ended(&self, delivery: DeliveryId) {
        let now = Instant::now();
        let mut inner = self.inner();
        while let Some(&(at, old)) = inner.ended.front()
            && (at + LEASE_ON_ITS_WAY_MAX <= now || inner.ended.len() >= ENDED_MAX)
        {
            inner.ended.pop_front();
            inner.has_ended.remove(&old);
        }
        inner.ended.push_back((now, delivery));
        inner.has_ended.insert(delivery);
        self.count(&inner);
    }

    /// Whether a delivery ends, or has ended, because its provider was answered: a lease of it that is on
    /// its way to an agent is not for it.
    pub(crate) fn refuses(&self, delivery: DeliveryId) -> bool {
        if self.is_empty() {
            return false;
        }
        let inner = self.inner();
        let exchange = inner.by_delivery.get(&delivery);
        exchange.is_some_and(|exchange| exchange.refuses()) || inner.has_ended.contains(&delivery)
    }

    /// A session has a delivery in hand from now on: whether somebody waits for its answer.
    pub(crate) fn offered(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        lease: &LeaseToken,
        flow: &Flow,
    ) -> bool {
        if self.is_empty() {
            return false;
        }
        let exchange = self.inner().of(tenant, delivery);
        exchange.is_some_and(|exchange| exchange.offer(lease, flow))
    }

    /// Nobody has a delivery in hand any more, and it was not attempted, or lost.
    pub(crate) fn returned(&self, tenant: TenantId, delivery: DeliveryId) {
        if self.is_empty() {
            return;
        }
        if let Some(exchange) = self.inner().of(tenant, delivery) {
            exchange.take_back();
        }
    }

    /// The answer to a delivery begins; `None` if nobody waits for it.
    pub(crate) fn answer(
        &self,
        delivery: DeliveryId,
        lease: &LeaseToken,
        head: &ResponseHead,
    ) -> Option<Arc<Pipe>> {
        let exchange = self.inner().by_delivery.get(&delivery).cloned()?;
        exchange.answer(lease, head)
    }

    /// An attempt is settled, and whether the service took the event.
    pub(crate) fn settled(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        lease: &LeaseToken,
        is_taken: bool,
    ) {
        if self.is_empty() {
            return;
        }
        let exchange = self.inner().of(tenant, delivery);
        if let Some(exchange) = exchange {
            exchange.settle(lease, is_taken);
        }
    }

    fn is_empty(&self) -> bool {
        self.known.load(Ordering::Acquire) == 0
    }

    fn count(&self, inner: &Inner) {
        let known = inner.by_delivery.len() + inner.ended.len();
        self.known.store(known, Ordering::Release);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The exchange of a tenant's delivery: agents name deliveries, and may name anything.
    fn of(&self, tenant: TenantId, delivery: DeliveryId) -> Option<Arc<Exchange>> {
        let exchange = self.by_delivery.get(&delivery)?;
        (exchange.key.tenant == tenant).then(|| Arc::clone(exchange))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.room.inner();
        inner.held = inner.held.saturating_sub(1);
        release(&mut inner.by_tenant, self.tenant);
        release(&mut inner.by_source, self.source);
    }
}

fn release<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
