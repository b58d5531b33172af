//! Dead letters, and what replays ask for.

use std::time::Duration;

use protocol::id::{DeliveryId, EventId, ReplayId, SourceId};

use super::{OTHER_QUEUE, QUEUE, SOURCE, STRANGER, Stage, TENANT};
use crate::{
    clock::Clock as _,
    lifecycle::{DeadReason, DeliveryState, EndReason, Ending, Verdict},
    store::{
        Appended, DeadLetterFilter, DeliveryFilter, EndingFilter, EventFilter, Match, NewDelivery,
        Replay, Replayable, Replayed, Settled, Span,
    },
};

async fn dead(stage: &Stage, filter: &DeadLetterFilter) -> Vec<DeliveryId> {
    let page = stage.store.queries.dead_letters(TENANT, filter, None, 250);
    let rows = page.await.unwrap().rows;
    rows.iter().map(|row| row.delivery.id).collect()
}

/// Lets a new event's delivery die for a reason after its only attempt.
async fn die_of(stage: &mut Stage, reason: DeadReason) -> (EventId, DeliveryId) {
    let (event, delivery) = stage.accept().await;
    let lease = stage.claim_one().await;
    let settled = stage.settle(&lease, Verdict::Die { reason }).await;
    assert_eq!(settled, Settled::Applied);
    (event, delivery)
}

/// Every filter by itself; what is delivered, owed or another tenant's is no dead letter.
pub async fn dead_letters_are_filtered(stage: &mut Stage) {
    let start = stage.clock.now();
    let (_, first) = die_of(stage, DeadReason::RetriesExhausted).await;
    stage.clock.advance(Duration::from_secs(60));
    let (event, second) = die_of(stage, DeadReason::Permanent).await;
    let mut new = stage.event_for(&[OTHER_QUEUE], None);
    new.event.event_type = None;
    let third = new.deliveries[0].id;
    assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));
    let by_hand = EndReason::DeadLettered;
    let ended = stage.store.events.end(TENANT, third, by_hand).await;
    assert_eq!(ended, Ok(true));
    stage.accept().await;
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.accept().await;
    stage.pause().await;

    let minute = start.after(Duration::from_secs(60));
    let (status, is) = (EndingFilter::Status, EndingFilter::Is);
    let cases = [
        (with(|_| {}), vec![third, second, first]),
        (with(|it| it.id = Some(second)), vec![second]),
        (with(|it| it.event = Some(event)), vec![second]),
        (
            with(|it| it.source = Some(SOURCE)),
            vec![third, second, first],
        ),
        (with(|it| it.source = Some(SourceId::from_u128(99))), vec![]),
        (
            with(|it| it.destination = Some(QUEUE.destination)),
            vec![second, first],
        ),
        (
            with(|it| it.event_type = text("invoice.paid")),
            vec![second, first],
        ),
        (with(|it| it.reason = text("permanent")), vec![second]),
        (with(|it| it.reason = text("by_hand")), vec![third]),
        (
            with(|it| it.last = Some(status(500, 599))),
            vec![second, first],
        ),
        (with(|it| it.last = Some(status(501, 599))), vec![]),
        (with(|it| it.last = Some(is(Ending::Lost))), vec![]),
        (with(|it| it.since = Some(minute)), vec![third, second]),
        (with(|it| it.until = Some(minute)), vec![first]),
    ];
    for (filter, expected) in cases {
        assert_eq!(dead(stage, &filter).await, expected, "{filter:?}");
    }
    tell_what_came_of_them(stage, first).await;
}

/// Pages with what lists show, and nothing for others.
async fn tell_what_came_of_them(stage: &Stage, first: DeliveryId) {
    let (queries, all) = (&stage.store.queries, DeadLetterFilter::default());
    let page = queries.dead_letters(TENANT, &all, None, 2).await.unwrap();
    assert_eq!(page.rows[1].last, Some(Ending::Answered(500)));
    assert_eq!(page.rows[0].last, None);
    assert_eq!((page.rows[1].source, page.rows.len()), (SOURCE, 2));
    let rest = queries.dead_letters(TENANT, &all, page.next, 2).await;
    let rest = rest.unwrap();
    assert_eq!((rest.rows[0].delivery.id, rest.next), (first, None));
    let theirs = queries.dead_letters(STRANGER, &all, None, 10).await;
    assert!(theirs.unwrap().rows.is_empty());
}

