//! Lists: newest first, a page at a time.

use std::{fmt::Display, sync::Arc};

use serde::Serialize;

use super::{Answer, extract::bad};
use crate::{
    problem::Problem,
    store::{Cursor, Page},
};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 250;
const CURSOR_BYTES_MAX: usize = 512;

/// One page as the API shows it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct List<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    /// All there is.
    pub(super) fn whole(data: Vec<T>) -> Self {
        Self {
            data,
            next_cursor: None,
            has_more: false,
        }
    }

    /// A part, and where it goes on.
    pub(super) fn part(data: Vec<T>, next: Option<String>) -> Self {
        Self {
            data,
            has_more: next.is_some(),
            next_cursor: next,
        }
    }

    /// A page of rows that are numbered.
    pub(super) fn numbered(data: Vec<T>, next: Option<u64>) -> Self {
        Self {
            data,
            next_cursor: next.map(|next| next.to_string()),
            has_more: next.is_some(),
        }
    }

    /// A page of the store.
    pub(super) fn from_page<R>(page: Page<R>, view: impl FnMut(R) -> T) -> Self {
        let next_cursor = page.next.map(|cursor| cursor.0);
        Self {
            has_more: next_cursor.is_some(),
            data: page.rows.into_iter().map(view).collect(),
            next_cursor,
        }
    }
}

/// How many rows a caller wants.
pub(super) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(bad("limit", format!("must be 1 to {LIMIT_MAX}"))),
    }
}

/// Where a caller wants to go on.
pub(super) fn cursor(text: Option<String>) -> Result<Option<Cursor>, Problem> {
    match text {
        Some(text) if text.len() > CURSOR_BYTES_MAX => {
            Err(bad("cursor", "is none that the relay gave out"))
        }
        text => Ok(text.map(Cursor)),
    }
}

/// Where a caller wants to go on in a numbered list.
pub(super) fn number_cursor(text: Option<&str>) -> Result<Option<u64>, Problem> {
    let number = text.map(str::parse).transpose();
    number.map_err(|_| bad("cursor", "is none that the relay gave out"))
}

/// Which page of settings a caller wants.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Read by [`super::auth`].
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

impl PageParams {
    /// A page of rows that come newest first, and its cursor: the last id that was shown.
    pub(super) fn cut<R, I: Display>(
        self,
        newest_first: Vec<R>,
        id: impl Fn(&R) -> I,
    ) -> Result<(Vec<R>, Option<String>), Problem> {
        let limit = limit(self.limit)? as usize;
        let after = cursor(self.cursor)?;
        // Ids of one kind have one length, so that their texts sort like the ids.
        let is_after = |row: &R| {
            let after = after.as_ref();
            after.is_none_or(|cursor| id(row).to_string() < cursor.0)
        };
        let rows = newest_first.into_iter().filter(is_after);
        let mut rows: Vec<R> = rows.take(limit + 1).collect();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| has_more);
        let next = last.map(|row| id(row).to_string());
        Ok((rows, next))
    }

    /// A page of settings, given oldest first; the cursor is the last id that was shown.
    pub(super) fn page<'a, R: 'a, I: Display, T: Serialize>(
        self,
        oldest_first: impl DoubleEndedIterator<Item = &'a Arc<R>>,
        id: impl Fn(&R) -> I,
        view: impl Fn(&R) -> T,
    ) -> Result<Answer<List<T>>, Problem> {
        let limit = limit(self.limit)? as usize;
        let after = cursor(self.cursor)?;
        // Ids of one kind have one length, so that their texts sort like the ids.
        let shown = |row: &&Arc<R>| {
            after
                .as_ref()
                .is_none_or(|cursor| id(row).to_string() < cursor.0)
        };
        let mut rows: Vec<_> = oldest_first.rev().filter(shown).take(limit + 1).collect();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| has_more);
        Ok(Answer::ok(List {
            next_cursor: last.map(|row| id(row).to_string()),
            data: rows.into_iter().map(|row| view(row)).collect(),
            has_more,
        }))
    }
}
