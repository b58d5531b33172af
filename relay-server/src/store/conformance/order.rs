//! Order by key, and lanes where there is none.

use std::time::Duration;

use protocol::id::{DeliveryId, ReplayId};

use super::{QUEUE, Stage, TENANT, die, held};
use crate::{
    clock::Clock as _,
    lifecycle::{DeliveryState, EndReason, KeyDigest, LIVE_FOR, OrderKey, Verdict},
    store::{Adopted, Appended, Lease, NewDelivery, Parked, Replay, Replayed, Settled, WaitedFor},
};

/// Accepts an event for [`QUEUE`] with a key.
async fn accept(stage: &mut Stage, key: &str) -> DeliveryId {
    let mut new = stage.event(None);
    new.deliveries[0].order = Some(OrderKey::new(key.as_bytes()));
    let id = new.deliveries[0].id;
    assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));
    id
}

/// What somebody waits for is handed out before all that is live, until nobody waits any more.
pub async fn what_is_waited_for_goes_first(stage: &mut Stage) {
    let (first, second) = (stage.accept().await.1, stage.accept().await.1);
    let mut waited_for = Vec::new();
    for seconds in [10, 30] {
        let mut new = stage.event(None);
        let delivery = new.deliveries[0].id;
        let until = stage.clock.now().after(Duration::from_secs(seconds));
        new.waited_for = Some(WaitedFor { delivery, until });
        assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));
        waited_for.push(delivery);
    }
    let leases = stage.claim(3).await;
    assert_eq!(ids(&leases), [waited_for[0], waited_for[1], first]);
    let held: Vec<_> = leases.iter().map(held).collect();
    stage.store.events.release(&held).await.unwrap();

    // The first one has waited long enough, and stands with all others that have.
    stage.clock.advance(Duration::from_secs(10));
    let leases = stage.claim(10).await;
    assert_eq!(ids(&leases), [waited_for[1], first, second, waited_for[0]]);
}

fn ids(leases: &[Lease]) -> Vec<DeliveryId> {
    leases.iter().map(|lease| lease.info.delivery).collect()
}

async fn deliver(stage: &mut Stage, lease: &Lease) {
    let settled = stage.settle(lease, Verdict::Deliver).await;
    assert_eq!(settled, Settled::Applied);
}

/// The next of a key waits until the one before it has ended; other keys go on.
pub async fn one_of_a_key_at_a_time(stage: &mut Stage) {
    let (a1, a2, a3) = (
        accept(stage, "a").await,
        accept(stage, "a").await,
        accept(stage, "a").await,
    );
    let (b1, b2) = (accept(stage, "b").await, accept(stage, "b").await);
    stage.pause().await;
    let first = stage.claim(10).await;
    assert_eq!(ids(&first), [a1, b1]);
    let retry = stage.retry_in(30);
    stage.settle(&first[0], retry).await;
    deliver(stage, &first[1]).await;

    stage.pause().await;
    let second = stage.claim(10).await;
    assert_eq!(ids(&second), [b2], "a waits for its head");
    stage
        .store
        .events
        .release(&[held(&second[0])])
        .await
        .unwrap();
    stage.clock.advance(Duration::from_secs(30));
    let third = stage.claim(10).await;
    assert_eq!(ids(&third), [a1, b2]);
    stage.settle(&third[0], die()).await;
    let fourth = stage.claim(10).await;
    assert_eq!(ids(&fourth), [a2]);
    let ended = stage.store.events.end(TENANT, a3, EndReason::Skipped).await;
    assert_eq!(ended, Ok(true));
    deliver(stage, &fourth[0]).await;
    assert!(stage.claim(10).await.is_empty());
}

/// Many keys with more behind each than memory holds, drained in order while more arrives.
pub async fn a_backlog_of_keys_keeps_its_order(stage: &mut Stage) {
    let keys = ["stuck", "b", "c", "d"];
    let mut expected: Vec<Vec<DeliveryId>> = vec![Vec::new(); keys.len()];
    for number in 0..90 {
        // Half of everything is behind a key that does not move.
        let key = if number % 2 == 0 { 0 } else { number % 3 + 1 };
        expected[key].push(accept(stage, keys[key]).await);
    }
    stage.pause().await;
    let park = OrderKey::new(b"stuck");
    let stuck = park.digest;
    let parked = stage.store.events.park(QUEUE, park).await;
    assert_eq!(parked, Ok(Parked::Done));
    let mut claimed = Vec::new();
    let others: usize = expected[1..].iter().map(Vec::len).sum();
    while claimed.len() < others {
        let leases = stage.claim(7).await;
        assert!(!leases.is_empty(), "{} of {others}", claimed.len());
        for lease in &leases {
            claimed.push(lease.info.delivery);
            deliver(stage, lease).await;
        }
    }
    assert!(stage.claim(7).await.is_empty());
    stage.pause().await;
    assert_eq!(stage.store.events.resume(QUEUE, stuck).await, Ok(true));
    while claimed.len() < 90 {
        let leases = stage.claim(7).await;
        assert_eq!(leases.len(), 1, "one at a time");
        claimed.push(leases[0].info.delivery);
        deliver(stage, &leases[0]).await;
    }
    for expected in expected {
        let of_key: Vec<_> = claimed.iter().filter(|id| expected.contains(id)).collect();
        assert_eq!(of_key, expected.iter().collect::<Vec<_>>());
    }
}

