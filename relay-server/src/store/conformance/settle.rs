//! Settling: verdicts, fences, repeats.

use std::time::Duration;

use super::{OTHER_QUEUE, QUEUE, STRANGER, Stage, TENANT, TTL, die, held};
use crate::{
    clock::Clock,
    lifecycle::{AttemptOutcome, DeliveryState, Spent, Verdict},
    store::{LeaseToken, Settled},
};

/// Delivered is final.
pub async fn a_delivered_delivery_is_never_handed_out_again(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    let lease = stage.claim_one().await;
    assert_eq!(
        stage.settle(&lease, Verdict::Deliver).await,
        Settled::Applied
    );
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Delivered));

    stage.pause().await;
    stage.clock.advance(TTL * 100);
    assert!(stage.claim(1).await.is_empty());
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Delivered));
    assert_eq!(stage.store.events.next_wake().await, Ok(None));
}

/// A retry is due at its time, with its number and what was used up before, restarts or not.
pub async fn a_retry_waits_and_counts(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    let lease = stage.claim_one().await;
    let first = stage.clock.now();
    let retry = stage.retry_in(30);
    assert_eq!(stage.settle(&lease, retry).await, Settled::Applied);
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Retry));

    stage.pause().await;
    assert!(stage.claim(1).await.is_empty());
    let due = first.after(Duration::from_secs(30));
    assert_eq!(stage.store.events.next_wake().await, Ok(Some(due)));
    stage.clock.advance(Duration::from_millis(29_999));
    assert!(stage.claim(1).await.is_empty());
    stage.clock.advance(Duration::from_millis(1));
    let again = stage.claim_one().await;
    assert_eq!(again.info.attempt, 2);
    assert_eq!(again.info.leased_at, due);
    let spent = Spent {
        attempts: 1,
        window_ms: 30,
    };
    assert_eq!(again.info.spent, spent);
    assert_eq!(stage.settle(&again, die()).await, Settled::Applied);
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Dead));
}

/// More retries than memory holds all come back, once each, and block nothing behind them.
pub async fn many_retries_wait_and_come_back(stage: &mut Stage) {
    for _ in 0..40 {
        stage.accept().await;
    }
    for number in 0..40 {
        let lease = stage.claim_one().await;
        let retry = stage.retry_in(100 + number);
        assert_eq!(stage.settle(&lease, retry).await, Settled::Applied);
    }
    let (_, behind) = stage.accept().await;
    let live = stage.claim_one().await;
    assert_eq!(live.info.delivery, behind);
    stage.settle(&live, Verdict::Deliver).await;
    assert!(stage.claim(100).await.is_empty());

    stage.pause().await;
    assert!(stage.claim(100).await.is_empty());
    stage.clock.advance(Duration::from_secs(119));
    let mut back = std::collections::HashSet::new();
    loop {
        let leases = stage.claim(100).await;
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            assert_eq!(lease.info.attempt, 2);
            assert!(back.insert(lease.info.delivery), "handed out twice");
            stage.settle(&lease, Verdict::Deliver).await;
        }
    }
    assert_eq!(back.len(), 20, "those that are due");
    stage.clock.advance(Duration::from_secs(30));
    let mut rest = 0;
    loop {
        let leases = stage.claim(100).await;
        if leases.is_empty() {
            break;
        }
        rest += leases.len();
        for lease in leases {
            stage.settle(&lease, Verdict::Deliver).await;
        }
    }
    assert_eq!(rest, 20);
}

/// A failure counts only from the lease's holder.
pub async fn a_stale_failure_is_fenced(stage: &mut Stage) {
    stage.accept().await;
    let old = stage.claim_one().await;
    let retry = stage.retry_in(0);
    stage.settle(&old, retry).await;
    let new = stage.claim_one().await;

    assert_eq!(stage.settle(&old, die()).await, Settled::LeaseLost);
    let mut forged = new.clone();
    forged.info.token = LeaseToken {
        incarnation: 7,
        counter: 7,
    };
    assert_eq!(stage.settle(&forged, die()).await, Settled::LeaseLost);
    assert_eq!(stage.settle(&new, die()).await, Settled::Applied);
}

