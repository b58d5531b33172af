//! Questions to the projection. Each sees one moment and is scoped to a tenant where people ask.

use bytes::Bytes;
use protocol::id::{
    AgentId, AttemptId, DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, types::Value};

use super::{
    ages,
    apply::{blob, state_number, state_of},
    pieces::{self, Conditions, Listed, Way, blob_value, int_value},
    schema::DEAD,
};
use crate::{
    clock::Timestamp,
    lifecycle::{DeliveryState, KeyDigest, Spent},
    store::{
        AttemptRecord, Cursor, DeliveryFilter, DeliverySummary, Depth, DestinationKey, EventFilter,
        EventSummary, Page, Repeats,
        embedded::{
            desk::{LoadPlan, Loaded, Owed},
            journal::{
                Position,
                payload::{DeliveryRef, Queue, decode_outcome},
            },
        },
    },
};

pub(super) fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<u128> {
    row.get::<_, [u8; 16]>(column).map(u128::from_be_bytes)
}

fn optional_id(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u128>> {
    let id: Option<[u8; 16]> = row.get(column)?;
    Ok(id.map(u128::from_be_bytes))
}

fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp)
}

fn state(row: &Row<'_>) -> rusqlite::Result<DeliveryState> {
    // A state that this version does not know is shown as one that is not delivered.
    Ok(state_of(row.get("state")?).unwrap_or(DeliveryState::Quarantined))
}

/// Events, newest first.
pub(crate) fn events(
    connection: &Connection,
    tenant: TenantId,
    filter: &EventFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> rusqlite::Result<Page<EventSummary>> {
    let listed = listed_events(connection, tenant, filter, Way::NewestFirst)?;
    pieces::piece(connection, listed, after, limit, |row| {
        let deliveries = deliveries_of(connection, row.get("seq")?)?;
        let deliveries = deliveries.iter();
        Ok(EventSummary {
            id: EventId::from_u128(id(row, "id")?),
            source: SourceId::from_u128(id(row, "source")?),
            received_at: time(row, "received_at")?,
            method: row.get("method")?,
            target: row.get("target")?,
            event_type: row.get("event_type")?,
            provider_id: row.get("provider_id")?,
            body_bytes: row.get("body_bytes")?,
            deliveries: deliveries
                .map(|delivery| (delivery.id, delivery.destination, delivery.state))
                .collect(),
        })
    })
}

/// Where events that match are.
pub(super) fn listed_events(
    connection: &Connection,
    tenant: TenantId,
    filter: &EventFilter,
    way: Way,
) -> rusqlite::Result<Listed<'static>> {
    let mut within = Conditions::of_tenant("e.tenant", tenant, filter.id.is_some());
    within.and("e.id = ?", filter.id.map(|it| blob_value(it.as_u128())));
    let mut matching = Conditions::none();
    matching.and(
        "e.source = ?",
        filter.source.map(|source| blob_value(source.as_u128())),
    );
    matching.and(
        "e.event_type = ?",
        filter.event_type.clone().map(Value::Text),
    );
    matching.and("e.received_at >= ?", filter.since.map(|at| int_value(at.0)));
    matching.and("e.received_at < ?", filter.until.map(|at| int_value(at.0)));
    if filter.since.or(filter.until).is_some() {
        let (first, last) = ages::range(connection, filter.since, filter.until)?;
        let values = vec![int_value(first), int_value(last)];
        within.and_all("e.seq >= ? AND e.seq <= ?", values);
    }
    let destination = filter.destination.map(|it| blob_value(it.as_u128()));
    let state = filter.state.map(|it| Value::Integer(state_number(it)));
    let any = "EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = e.seq";
    match (filter.unrouted, destination, state) {
        (true, ..) => matching.and_all(&format!("NOT {any})"), Vec::new()),
        (_, Some(to), Some(state)) => {
            let sql = format!("{any} AND d.destination = ? AND d.state = ?)");
            matching.and_all(&sql, vec![to, state]);
        }
        (_, to, None) => matching.and(&format!("{any} AND d.destination = ?)"), to),
        (_, None, state) => matching.and(&format!("{any} AND d.state = ?)"), state),
    }
    Ok(Listed {
        select: "SELECT e.*",
        from: "FROM events e",
        seq: "e.seq",
        within,
        matching,
        way,
    })
}

const DELIVERY_SELECT: &str = "SELECT d.*, e.id AS event_id, e.received_at AS received_at";

const DELIVERY_FROM: &str = "FROM deliveries d JOIN events e ON e.seq = d.event_seq";

