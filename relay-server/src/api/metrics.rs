//! `/metrics`: what is stored and what was refused, in the text form of Prometheus. No token is needed and no
//! name of a customer is in it: tenants are told apart by id.

use std::{fmt::Write as _, sync::atomic::Ordering};

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::header;

use super::ApiState;
use crate::{
    ingress::IngressCounters,
    store::{Stored, Usage},
};

/// Tenants that are told apart; more are only in the sums.
const TENANTS_MAX: usize = 1_000;

/// Name, what it says, and its value.
type Metric = (&'static str, &'static str, u64);

pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    let stored = state.keeping.stored();
    let accepting = u64::from(state.events.accepting().is_ok());
    let mut text = String::new();
    add(&mut text, "gauge", &gauges(&stored, accepting));
    add(&mut text, "counter", &retention(&stored));
    add(&mut text, "counter", &ingress(state.ingress.counters()));
    add_tenants(&mut text, stored.tenants);
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4");
    ([content_type], text).into_response()
}

fn gauges(stored: &Stored, accepting: u64) -> [Metric; 4] {
    let sum = |of: fn(&Usage) -> u64| stored.tenants.iter().map(|(_, usage)| of(usage)).sum();
    let (events, bytes) = (sum(|usage| usage.events), sum(|usage| usage.bytes));
    [
        ("store_accepting", "Whether events are accepted.", accepting),
        ("stored_events", "Events that are stored.", events),
        ("stored_bytes", "Bytes of events that are stored.", bytes),
        (
            "projection_lag",
            "Changes that lists do not show yet.",
            stored.lag,
        ),
    ]
}

fn retention(stored: &Stored) -> [Metric; 5] {
    let swept = &stored.swept;
    [
        (
            "retention_events_total",
            "Events that retention let go.",
            swept.events,
        ),
        (
            "retention_expired_total",
            "Deliveries that were owed for too long.",
            swept.expired,
        ),
        (
            "retention_segments_removed_total",
            "Files of the journal that were removed.",
            swept.segments_removed,
        ),
        (
            "retention_segments_rewritten_total",
            "Files of the journal that were written anew.",
            swept.segments_rewritten,
        ),
        (
            "retention_bytes_freed_total",
            "Bytes of disk that retention gave back.",
            swept.bytes_freed,
        ),
    ]
}

fn ingress(counters: &IngressCounters) -> [Metric; 5] {
    let IngressCounters {
        accepted,
        unrouted,
        duplicates,
        refused,
        over_quota,
    } = counters;
    [
        ("ingress_accepted_total", "Accepted events.", accepted),
        (
            "ingress_unrouted_total",
            "Accepted events that no route took.",
            unrouted,
        ),
        (
            "ingress_duplicates_total",
            "Repeats of accepted events.",
            duplicates,
        ),
        (
            "ingress_refused_total",
            "Requests that were not accepted.",
            refused,
        ),
        (
            "ingress_over_quota_total",
            "Of them, those beyond a tenant's quota.",
            over_quota,
        ),
    ]
    .map(|(name, help, counter)| (name, help, counter.load(Ordering::Relaxed)))
}

fn add(text: &mut String, kind: &str, metrics: &[Metric]) {
    for (name, help, value) in metrics {
        // Writing to a text never fails.
        let _ = write!(
            text,
            "# HELP hookferry_{name} {help}\n# TYPE hookferry_{name} {kind}\nhookferry_{name} {value}\n"
        );
    }
}

fn add_tenants(text: &mut String, mut tenants: Vec<(protocol::id::TenantId, Usage)>) {
    tenants.sort_unstable_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
    tenants.truncate(TENANTS_MAX);
    for name in ["tenant_stored_events", "tenant_stored_bytes"] {
        let _ = writeln!(text, "# TYPE hookferry_{name} gauge");
        for (tenant, usage) in &tenants {
            let value = match name {
                "tenant_stored_events" => usage.events,
                _ => usage.bytes,
            };
            let _ = writeln!(text, "hookferry_{name}{{tenant=\"{tenant}\"}} {value}");
        }
    }
}
