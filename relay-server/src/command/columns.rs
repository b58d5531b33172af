//! The columns of lists, as people read them.

use serde_json::Value;

use super::output::{plain, text};

/// A column: its title and where its text is.
pub(super) type Column = (&'static str, fn(&Value) -> String);

pub(super) const TENANTS: &[Column] = &[
    ("NAME", |v| text(v, "name")),
    ("ID", |v| text(v, "id")),
    ("EVENTS", |v| text(&v["usage"], "stored_events")),
    ("BYTES", |v| text(&v["usage"], "stored_bytes")),
    ("CREATED", |v| text(v, "created_at")),
];

pub(super) const SOURCES: &[Column] = &[
    ("NAME", |v| text(v, "name")),
    ("VERIFIES", |v| {
        v.get("preset").map_or("own rule".to_owned(), plain)
    }),
    ("ENABLED", |v| text(v, "enabled")),
    ("URL", |v| text(v, "url")),
];

pub(super) const DESTINATIONS: &[Column] = &[
    ("NAME", |v| text(v, "name")),
    ("ID", |v| text(v, "id")),
    ("TIMEOUT", |v| format!("{} ms", text(v, "timeout_ms"))),
    ("LISTENER", |v| text(v, "listener")),
];

pub(super) const ROUTES: &[Column] = &[
    ("NAME", |v| text(v, "name")),
    ("SOURCE", |v| text(v, "source_name")),
    ("DESTINATION", |v| text(v, "destination_name")),
    ("FILTER", |v| text(v, "filter")),
];

pub(super) const TOKENS: &[Column] = &[
    ("NAME", |v| text(v, "name")),
    ("KIND", |v| text(v, "kind")),
    ("SCOPES", |v| joined(v, "scopes")),
    ("DESTINATIONS", |v| joined(v, "destinations")),
    ("EXPIRES", |v| text(v, "expires_at")),
    ("LAST USED", |v| text(v, "last_used_at")),
    ("ID", |v| text(v, "id")),
];

pub(super) const SECRET_KEYS: &[Column] = &[
    ("ID", |v| text(v, "id")),
    ("NEWEST", |v| text(v, "newest")),
    ("SECRETS", |v| text(v, "secrets")),
];

pub(super) const AUDIT: &[Column] = &[
    ("AT", |v| text(v, "at")),
    ("TENANT", |v| text(v, "tenant_name")),
    ("TOKEN", |v| text(v.get("actor").unwrap_or(v), "name")),
    ("FROM", |v| text(v, "remote")),
    ("ACTION", |v| text(v, "action")),
    ("TARGET", |v| text(v, "target")),
    ("STATUS", |v| text(v, "status")),
];

pub(super) const EVENTS: &[Column] = &[
    ("ID", |v| text(v, "id")),
    ("RECEIVED", |v| text(v, "received_at")),
    ("SOURCE", |v| text(v, "source_name")),
    ("TYPE", |v| text(v, "type")),
    ("BYTES", |v| text(v, "body_bytes")),
    ("DELIVERIES", states),
];

pub(super) const ERASURES: &[Column] = &[
    ("NUMBER", |v| text(v, "number")),
    ("AT", |v| text(v, "at")),
    ("WHAT", |v| text(v, "what")),
    ("EVENTS", |v| text(v, "events")),
    ("BY", |v| text(v, "by")),
    ("DONE", |v| text(v, "done")),
];

pub(super) const DELIVERIES: &[Column] = &[
    ("ID", |v| text(v, "id")),
    ("EVENT", |v| text(v, "event")),
    ("DESTINATION", |v| text(v, "destination_name")),
    ("STATE", |v| text(v, "state")),
    ("ATTEMPTS", |v| text(v, "attempts")),
    ("NEXT", |v| text(v, "next_attempt_at")),
    ("REASON", |v| text(v, "reason")),
];

pub(super) const DEAD_LETTERS: &[Column] = &[
    ("ID", |v| text(v, "id")),
    ("DIED", |v| text(v, "died_at")),
    ("DESTINATION", |v| text(v, "destination_name")),
    ("SOURCE", |v| text(v, "source_name")),
    ("TYPE", |v| text(v, "type")),
    ("ATTEMPTS", |v| text(v, "attempts")),
    ("LAST", |v| match v.get("status") {
        Some(Value::Number(status)) => status.to_string(),
        _ => text(v, "failure"),
    }),
    ("REASON", |v| text(v, "reason")),
];

pub(super) const REPLAYS: &[Column] = &[
    ("ID", |v| text(v, "id")),
    ("STATE", |v| text(v, "state")),
    ("WHAT", |v| text(v, "what")),
    ("TO", |v| text(v, "to_name")),
    ("TOTAL", |v| text(v, "total")),
    ("MADE", |v| text(v, "made")),
    ("DONE", |v| text(v, "done")),
    ("FAILED", |v| text(v, "failed")),
];

pub(super) const ATTEMPTS: &[Column] = &[
    ("NUMBER", |v| text(v, "number")),
    ("ENDED", |v| text(v, "ended_at")),
    ("MS", |v| text(v, "elapsed_ms")),
    ("OUTCOME", outcome),
];

pub(super) const SIGNING_KEYS: &[Column] = &[
    ("KEY", |v| text(v, "key")),
    ("ADDED", |v| text(v, "added_at")),
    ("SIGNS UNTIL", |v| text(v, "until")),
];

pub(super) const REPLAYED: &[Column] = &[
    ("OUTCOME", |v| text(v, "outcome")),
    ("DELIVERY", |v| text(v, "delivery")),
    ("DESTINATION", |v| text(v, "destination_name")),
];

fn joined(row: &Value, field: &str) -> String {
    match row.get(field).and_then(Value::as_array) {
        Some(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        None => "-".to_owned(),
    }
}

fn states(event: &Value) -> String {
    let deliveries = event.get("deliveries").and_then(Value::as_array);
    let deliveries = deliveries.map(Vec::as_slice).unwrap_or_default();
    if deliveries.is_empty() {
        return "unrouted".to_owned();
    }
    let state = |delivery: &Value| {
        format!(
            "{}:{}",
            text(delivery, "destination_name"),
            text(delivery, "state")
        )
    };
    deliveries.iter().map(state).collect::<Vec<_>>().join(",")
}

fn outcome(attempt: &Value) -> String {
    match attempt.get("outcome").and_then(Value::as_str) {
        Some("answered") => format!("answered {}", text(attempt, "status")),
        Some("failed") => {
            format!(
                "failed: {} {}",
                text(attempt, "failure"),
                text(attempt, "detail")
            )
        }
        _ => text(attempt, "outcome"),
    }
}