pub(super) fn summary(row: &Row<'_>) -> rusqlite::Result<DeliverySummary> {
    let state = state(row)?;
    let due = time(row, "due")?;
    Ok(DeliverySummary {
        id: DeliveryId::from_u128(id(row, "id")?),
        event: EventId::from_u128(id(row, "event_id")?),
        destination: DestinationId::from_u128(id(row, "destination")?),
        state,
        attempts: row.get("attempts")?,
        received_at: time(row, "received_at")?,
        updated_at: time(row, "updated_at")?,
        next_attempt_at: Some(due).filter(|due| state.is_open() && due.0 > 0),
        reason: row.get("reason")?,
        replay: optional_id(row, "replay")?.map(ReplayId::from_u128),
        superseded_by: optional_id(row, "superseded_by")?.map(DeliveryId::from_u128),
    })
}

pub(super) fn deliveries_of(
    connection: &Connection,
    event_seq: u64,
) -> rusqlite::Result<Vec<DeliverySummary>> {
    connection
        .prepare_cached(&format!(
            "{DELIVERY_SELECT} {DELIVERY_FROM} WHERE d.event_seq = ? ORDER BY d.seq"
        ))?
        .query_map([event_seq], summary)?
        .collect()
}

/// Where an event is, and what came of it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) position: Position,
    pub(crate) deliveries: Vec<DeliverySummary>,
    pub(crate) repeats: Repeats,
}

/// Finds an event.
pub(crate) fn event(
    connection: &Connection,
    tenant: TenantId,
    id: EventId,
) -> rusqlite::Result<Option<Found>> {
    let found: Option<(u64, i64)> = connection
        .prepare_cached("SELECT seq, position FROM events WHERE id = ? AND tenant = ?")?
        .query_row(params![blob(id.as_u128()), blob(tenant.as_u128())], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((seq, position)) = found else {
        return Ok(None);
    };
    let repeats = connection
        .prepare_cached("SELECT count, last_at FROM repeats WHERE event_seq = ?")?
        .query_row([seq], |row| {
            Ok(Repeats {
                count: row.get(0)?,
                last_at: Some(Timestamp(row.get(1)?)),
            })
        })
        .optional()?;
    Ok(Some(Found {
        position: Position::unpack(position),
        deliveries: deliveries_of(connection, seq)?,
        repeats: repeats.unwrap_or_default(),
    }))
}

/// Deliveries, newest first.
pub(crate) fn deliveries(
    connection: &Connection,
    tenant: TenantId,
    filter: &DeliveryFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> rusqlite::Result<Page<DeliverySummary>> {
    let listed = listed_deliveries(tenant, filter);
    pieces::piece(connection, listed, after, limit, summary)
}

/// Where deliveries that match are.
pub(super) fn listed_deliveries(tenant: TenantId, filter: &DeliveryFilter) -> Listed<'static> {
    let mut within = Conditions::of_tenant("d.tenant", tenant, filter.event.is_some());
    let mut matching = Conditions::none();
    within.and("e.id = ?", filter.event.map(|it| blob_value(it.as_u128())));
    let replay = filter.replay.map(|it| blob_value(it.as_u128()));
    let state = filter.state.map(|it| Value::Integer(state_number(it)));
    match (replay, state) {
        // An index knows both; with one of them it would have to sort.
        (Some(replay), Some(state)) => {
            within.and_all("d.replay = ? AND d.state = ?", vec![replay, state]);
        }
        (Some(replay), None) => matching.and("d.replay = ?", Some(replay)),
        (None, _) if filter.state == Some(DeliveryState::Dead) => {
            // Only a literal lets SQLite use the partial index.
            within.and_all(&format!("d.state = {DEAD}"), Vec::new());
        }
        (None, state) => matching.and("d.state = ?", state),
    }
    matching.and(
        "d.destination = ?",
        filter.destination.map(|it| blob_value(it.as_u128())),
    );
    Listed {
        select: DELIVERY_SELECT,
        from: DELIVERY_FROM,
        seq: "d.seq",
        within,
        matching,
        way: Way::NewestFirst,
    }
}

/// The attempts of a delivery, first to last.
pub(crate) fn attempts(
    connection: &Connection,
    tenant: TenantId,
    delivery: DeliveryId,
) -> rusqlite::Result<Option<Vec<AttemptRecord>>> {
    let seq: Option<u64> = connection
        .prepare_cached("SELECT seq FROM deliveries WHERE id = ? AND tenant = ?")?
        .query_row(
            params![blob(delivery.as_u128()), blob(tenant.as_u128())],
            |row| row.get(0),
        )
        .optional()?;
    let Some(seq) = seq else {
        return Ok(None);
    };
    let mut statement = connection
        .prepare_cached("SELECT * FROM attempts WHERE delivery_seq = ? ORDER BY number")?;
    let rows = statement.query_map([seq], |row| {
        let outcome = Bytes::from(row.get::<_, Vec<u8>>("outcome")?);
        Ok(AttemptRecord {
            id: AttemptId::from_u128(id(row, "id")?),
            number: row.get("number")?,
            agent: optional_id(row, "agent")?.map(AgentId::from_u128),
            ended_at: time(row, "ended_at")?,
            elapsed_ms: row.get("elapsed_ms")?,
            outcome: decode_outcome(&outcome).ok_or(rusqlite::Error::InvalidQuery)?,
        })
    })?;
    rows.collect::<rusqlite::Result<Vec<_>>>().map(Some)
}

/// How much waits at a destination.
pub(crate) fn depth(connection: &Connection, key: DestinationKey) -> rusqlite::Result<Depth> {
    let destination = blob(key.destination.as_u128());
    let tenant = blob(key.tenant.as_u128());
    let open = connection
        .prepare_cached("SELECT count(*) FROM pending WHERE destination = ?")?
        .query_row([destination], |row| row.get(0))?;
    let dead = connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM deliveries WHERE destination = ? AND state = {DEAD}
             AND superseded_by IS NULL AND tenant = ?"
        ))?
        .query_row([destination, tenant], |row| row.get(0))?;
    let mut oldest_open: Option<u64> = None;
    for queue in [Queue::Main, Queue::Replays] {
        let first: Option<u64> = connection
            .prepare_cached(
                "SELECT e.received_at FROM pending p JOIN deliveries d ON d.seq = p.seq
                 JOIN events e ON e.seq = d.event_seq
                 WHERE p.destination = ?1 AND p.queue = ?3 AND d.tenant = ?2
                 ORDER BY p.place LIMIT 1",
            )?
            .query_row(params![destination, tenant, queue as u8], |row| row.get(0))
            .optional()?;
        oldest_open = [oldest_open, first].into_iter().flatten().min();
    }
    if oldest_open.is_none() {
        // Another tenant's destination, or an empty one.
        return Ok(Depth {
            dead,
            ..Depth::default()
        });
    }
    Ok(Depth {
        open,
        dead,
        oldest_open: oldest_open.map(Timestamp),
    })
}

