use bytes::Bytes;
use protocol::{
    frame::{Headers, ServiceFailure},
    id::{AttemptId, DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId},
};

use super::*;
use crate::{
    lifecycle::{Event, Verification},
    store::{DeliverySummary, Repeats},
};

/// 2023-11-14T22:13:20Z, in milliseconds, and so many seconds later.
fn at(seconds: u64) -> Timestamp {
    Timestamp(1_700_000_000_000 + seconds * 1000)
}

/// A delivery made so many seconds after the event came.
fn made(seconds: u64) -> DeliveryId {
    DeliveryId::from_u128(u128::from(at(seconds).0) << 80)
}

fn event() -> EventDetail {
    EventDetail {
        event: Event {
            id: EventId::from_u128(1),
            tenant: TenantId::from_u128(2),
            source: SourceId::from_u128(3),
            received_at: at(0),
            method: "POST".to_owned(),
            target: "/hook".to_owned(),
            headers: Headers::default(),
            body: Bytes::from_static(b"{}"),
            verification: Verification {
                rule: "stripe".to_owned(),
                secret: Some(1),
            },
            event_type: None,
            provider_id: Some("evt_9".to_owned()),
            remote: Some([192, 0, 2, 7].into()),
        },
        deliveries: Vec::new(),
        decisions: Vec::new(),
        remembered_until: Some(at(3600)),
        repeats: Repeats::default(),
    }
}

fn route(name: &str, unmet: Option<&str>) -> RouteView {
    RouteView {
        route: "rte_1".to_owned(),
        name: Some(name.to_owned()),
        destination: Some("dst_1".to_owned()),
        destination_name: Some("billing".to_owned()),
        matched: unmet.is_none(),
        unmet: unmet.map(str::to_owned),
    }
}

fn facts(id: DeliveryId, state: DeliveryState, reason: Option<&str>) -> Facts {
    Facts {
        summary: DeliverySummary {
            id,
            event: EventId::from_u128(1),
            destination: DestinationId::from_u128(4),
            state,
            attempts: 0,
            received_at: at(0),
            updated_at: at(30),
            next_attempt_at: None,
            reason: reason.map(str::to_owned),
            replay: None,
            superseded_by: None,
        },
        destination: "billing".to_owned(),
        attempts: Vec::new(),
        waits: Vec::new(),
    }
}

fn attempt(number: u32, seconds: u64, outcome: AttemptOutcome) -> AttemptRecord {
    AttemptRecord {
        id: AttemptId::from_u128(5),
        number,
        agent: Some(AgentId::from_u128(6)),
        ended_at: at(seconds),
        elapsed_ms: 12,
        outcome,
    }
}

fn answered(status: u16, start: &'static str) -> AttemptOutcome {
    AttemptOutcome::Answered {
        status,
        headers: Headers::default(),
        body_bytes: start.len() as u64,
        response_start: Bytes::from_static(start.as_bytes()),
    }
}

#[track_caller]
fn check(detail: &EventDetail, routes: &[RouteView], facts: &[Facts], expected: &[&str]) {
    let agents = HashMap::from([(AgentId::from_u128(6), "box".to_owned())]);
    let told = Told {
        detail,
        source: Some("shop"),
        routes,
        facts,
        agents: &agents,
    };
    let line = |entry: Entry| {
        let at = entry
            .at
            .map_or("now".to_owned(), |at| at[17..19].to_owned());
        format!("{at} {}: {}", entry.what, entry.text)
    };
    let found: Vec<_> = of(&told).into_iter().map(line).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_event_that_nobody_takes() {
    let mut detail = event();
    detail.event.verification.secret = None;
    detail.event.provider_id = None;
    let expected = [
        "20 received: POST /hook from 192.0.2.7 at source shop, 2 bytes",
        "20 verified: by stripe",
        "20 dedupe: it has no id of its provider's: repeats cannot be recognised",
        "20 route: audit does not take it to billing: /body/n/$gt of its filter is not met",
        "20 unrouted: no route takes it: it is kept, and can be replayed",
    ];
    let routes = [route("audit", Some("/body/n/$gt"))];
    check(&detail, &routes, &[], &expected);

    let mut without = expected[..3].to_vec();
    without.push("20 unrouted: its source had no route: it is kept, and can be replayed");
    check(&detail, &[], &[], &without);
}

#[test]
fn of_an_erased_event_only_its_time_is_left() {
    let mut detail = event();
    detail.event.method = String::new();
    let expected = "20 received: at source shop; its content was erased since";
    check(&detail, &[], &[], &[expected]);
}

#[test]
fn a_delivery_that_dies_and_is_replayed() {
    let mut detail = event();
    detail.repeats = Repeats {
        count: 2,
        last_at: Some(at(4)),
    };
    let mut first = facts(made(0), DeliveryState::Dead, Some("retries_exhausted"));
    let failed = AttemptOutcome::Failed {
        failure: ServiceFailure::Connect,
        detail: "connection refused".to_owned(),
    };
    first.attempts = vec![
        attempt(1, 1, answered(503, " try later\n")),
        attempt(2, 5, failed),
        attempt(3, 29, AttemptOutcome::Lost),
    ];
    first.summary.superseded_by = Some(made(35));
    let mut second = facts(made(35), DeliveryState::Delivered, None);
    second.summary.replay = Some(ReplayId::from_u128(8));
    second.summary.updated_at = at(36);
    second.attempts = vec![attempt(1, 36, answered(200, ""))];
    let replay = ReplayId::from_u128(8);
    let later = made(35);
    let replayed = format!("55 replayed: to billing by {replay}, as {later}");
    let superseded = format!("55 superseded: billing: {later} took its place");
    check(
        &detail,
        &[route("all", None)],
        &[first, second],
        &[
            "20 received: POST /hook from 192.0.2.7 at source shop, 2 bytes",
            "20 verified: by stripe, with secret 2 of the source, counted from the oldest",
            "20 dedupe: new: its provider calls it evt_9, which is remembered until 2023-11-14T23:13:20.000Z",
            "20 route: all takes it to billing",
            "21 attempt: 1 to billing by box: answered 503 after 12 ms: \"try later\"",
            "24 repeated: its provider sent it again 2 times, this being the last; answered as accepted, not delivered twice",
            "25 attempt: 2 to billing by box: failed after 12 ms: connection refused",
            "49 attempt: 3 to billing by box: the agent vanished with it",
            "50 dead: billing: retries_exhausted",
            &superseded,
            &replayed,
            "56 attempt: 1 to billing by box: answered 200 after 12 ms",
            "56 delivered: billing",
        ],
    );
}

#[test]
fn what_waits_waits_now() {
    let mut open = facts(made(0), DeliveryState::Pending, None);
    open.waits = super::super::waits::of(
        crate::lifecycle::Waiting::Turn,
        &crate::dispatch::LineView {
            waits: Some(crate::dispatch::Wait::NoAgent),
            agents: Vec::new(),
            in_hand: 0,
        },
        None,
    );
    let mut detail = event();
    detail.event.verification = Verification {
        rule: "none".to_owned(),
        secret: None,
    };
    check(
        &detail,
        &[route("all", None)],
        &[open],
        &[
            "20 received: POST /hook from 192.0.2.7 at source shop, 2 bytes",
            "20 verified: not at all: the source verifies nothing",
            "20 dedupe: new: its provider calls it evt_9, which is remembered until 2023-11-14T23:13:20.000Z",
            "20 route: all takes it to billing",
            "now waits: billing: no agent that serves the destination is connected",
        ],
    );
}
