//! What the projector does besides applying changes: letting go of events, and noting where they are now.
//! Both in small transactions, so that changes hardly wait.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use protocol::id::{DeliveryId, EventId, TenantId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::schema::DEAD;
use crate::{
    clock::Timestamp,
    store::{
        ErasureRecord, Usage,
        embedded::journal::{
            erasing::{Begun, Erasing, erased_id, strip_outcome},
            payload::{decode_outcome, encode_outcome},
        },
    },
};

/// Something to do once all changes that came before it are applied.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Events that nobody keeps any longer, by sequence. Those with something open stay.
    Drop { events: Vec<u64>, now: Timestamp },
    /// Events whose content goes, by sequence.
    Blank(Vec<u64>),
    /// Where events are now, by sequence, as packed positions.
    Move(Vec<(u64, i64)>),
    /// Makes all that was applied survive a power loss.
    Sync,
}

/// What a chore did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What is gone of each tenant.
    pub(crate) dropped: HashMap<TenantId, Usage>,
}

impl Chore {
    pub(super) fn run(&self, connection: &mut Connection) -> rusqlite::Result<Done> {
        let mut done = Done::default();
        match self {
            Self::Drop { events, now } => {
                let transaction = connection.transaction()?;
                for seq in events {
                    drop_event(&transaction, *seq, *now, &mut done)?;
                }
                take_off(&transaction, &done)?;
                transaction
                    .prepare_cached("DELETE FROM remembered WHERE until <= ?1")?
                    .execute([now.0])?;
                transaction.commit()?;
            }
            Self::Blank(events) => {
                let transaction = connection.transaction()?;
                for seq in events {
                    blank(&transaction, *seq)?;
                }
                transaction.commit()?;
            }
            Self::Move(moved) => {
                let transaction = connection.transaction()?;
                move_to(&transaction, moved.iter().copied())?;
                transaction.commit()?;
            }
            Self::Sync => {
                // A checkpoint begins with a sync of the log: whether it gets to its end or not.
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            }
        }
        Ok(done)
    }
}

/// Notes where events are now.
pub(super) fn move_to(
    transaction: &Transaction<'_>,
    moved: impl IntoIterator<Item = (u64, i64)>,
) -> rusqlite::Result<()> {
    for (seq, position) in moved {
        let changed = transaction
            .prepare_cached("UPDATE events SET position = ?2 WHERE seq = ?1")?
            .execute(params![seq, position])?;
        if changed == 0 {
            transaction
                .prepare_cached("UPDATE remembered SET position = ?2 WHERE seq = ?1")?
                .execute(params![seq, position])?;
        }
    }
    Ok(())
}

/// What is remembered of an event for the sake of repeats.
struct Name {
    tenant: [u8; 16],
    source: [u8; 16],
    provider_id: Option<String>,
    until: u64,
    position: i64,
    bytes: u64,
}

fn drop_event(
    transaction: &Transaction<'_>,
    seq: u64,
    now: Timestamp,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let is_open = transaction
        .prepare_cached("SELECT 1 FROM deliveries WHERE event_seq = ?1 AND state <= 1")?
        .exists([seq])?;
    if is_open {
        return Ok(());
    }
    let name = transaction
        .prepare_cached(
            "SELECT tenant, source, provider_id, remembered_until, position, stored_bytes
             FROM events WHERE seq = ?1",
        )?
        .query_row([seq], |row| {
            Ok(Name {
                tenant: row.get(0)?,
                source: row.get(1)?,
                provider_id: row.get(2)?,
                until: row.get(3)?,
                position: row.get(4)?,
                bytes: row.get(5)?,
            })
        })
        .optional()?;
    let Some(name) = name else {
        return Ok(());
    };
    for statement in [
        "DELETE FROM attempts WHERE delivery_seq IN
           (SELECT seq FROM deliveries WHERE event_seq = ?1)",
        "DELETE FROM deliveries WHERE event_seq = ?1",
        "DELETE FROM repeats WHERE event_seq = ?1",
        "DELETE FROM events WHERE seq = ?1",
    ] {
        transaction.prepare_cached(statement)?.execute([seq])?;
    }
    if let Some(provider_id) = name.provider_id.filter(|_| name.until > now.0) {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO remembered VALUES (?1,?2,?3,?4,?5,?6)")?
            .execute(params![
                seq,
                name.tenant,
                name.source,
                provider_id,
                name.until,
                name.position
            ])?;
    }
    let tenant = TenantId::from_u128(u128::from_be_bytes(name.tenant));
    let usage = done.dropped.entry(tenant).or_default();
    usage.events += 1;
    usage.bytes += name.bytes;
    Ok(())
}