const OWED: &str = "SELECT d.*, e.id AS event_id, e.position AS position,
   e.body_bytes AS body_bytes FROM deliveries d JOIN events e ON e.seq = d.event_seq";

const PENDING: &str = "SELECT d.*, e.id AS event_id, e.position AS position,
   e.body_bytes AS body_bytes FROM pending p JOIN deliveries d ON d.seq = p.seq
   JOIN events e ON e.seq = d.event_seq";

fn owed(row: &Row<'_>) -> rusqlite::Result<Owed> {
    let key = DestinationKey {
        tenant: TenantId::from_u128(id(row, "tenant")?),
        destination: DestinationId::from_u128(id(row, "destination")?),
    };
    let replay = optional_id(row, "replay")?.map(ReplayId::from_u128);
    let order = row.get::<_, Option<i64>>("order_key")?;
    let order = order.map(|digest| KeyDigest(digest.cast_unsigned()));
    Ok(Owed {
        delivery: DeliveryRef {
            key,
            id: DeliveryId::from_u128(id(row, "id")?),
            seq: row.get("seq")?,
            place: row.get("place")?,
            queue: Queue::of(replay.is_some(), order.is_some()),
        },
        event: EventId::from_u128(id(row, "event_id")?),
        position: Position::unpack(row.get("position")?),
        body_bytes: row.get("body_bytes")?,
        attempts: row.get("attempts")?,
        spent: Spent {
            attempts: row.get("spent_attempts")?,
            window_ms: row.get("spent_ms")?,
        },
        due: time(row, "due")?,
        replay,
        order,
        since: Timestamp(0),
        waited_until: Timestamp(0),
    })
}