/// A key stops with the delivery that dies at its head, restarts or not, until it is resumed.
pub async fn a_key_parks_with_its_head(stage: &mut Stage) {
    let head = accept(stage, "a").await;
    let next = accept(stage, "a").await;
    let other = accept(stage, "b").await;
    let lease = stage.claim(1).await.remove(0);
    let mut settlement = stage.settlement(&lease, die());
    settlement.park = true;
    let events = stage.store.events.clone();
    assert_eq!(
        events.settle(vec![settlement]).await,
        Ok(vec![Settled::Applied])
    );
    assert_eq!(stage.state(head).await, Some(DeliveryState::Dead));

    stage.pause().await;
    assert_eq!(ids(&stage.claim(10).await), [other]);
    let events = stage.store.events.clone();
    let key = OrderKey::new(b"a");
    assert_eq!(events.park(QUEUE, key.clone()).await, Ok(Parked::Already));
    let behind = accept(stage, "a").await;
    assert!(stage.claim(10).await.is_empty());
    assert_eq!(events.resume(QUEUE, key.digest).await, Ok(true));
    assert_eq!(events.resume(QUEUE, key.digest).await, Ok(false));
    assert_eq!(events.resume(QUEUE, KeyDigest(7)).await, Ok(false));
    let lease = stage.claim_one().await;
    assert_eq!(lease.info.delivery, next);
    assert!(stage.claim(10).await.is_empty());
    deliver(stage, &lease).await;
    assert_eq!(ids(&stage.claim(10).await), [behind]);
}

/// What ends while somebody attempts it keeps its key until that attempt is over.
pub async fn a_key_waits_for_an_attempt_in_vain(stage: &mut Stage) {
    let (first, second) = (accept(stage, "a").await, accept(stage, "a").await);
    let third = accept(stage, "a").await;
    let lease = stage.claim_one().await;
    assert_eq!(lease.info.delivery, first);
    let events = stage.store.events.clone();
    assert_eq!(
        events.end(TENANT, first, EndReason::Skipped).await,
        Ok(true)
    );
    assert_eq!(stage.state(first).await, Some(DeliveryState::Cancelled));
    assert!(stage.claim(10).await.is_empty(), "the agent still calls");
    let settled = stage.settle(&lease, Verdict::Deliver).await;
    assert_eq!(settled, Settled::AlreadySettled);

    let lease = stage.claim_one().await;
    assert_eq!(lease.info.delivery, second);
    let mut late = lease.clone();
    late.info.token.counter += 1000;
    deliver(stage, &late).await;
    assert!(stage.claim(10).await.is_empty(), "its holder is at it");
    let adopted = events.adopt(&[held(&lease)], super::TTL).await;
    assert_eq!(adopted, Ok(vec![Adopted::Lost]));
    stage.clock.advance(super::TTL);
    let expired = events.take_expired(super::TTL, 10).await.unwrap();
    assert_eq!(expired, [lease.info]);
    let retry = stage.retry_in(0);
    assert_eq!(stage.settle(&lease, retry).await, Settled::AlreadySettled);
    assert_eq!(ids(&stage.claim(10).await), [third]);
}

/// A replay joins the tail of its key; what is not at the head is nobody's.
pub async fn a_replay_joins_the_tail_of_its_key(stage: &mut Stage) {
    let mut new = stage.event(None);
    let key = Some(OrderKey::new(b"a"));
    new.deliveries[0].order.clone_from(&key);
    let event = new.event.id;
    stage.store.events.append(new).await.unwrap();
    let lease = stage.claim_one().await;
    stage.settle(&lease, die()).await;
    let second = accept(stage, "a").await;
    let replay = Replay {
        tenant: TENANT,
        event,
        replay: ReplayId::from_u128(1),
        delivery: NewDelivery {
            id: DeliveryId::from_u128(5),
            destination: QUEUE.destination,
            order: key,
        },
    };
    let replayed = stage.store.events.replay(&[replay]).await;
    assert_eq!(replayed, Ok(vec![Replayed::Owed]));

    stage.pause().await;
    let mut early = held(&lease);
    early.delivery = DeliveryId::from_u128(5);
    let adopted = stage.store.events.adopt(&[early], super::TTL).await;
    assert_eq!(adopted, Ok(vec![Adopted::Lost]));
    let lease = stage.claim_one().await;
    assert_eq!(lease.info.delivery, second);
    assert!(stage.claim(10).await.is_empty());
    deliver(stage, &lease).await;
    assert_eq!(ids(&stage.claim(10).await), [DeliveryId::from_u128(5)]);
}

/// What was just accepted goes before a backlog, and that before replays; none starves.
pub async fn live_goes_before_backlog_and_replays(stage: &mut Stage) {
    let (event, delivery) = stage.accept().await;
    let lease = stage.claim_one().await;
    assert_eq!(lease.info.delivery, delivery);
    deliver(stage, &lease).await;
    for _ in 0..60 {
        stage.accept().await;
    }
    stage.clock.advance(LIVE_FOR);
    let replay = Replay {
        tenant: TENANT,
        event,
        replay: ReplayId::from_u128(1),
        delivery: NewDelivery {
            id: DeliveryId::from_u128(5),
            destination: QUEUE.destination,
            order: None,
        },
    };
    stage.store.events.replay(&[replay]).await.unwrap();
    stage.pause().await;
    let (_, live) = stage.accept().await;
    assert_eq!(ids(&stage.claim(1).await), [live]);
    let mut before = 0;
    loop {
        let lease = stage.claim_one().await;
        if lease.info.replay.is_some() {
            break;
        }
        before += 1;
        deliver(stage, &lease).await;
        assert!(before <= 16, "the replay starves");
    }
    assert!(before >= 5, "the backlog goes before replays");
    let (_, live) = stage.accept().await;
    assert_eq!(ids(&stage.claim(1).await), [live]);
}