/// Work that was done is not done again.
pub async fn a_stale_success_settles(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    let old = stage.claim_one().await;
    let retry = stage.retry_in(0);
    stage.settle(&old, retry).await;
    let new = stage.claim_one().await;
    assert_eq!(new.info.attempt, 2);

    assert_eq!(stage.settle(&old, Verdict::Deliver).await, Settled::Applied);
    stage.pause().await;
    assert_eq!(stage.settle(&new, die()).await, Settled::AlreadySettled);
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Delivered));
    assert!(stage.claim(1).await.is_empty());

    stage.accept().await;
    let lease = stage.claim_one().await;
    stage.pause().await;
    assert_eq!(
        stage.settle(&lease, Verdict::Deliver).await,
        Settled::Applied
    );
}

/// A repeated receipt is answered and changes nothing.
pub async fn settling_twice_changes_nothing(stage: &mut Stage) {
    stage.accept().await;
    let lease = stage.claim_one().await;
    let settlement = stage.settlement(&lease, Verdict::Deliver);
    let events = stage.store.events.clone();
    let settled = events
        .settle(vec![settlement.clone(), settlement.clone()])
        .await;
    assert_eq!(settled, Ok(vec![Settled::Applied, Settled::AlreadySettled]));
    stage.pause().await;
    let settled = stage.store.events.settle(vec![settlement]).await;
    assert_eq!(settled, Ok(vec![Settled::AlreadySettled]));
    let attempts = stage
        .store
        .queries
        .attempts(TENANT, lease.info.delivery)
        .await;
    assert_eq!(attempts.unwrap().unwrap().len(), 1);
}

/// Another tenant's delivery does not exist.
pub async fn tenants_settle_only_their_own(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    let lease = stage.claim_one().await;
    let mut settlement = stage.settlement(&lease, Verdict::Deliver);
    settlement.tenant = STRANGER;
    let events = stage.store.events.clone();
    assert_eq!(
        events.settle(vec![settlement]).await,
        Ok(vec![Settled::Unknown])
    );
    let mut unknown = stage.settlement(&lease, die());
    unknown.delivery = protocol::id::DeliveryId::from_u128(1);
    assert_eq!(
        events.settle(vec![unknown]).await,
        Ok(vec![Settled::Unknown])
    );
    let mut foreign = held(&lease);
    foreign.tenant = STRANGER;
    events.release(&[foreign]).await.unwrap();
    assert!(stage.claim(1).await.is_empty());
    assert_eq!(stage.state(delivery).await, Some(DeliveryState::Pending));
    assert_ne!(QUEUE, OTHER_QUEUE);
}

/// Every attempt is kept with what came of it.
pub async fn attempts_are_listed_in_order(stage: &mut Stage) {
    let (_, delivery) = stage.accept().await;
    for _ in 0..3 {
        let lease = stage.claim_one().await;
        let retry = stage.retry_in(0);
        stage.settle(&lease, retry).await;
        stage.pause().await;
    }
    let lease = stage.claim_one().await;
    stage.settle(&lease, Verdict::Deliver).await;
    stage.pause().await;

    let attempts = stage.store.queries.attempts(TENANT, delivery).await;
    let attempts = attempts.unwrap().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let AttemptOutcome::Answered {
        status,
        response_start,
        ..
    } = &attempts[0].outcome
    else {
        panic!("the service answered");
    };
    assert_eq!((*status, &response_start[..]), (500, &b"ok"[..]));
    assert!(attempts[3].outcome.is_success());
    let foreign = stage.store.queries.attempts(STRANGER, delivery).await;
    assert_eq!(foreign, Ok(None));
}