/// The rows that a desk asks for.
pub(crate) fn load(connection: &Connection, plan: &LoadPlan) -> rusqlite::Result<Loaded> {
    let applied = connection.query_row("SELECT seq FROM position", [], |row| row.get(0))?;
    let destination = blob(plan.key.destination.as_u128());
    let mut keys = Vec::with_capacity(plan.keys.len());
    for key in &plan.keys {
        let rows = connection
            .prepare_cached(&format!(
                "{PENDING} WHERE p.destination = ?1 AND p.order_key = ?2 AND p.place > ?3
                 AND p.place <= ?4 ORDER BY p.place LIMIT ?5"
            ))?
            .query_map(
                params![
                    destination,
                    signed(key.order),
                    key.after,
                    plan.main.after,
                    key.most
                ],
                owed,
            )?
            .collect::<rusqlite::Result<_>>()?;
        keys.push(rows);
    }
    let waiting = if plan.waiting_most == 0 {
        Vec::new()
    } else {
        connection
            .prepare_cached(&format!(
                "{PENDING} WHERE p.destination = ?1 AND p.due > 0 AND p.order_key IS NULL
                 ORDER BY p.due LIMIT ?2"
            ))?
            .query_map(params![destination, plan.waiting_most], owed)?
            .collect::<rusqlite::Result<_>>()?
    };
    Ok(Loaded {
        main: load_queue(connection, plan, Queue::Main)?,
        replays: load_queue(connection, plan, Queue::Replays)?,
        keys,
        waiting,
        applied,
    })
}

fn load_queue(
    connection: &Connection,
    plan: &LoadPlan,
    queue: Queue,
) -> rusqlite::Result<Vec<Owed>> {
    let of = plan.of(queue);
    if of.most == 0 {
        return Ok(Vec::new());
    }
    let destination = blob(plan.key.destination.as_u128());
    let rest = "p.destination = ?1 AND p.queue = ?2 AND p.place > ?3";
    let (number, after, most) = (queue as u8, of.after, of.most);
    if queue == Queue::Replays || plan.passed_over.is_empty() {
        return connection
            .prepare_cached(&format!("{PENDING} WHERE {rest} ORDER BY p.place LIMIT ?4"))?
            .query_map(params![destination, number, after, most], owed)?
            .collect();
    }
    let keys: Vec<String> = plan
        .passed_over
        .iter()
        .map(|key| signed(*key).to_string())
        .collect();
    let keys = format!("[{}]", keys.join(","));
    connection
        .prepare_cached(&format!(
            "{PENDING} WHERE {rest} AND (p.order_key IS NULL
               OR p.order_key NOT IN (SELECT value FROM json_each(?5)))
             ORDER BY p.place LIMIT ?4"
        ))?
        .query_map(params![destination, number, after, most, keys], owed)?
        .collect()
}

/// Every queue with a backlog, and its last place.
pub(crate) fn backlogs(
    connection: &Connection,
) -> rusqlite::Result<Vec<(DestinationKey, Queue, u64)>> {
    let mut statement = connection.prepare(
        "SELECT p.destination, p.queue, max(p.place),
           (SELECT d.tenant FROM deliveries d WHERE d.seq = p.seq)
         FROM pending p GROUP BY p.destination, p.queue",
    )?;
    let rows = statement.query_map([], |row| {
        let destination = row.get::<_, [u8; 16]>(0)?;
        let queue = Queue::from_number(row.get(1)?).unwrap_or(Queue::Main);
        let tenant = row.get::<_, [u8; 16]>(3)?;
        let key = DestinationKey {
            tenant: TenantId::from_u128(u128::from_be_bytes(tenant)),
            destination: DestinationId::from_u128(u128::from_be_bytes(destination)),
        };
        Ok((key, queue, row.get(2)?))
    })?;
    rows.collect()
}

/// Every key that is stopped.
pub(crate) fn parked(
    connection: &Connection,
) -> rusqlite::Result<Vec<(DestinationKey, KeyDigest)>> {
    let mut statement = connection.prepare("SELECT * FROM parked")?;
    let rows = statement.query_map([], |row| {
        let key = DestinationKey {
            tenant: TenantId::from_u128(id(row, "tenant")?),
            destination: DestinationId::from_u128(id(row, "destination")?),
        };
        let order: i64 = row.get("order_key")?;
        Ok((key, KeyDigest(order.cast_unsigned())))
    })?;
    rows.collect()
}

/// Whether an open delivery is the first of its key, if it has one.
pub(crate) fn is_first(connection: &Connection, owed: &Owed) -> rusqlite::Result<bool> {
    let Some(order) = owed.order else {
        return Ok(true);
    };
    let destination = blob(owed.delivery.key.destination.as_u128());
    let first: Option<u64> = connection
        .prepare_cached("SELECT min(place) FROM pending WHERE destination = ? AND order_key = ?")?
        .query_row(params![destination, signed(order)], |row| row.get(0))?;
    Ok(first == Some(owed.delivery.place))
}

