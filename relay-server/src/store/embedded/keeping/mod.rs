//! What becomes of events after they came: how long they are kept, and what is done with their places.
//!
//! [`erase`] overwrites what must not be there any more. For what is merely old, [`sweep`] decides, in order of acceptance and in small steps, and the projector lets go. [`compact`]
//! then gives the journal's files back, or writes anew what still matters of them.

mod compact;

mod erase;

mod sweep;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use protocol::id::TenantId;

use super::{Embedded, core::Core, projection::chores};
use crate::store::{
    Erased, Erasure, ErasureRecord, Keeping, Retentions, StoreError, Stored, Swept, Usage,
};

/// What is known in memory about what is kept.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    usages: Mutex<HashMap<TenantId, Usage>>,
    swept: Mutex<Swept>,
    /// Held by whoever changes what was written before: one at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Ledger {
    pub(super) fn new(usages: HashMap<TenantId, Usage>) -> Self {
        Self {
            usages: Mutex::new(usages),
            ..Self::default()
        }
    }

    fn usages(&self) -> MutexGuard<'_, HashMap<TenantId, Usage>> {
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts accepted events.
    pub(super) fn add(&self, accepted: impl IntoIterator<Item = (TenantId, u64)>) {
        let mut usages = self.usages();
        for (tenant, bytes) in accepted {
            let usage = usages.entry(tenant).or_default();
            usage.events += 1;
            usage.bytes += bytes;
        }
    }

    fn take_off(&self, dropped: &HashMap<TenantId, Usage>) {
        let mut usages = self.usages();
        for (tenant, gone) in dropped {
            if let Some(usage) = usages.get_mut(tenant) {
                usage.events = usage.events.saturating_sub(gone.events);
                usage.bytes = usage.bytes.saturating_sub(gone.bytes);
                if usage.events == 0 {
                    usages.remove(tenant);
                }
            }
        }
    }

    pub(super) fn usage(&self, tenant: TenantId) -> Usage {
        self.usages().get(&tenant).copied().unwrap_or_default()
    }

    fn all(&self) -> Vec<(TenantId, Usage)> {
        let usages = self.usages();
        usages
            .iter()
            .map(|(tenant, usage)| (*tenant, *usage))
            .collect()
    }

    fn swept(&self) -> MutexGuard<'_, Swept> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    async fn retain(self: &Arc<Self>, retentions: &dyn Retentions) -> Result<Swept, StoreError> {
        self.check_writable()?;
        let _turn = self.ledger.turn.lock().await;
        self.caught_up().await?;
        let mut swept = Swept::default();
        let occupied = self.sweep(retentions, &mut swept).await?;
        self.give_back(&occupied, &mut swept).await?;
        let mut sum = self.ledger.swept();
        sum.events += swept.events;
        sum.expired += swept.expired;
        sum.segments_removed += swept.segments_removed;
        sum.segments_rewritten += swept.segments_rewritten;
        sum.bytes_freed += swept.bytes_freed;
        Ok(swept)
    }
}

#[async_trait]
impl Keeping for Embedded {
    async fn retain(&self, retentions: &dyn Retentions) -> Result<Swept, StoreError> {
        self.core.retain(retentions).await
    }

    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError> {
        self.core.erase(erasure).await
    }

    async fn finish_erasures(&self) -> Result<(), StoreError> {
        self.core.finish_erasures().await
    }

    async fn erasures(
        &self,
        tenant: TenantId,
        most: u32,
    ) -> Result<Vec<ErasureRecord>, StoreError> {
        self.core.check_open()?;
        self.core.caught_up().await?;
        self.core
            .projection
            .read(move |connection| chores::erasures(connection, tenant, most))
            .await
    }

    fn stored(&self) -> Stored {
        Stored {
            tenants: self.core.ledger.all(),
            lag: self.core.projection.lag() as u64,
            swept: *self.core.ledger.swept(),
        }
    }
}
