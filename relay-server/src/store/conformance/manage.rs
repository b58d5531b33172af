//! What people do to deliveries.

use protocol::id::{DeliveryId, EventId, ReplayId};

use super::{OTHER_QUEUE, QUEUE, STRANGER, Stage, TENANT};
use crate::{
    lifecycle::{DeliveryState, EndReason, Verdict},
    store::{Appended, DeliverySummary, NewDelivery, Replay, Replayed, Settled, StoreError},
};

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

async fn replayed(stage: &Stage, replays: &[Replay]) -> Vec<Replayed> {
    stage.store.events.replay(replays).await.unwrap()
}

async fn deliveries(stage: &Stage, event: EventId) -> Vec<DeliverySummary> {
    let detail = stage.store.queries.event(TENANT, event).await;
    detail.unwrap().unwrap().deliveries
}

/// A replay is a new obligation at the queue's tail, and takes the place of what came before it.
pub async fn a_replay_makes_a_new_delivery(stage: &mut Stage) {
    let (event, dead) = stage.accept_dead(None).await;
    let (_, live) = stage.accept().await;
    stage.pause().await;
    assert_eq!(
        replayed(stage, &[replay(event, 99, 7)]).await,
        [Replayed::Owed]
    );

    stage.pause().await;
    let leases = stage.claim(5).await;
    let handed: Vec<_> = leases
        .iter()
        .map(|lease| (lease.info.delivery, lease.info.attempt, lease.info.replay))
        .collect();
    let new = DeliveryId::from_u128(99);
    assert_eq!(
        handed,
        [(live, 1, None), (new, 1, Some(ReplayId::from_u128(7)))]
    );
    assert_eq!(leases[1].event.id, event);
    stage.settle(&leases[1], Verdict::Deliver).await;

    stage.pause().await;
    let rows = deliveries(stage, event).await;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.id, row.state, row.superseded_by))
        .collect();
    assert_eq!(
        rows,
        [
            (dead, DeliveryState::Dead, Some(new)),
            (new, DeliveryState::Delivered, None)
        ]
    );
    let depth = stage.store.queries.depth(TENANT, QUEUE.destination).await;
    assert_eq!(depth.unwrap().dead, 0, "what was replayed is done with");
}

/// The same replay twice makes one delivery: whoever does not know how far it came may repeat it.
pub async fn a_replay_delivers_an_event_once(stage: &mut Stage) {
    let (first, _) = stage.accept_dead(None).await;
    let (second, _) = stage.accept_dead(None).await;
    let made = replayed(stage, &[replay(first, 90, 7), replay(first, 91, 7)]).await;
    let already = DeliveryId::from_u128(90);
    assert_eq!(made, [Replayed::Owed, Replayed::Repeated(already)]);

    stage.pause().await;
    let made = replayed(stage, &[replay(first, 92, 7), replay(second, 93, 7)]).await;
    assert_eq!(made, [Replayed::Repeated(already), Replayed::Owed]);
    for _ in 0..2 {
        let lease = stage.claim_one().await;
        stage.settle(&lease, Verdict::Deliver).await;
    }
    assert!(stage.claim(5).await.is_empty());
    let made = replayed(stage, &[replay(first, 94, 7), replay(first, 95, 8)]).await;
    assert_eq!(made, [Replayed::Repeated(already), Replayed::Owed]);
}

/// What is still owed is not owed twice; another destination is another matter.
pub async fn what_is_still_owed_is_not_replayed(stage: &mut Stage) {
    let (event, first) = stage.accept().await;
    let mut elsewhere = replay(event, 91, 7);
    elsewhere.delivery.destination = OTHER_QUEUE.destination;
    let made = replayed(stage, &[replay(event, 90, 7), elsewhere]).await;
    assert_eq!(made, [Replayed::StillOwed(first), Replayed::Owed]);

    stage.pause().await;
    assert_eq!(stage.claim(5).await.len(), 1);
    assert_eq!(stage.claim_from(OTHER_QUEUE, 5).await.len(), 1);
    let mut stranger = replay(event, 92, 8);
    stranger.tenant = STRANGER;
    let nobody = replay(EventId::from_u128(1), 93, 8);
    let made = replayed(stage, &[stranger, nobody]).await;
    assert_eq!(made, [Replayed::Unknown, Replayed::Unknown]);
}

