//! Answers for people and scripts.

use std::{
    fmt, fs,
    io::{IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Failure,
    columns::{self, Column},
    print, story, tell,
};
use crate::args::{Connection, Output};

/// How wide texts for people are: as wide as the terminal, within reason.
pub(super) fn width() -> usize {
    let terminal = std::io::stdout()
        .is_terminal()
        .then(terminal_size::terminal_size)
        .flatten();
    terminal.map_or(80, |(width, _)| usize::from(width.0).clamp(40, 100))
}

/// How the answer to a call is shown as text.
#[derive(Debug)]
pub(super) enum Show {
    /// Field by field.
    Item,
    /// Nothing but a word.
    Deleted,
    /// Byte for byte.
    Raw,
    /// The token alone, or written to a file.
    NewToken(Option<PathBuf>),
    /// The secret alone.
    HandshakeSecret,
    /// As a table.
    Tenants,
    /// As a table.
    Sources,
    /// As a table.
    Destinations,
    /// As a table.
    Routes,
    /// As a table.
    Tokens,
    /// As a table.
    Events,
    /// As a table.
    Deliveries,
    /// As a table.
    DeadLetters,
    /// As a table.
    Replays,
    /// As a table.
    Attempts,
    /// As a table.
    Erasures,
    /// As a table.
    Replayed,
    /// As a table.
    SigningKeys,
    /// As a table.
    SecretKeys,
    /// As a table.
    Audit,
    /// In a sentence.
    RouteTest,
    /// As a timeline.
    Story,
}

impl Show {
    fn columns(&self) -> &'static [Column] {
        match self {
            Self::Item
            | Self::Deleted
            | Self::Raw
            | Self::NewToken(_)
            | Self::HandshakeSecret
            | Self::RouteTest
            | Self::Story => &[],
            Self::Tenants => columns::TENANTS,
            Self::Sources => columns::SOURCES,
            Self::Destinations => columns::DESTINATIONS,
            Self::Routes => columns::ROUTES,
            Self::Tokens => columns::TOKENS,
            Self::Events => columns::EVENTS,
            Self::Deliveries => columns::DELIVERIES,
            Self::DeadLetters => columns::DEAD_LETTERS,
            Self::Replays => columns::REPLAYS,
            Self::Attempts => columns::ATTEMPTS,
            Self::Audit => columns::AUDIT,
            Self::SecretKeys => columns::SECRET_KEYS,
            Self::SigningKeys => columns::SIGNING_KEYS,
            Self::Erasures => columns::ERASURES,
            Self::Replayed => columns::REPLAYED,
        }
    }
}

/// Shows an answer the way the caller wants it.
pub(super) fn show(connection: &Connection, show: Show, answer: &[u8]) -> Result<(), Failure> {
    if matches!(show, Show::Raw) {
        return print(answer);
    }
    if matches!(show, Show::Deleted) {
        tell("Deleted.\n");
        return Ok(());
    }
    let mut value: Value = serde_json::from_slice(answer)
        .map_err(|error| Failure::Plain(format!("the relay's answer is not JSON: {error}")))?;
    if matches!(show, Show::HandshakeSecret) && connection.output == Output::Text {
        return print(format!("{}\n", text(&value, "secret")).as_bytes());
    }
    if let Show::NewToken(Some(path)) = &show {
        let token = value
            .as_object_mut()
            .and_then(|fields| fields.remove("token"));
        let token = token.as_ref().map(plain).unwrap_or_default();
        write_private(path, &token)?;
        tell(&format!("The token is in {}.\n", path.display()));
    }
    match connection.output {
        Output::Json => print(format!("{value:#}\n").as_bytes()),
        Output::Ndjson => {
            let rows = value.get("data").and_then(Value::as_array);
            let text: String = match rows {
                Some(rows) => rows.iter().map(|row| format!("{row}\n")).collect(),
                None => format!("{value}\n"),
            };
            print(text.as_bytes())
        }
        Output::Text => show_text(&show, &value),
    }
}