fn with(change: impl FnOnce(&mut DeadLetterFilter)) -> DeadLetterFilter {
    let mut filter = DeadLetterFilter::default();
    change(&mut filter);
    filter
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// A replay takes its place, and a repeat reopens it.
pub async fn a_dead_letter_leaves_when_it_is_owed_again(stage: &mut Stage) {
    let (event, first) = stage.accept_dead(None).await;
    let (_, second) = stage.accept_dead(Some("evt-1")).await;
    let all = DeadLetterFilter::default();
    assert_eq!(dead(stage, &all).await, [second, first]);
    let again = stage.event(Some("evt-1"));
    assert!(stage.store.events.append(again).await.is_ok());
    let replayed = stage.store.events.replay(&[replay(event, 99, 7)]).await;
    assert_eq!(replayed, Ok(vec![Replayed::Owed]));
    stage.pause().await;
    assert_eq!(dead(stage, &all).await, []);
}

fn replay(event: EventId, id: u128, replay: u128) -> Replay {
    Replay {
        tenant: TENANT,
        event,
        replay: ReplayId::from_u128(replay),
        delivery: NewDelivery {
            id: DeliveryId::from_u128(id),
            destination: QUEUE.destination,
            order: None,
        },
    }
}

/// All pieces of a selection.
async fn selected(stage: &mut Stage, selection: &Replayable, mut span: Span) -> Vec<Match> {
    let mut all = Vec::new();
    loop {
        let page = stage
            .store
            .queries
            .select(TENANT, selection, &span, 2)
            .await;
        let page = page.unwrap();
        all.extend(page.rows);
        stage.pause().await;
        // What comes later is none of it.
        stage.accept().await;
        span.after = page.next;
        if span.after.is_none() {
            return all;
        }
    }
}

/// Oldest first, each once, up to the place where the list ended when it was asked for.
pub async fn a_replay_takes_what_was_there_oldest_first(stage: &mut Stage) {
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.push(stage.accept_dead(None).await);
    }
    let unrouted = stage.event_for(&[], None);
    let alone = unrouted.event.id;
    assert_eq!(stage.store.events.append(unrouted).await, Ok(Appended::New));
    let span = Span {
        after: None,
        upto: stage.store.queries.newest().await.unwrap(),
    };
    stage.accept_dead(None).await;
    stage.pause().await;

    let dead = Replayable::DeadLetters(DeadLetterFilter::default());
    let found = selected(stage, &dead, span.clone()).await;
    let matched: Vec<_> = expected
        .iter()
        .map(|(event, delivery)| Match {
            event: *event,
            source: SOURCE,
            dead: Some((*delivery, QUEUE.destination)),
            deliveries: vec![(QUEUE.destination, DeliveryState::Dead)],
        })
        .collect();
    assert_eq!(found, matched);

    let events = Replayable::Events(EventFilter::default());
    let found = selected(stage, &events, span.clone()).await;
    let mut ids: Vec<_> = expected.iter().map(|(event, _)| *event).collect();
    ids.push(alone);
    assert_eq!(found.iter().map(|it| it.event).collect::<Vec<_>>(), ids);
    assert!(found.iter().all(|it| it.dead.is_none()));
    assert_eq!(found[3].deliveries, []);

    let only = |filter| Replayable::Events(filter);
    let by_id = only(EventFilter {
        id: Some(ids[1]),
        ..EventFilter::default()
    });
    let found = selected(stage, &by_id, span.clone()).await;
    assert_eq!(
        found.iter().map(|it| it.event).collect::<Vec<_>>(),
        [ids[1]]
    );
    let unrouted = only(EventFilter {
        unrouted: true,
        ..EventFilter::default()
    });
    let found = selected(stage, &unrouted, span.clone()).await;
    assert_eq!(found.iter().map(|it| it.event).collect::<Vec<_>>(), [alone]);
    let theirs = stage
        .store
        .queries
        .select(STRANGER, &events, &span, 9)
        .await;
    assert!(theirs.unwrap().rows.is_empty());
}

/// By state, as they go on.
pub async fn deliveries_of_a_replay_are_counted(stage: &mut Stage) {
    let mut replays = Vec::new();
    for number in 0..3 {
        let (event, _) = stage.accept_dead(None).await;
        replays.push(replay(event, 90 + number, 7));
    }
    let made = stage.store.events.replay(&replays).await;
    assert_eq!(made, Ok(vec![Replayed::Owed; 3]));
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.pause().await;
    let count = async |tenant, replay, state| {
        let replay = ReplayId::from_u128(replay);
        stage.store.queries.replayed(tenant, replay, state).await
    };
    assert_eq!(count(TENANT, 7, DeliveryState::Pending).await, Ok(2));
    assert_eq!(count(TENANT, 7, DeliveryState::Delivered).await, Ok(1));
    assert_eq!(count(TENANT, 8, DeliveryState::Pending).await, Ok(0));
    assert_eq!(count(STRANGER, 7, DeliveryState::Pending).await, Ok(0));
    let filter = DeliveryFilter {
        replay: Some(ReplayId::from_u128(7)),
        ..DeliveryFilter::default()
    };
    for (state, expected) in [(None, 3), (Some(DeliveryState::Pending), 2)] {
        let filter = DeliveryFilter {
            state,
            ..filter.clone()
        };
        let page = stage
            .store
            .queries
            .deliveries(TENANT, &filter, None, 9)
            .await;
        assert_eq!(page.unwrap().rows.len(), expected, "{state:?}");
    }
}
