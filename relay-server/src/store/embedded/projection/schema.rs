//! The projection's tables. Everything in them can be rebuilt from the journal: a file of another
//! version is thrown away.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

/// The version of the tables.
pub(super) const VERSION: i64 = 9;

/// Deliveries in this state are dead; partial indexes need it as a literal.
pub(super) const DEAD: i64 = 3;

const TABLES: &str = "
CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL) STRICT;
INSERT INTO position VALUES (1, 0);

CREATE TABLE events (
  seq INTEGER PRIMARY KEY, id BLOB NOT NULL, tenant BLOB NOT NULL, source BLOB NOT NULL,
  received_at INTEGER NOT NULL, method TEXT NOT NULL, target TEXT NOT NULL, event_type TEXT,
  provider_id TEXT, remembered_until INTEGER NOT NULL, body_bytes INTEGER NOT NULL,
  position INTEGER NOT NULL, stored_bytes INTEGER NOT NULL) STRICT;
CREATE INDEX events_by_id ON events (id);
CREATE INDEX events_by_tenant ON events (tenant, seq);

CREATE TABLE ages (zone INTEGER PRIMARY KEY, oldest INTEGER NOT NULL, newest INTEGER NOT NULL) STRICT;

CREATE TABLE deliveries (
  seq INTEGER PRIMARY KEY, id BLOB NOT NULL, event_seq INTEGER NOT NULL, tenant BLOB NOT NULL,
  destination BLOB NOT NULL, place INTEGER NOT NULL, state INTEGER NOT NULL,
  attempts INTEGER NOT NULL, spent_attempts INTEGER NOT NULL, spent_ms INTEGER NOT NULL,
  due INTEGER NOT NULL, updated_at INTEGER NOT NULL, reason TEXT, replay BLOB,
  superseded_by BLOB, order_key INTEGER, order_text TEXT, ending INTEGER) STRICT;
CREATE INDEX deliveries_by_id ON deliveries (id);
CREATE INDEX deliveries_by_event ON deliveries (event_seq);
CREATE INDEX deliveries_by_tenant ON deliveries (tenant, seq);
CREATE INDEX dead_by_tenant ON deliveries (tenant, seq) WHERE state = 3;
CREATE INDEX dead_letters_by_tenant ON deliveries (tenant, seq)
  WHERE state = 3 AND superseded_by IS NULL;
CREATE INDEX dead_letters_by_destination ON deliveries (destination, seq)
  WHERE state = 3 AND superseded_by IS NULL;
CREATE INDEX deliveries_by_replay ON deliveries (replay, tenant, state) WHERE replay IS NOT NULL;

CREATE TABLE pending (
  destination BLOB NOT NULL, queue INTEGER NOT NULL, place INTEGER NOT NULL, seq INTEGER NOT NULL,
  due INTEGER NOT NULL, order_key INTEGER,
  PRIMARY KEY (destination, queue, place)) STRICT, WITHOUT ROWID;
CREATE INDEX pending_by_due ON pending (destination, due) WHERE due > 0;
CREATE INDEX pending_by_key ON pending (destination, order_key, place) WHERE order_key IS NOT NULL;

CREATE TABLE parked (
  destination BLOB NOT NULL, order_key INTEGER NOT NULL, tenant BLOB NOT NULL,
  order_text TEXT NOT NULL, since INTEGER NOT NULL, delivery BLOB,
  PRIMARY KEY (destination, order_key)) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
  delivery_seq INTEGER NOT NULL, number INTEGER NOT NULL, id BLOB NOT NULL, agent BLOB,
  ended_at INTEGER NOT NULL, elapsed_ms INTEGER NOT NULL, outcome BLOB NOT NULL,
  PRIMARY KEY (delivery_seq, number)) STRICT, WITHOUT ROWID;

CREATE TABLE repeats (
  event_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, last_at INTEGER NOT NULL) STRICT;

CREATE TABLE usage (
  tenant BLOB PRIMARY KEY, events INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE erasures (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, tenant BLOB NOT NULL, by TEXT NOT NULL,
  what TEXT NOT NULL, events INTEGER, done INTEGER NOT NULL, begun BLOB) STRICT;

CREATE TABLE remembered (
  seq INTEGER PRIMARY KEY, tenant BLOB NOT NULL, source BLOB NOT NULL, provider_id TEXT NOT NULL,
  until INTEGER NOT NULL, position INTEGER NOT NULL) STRICT;

CREATE TABLE forgotten (source BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Opens the projection for its one writer; an unusable one is replaced by an empty one.
pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    // Made beforehand for its mode: new, and not unusable.
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return create(path);
    }
    match open_existing(path) {
        Ok(connection) => Ok(connection),
        Err(cause) => {
            if path.exists() {
                tracing::warn!(%cause, "the projection is unusable and is rebuilt from the journal");
            }
            remove(path);
            create(path)
        }
    }
}

/// Removes a projection's files.
pub(super) fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // What is missing needs no removal; what cannot be removed fails the creation.
        let _ = std::fs::remove_file(name);
    }
}

fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.query_row("SELECT seq FROM position", [], |row| row.get::<_, i64>(0))?;
    Ok(connection)
}

fn create(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    set_up(&connection)?;
    connection.execute_batch(&format!(
        "BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT"
    ))?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 10000;
         PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Opens the projection for reading.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
