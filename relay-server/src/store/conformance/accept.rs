//! Accepting: what a 2xx to the provider means.

use std::time::Duration;

use protocol::id::{DestinationId, SourceId};

use super::{OTHER_QUEUE, QUEUE, SOURCE, STRANGER, Stage, TENANT, WINDOW, decisions, die};
use crate::{
    clock::Clock as _,
    store::{Appended, DestinationKey, EventFilter, Repeats},
};

/// The same provider id is accepted once within its window.
pub async fn repeats_are_recognised_within_the_window(stage: &mut Stage) {
    let first = stage.event(Some("evt-1"));
    let id = first.event.id;
    assert_eq!(stage.store.events.append(first).await, Ok(Appended::New));

    stage.pause().await;
    stage.clock.advance(WINDOW - Duration::from_millis(1));
    let again = stage.event(Some("evt-1"));
    let repeat = Appended::Duplicate {
        first: id,
        reopened: 0,
    };
    assert_eq!(stage.store.events.append(again).await, Ok(repeat));
    assert_eq!(stage.claim(10).await.len(), 1, "the repeat owes nothing");

    stage.clock.advance(Duration::from_millis(1));
    let later = stage.event(Some("evt-1"));
    assert_eq!(stage.store.events.append(later).await, Ok(Appended::New));
}

/// Providers that redeliver by hand keep the id: a repeat of what is dead is wanted again.
pub async fn a_repeat_reopens_what_is_dead(stage: &mut Stage) {
    let (id, delivery) = stage.accept_dead(Some("evt-1")).await;
    assert!(stage.claim(1).await.is_empty());

    stage.pause().await;
    let again = stage.event(Some("evt-1"));
    let reopened = Appended::Duplicate {
        first: id,
        reopened: 1,
    };
    assert_eq!(stage.store.events.append(again).await, Ok(reopened));

    stage.pause().await;
    let lease = stage.claim_one().await;
    assert_eq!((lease.info.delivery, lease.info.attempt), (delivery, 2));
    let third = stage.event(Some("evt-1"));
    let open = Appended::Duplicate {
        first: id,
        reopened: 0,
    };
    assert_eq!(stage.store.events.append(third).await, Ok(open));
    stage.settle(&lease, die()).await;
}

/// Repeats are counted with the time of the last, and what routes said is kept with the event.
pub async fn repeats_and_decisions_are_kept_for_explanations(stage: &mut Stage) {
    let first = stage.event(Some("evt-1"));
    let id = first.event.id;
    let accepted_at = stage.clock.now();
    assert_eq!(stage.store.events.append(first).await, Ok(Appended::New));
    for _ in 0..3 {
        stage.pause().await;
        stage.clock.advance(Duration::from_secs(5));
        let again = stage.event(Some("evt-1"));
        assert!(stage.store.events.append(again).await.is_ok());
    }
    let last_at = Some(stage.clock.now());
    stage.pause().await;
    let detail = stage
        .store
        .queries
        .event(TENANT, id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(detail.repeats, Repeats { count: 3, last_at });
    assert_eq!(detail.decisions, decisions());
    assert_eq!(detail.remembered_until, Some(accepted_at.after(WINDOW)));

    let plain = stage.event(None);
    let id = plain.event.id;
    assert_eq!(stage.store.events.append(plain).await, Ok(Appended::New));
    let detail = stage
        .store
        .queries
        .event(TENANT, id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(detail.repeats, Repeats::default());
    assert_eq!(detail.remembered_until, None);
}

/// However many come at once, one is new, and the others know it.
pub async fn concurrent_repeats_share_one_acceptance(stage: &mut Stage) {
    let mut appends = Vec::new();
    for _ in 0..32 {
        let new = stage.event(Some("evt-1"));
        let events = stage.store.events.clone();
        appends.push(tokio::spawn(async move {
            let id = new.event.id;
            (id, events.append(new).await.unwrap())
        }));
    }
    let mut accepted = Vec::new();
    let mut repeats = Vec::new();
    for append in appends {
        match append.await.unwrap() {
            (id, Appended::New) => accepted.push(id),
            (_, Appended::Duplicate { first, .. }) => repeats.push(first),
        }
    }
    assert_eq!((accepted.len(), repeats.len()), (1, 31));
    assert!(repeats.iter().all(|first| *first == accepted[0]));
    assert_eq!(stage.claim(100).await.len(), 1);
}

/// The same id of another source or tenant is another event.
pub async fn provider_ids_belong_to_their_source_and_tenant(stage: &mut Stage) {
    let first = stage.event(Some("evt-1"));
    let mut other_source = stage.event(Some("evt-1"));
    other_source.event.source = SourceId::from_u128(12);
    let strange_queue = DestinationKey {
        tenant: STRANGER,
        destination: DestinationId::from_u128(31),
    };
    let mut strange = stage.event_for(&[strange_queue], Some("evt-1"));
    strange.event.source = SourceId::from_u128(13);
    let anonymous = [stage.event(None), stage.event(None)];

    for new in [first, other_source, strange].into_iter().chain(anonymous) {
        assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));
    }
}

/// A deleted source's ids no longer count.
pub async fn a_forgotten_source_remembers_nothing(stage: &mut Stage) {
    let first = stage.event(Some("evt-1"));
    assert_eq!(stage.store.events.append(first).await, Ok(Appended::New));
    let forgotten = stage.store.events.forget_source(TENANT, SOURCE).await;
    assert_eq!(forgotten, Ok(()));

    stage.pause().await;
    let again = stage.event(Some("evt-1"));
    assert_eq!(stage.store.events.append(again).await, Ok(Appended::New));
    stage.pause().await;
    let third = stage.event(Some("evt-1"));
    assert!(matches!(
        stage.store.events.append(third).await,
        Ok(Appended::Duplicate { .. })
    ));
}

/// What matches no route is kept, and can be found.
pub async fn unrouted_events_are_kept(stage: &mut Stage) {
    let unrouted = stage.event_for(&[], None);
    let id = unrouted.event.id;
    assert_eq!(stage.store.events.append(unrouted).await, Ok(Appended::New));
    stage.accept().await;

    stage.pause().await;
    let filter = EventFilter {
        unrouted: true,
        ..EventFilter::default()
    };
    let page = stage.store.queries.events(TENANT, &filter, None, 10).await;
    let rows = page.unwrap().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].id, id);
    assert!(rows[0].deliveries.is_empty());
}

/// One event, one delivery for each destination, each with a life of its own.
pub async fn fan_out_owes_every_destination(stage: &mut Stage) {
    let new = stage.event_for(&[QUEUE, OTHER_QUEUE], None);
    let id = new.event.id;
    assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));

    let here = stage.claim_one().await;
    stage
        .settle(&here, crate::lifecycle::Verdict::Deliver)
        .await;
    stage.pause().await;
    assert!(stage.claim(1).await.is_empty());
    let there = stage.claim_from(OTHER_QUEUE, 5).await;
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].event.id, id);
}