fn take_off(transaction: &Transaction<'_>, done: &Done) -> rusqlite::Result<()> {
    let mut take = transaction.prepare_cached(
        "UPDATE usage SET events = max(events - ?2, 0), bytes = max(bytes - ?3, 0)
         WHERE tenant = ?1",
    )?;
    for (tenant, usage) in &done.dropped {
        let tenant = tenant.as_u128().to_be_bytes();
        take.execute(params![tenant, usage.events, usage.bytes])?;
    }
    Ok(())
}

/// Takes the content out of the rows of an event.
fn blank(transaction: &Transaction<'_>, seq: u64) -> rusqlite::Result<()> {
    for table in ["events", "remembered"] {
        let provider_id: Option<Option<String>> = transaction
            .prepare_cached(&format!("SELECT provider_id FROM {table} WHERE seq = ?1"))?
            .query_row([seq], |row| row.get(0))
            .optional()?;
        if let Some(provider_id) = provider_id.flatten() {
            transaction
                .prepare_cached(&format!(
                    "UPDATE {table} SET provider_id = ?2 WHERE seq = ?1"
                ))?
                .execute(params![seq, erased_id(&provider_id)])?;
        }
    }
    for statement in [
        "UPDATE events SET method = '', target = '', event_type = NULL, body_bytes = 0
         WHERE seq = ?1",
        "UPDATE deliveries SET order_text = '' WHERE event_seq = ?1 AND order_text IS NOT NULL",
        "UPDATE parked SET order_text = ''
         WHERE delivery IN (SELECT id FROM deliveries WHERE event_seq = ?1)",
    ] {
        transaction.prepare_cached(statement)?.execute([seq])?;
    }
    let attempts: Vec<(u64, u32, Vec<u8>)> = transaction
        .prepare_cached(
            "SELECT delivery_seq, number, outcome FROM attempts WHERE delivery_seq IN
               (SELECT seq FROM deliveries WHERE event_seq = ?1)",
        )?
        .query_map([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (delivery, number, outcome) in attempts {
        if let Some(mut outcome) = decode_outcome(&Bytes::from(outcome)) {
            strip_outcome(&mut outcome);
            transaction
                .prepare_cached(
                    "UPDATE attempts SET outcome = ?3 WHERE delivery_seq = ?1 AND number = ?2",
                )?
                .execute(params![delivery, number, &encode_outcome(&outcome)[..]])?;
        }
    }
    Ok(())
}

/// The sequence of an event of a tenant's.
pub(crate) fn event_seq(
    connection: &Connection,
    tenant: TenantId,
    id: EventId,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT seq FROM events WHERE id = ?1 AND tenant = ?2")?
        .query_row(
            params![id.as_u128().to_be_bytes(), tenant.as_u128().to_be_bytes()],
            |row| row.get(0),
        )
        .optional()
}

/// The events of a tenant before a sequence, remembered ones included.
pub(crate) fn events_of(
    connection: &Connection,
    tenant: TenantId,
    before: u64,
) -> rusqlite::Result<Vec<u64>> {
    let tenant = tenant.as_u128().to_be_bytes();
    let mut events = Vec::new();
    for table in ["events", "remembered"] {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT seq FROM {table} WHERE tenant = ?1 AND seq < ?2"
        ))?;
        for seq in statement.query_map(params![tenant, before], |row| row.get(0))? {
            events.push(seq?);
        }
    }
    Ok(events)
}

