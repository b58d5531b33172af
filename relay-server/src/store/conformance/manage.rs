//! What people do to deliveries.

use protocol::id::{DeliveryId, EventId};

use super::{OTHER_QUEUE, QUEUE, STRANGER, Stage, TENANT};
use crate::{
    lifecycle::{DeliveryState, EndReason, Verdict},
    store::{NewDelivery, Settled, StoreError},
};

fn delivery(id: u128) -> NewDelivery {
    NewDelivery {
        id: DeliveryId::from_u128(id),
        destination: QUEUE.destination,
    }
}

/// Replaying what is dead goes on with the same delivery, at the queue's tail.
pub async fn a_dead_delivery_is_reopened_by_replay(stage: &mut Stage) {
    let (event, dead) = stage.accept_dead(None).await;
    let (_, live) = stage.accept().await;
    stage.pause().await;
    let events = stage.store.events.clone();
    assert_eq!(
        events.replay(TENANT, event, delivery(99)).await,
        Ok(Some(dead))
    );
    assert_eq!(stage.state(dead).await, Some(DeliveryState::Pending));

    stage.pause().await;
    let order: Vec<_> = stage
        .claim(5)
        .await
        .iter()
        .map(|lease| (lease.info.delivery, lease.info.attempt))
        .collect();
    assert_eq!(order, [(live, 1), (dead, 2)]);
    let events = stage.store.events.clone();
    assert_eq!(events.replay(STRANGER, event, delivery(98)).await, Ok(None));
    let nobody = EventId::from_u128(1);
    assert_eq!(events.replay(TENANT, nobody, delivery(97)).await, Ok(None));
}

/// Replaying what was delivered makes a new obligation.
pub async fn replay_of_a_delivered_event_makes_a_new_delivery(stage: &mut Stage) {
    let (event, first) = stage.accept().await;
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.pause().await;

    let new = delivery(99);
    let events = stage.store.events.clone();
    assert_eq!(events.replay(TENANT, event, new).await, Ok(Some(new.id)));
    stage.pause().await;
    let again = stage.claim_one().await;
    assert_eq!((again.info.delivery, again.info.attempt), (new.id, 1));
    assert_eq!(*again.event, *lease.event);
    assert_eq!(
        stage.settle(&again, Verdict::Deliver).await,
        Settled::Applied
    );
    let detail = stage.store.queries.event(TENANT, event).await;
    let ids: Vec<_> = detail
        .unwrap()
        .unwrap()
        .deliveries
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, [first, new.id]);
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
