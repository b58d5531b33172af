//! One change of the settings: under a lock, stored first, then shown to everybody.

use std::sync::{Arc, atomic::Ordering};

use protocol::id::TenantId;
use tokio::sync::MutexGuard;

use super::{
    Directory, Name, Tenancy, TenancyError,
    directory::{Recorded, Records},
};
use crate::store::{Put, StoreError};

/// A change being made. What it stored is shown when it is dropped, also after a failure half-way.
pub(super) struct Change<'a> {
    tenancy: &'a Tenancy,
    records: Records,
    dirty: bool,
    _alone: MutexGuard<'a, ()>,
}

impl<'a> Change<'a> {
    /// Waits for its turn.
    pub(super) async fn begin(tenancy: &'a Tenancy) -> Result<Self, TenancyError> {
        let alone = tenancy.writing.lock().await;
        // Somebody stopped waiting, or the store could not tell: only the store knows what holds.
        if tenancy.stale.load(Ordering::Acquire) {
            let resources = tenancy.settings.load().await?;
            tenancy.publish(Records::read(&resources)?);
            tenancy.stale.store(false, Ordering::Release);
        }
        let records = tenancy.directory().records().clone();
        Ok(Self {
            tenancy,
            records,
            dirty: false,
            _alone: alone,
        })
    }

    /// The settings as this change sees them.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Creates (`expected` none) or replaces a record, durably.
    pub(super) async fn put<R: Recorded + Clone>(
        &mut self,
        mut record: R,
        expected: Option<u64>,
    ) -> Result<Arc<R>, TenancyError> {
        let now = self.tenancy.clock.now();
        let revision = record.revision_mut();
        revision.updated_at = now;
        if expected.is_none() {
            revision.created_at = now;
        }
        self.tenancy.stale.store(true, Ordering::Release);
        let put = self
            .tenancy
            .settings
            .put(record.to_resource(), expected)
            .await;
        self.settled(&put);
        match put? {
            Put::Stored(version) => record.revision_mut().version = version,
            Put::NameTaken => {
                return Err(TenancyError::NameTaken {
                    kind: R::KIND.as_str(),
                    name: record.name().to_string(),
                });
            }
            Put::Conflict { .. } => {
                return Err(TenancyError::Conflict(format!(
                    "the {} was changed by somebody else in between",
                    R::KIND.as_str()
                )));
            }
        }
        self.dirty = true;
        self.records.insert(record.clone());
        Ok(Arc::new(record))
    }

    /// Removes a record, durably.
    pub(super) async fn remove<R: Recorded>(&mut self, record: &R) -> Result<(), TenancyError> {
        self.tenancy.stale.store(true, Ordering::Release);
        let removed = self.tenancy.settings.remove(R::KIND, record.id()).await;
        self.settled(&removed);
        removed?;
        self.dirty = true;
        self.records.remove::<R>(record.key());
        Ok(())
    }

    /// After an answer that leaves no doubt the picture in memory can be trusted again.
    fn settled<T>(&self, answer: &Result<T, StoreError>) {
        if !matches!(answer, Err(StoreError::Indeterminate(_))) {
            self.tenancy.stale.store(false, Ordering::Release);
        }
    }

    /// Refuses to go beyond a limit.
    pub(super) fn check_count<R: Recorded>(
        &self,
        count: usize,
        max: usize,
    ) -> Result<(), TenancyError> {
        if count < max {
            return Ok(());
        }
        Err(TenancyError::TooMany {
            kind: R::KIND.as_str(),
            max,
        })
    }

    /// Refuses a tenant that is not there.
    pub(super) fn check_tenant(&self, tenant: TenantId) -> Result<(), TenancyError> {
        if self.records.tenants.contains_key(&tenant) {
            return Ok(());
        }
        Err(TenancyError::NotFound("tenant"))
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.dirty {
            self.tenancy.publish(std::mem::take(&mut self.records));
        }
    }
}

impl Tenancy {
    /// Shows new settings to everybody.
    pub(super) fn publish(&self, records: Records) {
        let previous = self.directory.load();
        let next = Directory::build(
            records,
            &previous,
            &self.key.load(),
            &self.config.provider_keys,
        );
        self.directory.store(Arc::new(next));
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Reads a name that may be a person's typing.
pub(super) fn name(text: &str) -> Result<Name, TenancyError> {
    Ok(text.parse::<Name>()?)
}