fn show_text(show: &Show, value: &Value) -> Result<(), Failure> {
    match show {
        Show::NewToken(None) => {
            tell("This is the only time the token is shown:\n");
            return print(format!("{}\n", text(value, "token")).as_bytes());
        }
        Show::NewToken(Some(_)) => return Ok(()),
        Show::RouteTest => return print(route_test(value).as_bytes()),
        Show::Story => return print(story::story(value, width()).as_bytes()),
        _ => {}
    }
    let Some(rows) = value.get("data").and_then(Value::as_array) else {
        let mut out = String::new();
        fields(value, 0, &mut out);
        return print(out.as_bytes());
    };
    let next = value.get("next_cursor").and_then(Value::as_str);
    if rows.is_empty() {
        // What a filter asks for may be rare, and a page looks only so far.
        tell(&next.map_or_else(
            || "Nothing found.\n".to_owned(),
            |cursor| format!("Nothing found so far; go on with --cursor {cursor}\n"),
        ));
        return Ok(());
    }
    let columns = show.columns();
    let titles: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    let mut table = Table::new(&titles);
    for row in rows {
        table.row(columns.iter().map(|(_, cell)| cell(row)));
    }
    print(table.to_string().as_bytes())?;
    if let Some(cursor) = next {
        tell(&format!("There is more: --cursor {cursor}\n"));
    }
    Ok(())
}

/// Writes a secret to a new file that only its owner can read.
pub(super) fn write_private(path: &Path, secret: &str) -> Result<(), Failure> {
    let failed = |error| Failure::Plain(format!("cannot write {}: {error}", path.display()));
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(format!("{secret}\n").as_bytes())
        .map_err(failed)
}

/// A value as people read it, without control characters: strangers wrote some of these texts.
pub(super) fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let escape = |c: char| -> String {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

pub(super) fn text(row: &Value, field: &str) -> String {
    plain(row.get(field).unwrap_or(&Value::Null))
}

fn route_test(tested: &Value) -> String {
    let body = match tested.get("body").and_then(Value::as_str) {
        Some("not_json") => "\nThe body is no JSON that filters see: it is like a missing one.",
        _ => "",
    };
    match tested.get("unmet").and_then(Value::as_str) {
        None => format!("The route takes it.{body}\n"),
        Some(place) => {
            let filter = tested.get("filter").unwrap_or(&Value::Null);
            let term = filter.pointer(place).map(plain).unwrap_or_default();
            format!("The route does not take it: {place} {term} is not met.{body}\n")
        }
    }
}

/// Prints nested fields, a line each.
pub(super) fn fields(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let Some(object) = value.as_object() else {
        out.push_str(&format!("{indent}{}\n", plain(value)));
        return;
    };
    // What it is called comes first, the rest by the alphabet.
    let (first, rest): (Vec<_>, Vec<_>) = object
        .iter()
        .partition(|(name, _)| matches!(name.as_str(), "id" | "name" | "url"));
    for (name, value) in first.into_iter().chain(rest) {
        match value {
            Value::Array(items) if items.is_empty() => {
                out.push_str(&format!("{indent}{name}: -\n"));
            }
            Value::Object(fields) if fields.is_empty() => {
                out.push_str(&format!("{indent}{name}: -\n"));
            }
            Value::Object(_) => {
                out.push_str(&format!("{indent}{name}:\n"));
                fields(value, depth + 1, out);
            }
            Value::Array(items) => {
                out.push_str(&format!("{indent}{name}:\n"));
                for item in items {
                    out.push_str(&format!("{indent}  - {}\n", line(item)));
                }
            }
            _ => out.push_str(&format!("{indent}{name}: {}\n", plain(value))),
        }
    }
}

/// The fields of an object in one line; a header field as it is written on the wire.
fn line(value: &Value) -> String {
    let Some(object) = value.as_object() else {
        return plain(value);
    };
    if let (2, Some(name), Some(value)) = (object.len(), object.get("name"), object.get("value")) {
        return format!("{}: {}", plain(name), plain(value));
    }
    let fields = object.iter().filter(|(_, value)| !value.is_null());
    let fields = fields.map(|(name, value)| format!("{name}={}", plain(value)));
    fields.collect::<Vec<_>>().join(" ")
}

/// Aligned columns.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these titles.
    pub(super) fn new(titles: &[&str]) -> Self {
        let titles = titles.iter().map(|title| (*title).to_owned());
        Self {
            rows: vec![titles.collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
