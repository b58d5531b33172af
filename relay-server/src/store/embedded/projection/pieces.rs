//! Lists a piece at a time. What a filter asks for that no index has is looked for row by row, a
//! bounded number of them for each piece: however little matches, a piece is quick, and names the
//! place where to go on.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use protocol::id::TenantId;
use rusqlite::{Connection, Row, params_from_iter, types::Value};

use super::apply::blob;
use crate::store::{Cursor, Page};

/// The most rows of a piece.
const PIECE_MAX: u32 = 250;

/// The most rows that are looked at for one piece.
pub(super) const LOOKED_AT_MAX: u32 = 20_000;

/// Which way a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By sequence, downwards.
    NewestFirst,
    /// By sequence, upwards.
    OldestFirst,
}

/// Conditions with their values.
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// None yet.
    pub(super) fn none() -> Self {
        Self {
            sql: "1".to_owned(),
            values: Vec::new(),
        }
    }

    /// Only what is the tenant's. Where one thing is `named` by its id, the index of ids is to find
    /// it: a plus keeps SQLite from walking through everything that the tenant has.
    pub(super) fn of_tenant(column: &str, tenant: TenantId, named: bool) -> Self {
        let plus = if named { "+" } else { "" };
        Self {
            sql: format!("{plus}{column} = ?"),
            values: vec![blob_value(tenant.as_u128())],
        }
    }

    /// One more, if it has a value.
    pub(super) fn and(&mut self, sql: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.and_all(sql, vec![value]);
        }
    }

    /// One more, with all its values.
    pub(super) fn and_all(&mut self, sql: &str, values: Vec<Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }
}

/// What a list is made from.
pub(super) struct Listed<'a> {
    /// `SELECT columns`, among them `seq`.
    pub(super) select: &'a str,
    /// `FROM tables`.
    pub(super) from: &'a str,
    /// The column of the sequence, with its table.
    pub(super) seq: &'a str,
    /// What an index serves.
    pub(super) within: Conditions,
    /// What is looked at row by row.
    pub(super) matching: Conditions,
    pub(super) way: Way,
}

/// One piece of a list: at most `limit` rows that match, and where to go on, if there is more.
pub(super) fn piece<T>(
    connection: &Connection,
    listed: Listed<'_>,
    after: Option<&Cursor>,
    limit: u32,
    mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Page<T>> {
    let limit = limit.clamp(1, PIECE_MAX) as usize;
    let sql = listed.sql();
    let mut values = listed.matching.values;
    values.extend(listed.within.values);
    values.push(int_value(listed.way.start(after)));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(values))?;
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    let mut last = None;
    for _ in 0..LOOKED_AT_MAX {
        let Some(row) = found.next()? else {
            return Ok(page);
        };
        if row.get::<_, Option<bool>>("matching")?.unwrap_or(false) {
            if page.rows.len() == limit {
                // One more than asked for tells that there is a next piece.
                break;
            }
            page.rows.push(read(row)?);
        }
        last = Some(row.get("seq")?);
    }
    page.next = last.map(cursor);
    Ok(page)
}

impl Listed<'_> {
    /// The statement; its values are those of `matching`, those of `within`, and the place.
    pub(super) fn sql(&self) -> String {
        let (compare, order) = match self.way {
            Way::NewestFirst => ("<", "DESC"),
            Way::OldestFirst => (">", "ASC"),
        };
        let Self {
            select, from, seq, ..
        } = self;
        let (matching, within) = (&self.matching.sql, &self.within.sql);
        format!(
            "{select}, ({matching}) AS matching {from} WHERE {within} AND {seq} {compare} ?
             ORDER BY {seq} {order}"
        )
    }
}

impl Way {
    /// Where a list begins. An unknown cursor begins nowhere: it gives no rows.
    fn start(self, after: Option<&Cursor>) -> u64 {
        let (first, nowhere) = match self {
            Self::NewestFirst => (i64::MAX as u64, 0),
            Self::OldestFirst => (0, i64::MAX as u64),
        };
        after.map_or(first, |cursor| place(cursor).unwrap_or(nowhere))
    }
}

/// A place in a list, for others to bring back.
pub(super) fn cursor(seq: u64) -> Cursor {
    Cursor(URL_SAFE_NO_PAD.encode(seq.to_be_bytes()))
}

/// The place that a cursor names.
pub(super) fn place(cursor: &Cursor) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(&cursor.0).ok()?;
    let seq = u64::from_be_bytes(bytes.try_into().ok()?);
    Some(seq.min(i64::MAX as u64))
}

pub(super) fn blob_value(id: u128) -> Value {
    Value::Blob(blob(id).to_vec())
}

pub(super) fn int_value(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}
