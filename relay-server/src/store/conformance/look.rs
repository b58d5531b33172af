//! What people look at.

use std::time::Duration;

use protocol::id::{DeliveryId, SourceId};

use super::{OTHER_QUEUE, QUEUE, STRANGER, Stage, TENANT, TTL};
use crate::{
    clock::Clock,
    lifecycle::{DeliveryState, OrderKey, Verdict, Waiting},
    store::{Appended, DeliveryFilter, Depth, EventFilter, Parked},
};

/// Page by page, each event once, newest first, also while more arrive.
pub async fn events_are_paged_newest_first(stage: &mut Stage) {
    let mut expected = Vec::new();
    for _ in 0..25 {
        expected.insert(0, stage.accept().await.0);
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let filter = EventFilter::default();
        let page = stage
            .store
            .queries
            .events(TENANT, &filter, cursor, 10)
            .await;
        let page = page.unwrap();
        assert!(page.rows.len() <= 10);
        seen.extend(page.rows.iter().map(|row| row.id));
        stage.pause().await;
        stage.accept().await;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, expected);
}

/// Every filter by itself.
pub async fn events_are_filtered(stage: &mut Stage) {
    let start = stage.clock.now();
    let (first, _) = stage.accept().await;
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.clock.advance(Duration::from_secs(1));
    let mut second = stage.event_for(&[OTHER_QUEUE], Some("evt-2"));
    second.event.source = SourceId::from_u128(12);
    second.event.event_type = None;
    let second_id = second.event.id;
    stage.store.events.append(second).await.unwrap();
    stage.pause().await;

    let only = |filter: EventFilter| {
        let queries = stage.store.queries.clone();
        async move {
            let page = queries.events(TENANT, &filter, None, 10).await.unwrap();
            page.rows.iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    let all = EventFilter::default;
    let later = start.after(Duration::from_secs(1));
    assert_eq!(only(all()).await, [second_id, first]);
    let by_source = EventFilter {
        source: Some(SourceId::from_u128(12)),
        ..all()
    };
    assert_eq!(only(by_source).await, [second_id]);
    let by_destination = EventFilter {
        destination: Some(QUEUE.destination),
        ..all()
    };
    assert_eq!(only(by_destination).await, [first]);
    let by_state = EventFilter {
        state: Some(DeliveryState::Pending),
        ..all()
    };
    assert_eq!(only(by_state).await, [second_id]);
    let by_both = EventFilter {
        destination: Some(QUEUE.destination),
        state: Some(DeliveryState::Pending),
        ..all()
    };
    assert!(only(by_both).await.is_empty());
    let by_type = EventFilter {
        event_type: Some("invoice.paid".to_owned()),
        ..all()
    };
    assert_eq!(only(by_type).await, [first]);
    let since = EventFilter {
        since: Some(later),
        ..all()
    };
    assert_eq!(only(since).await, [second_id]);
    let until = EventFilter {
        until: Some(later),
        ..all()
    };
    assert_eq!(only(until).await, [first]);
}

/// Deliveries by event, destination and state.
pub async fn deliveries_are_filtered(stage: &mut Stage) {
    let (event, delivered) = stage.accept().await;
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    let (_, dead) = stage.accept_dead(None).await;
    let (_, open) = stage.accept().await;
    stage.pause().await;

    let only = |filter: DeliveryFilter| {
        let queries = stage.store.queries.clone();
        async move {
            let page = queries.deliveries(TENANT, &filter, None, 10).await;
            let rows = page.unwrap().rows;
            rows.iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    let all = DeliveryFilter::default;
    assert_eq!(only(all()).await, [open, dead, delivered]);
    let by_event = DeliveryFilter {
        event: Some(event),
        ..all()
    };
    assert_eq!(only(by_event).await, [delivered]);
    let by_destination = DeliveryFilter {
        destination: Some(OTHER_QUEUE.destination),
        ..all()
    };
    assert!(only(by_destination).await.is_empty());
    for (state, expected) in [
        (DeliveryState::Dead, vec![dead]),
        (DeliveryState::Pending, vec![open]),
        (DeliveryState::Delivered, vec![delivered]),
        (DeliveryState::Retry, vec![]),
    ] {
        let by_state = DeliveryFilter {
            state: Some(state),
            ..all()
        };
        assert_eq!(only(by_state).await, expected, "{state}");
    }
    let page = stage
        .store
        .queries
        .deliveries(TENANT, &all(), None, 1)
        .await;
    let page = page.unwrap();
    let next = stage
        .store
        .queries
        .deliveries(TENANT, &all(), page.next, 1)
        .await;
    let row = &next.unwrap().rows[0];
    assert_eq!((row.id, row.attempts), (dead, 1));
    assert_eq!(row.reason.as_deref(), Some("retries_exhausted"));
}

/// Nothing of another tenant, by any question.
pub async fn tenants_see_only_their_own(stage: &mut Stage) {
    let (event, delivery) = stage.accept().await;
    stage.pause().await;
    let queries = stage.store.queries.clone();
    let events = queries
        .events(STRANGER, &EventFilter::default(), None, 10)
        .await;
    assert!(events.unwrap().rows.is_empty());
    let filter = DeliveryFilter {
        event: Some(event),
        ..DeliveryFilter::default()
    };
    let deliveries = queries.deliveries(STRANGER, &filter, None, 10).await;
    assert!(deliveries.unwrap().rows.is_empty());
    assert!(queries.event(STRANGER, event).await.unwrap().is_none());
    assert_eq!(queries.attempts(STRANGER, delivery).await, Ok(None));
    let depth = queries.depth(STRANGER, QUEUE.destination).await;
    assert_eq!(depth, Ok(Depth::default()));
}

/// What waits and what is given up.
pub async fn depth_counts_open_and_dead(stage: &mut Stage) {
    stage.accept_dead(None).await;
    stage.clock.advance(Duration::from_secs(1));
    let oldest = stage.clock.now();
    stage.accept().await;
    stage.clock.advance(Duration::from_secs(1));
    stage.accept().await;
    let lease = stage.claim_one().await;
    let retry = stage.retry_in(5);
    stage.settle(&lease, retry).await;

    stage.pause().await;
    let queries = stage.store.queries.clone();
    let expected = Depth {
        open: 2,
        dead: 1,
        oldest_open: Some(oldest),
    };
    assert_eq!(queries.depth(TENANT, QUEUE.destination).await, Ok(expected));
    let empty = queries.depth(TENANT, OTHER_QUEUE.destination).await;
    assert_eq!(empty, Ok(Depth::default()));
}

/// Why nothing happens with a delivery can be asked at any time, by its own tenant.
pub async fn an_open_delivery_waits_for_something(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    stage.pause().await;
    assert_eq!(waiting(stage, delivery).await, Some(Waiting::Turn));
    let asked = stage.store.queries.waiting(STRANGER, delivery).await;
    assert_eq!(asked, Ok(None));

    let lease = stage.claim_one().await;
    let since = stage.clock.now();
    let leased = Waiting::Leased {
        attempt: 1,
        since,
        until: since.after(TTL),
    };
    assert_eq!(waiting(stage, delivery).await, Some(leased));
    let verdict = stage.retry_in(60);
    let at = stage.clock.now().after(Duration::from_secs(60));
    stage.settle(&lease, verdict).await;
    stage.pause().await;
    assert_eq!(waiting(stage, delivery).await, Some(Waiting::Retry { at }));

    stage.clock.advance(Duration::from_secs(60));
    assert_eq!(waiting(stage, delivery).await, Some(Waiting::Turn));
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.pause().await;
    assert_eq!(waiting(stage, delivery).await, None);
}

/// What is ordered waits for the one at the head of its key, or for somebody to resume the key.
pub async fn what_is_behind_waits_for_its_key(stage: &mut Stage) {
    let mut ids = Vec::new();
    for key in ["a", "a", "b"] {
        let mut new = stage.event(None);
        new.deliveries[0].order = Some(OrderKey::new(key.as_bytes()));
        ids.push(new.deliveries[0].id);
        assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));
    }
    let [head, behind, other] = ids[..] else {
        panic!("three were accepted")
    };
    stage.pause().await;
    assert_eq!(waiting(stage, head).await, Some(Waiting::Turn));
    let waits = Waiting::Behind { delivery: head };
    assert_eq!(waiting(stage, behind).await, Some(waits));
    assert_eq!(waiting(stage, other).await, Some(Waiting::Turn));

    let since = stage.clock.now();
    let parked = stage.store.events.park(QUEUE, OrderKey::new(b"a")).await;
    assert_eq!(parked, Ok(Parked::Done));
    stage.clock.advance(Duration::from_secs(5));
    stage.pause().await;
    for delivery in [head, behind] {
        let waits = waiting(stage, delivery).await;
        assert_eq!(waits, Some(Waiting::Parked { since }));
    }
    assert_eq!(waiting(stage, other).await, Some(Waiting::Turn));
}

async fn waiting(stage: &Stage, delivery: DeliveryId) -> Option<Waiting> {
    let asked = stage.store.queries.waiting(TENANT, delivery).await;
    asked.unwrap()
}
