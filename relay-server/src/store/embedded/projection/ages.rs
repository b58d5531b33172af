//! Which part of the events a span of time can be in.
//!
//! Events are listed by sequence, and people ask by time. Every zone of so many sequence numbers keeps
//! the times of its oldest and newest event, so that a list looks only where something can be: however
//! much there is, and whatever clocks do.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;

/// Sequence numbers of a zone, as a power of two.
const ZONE_BITS: u32 = 12;

/// The oldest and the newest event of zones.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<u64, (u64, u64)>);

impl Ages {
    /// Takes note of an event.
    pub(super) fn note(&mut self, seq: u64, received_at: Timestamp) {
        let at = received_at.0;
        let (oldest, newest) = self.0.entry(seq >> ZONE_BITS).or_insert((at, at));
        *oldest = (*oldest).min(at);
        *newest = (*newest).max(at);
    }

    /// Adds what was noted to what is known.
    pub(super) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO ages VALUES (?1, ?2, ?3) ON CONFLICT (zone) DO UPDATE SET
               oldest = min(oldest, excluded.oldest), newest = max(newest, excluded.newest)",
        )?;
        for (zone, (oldest, newest)) in self.0 {
            statement.execute(params![zone, oldest, newest])?;
        }
        Ok(())
    }
}

/// The first and the last sequence between which every event lies that was received in a span of
/// time; the last is before the first if there is none.
pub(super) fn range(
    connection: &Connection,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> rusqlite::Result<(u64, u64)> {
    let (since, until) = (
        since.unwrap_or_default(),
        until.unwrap_or(Timestamp(i64::MAX as u64)),
    );
    let zones: (Option<u64>, Option<u64>) = connection
        .prepare_cached("SELECT min(zone), max(zone) FROM ages WHERE newest >= ? AND oldest < ?")?
        .query_row(
            params![since.0.min(i64::MAX as u64), until.0.min(i64::MAX as u64)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
    Ok(match zones {
        (Some(first), Some(last)) => (first << ZONE_BITS, ((last + 1) << ZONE_BITS) - 1),
        _ => (1, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::projection::schema;

    #[test]
    fn a_span_of_time_is_in_a_range_of_zones() {
        let directory = tempfile::tempdir().unwrap();
        let connection = schema::open_writer(&directory.path().join("projection.db")).unwrap();
        let zone = 1 << ZONE_BITS;
        let at = Timestamp;
        // The clock stepped back within the second zone.
        let events = [
            (1, 100),
            (5, 110),
            (zone, 120),
            (zone + 7, 90),
            (3 * zone + 1, 130),
        ];
        for half in events.chunks(2) {
            let mut ages = Ages::default();
            for (seq, time) in half {
                ages.note(*seq, at(*time));
            }
            ages.write(&connection).unwrap();
        }
        let (first, second, fourth) = (0, zone, 3 * zone);
        let last_of = |zone_start: u64| zone_start + zone - 1;
        for (since, until, expected) in [
            (None, None, (first, last_of(fourth))),
            (Some(121), None, (fourth, last_of(fourth))),
            (Some(120), None, (second, last_of(fourth))),
            (None, Some(100), (second, last_of(second))),
            (None, Some(101), (first, last_of(second))),
            (Some(111), Some(119), (second, last_of(second))),
            (Some(131), None, (1, 0)),
            (None, Some(90), (1, 0)),
        ] {
            let found = range(&connection, since.map(at), until.map(at)).unwrap();
            assert_eq!(found, expected, "{since:?} {until:?}");
        }
    }
}
