//! The settings of a data directory alone, for `init`: no journal is begun for one token.

use std::{fmt, fs::File, path::Path, sync::Arc};

use async_trait::async_trait;
use protocol::id::TenantId;

use super::{
    Embedded,
    open::{OpenError, make_dir, secret_file, take_lock},
    settings::SettingsDb,
};
use crate::{
    clock::{Clock, Timestamp},
    store::{AuditFilter, AuditRecord, Put, Resource, ResourceKind, Settings, StoreError},
};

/// The settings without the rest of the store.
struct SettingsOnly {
    settings: SettingsDb,
    clock: Arc<dyn Clock>,
    /// Held for as long as this lives.
    _lock: File,
}

impl fmt::Debug for SettingsOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsOnly").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the settings in a directory that nothing else has open, and nothing else.
    ///
    /// # Errors
    ///
    /// Says what is wrong and where.
    pub fn open_settings(
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<dyn Settings>, OpenError> {
        make_dir(data_dir)?;
        let lock = take_lock(data_dir)?;
        let settings = SettingsDb::open(&secret_file(&data_dir.join("settings.db"))?)?;
        Ok(Arc::new(SettingsOnly {
            settings,
            clock,
            _lock: lock,
        }))
    }
}

#[async_trait]
impl Settings for SettingsOnly {
    async fn load(&self) -> Result<Vec<Resource>, StoreError> {
        self.settings.load().await
    }

    async fn put(&self, resource: Resource, expected: Option<u64>) -> Result<Put, StoreError> {
        self.settings
            .put(resource, expected, self.clock.now())
            .await
    }

    async fn remove(&self, kind: ResourceKind, id: u128) -> Result<bool, StoreError> {
        self.settings.remove(kind, id, self.clock.now()).await
    }

    async fn removed(
        &self,
        kind: ResourceKind,
    ) -> Result<Vec<(u128, Option<TenantId>)>, StoreError> {
        self.settings.removed(kind).await
    }

    async fn note_token_uses(&self, uses: Vec<(u128, Timestamp)>) -> Result<(), StoreError> {
        self.settings.note_token_uses(uses).await
    }

    async fn token_uses(&self) -> Result<Vec<(u128, Timestamp)>, StoreError> {
        self.settings.token_uses().await
    }

    async fn append_audit(&self, record: AuditRecord) -> Result<u64, StoreError> {
        self.settings.append_audit(record).await
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, AuditRecord)>, StoreError> {
        self.settings.audit(filter, before, limit).await
    }
}
