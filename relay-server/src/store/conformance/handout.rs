//! Handing out: claims and leases.

use std::time::Duration;

use super::{OTHER_QUEUE, QUEUE, Stage, TENANT, TTL, die, held};
use crate::{
    clock::Clock,
    lifecycle::{EndReason, LIVE_FOR, Spent, Verdict},
    store::{Adopted, Appended, Held, LeaseToken, Settled, Want},
};

/// In the order of acceptance, and not twice.
pub async fn deliveries_come_in_accept_order_and_once(stage: &mut Stage) {
    let mut accepted = Vec::new();
    for _ in 0..10 {
        accepted.push(stage.accept().await.1);
    }
    stage.pause().await;
    let mut claimed = Vec::new();
    for most in [1, 3, 100] {
        let leases = stage.claim(most).await;
        claimed.extend(leases.iter().map(|lease| lease.info.delivery));
    }
    assert_eq!(claimed, accepted);
    assert!(stage.claim(1).await.is_empty());
    assert!(stage.claim_from(OTHER_QUEUE, 1).await.is_empty());
}

/// Never more than wanted; the first may be larger than the bytes wanted.
pub async fn credit_in_deliveries_and_bytes_is_kept(stage: &mut Stage) {
    for _ in 0..5 {
        stage.accept().await;
    }
    let want = |deliveries, bytes| Want {
        key: QUEUE,
        deliveries,
        bytes,
        in_flight_max: None,
        ttl: TTL,
    };
    let events = stage.store.events.clone();
    let count = |want| {
        let events = events.clone();
        async move { events.claim(&[want]).await.unwrap().len() }
    };
    assert_eq!(count(want(0, 1000)).await, 0);
    assert_eq!(count(want(2, 1_000_000)).await, 2);
    assert_eq!(count(want(5, 1)).await, 1);
    assert_eq!(count(want(5, 1_000_000)).await, 2);
}

/// No more are leased at a time than the destination takes; what that held back is marked as due
/// when one of them ends, however it does.
pub async fn leases_in_flight_are_limited(stage: &mut Stage) {
    for _ in 0..10 {
        stage.accept().await;
    }
    stage.pause().await;
    let first = stage.claim_within(100, 3).await;
    assert_eq!(first.len(), 3);
    assert!(stage.claim_within(100, 3).await.is_empty());
    assert_eq!(stage.claim_within(1, 4).await.len(), 1);
    assert!(stage.claim_within(1, 2).await.is_empty(), "lowered since");
    assert!(stage.claim_within(1, 0).await.is_empty());

    let verdict = stage.retry_in(1000);
    for (number, verdict) in [Verdict::Deliver, verdict, die()].into_iter().enumerate() {
        stage.settle(&first[number], verdict).await;
        assert!(stage.due.wait().await.contains(&QUEUE));
        assert_eq!(stage.claim_within(100, 4).await.len(), 1);
    }
    let last = stage.claim_within(100, 5).await;
    assert_eq!(last.len(), 1);
    assert!(stage.claim_within(1, 5).await.is_empty());
    let events = stage.store.events.clone();
    events.release(&[held(&last[0])]).await.unwrap();
    assert!(stage.due.wait().await.contains(&QUEUE));
    let again = stage.claim_within(100, 5).await;
    assert_eq!(again.len(), 1);
    assert!(stage.claim_within(1, 5).await.is_empty());
    let ended = events.end(TENANT, again[0].info.delivery, EndReason::Cancelled);
    assert_eq!(ended.await, Ok(true));
    assert!(stage.due.wait().await.contains(&QUEUE));
    assert_eq!(stage.claim(100).await.len(), 2, "without a limit");
}

/// Method, target, headers and body come back byte for byte.
pub async fn events_come_back_as_they_were(stage: &mut Stage) {
    let new = stage.event(Some("evt-1"));
    let event = new.event.clone();
    assert_eq!(stage.store.events.append(new).await, Ok(Appended::New));

    let live = stage.claim_one().await;
    assert_eq!(*live.event, event);
    stage.store.events.release(&[held(&live)]).await.unwrap();

    stage.pause().await;
    let stored = stage.claim_one().await;
    assert_eq!(*stored.event, event);
    let detail = stage.store.queries.event(event.tenant, event.id).await;
    assert_eq!(detail.unwrap().unwrap().event, event);
}

/// An ended lease is named, stays unclaimable while it is settled, and is named again if it is not.
pub async fn a_lease_ends_and_is_named_until_settled(stage: &mut Stage) {
    stage.accept().await;
    let lease = stage.claim_one().await;
    let events = stage.store.events.clone();
    let wake = stage.clock.now().after(TTL);
    assert_eq!(events.next_wake().await, Ok(Some(wake)));
    let hold = Duration::from_secs(10);
    stage.clock.advance(TTL - Duration::from_millis(1));
    assert_eq!(events.take_expired(hold, 10).await, Ok(vec![]));

    stage.clock.advance(Duration::from_millis(1));
    assert_eq!(events.take_expired(hold, 10).await, Ok(vec![lease.info]));
    assert_eq!(events.take_expired(hold, 10).await, Ok(vec![]));
    assert!(stage.claim(1).await.is_empty());

    stage.clock.advance(hold);
    assert_eq!(events.take_expired(hold, 10).await, Ok(vec![lease.info]));
    let retry = stage.retry_in(0);
    assert_eq!(stage.settle(&lease, retry).await, Settled::Applied);
    let again = stage.claim_one().await;
    assert_eq!(again.info.attempt, 2);
    assert_eq!(again.info.spent.attempts, 1);
}