/// A provider's repeat reopens the replay that died, not what the replay superseded.
pub async fn a_repeat_reopens_the_last_replay(stage: &mut Stage) {
    let (event, dead) = stage.accept_dead(Some("id")).await;
    assert_eq!(
        replayed(stage, &[replay(event, 90, 7)]).await,
        [Replayed::Owed]
    );
    let lease = stage.claim_one().await;
    stage.settle(&lease, super::die()).await;
    stage.pause().await;
    let repeat = stage.event(Some("id"));
    let appended = stage.store.events.append(repeat).await;
    let expected = Appended::Duplicate {
        first: event,
        reopened: 1,
    };
    assert_eq!(appended, Ok(expected));

    stage.pause().await;
    let lease = stage.claim_one().await;
    let again = (lease.info.delivery, lease.info.attempt, lease.info.replay);
    let replay = ReplayId::from_u128(7);
    assert_eq!(again, (DeliveryId::from_u128(90), 2, Some(replay)));
    assert_eq!(stage.state(dead).await, Some(DeliveryState::Dead));
}

/// An ended delivery is over, whoever holds it.
pub async fn one_delivery_is_ended(stage: &mut Stage) {
    let (_, first) = stage.accept().await;
    let (_, second) = stage.accept().await;
    stage.pause().await;
    let lease = stage.claim_one().await;
    let events = stage.store.events.clone();
    let cancel = EndReason::Cancelled;
    assert_eq!(events.end(STRANGER, first, cancel).await, Ok(false));
    assert_eq!(events.end(TENANT, first, cancel).await, Ok(true));
    assert_eq!(events.end(TENANT, first, cancel).await, Ok(false));
    let expire = EndReason::Expired;
    assert_eq!(events.end(TENANT, second, expire).await, Ok(true));

    let settled = stage.settle(&lease, Verdict::Deliver).await;
    assert_eq!(settled, Settled::AlreadySettled);
    stage.pause().await;
    assert!(stage.claim(5).await.is_empty());
    assert_eq!(stage.state(first).await, Some(DeliveryState::Cancelled));
    assert_eq!(stage.state(second).await, Some(DeliveryState::Expired));
}

/// All that a destination is owed ends, in memory or not; other destinations go on.
pub async fn a_destination_is_ended_whole(stage: &mut Stage) {
    let mut ended = Vec::new();
    for _ in 0..30 {
        ended.push(stage.accept().await.1);
    }
    let other = stage.event_for(&[OTHER_QUEUE], None);
    stage.store.events.append(other).await.unwrap();
    stage.pause().await;
    let lease = stage.claim_one().await;

    let events = stage.store.events.clone();
    let reason = EndReason::Cancelled;
    assert_eq!(events.end_destination(QUEUE, reason).await, Ok(()));
    assert!(stage.claim(100).await.is_empty());
    let settled = stage.settle(&lease, Verdict::Deliver).await;
    assert_eq!(settled, Settled::AlreadySettled);

    stage.pause().await;
    assert!(stage.claim(100).await.is_empty());
    for delivery in ended {
        assert_eq!(stage.state(delivery).await, Some(DeliveryState::Cancelled));
    }
    assert_eq!(stage.claim_from(OTHER_QUEUE, 5).await.len(), 1);
    stage.accept().await;
    assert_eq!(stage.claim(5).await.len(), 1, "what comes later is owed");
}

/// After the end everything is refused, and says so.
pub async fn a_closed_store_refuses(stage: &mut Stage) {
    stage.accept().await;
    let events = stage.store.events.clone();
    assert_eq!(events.accepting(), Ok(()));
    events.close().await;
    events.close().await;
    let refused = |error: StoreError| matches!(error, StoreError::Unavailable(_));

    let new = stage.event(None);
    assert!(events.append(new).await.is_err_and(refused));
    assert!(events.accepting().is_err_and(refused));
    assert!(events.claim(&[]).await.is_err_and(refused));
    assert!(events.settle(Vec::new()).await.is_err_and(refused));
    assert!(events.next_wake().await.is_err_and(refused));
}
