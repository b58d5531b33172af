use rusqlite::{params_from_iter, types::Value};

use super::*;
use crate::{
    clock::Timestamp,
    lifecycle::Ending,
    store::{
        DeliveryFilter, EventFilter,
        embedded::projection::{pieces::LOOKED_AT_MAX, schema},
    },
};

const TENANT: TenantId = TenantId::from_u128(1);

struct Tables {
    connection: Connection,
    _directory: tempfile::TempDir,
}

fn tables() -> Tables {
    let directory = tempfile::tempdir().unwrap();
    let connection = schema::open_writer(&directory.path().join("projection.db")).unwrap();
    Tables {
        connection,
        _directory: directory,
    }
}

/// What SQLite does for a statement, a line each.
fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let values = vec![Value::Null; statement.parameter_count()];
    let rows = statement.query_map(params_from_iter(values), |row| {
        row.get::<_, String>("detail")
    });
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// The statement finds its rows by these indexes, in order, and neither reads a table whole nor sorts.
#[track_caller]
fn check(connection: &Connection, sql: &str, indexes: &[&str]) {
    let plan = plan(connection, sql);
    let text = plan.join("\n");
    assert!(!text.contains("SCAN"), "{sql}\n{text}");
    assert!(!text.contains("TEMP B-TREE"), "{sql}\n{text}");
    for index in indexes {
        assert!(text.contains(index), "{index}: {sql}\n{text}");
    }
}

#[test]
fn lists_find_their_rows_by_an_index() {
    let tables = tables();
    let db = &tables.connection;
    let at = Some(Timestamp(1));
    let full = DeadLetterFilter {
        source: Some(SourceId::from_u128(2)),
        event_type: Some("a".to_owned()),
        reason: Some("permanent".to_owned()),
        last: Some(EndingFilter::Status(500, 599)),
        since: at,
        until: at,
        ..DeadLetterFilter::default()
    };
    let destination = DeadLetterFilter {
        destination: Some(DestinationId::from_u128(3)),
        ..full.clone()
    };
    for way in [Way::NewestFirst, Way::OldestFirst] {
        let all = dead(TENANT, &full, way).sql();
        check(db, &all, &["dead_letters_by_tenant"]);
        let of_destination = dead(TENANT, &destination, way).sql();
        check(db, &of_destination, &["dead_letters_by_destination"]);
        let events = EventFilter {
            source: full.source,
            destination: destination.destination,
            state: Some(DeliveryState::Dead),
            event_type: full.event_type.clone(),
            since: at,
            ..EventFilter::default()
        };
        let sql = queries::listed_events(db, TENANT, &events, way)
            .unwrap()
            .sql();
        check(db, &sql, &["events_by_tenant", "deliveries_by_event"]);
        let unrouted = EventFilter {
            unrouted: true,
            ..EventFilter::default()
        };
        let sql = queries::listed_events(db, TENANT, &unrouted, way)
            .unwrap()
            .sql();
        check(db, &sql, &["events_by_tenant", "deliveries_by_event"]);
    }
}

#[test]
fn replays_find_their_deliveries_by_an_index() {
    let tables = tables();
    let db = &tables.connection;
    let replay = DeliveryFilter {
        replay: Some(ReplayId::from_u128(4)),
        state: Some(DeliveryState::Pending),
        ..DeliveryFilter::default()
    };
    let sql = queries::listed_deliveries(TENANT, &replay).sql();
    check(db, &sql, &["deliveries_by_replay"]);
    let any_state = DeliveryFilter {
        state: None,
        ..replay
    };
    let sql = queries::listed_deliveries(TENANT, &any_state).sql();
    check(db, &sql, &["deliveries_by_tenant"]);
    check(db, REPLAYED, &["COVERING INDEX deliveries_by_replay"]);
}

#[test]
fn one_thing_is_found_by_its_id() {
    let tables = tables();
    let db = &tables.connection;
    let event = Some(EventId::from_u128(6));
    let letter = DeadLetterFilter {
        id: Some(DeliveryId::from_u128(5)),
        ..DeadLetterFilter::default()
    };
    let of_event = DeadLetterFilter {
        event,
        ..DeadLetterFilter::default()
    };
    let by_id = [
        dead(TENANT, &letter, Way::NewestFirst),
        dead(TENANT, &of_event, Way::OldestFirst),
        queries::listed_events(
            db,
            TENANT,
            &EventFilter {
                id: event,
                ..EventFilter::default()
            },
            Way::OldestFirst,
        )
        .unwrap(),
        queries::listed_deliveries(
            TENANT,
            &DeliveryFilter {
                event,
                state: Some(DeliveryState::Dead),
                ..DeliveryFilter::default()
            },
        ),
    ];
    for one in by_id {
        let text = plan(db, &one.sql()).join("\n");
        assert!(!text.contains("SCAN"), "{text}");
        assert!(text.contains("_by_id (id=?"), "{text}");
    }
}

/// Dead letters one after the other, each `rare`th of source 2, all others of source 3.
fn fill(connection: &mut Connection, count: u64, rare: u64) {
    let transaction = connection.transaction().unwrap();
    for seq in 1..=count {
        let source = if seq % rare == 0 { 2 } else { 3 };
        transaction
            .prepare_cached(
                "INSERT INTO events VALUES (?1,?2,?3,?4,1,'POST','/',NULL,NULL,0,0,0,0)",
            )
            .unwrap()
            .execute(params![
                seq,
                blob(u128::from(seq)),
                blob(TENANT.as_u128()),
                blob(source)
            ])
            .unwrap();
        transaction
            .prepare_cached(
                "INSERT INTO deliveries VALUES
                   (?1,?2,?1,?3,?4,?1,3,1,0,0,0,1,'permanent',NULL,NULL,NULL,NULL,?5)",
            )
            .unwrap()
            .execute(params![
                seq,
                blob(u128::from(seq)),
                blob(TENANT.as_u128()),
                blob(9),
                ending_number(Ending::Answered(503)),
            ])
            .unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn what_is_rare_is_found_piece_by_piece() {
    let mut tables = tables();
    let looked_at = u64::from(LOOKED_AT_MAX);
    let count = looked_at * 2 + looked_at / 2;
    fill(&mut tables.connection, count, looked_at);
    let filter = DeadLetterFilter {
        source: Some(SourceId::from_u128(2)),
        ..DeadLetterFilter::default()
    };
    let mut pieces = Vec::new();
    let mut after = None;
    loop {
        let page = dead_letters(&tables.connection, TENANT, &filter, after.as_ref(), 10).unwrap();
        pieces.push(page.rows.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        pieces,
        [1, 1, 0],
        "two of {count}, {looked_at} for each piece"
    );

    let all = DeadLetterFilter::default();
    let page = dead_letters(&tables.connection, TENANT, &all, None, 10).unwrap();
    assert_eq!((page.rows.len(), page.next.is_some()), (10, true));
    assert_eq!(page.rows[0].last, Some(Ending::Answered(503)));
    let nobody = TenantId::from_u128(8);
    let page = dead_letters(&tables.connection, nobody, &all, None, 10).unwrap();
    assert_eq!((page.rows.len(), page.next), (0, None));
}

#[test]
fn endings_keep_their_numbers() {
    for (ending, _) in Ending::UNANSWERED {
        assert_eq!(ending_of(ending_number(ending)), Some(ending));
    }
    for status in [100, 200, 599, 999] {
        let ending = Ending::Answered(status);
        assert_eq!(ending_of(ending_number(ending)), Some(ending));
        assert_eq!(ending_number(ending), i64::from(status));
    }
    assert_eq!(ending_of(-1), None);
}