/// A renewed lease lasts from now.
pub async fn renewing_lengthens_and_shortens(stage: &mut Stage) {
    stage.accept().await;
    let lease = stage.claim_one().await;
    let events = stage.store.events.clone();
    stage.clock.advance(TTL / 2);
    events.renew(&[held(&lease)], TTL).await.unwrap();
    stage.clock.advance(TTL / 2);
    assert_eq!(events.take_expired(TTL, 10).await, Ok(vec![]));

    let stale = Held {
        token: LeaseToken {
            incarnation: 0,
            counter: 0,
        },
        ..held(&lease)
    };
    events.renew(&[stale], Duration::ZERO).await.unwrap();
    assert_eq!(events.take_expired(TTL, 10).await, Ok(vec![]));
    events.renew(&[held(&lease)], Duration::ZERO).await.unwrap();
    assert_eq!(events.take_expired(TTL, 10).await, Ok(vec![lease.info]));
}

/// What was never attempted is as if it had not been handed out.
pub async fn a_released_delivery_counts_no_attempt(stage: &mut Stage) {
    stage.accept().await;
    stage.accept().await;
    let first = stage.claim_one().await;
    let events = stage.store.events.clone();
    events.release(&[held(&first)]).await.unwrap();
    events.release(&[held(&first)]).await.unwrap();

    stage.clock.advance(TTL);
    let again = stage.claim_one().await;
    assert_eq!(
        again.info.delivery, first.info.delivery,
        "it keeps its place"
    );
    assert_eq!(again.info.attempt, 1);
    assert_eq!(again.info.leased_at, stage.clock.now());
    assert_eq!(again.info.spent, Spent::default());
    assert_ne!(again.info.token, first.info.token);

    events.release(&[held(&first)]).await.unwrap();
    let next = stage.claim_one().await;
    assert_ne!(
        next.info.delivery, first.info.delivery,
        "the old lease is void"
    );
}

/// An agent that returns goes on under its token, also after a restart.
pub async fn a_holder_takes_its_lease_back(stage: &mut Stage) {
    stage.accept().await;
    stage.accept().await;
    let lease = stage.claim_one().await;
    stage.pause().await;

    let adopted = stage.store.events.adopt(&[held(&lease)], TTL).await;
    let adopted = adopted.unwrap().remove(0);
    let Adopted::Granted(info) = adopted else {
        panic!("the lease is lost");
    };
    assert_eq!((info.token, info.attempt), (lease.info.token, 1));
    let next = stage.claim_one().await;
    assert_ne!(next.info.delivery, lease.info.delivery);

    let impostor = Held {
        token: next.info.token,
        ..held(&lease)
    };
    let stranger = Held {
        tenant: super::STRANGER,
        ..held(&lease)
    };
    let retry = stage.retry_in(0);
    assert_eq!(stage.settle(&lease, retry).await, Settled::Applied);
    assert_eq!(
        stage.settle(&next, Verdict::Deliver).await,
        Settled::Applied
    );
    let adopted = stage
        .store
        .events
        .adopt(&[held(&next), stranger], TTL)
        .await;
    assert_eq!(adopted, Ok(vec![Adopted::Lost, Adopted::Lost]));

    let again = stage.claim_one().await;
    let adopted = stage.store.events.adopt(&[impostor], TTL).await;
    assert_eq!(adopted, Ok(vec![Adopted::Lost]));
    assert_eq!(again.info.attempt, 2);
}

/// Far more than any window, drained in order while more arrives, all of it once.
pub async fn a_backlog_larger_than_memory_is_handed_out_in_order(stage: &mut Stage) {
    let mut backlog = Vec::new();
    for _ in 0..60 {
        backlog.push(stage.accept().await.1);
    }
    stage.pause().await;
    stage.clock.advance(LIVE_FOR);
    let mut extra = Vec::new();
    let mut claimed = Vec::new();
    while claimed.len() < 80 {
        let leases = stage.claim(7).await;
        assert!(!leases.is_empty(), "{} were handed out", claimed.len());
        for lease in leases {
            claimed.push(lease.info.delivery);
            assert_eq!(
                stage.settle(&lease, Verdict::Deliver).await,
                Settled::Applied
            );
            if extra.len() < 20 {
                extra.push(stage.accept().await.1);
            }
        }
    }
    assert!(stage.claim(1).await.is_empty());
    let (late, early): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|it| extra.contains(it));
    assert_eq!(early, backlog);
    assert_eq!(late.len(), 20);
    assert!(extra.iter().all(|it| late.contains(it)));
}

/// Whoever waits for work hears of it.
pub async fn appends_mark_their_destination(stage: &mut Stage) {
    stage.accept().await;
    assert!(stage.due.wait().await.contains(&QUEUE));
    let lease = stage.claim_one().await;
    stage.store.events.release(&[held(&lease)]).await.unwrap();
    assert!(stage.due.wait().await.contains(&QUEUE));
}
