//! Dead letters, and what replays ask for.

use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId};
use rusqlite::{Connection, Row, params, types::Value};

use super::{
    apply::{blob, state_number},
    pieces::{self, Conditions, Listed, Way, blob_value, int_value},
    queries::{self, id},
    schema::DEAD,
};
use crate::{
    lifecycle::DeliveryState,
    store::{
        Cursor, DeadLetter, DeadLetterFilter, EndingFilter, Match, Page, Replayable, Span,
        embedded::journal::payload::{ending_number, ending_of},
    },
};

/// Dead letters, newest first.
pub(crate) fn dead_letters(
    connection: &Connection,
    tenant: TenantId,
    filter: &DeadLetterFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> rusqlite::Result<Page<DeadLetter>> {
    let listed = dead(tenant, filter, Way::NewestFirst);
    pieces::piece(connection, listed, after, limit, |row| {
        Ok(DeadLetter {
            delivery: queries::summary(row)?,
            source: SourceId::from_u128(id(row, "source")?),
            event_type: row.get("event_type")?,
            last: row.get::<_, Option<i64>>("ending")?.and_then(ending_of),
        })
    })
}

/// Where dead letters that match are.
fn dead(tenant: TenantId, filter: &DeadLetterFilter, way: Way) -> Listed<'static> {
    // Only literals let SQLite use the partial indexes.
    let mut within = Conditions::of_tenant("d.tenant", tenant, filter.names_one());
    let sql = format!("d.state = {DEAD} AND d.superseded_by IS NULL");
    within.and_all(&sql, Vec::new());
    within.and("d.id = ?", filter.id.map(|it| blob_value(it.as_u128())));
    within.and("e.id = ?", filter.event.map(|it| blob_value(it.as_u128())));
    within.and(
        "d.destination = ?",
        filter.destination.map(|it| blob_value(it.as_u128())),
    );
    let mut matching = Conditions::none();
    matching.and(
        "e.source = ?",
        filter.source.map(|it| blob_value(it.as_u128())),
    );
    matching.and(
        "e.event_type = ?",
        filter.event_type.clone().map(Value::Text),
    );
    matching.and("d.reason = ?", filter.reason.clone().map(Value::Text));
    matching.and("e.received_at >= ?", filter.since.map(|at| int_value(at.0)));
    matching.and("e.received_at < ?", filter.until.map(|at| int_value(at.0)));
    if let Some(last) = filter.last {
        let (from, to) = match last {
            EndingFilter::Status(from, to) => (i64::from(from), i64::from(to)),
            EndingFilter::Is(ending) => (ending_number(ending), ending_number(ending)),
        };
        let values = vec![Value::Integer(from), Value::Integer(to)];
        matching.and_all("d.ending IS NOT NULL AND d.ending BETWEEN ? AND ?", values);
    }
    Listed {
        select: "SELECT d.*, e.id AS event_id, e.received_at AS received_at, e.source AS source,
           e.event_type AS event_type",
        from: "FROM deliveries d JOIN events e ON e.seq = d.event_seq",
        seq: "d.seq",
        within,
        matching,
        way,
    }
}

/// Of what was erased nothing is left to replay.
const NOT_ERASED: &str = "e.method <> ''";

/// What a replay may take, oldest first.
pub(crate) fn select(
    connection: &Connection,
    tenant: TenantId,
    selection: &Replayable,
    span: &Span,
    limit: u32,
) -> rusqlite::Result<Page<Match>> {
    let upto = int_value(pieces::place(&span.upto).unwrap_or(0));
    let after = span.after.as_ref();
    match selection {
        Replayable::Events(filter) => {
            let mut listed = queries::listed_events(connection, tenant, filter, Way::OldestFirst)?;
            listed.within.and("e.seq <= ?", Some(upto));
            listed.matching.and_all(NOT_ERASED, Vec::new());
            pieces::piece(connection, listed, after, limit, |row| {
                let event = EventId::from_u128(id(row, "id")?);
                matched(connection, row, event, row.get("seq")?, None)
            })
        }
        Replayable::DeadLetters(filter) => {
            let mut listed = dead(tenant, filter, Way::OldestFirst);
            listed.within.and("d.seq <= ?", Some(upto));
            listed.matching.and_all(NOT_ERASED, Vec::new());
            pieces::piece(connection, listed, after, limit, |row| {
                let event = EventId::from_u128(id(row, "event_id")?);
                let delivery = DeliveryId::from_u128(id(row, "id")?);
                let destination = DestinationId::from_u128(id(row, "destination")?);
                let dead = Some((delivery, destination));
                matched(connection, row, event, row.get("event_seq")?, dead)
            })
        }
    }
}

fn matched(
    connection: &Connection,
    row: &Row<'_>,
    event: EventId,
    event_seq: u64,
    dead: Option<(DeliveryId, DestinationId)>,
) -> rusqlite::Result<Match> {
    let deliveries = queries::deliveries_of(connection, event_seq)?;
    let deliveries = deliveries.iter();
    Ok(Match {
        event,
        source: SourceId::from_u128(id(row, "source")?),
        dead,
        deliveries: deliveries
            .map(|delivery| (delivery.destination, delivery.state))
            .collect(),
    })
}

/// The place of the newest thing there is.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<Cursor> {
    let seq = connection.query_row("SELECT seq FROM position", [], |row| row.get(0))?;
    Ok(pieces::cursor(seq))
}

const REPLAYED: &str =
    "SELECT count(*) FROM deliveries WHERE replay = ?1 AND tenant = ?2 AND state = ?3";

/// How many deliveries of a replay are in a state.
pub(crate) fn replayed(
    connection: &Connection,
    tenant: TenantId,
    replay: ReplayId,
    state: DeliveryState,
) -> rusqlite::Result<u64> {
    connection.prepare_cached(REPLAYED)?.query_row(
        params![
            blob(replay.as_u128()),
            blob(tenant.as_u128()),
            state_number(state)
        ],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests;