/// A digest as a database keeps it.
pub(super) fn signed(order: KeyDigest) -> i64 {
    order.0.cast_signed()
}

/// A delivery, open or not, with its state.
pub(crate) fn delivery(
    connection: &Connection,
    tenant: TenantId,
    delivery: DeliveryId,
) -> rusqlite::Result<Option<(DeliveryState, Owed)>> {
    connection
        .prepare_cached(&format!("{OWED} WHERE d.id = ? AND d.tenant = ?"))?
        .query_row(
            params![blob(delivery.as_u128()), blob(tenant.as_u128())],
            |row| Ok((state(row)?, owed(row)?)),
        )
        .optional()
}

/// A delivery of an event, open or not.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) state: DeliveryState,
    /// A replay took its place.
    pub(crate) superseded: bool,
    pub(crate) owed: Owed,
}

/// The deliveries of events by their sequence: where they stand and what they owe.
pub(crate) fn owed_of_events(
    connection: &Connection,
    first: u64,
    next: u64,
) -> rusqlite::Result<Vec<Standing>> {
    connection
        .prepare_cached(&format!(
            "{OWED} WHERE d.event_seq >= ? AND d.event_seq < ? ORDER BY d.seq"
        ))?
        .query_map([first, next], |row| {
            Ok(Standing {
                state: state(row)?,
                superseded: optional_id(row, "superseded_by")?.is_some(),
                owed: owed(row)?,
            })
        })?
        .collect()
}

/// An event as replays need to know it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) seq: u64,
    pub(crate) position: Position,
    pub(crate) body_bytes: u64,
    pub(crate) deliveries: Vec<Standing>,
}

/// What replays need to know of an event; an erased one cannot be replayed.
pub(crate) fn known(
    connection: &Connection,
    tenant: TenantId,
    id: EventId,
) -> rusqlite::Result<Option<Known>> {
    let found = connection
        .prepare_cached(
            "SELECT seq, position, body_bytes FROM events
             WHERE id = ? AND tenant = ? AND method <> ''",
        )?
        .query_row(params![blob(id.as_u128()), blob(tenant.as_u128())], |row| {
            Ok(Known {
                seq: row.get(0)?,
                position: Position::unpack(row.get(1)?),
                body_bytes: row.get(2)?,
                deliveries: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut known) = found else {
        return Ok(None);
    };
    known.deliveries = owed_of_events(connection, known.seq, known.seq + 1)?;
    Ok(Some(known))
}

/// A provider's id as it is remembered.
pub(crate) struct Remembered {
    pub(crate) tenant: TenantId,
    pub(crate) source: SourceId,
    pub(crate) provider_id: String,
    pub(crate) until: Timestamp,
    pub(crate) position: Position,
}

/// Every provider id still remembered, newest first, until `each` says stop.
pub(crate) fn remembered(
    connection: &Connection,
    now: Timestamp,
    received_since: Timestamp,
    mut each: impl FnMut(Remembered) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT e.tenant, e.source, e.provider_id, e.remembered_until, e.position, e.received_at
         FROM events e LEFT JOIN forgotten f ON f.source = e.source
         WHERE e.remembered_until > ?1 AND e.provider_id IS NOT NULL
           AND (f.seq IS NULL OR f.seq < e.seq) ORDER BY e.seq DESC",
    )?;
    let mut rows = statement.query([&now.0 as &dyn ToSql])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, u64>(5)? < received_since.0 {
            break;
        }
        let tenant = u128::from_be_bytes(row.get(0)?);
        let source = u128::from_be_bytes(row.get(1)?);
        let remembered = Remembered {
            tenant: TenantId::from_u128(tenant),
            source: SourceId::from_u128(source),
            provider_id: row.get(2)?,
            until: Timestamp(row.get(3)?),
            position: Position::unpack(row.get(4)?),
        };
        if !each(remembered) {
            return Ok(());
        }
    }
    let mut statement = connection.prepare(
        "SELECT tenant, source, provider_id, until, position FROM remembered
         WHERE until > ?1 ORDER BY seq DESC",
    )?;
    let rows = statement.query_map([now.0], |row| {
        Ok(Remembered {
            tenant: TenantId::from_u128(u128::from_be_bytes(row.get(0)?)),
            source: SourceId::from_u128(u128::from_be_bytes(row.get(1)?)),
            provider_id: row.get(2)?,
            until: Timestamp(row.get(3)?),
            position: Position::unpack(row.get(4)?),
        })
    })?;
    for row in rows {
        if !each(row?) {
            break;
        }
    }
    Ok(())
}