/// Erasures that are not done, and what they are about if it can be read.
pub(crate) fn unfinished_erasures(
    connection: &Connection,
) -> rusqlite::Result<Vec<(u64, Option<Begun>)>> {
    let mut statement = connection.prepare("SELECT seq, begun FROM erasures WHERE done = 0")?;
    let rows = statement.query_map([], |row| {
        let begun: Option<Vec<u8>> = row.get(1)?;
        let begun = begun.and_then(|begun| match Erasing::decode(&Bytes::from(begun)) {
            Some(Erasing::Begun(begun)) => Some(begun),
            _ => None,
        });
        Ok((row.get(0)?, begun))
    })?;
    rows.collect()
}

/// The erasures of a tenant, newest first.
pub(crate) fn erasures(
    connection: &Connection,
    tenant: TenantId,
    most: u32,
) -> rusqlite::Result<Vec<ErasureRecord>> {
    connection
        .prepare_cached(
            "SELECT seq, at, by, what, events, done FROM erasures
             WHERE tenant = ?1 ORDER BY seq DESC LIMIT ?2",
        )?
        .query_map(params![tenant.as_u128().to_be_bytes(), most], |row| {
            Ok(ErasureRecord {
                number: row.get(0)?,
                at: Timestamp(row.get(1)?),
                by: row.get(2)?,
                what: row.get(3)?,
                events: row.get(4)?,
                done: row.get(5)?,
            })
        })?
        .collect()
}

/// How much of each tenant there is.
pub(crate) fn usages(connection: &Connection) -> rusqlite::Result<HashMap<TenantId, Usage>> {
    let mut statement = connection.prepare("SELECT tenant, events, bytes FROM usage")?;
    let rows = statement.query_map([], |row| {
        let tenant = TenantId::from_u128(u128::from_be_bytes(row.get(0)?));
        let (events, bytes) = (row.get(1)?, row.get(2)?);
        Ok((tenant, Usage { events, bytes }))
    })?;
    rows.collect()
}

/// What one tenant's retention asks for: everything before a sequence goes that may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Accepted before this time.
    pub(crate) before: Timestamp,
    /// As many of the oldest.
    pub(crate) events: u64,
    /// As many bytes of the oldest.
    pub(crate) bytes: u64,
}

/// The first sequence of a tenant that is kept, if something before it is there. Looks at `most` events.
pub(crate) fn floor(
    connection: &Connection,
    tenant: TenantId,
    excess: Excess,
    most: usize,
) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, received_at, stored_bytes FROM events WHERE tenant = ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![tenant.as_u128().to_be_bytes(), most])?;
    let (mut events, mut bytes, mut last) = (0, 0, None);
    while let Some(row) = rows.next()? {
        let (seq, received_at): (u64, u64) = (row.get(0)?, row.get(1)?);
        let goes = received_at < excess.before.0 || events < excess.events || bytes < excess.bytes;
        if !goes {
            break;
        }
        events += 1;
        bytes += row.get::<_, u64>(2)?;
        last = Some(seq + 1);
    }
    Ok(last)
}

/// An event that a sweep passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) seq: u64,
    pub(crate) tenant: TenantId,
    pub(crate) received_at: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) stands: Stands,
}

/// What keeps an event, strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stands {
    /// All has ended.
    Ended,
    /// Something is dead, and nobody replayed it.
    Dead,
    /// Something dead holds up what comes behind it.
    Stops,
    /// Something is still owed.
    Open,
}

