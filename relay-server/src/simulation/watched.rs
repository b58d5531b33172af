//! The store as the relay sees it: every answer goes through the books, and it fails when it is told
//! to, or breaks a rule on purpose.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use protocol::id::{DeliveryId, SourceId, TenantId};

use super::{Flaw, check::Check};
use crate::{
    clock::Timestamp,
    dispatch::{DispatchHandle, ServiceView},
    lifecycle::{EndReason, KeyDigest, OrderKey, Sign, Verdict},
    store::{
        Adopted, Appended, DestinationKey, Events, Held, Lease, LeaseInfo, NewEvent, Parked,
        Queries as _, Replay, Replayed, Settled, Settlement, StoreError, Usage, Want,
        memory::Memory,
    },
};

/// The reference store under watch.
#[derive(Debug)]
pub(super) struct Watched {
    memory: Arc<Memory>,
    check: Arc<Mutex<Check>>,
    fails: AtomicBool,
    appended: AtomicU64,
    flaw: Option<Flaw>,
    /// Knows which services are down.
    dispatch: Mutex<Option<DispatchHandle>>,
}

/// The result of a call that waits for nobody.
pub(super) fn at_once<T>(call: impl Future<Output = T>) -> T {
    match call.now_or_never() {
        Some(result) => result,
        None => unreachable!("everything in a simulated relay answers at once"),
    }
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    pub(super) fn new(memory: Arc<Memory>, check: Arc<Mutex<Check>>, flaw: Option<Flaw>) -> Self {
        Self {
            memory,
            check,
            fails: AtomicBool::new(false),
            appended: AtomicU64::new(0),
            flaw,
            dispatch: Mutex::new(None),
        }
    }

    pub(super) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// A relay has started.
    pub(super) fn watch(&self, dispatch: DispatchHandle) {
        *lock(&self.dispatch) = Some(dispatch);
    }

    /// The relay has died.
    pub(super) fn restart(&self) {
        *lock(&self.dispatch) = None;
        lock(&self.check).relay_died();
        self.memory.restart();
    }

    fn available(&self) -> Result<(), StoreError> {
        if self.is_failing() {
            return Err(StoreError::Unavailable("it fails on purpose".to_owned()));
        }
        Ok(())
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Whether the breaker is open for who made an attempt, and whether the attempt met an outage.
    fn circumstances(&self, one: &Settlement) -> (bool, bool) {
        let known = {
            let check = lock(&self.check);
            let owed = check.owed.get(&one.delivery);
            owed.and_then(|owed| Some((owed.key, check.plan(owed.key)?.judge.clone())))
        };
        let (Some((key, judge)), Some(agent)) = (known, one.attempt.agent) else {
            return (false, false);
        };
        let outcome = &one.attempt.outcome;
        let sign = Sign::of(outcome, judge.meaning(outcome));
        let view = lock(&self.dispatch)
            .as_ref()
            .and_then(|dispatch| dispatch.view(key));
        let is_down = view.is_some_and(|view| {
            let mut agents = view.agents.iter();
            agents.any(|one| one.agent == agent && matches!(one.service, ServiceView::Down { .. }))
        });
        (is_down, sign == Sign::Unreachable)
    }
}

#[async_trait]
impl Events for Watched {
    async fn append(&self, mut event: NewEvent) -> Result<Appended, StoreError> {
        self.available()?;
        let now = self.now();
        let (id, tenant, deliveries) =
            (event.event.id, event.event.tenant, event.deliveries.clone());
        if self.has(Flaw::OrderIgnored) {
            for delivery in &mut event.deliveries {
                delivery.order = None;
            }
        }
        if self.appended.fetch_add(1, Ordering::Relaxed) % 8 == 7 && self.has(Flaw::AcceptedAndLost)
        {
            event.deliveries.clear();
        }
        let appended = self.memory.append(event).await?;
        match appended {
            Appended::New => {
                let mut check = lock(&self.check);
                for delivery in deliveries {
                    let destination = delivery.destination;
                    let key = DestinationKey {
                        tenant,
                        destination,
                    };
                    let order = delivery.order.map(|order| order.digest);
                    check.tell(|| format!("{} is owed to {destination} for {id}", delivery.id));
                    check.owes(delivery.id, key, order, false, now);
                }
            }
            Appended::Duplicate { first, reopened } if reopened > 0 => {
                let detail = self.memory.event(tenant, first).await?;
                let mut check = lock(&self.check);
                for one in detail.into_iter().flat_map(|detail| detail.deliveries) {
                    if one.state.is_open() {
                        let is_over = check.owed.get(&one.id).is_some_and(|it| it.ended.is_some());
                        if is_over {
                            check.tell(|| format!("{} is owed again", one.id));
                            check.reopened(one.id, now);
                        }
                    }
                }
            }
            Appended::Duplicate { .. } => {}
        }
        Ok(appended)
    }

    async fn claim(&self, wants: &[Want]) -> Result<Vec<Lease>, StoreError> {
        self.available()?;
        let now = self.now();
        let mut all = Vec::new();
        for want in wants {
            let mut asked = *want;
            if self.has(Flaw::InFlightIgnored) {
                asked.in_flight_max = None;
            }
            let leases = self.memory.claim(&[asked]).await?;
            let mut check = lock(&self.check);
            for lease in &leases {
                check.claimed(want, lease, now);
            }
            all.extend(leases);
        }
        Ok(all)
    }

    async fn settle(&self, mut settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        self.available()?;
        if self.has(Flaw::OutagesBurnAttempts) {
            for one in &mut settlements {
                if let Verdict::Retry { spent, .. } = &mut one.verdict {
                    spent.attempts = one.attempt.number;
                }
            }
        }
        let mut all = Vec::new();
        let last = settlements.len().saturating_sub(1);
        for (at, one) in settlements.into_iter().enumerate() {
            // What was judged together was judged one by one: only for the last of them is it known
            // that the breaker stood as it does now.
            let circumstances = match at == last {
                true => self.circumstances(&one),
                false => (false, false),
            };
            let settled = self.memory.settle(vec![one.clone()]).await?;
            for settled in settled {
                lock(&self.check).settled(&one, settled, circumstances);
                all.push(settled);
            }
        }
        Ok(all)
    }

    async fn renew(&self, leases: &[Held], ttl: Duration) -> Result<(), StoreError> {
        self.available()?;
        self.memory.renew(leases, ttl).await?;
        let mut check = lock(&self.check);
        for held in leases {
            check.renewed(held, ttl);
        }
        Ok(())
    }

    async fn release(&self, leases: &[Held]) -> Result<(), StoreError> {
        self.available()?;
        self.memory.release(leases).await?;
        let mut check = lock(&self.check);
        for held in leases {
            check.released(held);
        }
        Ok(())
    }

    async fn adopt(&self, leases: &[Held], ttl: Duration) -> Result<Vec<Adopted>, StoreError> {
        self.available()?;
        let mut all = Vec::new();
        for held in leases {
            for adopted in self.memory.adopt(&[*held], ttl).await? {
                if let Adopted::Granted(info) = &adopted {
                    lock(&self.check).adopted(info, ttl);
                }
                all.push(adopted);
            }
        }
        Ok(all)
    }

    async fn take_expired(
        &self,
        hold: Duration,
        most: usize,
    ) -> Result<Vec<LeaseInfo>, StoreError> {
        self.available()?;
        if self.has(Flaw::ExpiryForgotten) {
            return Ok(Vec::new());
        }
        let expired = self.memory.take_expired(hold, most).await?;
        let mut check = lock(&self.check);
        for info in &expired {
            check.expired(info, hold);
        }
        Ok(expired)
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        self.memory.next_wake().await
    }

    async fn replay(&self, replays: &[Replay]) -> Result<Vec<Replayed>, StoreError> {
        self.available()?;
        let now = self.now();
        let mut all = Vec::new();
        for replay in replays {
            for replayed in self.memory.replay(std::slice::from_ref(replay)).await? {
                if replayed == Replayed::Owed {
                    let delivery = &replay.delivery;
                    let key = DestinationKey {
                        tenant: replay.tenant,
                        destination: delivery.destination,
                    };
                    let order = delivery.order.as_ref().map(|order| order.digest);
                    let mut check = lock(&self.check);
                    check.tell(|| format!("{} is owed, a replay", delivery.id));
                    check.owes(delivery.id, key, order, true, now);
                }
                all.push(replayed);
            }
        }
        Ok(all)
    }

    async fn end(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: EndReason,
    ) -> Result<bool, StoreError> {
        self.available()?;
        let has_ended = self.memory.end(tenant, delivery, reason).await?;
        if has_ended {
            let mut check = lock(&self.check);
            check.tell(|| format!("{delivery} ends: {}", reason.as_str()));
            check.ended(delivery, reason.as_str());
        }
        Ok(has_ended)
    }

    async fn park(&self, key: DestinationKey, order: OrderKey) -> Result<Parked, StoreError> {
        let digest = order.digest;
        let parked = self.memory.park(key, order).await?;
        lock(&self.check).parks(key, digest, true);
        Ok(parked)
    }

    async fn resume(&self, key: DestinationKey, order: KeyDigest) -> Result<bool, StoreError> {
        lock(&self.check).parks(key, order, false);
        self.memory.resume(key, order).await
    }

    async fn end_destination(
        &self,
        key: DestinationKey,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        self.memory.end_destination(key, reason).await
    }

    async fn forget_source(&self, tenant: TenantId, source: SourceId) -> Result<(), StoreError> {
        self.memory.forget_source(tenant, source).await
    }

    fn now(&self) -> Timestamp {
        self.memory.now()
    }

    fn usage(&self, tenant: TenantId) -> Usage {
        self.memory.usage(tenant)
    }

    fn accepting(&self) -> Result<(), StoreError> {
        self.available()
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}
