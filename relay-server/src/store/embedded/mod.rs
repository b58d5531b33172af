//! The store of a single relay: a journal that is the truth, a projection of it for people to look
//! at, desks in memory that know what is due, and settings beside them.
//!
//! A change is encoded by its caller, written and synced with everything that arrived meanwhile, then
//! taken note of by the desks, and only then answered.

mod journal;

mod desk;

mod dedupe;

mod projection;

mod settings;

mod audit;

mod settings_only;

mod core;

mod open;

mod accept;

mod handout;

mod settle;

mod replay;

mod keeping;

mod queries;

pub mod upkeep;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use protocol::id::{DeliveryId, SourceId, TenantId};

use self::core::Core;
pub use self::{
    journal::fs::{JournalFile, JournalFs},
    open::OpenError,
};
use super::{
    Adopted, Appended, AuditFilter, AuditRecord, DestinationKey, Events, Held, Lease, LeaseInfo,
    NewEvent, Parked, Put, Replay, Replayed, Resource, ResourceKind, Settings, Settled, Settlement,
    StoreError, Usage, Want,
};
use crate::{
    clock::Timestamp,
    lifecycle::{EndReason, KeyDigest, OrderKey},
};

/// How an embedded store is set up.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Where everything is. Made if it is missing.
    pub data_dir: PathBuf,
    /// The length of a journal segment, in bytes.
    pub segment_bytes: u64,
    /// Accepting stops when the disk has fewer free bytes.
    pub free_bytes_min: u64,
    /// Bytes of bodies kept in memory for deliveries that wait.
    pub event_bytes_max: u64,
    /// Deliveries per destination kept in memory.
    pub window: usize,
    /// Changes that lists may be behind before nothing more is accepted. From half of it on accepting slows.
    pub lag_max: usize,
    /// How long after a start agents may say what they still attempt, before what is ordered is
    /// handed out again.
    pub ordered_hold: Duration,
}

impl EmbeddedConfig {
    /// The defaults, in a directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            segment_bytes: 64 * 1024 * 1024,
            free_bytes_min: 256 * 1024 * 1024,
            event_bytes_max: 64 * 1024 * 1024,
            window: 20_000,
            lag_max: 50_000,
            ordered_hold: Duration::from_secs(2),
        }
    }
}

/// The store of a single relay.
pub struct Embedded {
    core: Arc<Core>,
    /// The writer of the journal, then the rest, in the order in which they end.
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// Ends the threads: what was submitted is written, nothing more is taken. Blocks.
fn stop(core: &Core, threads: &Mutex<Vec<JoinHandle<()>>>) {
    core.intake.close();
    core.space.stop();
    let threads = std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner));
    for (number, thread) in threads.into_iter().enumerate() {
        if number == 1 {
            // The journal's writer has ended: nothing more comes.
            core.projection.close();
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
    core.projection.close_readers();
    core.space.give_back();
    // Only now may another relay open it.
    core.lock
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.core.close();
        stop(&self.core, &self.threads);
    }
}

#[async_trait]
impl Events for Embedded {
    async fn append(&self, event: NewEvent) -> Result<Appended, StoreError> {
        self.core.append(event).await
    }

    async fn claim(&self, wants: &[Want]) -> Result<Vec<Lease>, StoreError> {
        self.core.claim(wants).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        self.core.settle(settlements).await
    }

    async fn renew(&self, leases: &[Held], ttl: Duration) -> Result<(), StoreError> {
        self.core.check_open()?;
        let until = self.core.clock.now().after(ttl);
        let mut desks = self.core.desks();
        for held in leases {
            desks.renew(held, until);
        }
        Ok(())
    }

    async fn release(&self, leases: &[Held]) -> Result<(), StoreError> {
        self.core.check_open()?;
        let now = self.core.clock.now();
        let mut desks = self.core.desks();
        let released: Vec<DestinationKey> = leases
            .iter()
            .filter_map(|held| desks.release(held, now))
            .collect();
        // All of them are among the released.
        desks.take_freed();
        drop(desks);
        self.core.due.mark(released);
        Ok(())
    }

    async fn adopt(&self, leases: &[Held], ttl: Duration) -> Result<Vec<Adopted>, StoreError> {
        self.core.adopt(leases, ttl).await
    }

    async fn take_expired(
        &self,
        hold: Duration,
        most: usize,
    ) -> Result<Vec<LeaseInfo>, StoreError> {
        self.core.check_open()?;
        let now = self.core.clock.now();
        Ok(self.core.desks().take_expired(now, hold, most))
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        self.core.check_open()?;
        let mut desks = self.core.desks();
        let promoted = desks.promote(self.core.clock.now());
        let next = desks.next_wake();
        drop(desks);
        self.core.due.mark(promoted);
        Ok(next)
    }

    async fn replay(&self, replays: &[Replay]) -> Result<Vec<Replayed>, StoreError> {
        self.core.replay(replays).await
    }

    async fn end(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: EndReason,
    ) -> Result<bool, StoreError> {
        self.core.end(tenant, delivery, reason).await
    }

    async fn park(&self, key: DestinationKey, order: OrderKey) -> Result<Parked, StoreError> {
        self.core.park(key, order).await
    }

    async fn resume(&self, key: DestinationKey, order: KeyDigest) -> Result<bool, StoreError> {
        self.core.resume(key, order).await
    }

    async fn end_destination(
        &self,
        key: DestinationKey,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        self.core.end_destination(key, reason).await
    }

    async fn forget_source(&self, tenant: TenantId, source: SourceId) -> Result<(), StoreError> {
        self.core.forget_source(tenant, source).await
    }

    fn usage(&self, tenant: TenantId) -> Usage {
        self.core.ledger.usage(tenant)
    }

    fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    fn accepting(&self) -> Result<(), StoreError> {
        self.core.accepting()
    }

    async fn close(&self) {
        self.core.close();
        let (core, threads) = (self.core.clone(), self.threads.clone());
        // The threads finish what they have. A panic in one is logged there.
        let _ = tokio::task::spawn_blocking(move || stop(&core, &threads)).await;
    }
}

#[async_trait]
impl Settings for Embedded {
    async fn load(&self) -> Result<Vec<Resource>, StoreError> {
        self.core.check_open()?;
        self.core.settings.load().await
    }

    async fn put(&self, resource: Resource, expected: Option<u64>) -> Result<Put, StoreError> {
        self.core.check_open()?;
        let now = self.core.clock.now();
        self.core.settings.put(resource, expected, now).await
    }

    async fn remove(&self, kind: ResourceKind, id: u128) -> Result<bool, StoreError> {
        self.core.check_open()?;
        let now = self.core.clock.now();
        self.core.settings.remove(kind, id, now).await
    }

    async fn removed(
        &self,
        kind: ResourceKind,
    ) -> Result<Vec<(u128, Option<TenantId>)>, StoreError> {
        self.core.check_open()?;
        self.core.settings.removed(kind).await
    }

    async fn note_token_uses(&self, uses: Vec<(u128, Timestamp)>) -> Result<(), StoreError> {
        self.core.check_open()?;
        self.core.settings.note_token_uses(uses).await
    }

    async fn token_uses(&self) -> Result<Vec<(u128, Timestamp)>, StoreError> {
        self.core.check_open()?;
        self.core.settings.token_uses().await
    }

    async fn append_audit(&self, record: AuditRecord) -> Result<u64, StoreError> {
        self.core.check_open()?;
        self.core.settings.append_audit(record).await
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, AuditRecord)>, StoreError> {
        self.core.check_open()?;
        self.core.settings.audit(filter, before, limit).await
    }
}