/// Events in order of acceptance, and how their deliveries stand.
pub(crate) fn pass(
    connection: &Connection,
    after: u64,
    before: u64,
    most: usize,
) -> rusqlite::Result<Vec<Passed>> {
    let parks = connection
        .prepare_cached("SELECT 1 FROM parked WHERE delivery IS NOT NULL")?
        .exists([])?;
    connection
        .prepare_cached(
            "SELECT seq, tenant, received_at, stored_bytes FROM events
             WHERE seq > ?1 AND seq < ?2 ORDER BY seq LIMIT ?3",
        )?
        .query_map(params![after, before, most], |row| {
            let seq = row.get(0)?;
            Ok(Passed {
                seq,
                tenant: TenantId::from_u128(u128::from_be_bytes(row.get(1)?)),
                received_at: Timestamp(row.get(2)?),
                bytes: row.get(3)?,
                stands: stands(connection, seq, parks)?,
            })
        })?
        .collect()
}

fn stands(connection: &Connection, event_seq: u64, parks: bool) -> rusqlite::Result<Stands> {
    let mut statement = connection.prepare_cached(
        "SELECT state, superseded_by IS NULL, id FROM deliveries WHERE event_seq = ?1",
    )?;
    let mut rows = statement.query([event_seq])?;
    let mut stands = Stands::Ended;
    while let Some(row) = rows.next()? {
        let state: i64 = row.get(0)?;
        let one = if state <= 1 {
            Stands::Open
        } else if parks && state == DEAD && stops(connection, row.get(2)?)? {
            Stands::Stops
        } else if state == DEAD && row.get(1)? {
            Stands::Dead
        } else {
            Stands::Ended
        };
        stands = stands.max(one);
    }
    Ok(stands)
}

fn stops(connection: &Connection, delivery: [u8; 16]) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM parked WHERE delivery = ?1")?
        .exists([delivery])
}

/// The open deliveries of an event.
pub(crate) fn open_of(
    connection: &Connection,
    event_seq: u64,
) -> rusqlite::Result<Vec<DeliveryId>> {
    connection
        .prepare_cached("SELECT id FROM deliveries WHERE event_seq = ?1 AND state <= 1")?
        .query_map([event_seq], |row| {
            let id = u128::from_be_bytes(row.get(0)?);
            Ok(DeliveryId::from_u128(id))
        })?
        .collect()
}

/// What is needed of a stretch of the journal.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Sequences of events.
    pub(crate) events: HashSet<u64>,
    /// Sequences of deliveries, of whatever event.
    pub(crate) deliveries: HashSet<u64>,
}

/// Which events from `first` up to `next`, and which of some deliveries, are still there.
pub(crate) fn needed(
    connection: &Connection,
    first: u64,
    next: u64,
    deliveries: &[u64],
) -> rusqlite::Result<Needed> {
    let mut needed = Needed::default();
    for table in ["events", "remembered"] {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT seq FROM {table} WHERE seq >= ?1 AND seq < ?2"
        ))?;
        let rows = statement.query_map([first, next], |row| row.get::<_, u64>(0))?;
        for seq in rows {
            needed.events.insert(seq?);
        }
    }
    let mut is_there = connection.prepare_cached("SELECT 1 FROM deliveries WHERE seq = ?1")?;
    for seq in deliveries {
        if !needed.deliveries.contains(seq) && is_there.exists([seq])? {
            needed.deliveries.insert(*seq);
        }
    }
    Ok(needed)
}

/// The first sequence of an event that is kept or remembered.
pub(crate) fn first_kept(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut first: Option<u64> = None;
    for table in ["events", "remembered"] {
        let one: Option<u64> =
            connection.query_row(&format!("SELECT min(seq) FROM {table}"), [], |row| {
                row.get(0)
            })?;
        first = [first, one].into_iter().flatten().min();
    }
    Ok(first)
}

/// Sequences of remembered events.
pub(crate) fn remembered_seqs(connection: &Connection) -> rusqlite::Result<Vec<u64>> {
    connection
        .prepare_cached("SELECT seq FROM remembered ORDER BY seq")?
        .query_map([], |row| row.get(0))?
        .collect()
}
