//! What people configured, in a database of its own that syncs every change.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::id::TenantId;
use rusqlite::{Connection, OptionalExtension, params};

use super::audit;
use crate::{
    clock::Timestamp,
    store::{AuditFilter, AuditRecord, Put, Resource, ResourceKind, StoreError},
};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS resources (
  kind TEXT NOT NULL, id BLOB NOT NULL, tenant BLOB, name TEXT NOT NULL, document TEXT NOT NULL,
  version INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
  removed_at INTEGER, ordinal INTEGER NOT NULL, PRIMARY KEY (kind, id)) STRICT;
CREATE TABLE IF NOT EXISTS token_uses (token BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS live_names
  ON resources (kind, coalesce(tenant, x''), name) WHERE removed_at IS NULL;
";

/// The version of the tables.
const VERSION: i64 = 1;

/// Why the settings cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSettingsError {
    /// The database.
    #[error("the settings cannot be opened: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It would not keep what it is told.
    #[error("the settings database refuses to sync every change (synchronous is {0}, not 2)")]
    NotDurable(i64),
    /// A later program's.
    #[error("the settings have version {0}, and this program knows {VERSION}")]
    Version(i64),
}

/// The settings database.
#[derive(Debug, Clone)]
pub(crate) struct SettingsDb {
    connection: Arc<Mutex<Connection>>,
}

impl SettingsDb {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenSettingsError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
        )?;
        let synchronous = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        if synchronous != 2 {
            return Err(OpenSettingsError::NotDurable(synchronous));
        }
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > VERSION {
            return Err(OpenSettingsError::Version(version));
        }
        connection.execute_batch(&format!(
            "BEGIN; {TABLES} {} PRAGMA user_version = {VERSION}; COMMIT",
            audit::TABLES
        ))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection)
        });
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(StoreError::Indeterminate(
                "a change of settings was cut off".to_owned(),
            )),
        }
    }

    pub(crate) async fn load(&self) -> Result<Vec<Resource>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT kind, id, tenant, name, document, version, created_at, updated_at
                 FROM resources WHERE removed_at IS NULL ORDER BY ordinal",
            )?;
            let rows = statement.query_map([], |row| {
                let tenant: Option<[u8; 16]> = row.get(2)?;
                Ok(Resource {
                    kind: kind_of(&row.get::<_, String>(0)?)?,
                    id: u128::from_be_bytes(row.get(1)?),
                    tenant: tenant.map(|it| TenantId::from_u128(u128::from_be_bytes(it))),
                    name: row.get(3)?,
                    document: row.get(4)?,
                    version: row.get(5)?,
                    created_at: Timestamp(row.get(6)?),
                    updated_at: Timestamp(row.get(7)?),
                })
            })?;
            rows.collect()
        })
        .await
    }

    pub(crate) async fn put(
        &self,
        resource: Resource,
        expected: Option<u64>,
        now: Timestamp,
    ) -> Result<Put, StoreError> {
        self.with(move |connection| put(connection, &resource, expected, now))
            .await
    }

    pub(crate) async fn remove(
        &self,
        kind: ResourceKind,
        id: u128,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.with(move |connection| {
            let removed = connection.execute(
                "UPDATE resources SET removed_at = ?3
                 WHERE kind = ?1 AND id = ?2 AND removed_at IS NULL",
                params![kind.as_str(), id.to_be_bytes(), now.0],
            )?;
            Ok(removed > 0)
        })
        .await
    }

    pub(crate) async fn append_audit(&self, record: AuditRecord) -> Result<u64, StoreError> {
        self.with(move |connection| audit::append(connection, &record))
            .await
    }

    pub(crate) async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, AuditRecord)>, StoreError> {
        let filter = filter.clone();
        self.with(move |connection| audit::list(connection, &filter, before, limit))
            .await
    }

    pub(crate) async fn note_token_uses(
        &self,
        uses: Vec<(u128, Timestamp)>,
    ) -> Result<(), StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            for (token, at) in uses {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO token_uses VALUES (?1, ?2)")?
                    .execute(params![token.to_be_bytes(), at.0])?;
            }
            transaction.commit()
        })
        .await
    }

    pub(crate) async fn token_uses(&self) -> Result<Vec<(u128, Timestamp)>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare("SELECT token, at FROM token_uses")?;
            let rows = statement.query_map([], |row| {
                Ok((u128::from_be_bytes(row.get(0)?), Timestamp(row.get(1)?)))
            })?;
            rows.collect()
        })
        .await
    }

    pub(crate) async fn removed(
        &self,
        kind: ResourceKind,
    ) -> Result<Vec<(u128, Option<TenantId>)>, StoreError> {
        self.with(move |connection| {
            let mut statement = connection.prepare(
                "SELECT id, tenant FROM resources
                 WHERE kind = ?1 AND removed_at IS NOT NULL ORDER BY ordinal",
            )?;
            let rows = statement.query_map([kind.as_str()], |row| {
                let tenant: Option<[u8; 16]> = row.get(1)?;
                let tenant = tenant.map(|it| TenantId::from_u128(u128::from_be_bytes(it)));
                Ok((u128::from_be_bytes(row.get(0)?), tenant))
            })?;
            rows.collect()
        })
        .await
    }
}

fn put(
    connection: &mut Connection,
    resource: &Resource,
    expected: Option<u64>,
    now: Timestamp,
) -> rusqlite::Result<Put> {
    let transaction = connection.transaction()?;
    let id = resource.id.to_be_bytes();
    let tenant = resource.tenant.map(|tenant| tenant.as_u128().to_be_bytes());
    let found: Option<(u64, bool)> = transaction
        .query_row(
            "SELECT version, removed_at IS NOT NULL FROM resources WHERE kind = ?1 AND id = ?2",
            params![resource.kind.as_str(), id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let current = found
        .filter(|(_, removed)| !removed)
        .map(|(version, _)| version);
    if current != expected || (expected.is_none() && found.is_some()) {
        return Ok(Put::Conflict { current });
    }
    let version = expected.map_or(1, |version| version + 1);
    let written = if expected.is_some() {
        transaction.execute(
            "UPDATE resources SET tenant = ?3, name = ?4, document = ?5, version = ?6,
               updated_at = ?7 WHERE kind = ?1 AND id = ?2",
            params![
                resource.kind.as_str(),
                id,
                tenant,
                resource.name,
                resource.document,
                version,
                now.0
            ],
        )
    } else {
        transaction.execute(
            "INSERT INTO resources VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, NULL,
               (SELECT coalesce(max(ordinal), 0) + 1 FROM resources))",
            params![
                resource.kind.as_str(),
                id,
                tenant,
                resource.name,
                resource.document,
                version,
                now.0
            ],
        )
    };
    match written {
        Ok(_) => {
            transaction.commit()?;
            Ok(Put::Stored(version))
        }
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            Ok(Put::NameTaken)
        }
        Err(error) => Err(error),
    }
}

fn failure(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full,
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Corrupt(format!("the settings: {error}"))
        }
        Some(rusqlite::ErrorCode::SystemIoFailure) => {
            StoreError::Indeterminate(format!("the settings: {error}"))
        }
        _ => StoreError::Unavailable(format!("the settings: {error}")),
    }
}

fn kind_of(text: &str) -> rusqlite::Result<ResourceKind> {
    use ResourceKind::{Destination, Replay, Route, Source, Tenant, Token};
    [Tenant, Source, Destination, Route, Token, Replay]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or(rusqlite::Error::InvalidQuery)
}
