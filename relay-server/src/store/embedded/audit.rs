//! The audit log, in the database of the settings.

use protocol::id::TenantId;
use rusqlite::{Connection, params};

use crate::store::{AUDIT_RECORDS_MAX, AuditFilter, AuditRecord};

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, tenant BLOB, at INTEGER NOT NULL, actor TEXT NOT NULL,
  action TEXT NOT NULL, resource TEXT, document TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS audit_of_tenant ON audit (tenant, seq);
";

/// How often what is beyond the limit is cut off, in records.
const PRUNE_EVERY: i64 = 256;

/// Appends a record; durable when this returns.
pub(super) fn append(connection: &mut Connection, record: &AuditRecord) -> rusqlite::Result<u64> {
    let tenant = record.tenant.map(bytes);
    let document = serde_json::to_string(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let transaction = connection.transaction()?;
    transaction
        .prepare_cached(
            "INSERT INTO audit (tenant, at, actor, action, resource, document)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            tenant,
            record.at.0,
            record.actor,
            record.action,
            record.resource,
            document
        ])?;
    let seq = transaction.last_insert_rowid();
    if seq % PRUNE_EVERY == 0 {
        transaction.execute(
            "DELETE FROM audit WHERE tenant IS ?1 AND seq <=
               (SELECT seq FROM audit WHERE tenant IS ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            params![tenant, AUDIT_RECORDS_MAX],
        )?;
    }
    transaction.commit()?;
    Ok(u64::try_from(seq).unwrap_or_default())
}

/// Records before a number, newest first.
pub(super) fn list(
    connection: &mut Connection,
    filter: &AuditFilter,
    before: Option<u64>,
    limit: u32,
) -> rusqlite::Result<Vec<(u64, AuditRecord)>> {
    let tenant = match filter.tenant {
        Some(_) => "tenant = ?1",
        None => "?1 IS NULL",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT seq, document FROM audit
         WHERE {tenant} AND seq < ?2
           AND (?3 IS NULL OR actor = ?3)
           AND (?4 IS NULL OR action = ?4 OR substr(action, 1, length(?4) + 1) = ?4 || '.')
           AND (?5 IS NULL OR resource = ?5)
           AND (?6 IS NULL OR at >= ?6) AND (?7 IS NULL OR at < ?7)
         ORDER BY seq DESC LIMIT ?8"
    ))?;
    let before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let rows = statement.query_map(
        params![
            filter.tenant.map(bytes),
            before,
            filter.actor,
            filter.action,
            filter.resource,
            filter.since.map(|time| time.0),
            filter.until.map(|time| time.0),
            limit
        ],
        |row| {
            let document: String = row.get(1)?;
            let record = serde_json::from_str(&document).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(
                    1,
                    rusqlite::types::Type::Text,
                    Box::new(error),
                )
            })?;
            Ok((row.get(0)?, record))
        },
    )?;
    rows.collect()
}

fn bytes(tenant: TenantId) -> [u8; 16] {
    tenant.as_u128().to_be_bytes()
}
