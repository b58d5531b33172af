//! Power losses, full disks, damage, lost projections: what was confirmed stays, and nothing is altered.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use protocol::id::{DeliveryId, EventId};

use super::{Embedded, EmbeddedConfig, config};
use crate::{
    lifecycle::{DeliveryState, Event, Verdict},
    store::{
        Appended, DeliveryFilter, Events, Keeping as _, Settled, StoreError,
        conformance::{Backend, QUEUE, Stage, TENANT},
        embedded::{OpenError, journal::sim::SimFs},
    },
};

/// A store whose journal is on a simulated disk, which can be exchanged at a pause.
async fn stage_on(disk: Arc<std::sync::Mutex<SimFs>>, path: Arc<tempfile::TempDir>) -> Stage {
    Stage::set(
        Box::new(move |clock, due| {
            let (disk, path) = (disk.clone(), path.clone());
            Box::pin(async move {
                let disk = Arc::new(disk.lock().unwrap().clone());
                let config = EmbeddedConfig {
                    segment_bytes: 16 * 1024,
                    ..config(path.path())
                };
                Backend::of(Embedded::open_on(config, disk, clock, due).unwrap())
            })
        }),
        true,
    )
    .await
}

fn forget_projection(path: &Path) {
    for file in ["projection.db", "projection.db-wal", "projection.db-shm"] {
        let _ = std::fs::remove_file(path.join(file));
    }
}

/// What the outside was told.
#[derive(Default)]
struct Ledger {
    accepted: HashMap<EventId, (Event, DeliveryId)>,
    delivered: Vec<DeliveryId>,
    /// Settled, but nobody heard.
    perhaps: Vec<DeliveryId>,
}

async fn act(stage: &mut Stage, ledger: &mut Ledger, step: u8) {
    if step.is_multiple_of(3) {
        for lease in stage.claim(2).await {
            let delivery = lease.info.delivery;
            let verdict = if step.is_multiple_of(2) {
                Verdict::Deliver
            } else {
                stage.retry_in(1)
            };
            let settlement = stage.settlement(&lease, verdict);
            match stage.store.events.settle(vec![settlement]).await {
                Ok(settled) => {
                    assert_eq!(settled, [Settled::Applied]);
                    if verdict == Verdict::Deliver {
                        ledger.delivered.push(delivery);
                    }
                }
                Err(_) => ledger.perhaps.push(delivery),
            }
        }
    } else {
        let provider_id = format!("evt-{}", ledger.accepted.len());
        let new = stage.event(Some(&provider_id));
        let kept = (new.event.clone(), new.deliveries[0].id);
        if stage.store.events.append(new).await == Ok(Appended::New) {
            ledger.accepted.insert(kept.0.id, kept);
        }
    }
}

async fn check(stage: &mut Stage, ledger: &Ledger) {
    let filter = DeliveryFilter::default();
    let queries = stage.store.queries.clone();
    let page = queries.deliveries(TENANT, &filter, None, 250).await;
    let states: HashMap<_, _> = page
        .unwrap()
        .rows
        .iter()
        .map(|row| (row.id, row.state))
        .collect();
    for (id, (event, delivery)) in &ledger.accepted {
        let found = queries.event(TENANT, *id).await.unwrap();
        let found = found.unwrap_or_else(|| panic!("{id} was accepted and is lost"));
        assert_eq!(found.event, *event, "altered");
        let delivered = ledger.delivered.contains(delivery);
        let perhaps = ledger.perhaps.contains(delivery);
        match states[delivery] {
            DeliveryState::Delivered => assert!(delivered || perhaps, "delivered by nobody"),
            state => assert!(state.is_open() && !delivered, "{delivery} is {state}"),
        }
        let mut again = stage.event(event.provider_id.as_deref());
        again.event.id = EventId::from_u128(1);
        let repeat = stage.store.events.append(again).await.unwrap();
        assert!(matches!(repeat, Appended::Duplicate { first, .. } if first == *id));
    }
    stage.clock.advance(Duration::from_secs(10));
    let mut handed = Vec::new();
    loop {
        let leases = stage.claim(50).await;
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            if let Some((event, _)) = ledger.accepted.get(&lease.event.id) {
                assert_eq!(*lease.event, *event);
            }
            handed.push(lease.info.delivery);
        }
    }
    for (_, delivery) in ledger.accepted.values() {
        let open = states[delivery].is_open();
        let times = handed.iter().filter(|it| *it == delivery).count();
        assert_eq!(
            times,
            usize::from(open),
            "{delivery} handed out {times} times"
        );
    }
}

async fn crash_story(steps: Vec<u8>, dies_after: u64, luck: u64, rebuild: bool) {
    let disk = Arc::new(std::sync::Mutex::new(SimFs::new()));
    let path = Arc::new(tempfile::tempdir().unwrap());
    let mut stage = stage_on(disk.clone(), path.clone()).await;
    let mut ledger = Ledger::default();
    let (calm, wild) = steps.split_at(steps.len() / 3);
    for step in calm {
        act(&mut stage, &mut ledger, *step).await;
    }
    disk.lock().unwrap().die_after(dies_after);
    for step in wild {
        act(&mut stage, &mut ledger, *step).await;
    }
    // The old store ends on the dead disk; the next one finds what the power loss left.
    stage.store.events.close().await;
    let mut state = luck;
    let survivor = disk.lock().unwrap().after_power_loss(|length| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % (length + 1)
    });
    *disk.lock().unwrap() = survivor;
    if rebuild {
        forget_projection(path.path());
    }
    stage.pause().await;
    check(&mut stage, &ledger).await;
}

fn block_on(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(story);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_was_confirmed_survives_a_power_loss_at_any_moment(
        steps in proptest::collection::vec(any::<u8>(), 3..60),
        dies_after in 0_u64..120,
        luck in any::<u64>(),
        rebuild in any::<bool>(),
    ) {
        block_on(crash_story(steps, dies_after, luck, rebuild));
    }
}

/// Every write and sync of a story is the last one once, with more and other luck in the full size: see
/// docs/TESTING.md.
#[test]
fn what_was_confirmed_survives_a_power_loss_at_each_write() {
    const WRITES: u64 = 100;
    let steps: Vec<u8> = (0..90_u32).map(|step| (step * 37 % 251) as u8).collect();
    let is_full = std::env::var_os("HOOKFERRY_TEST_FULL").is_some();
    let lucks = if is_full { 24 } else { 1 };
    for dies_after in 0..WRITES {
        for luck in 0..lucks {
            let chance = (luck * WRITES + dies_after).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let story = crash_story(steps.clone(), dies_after, chance, chance.is_multiple_of(3));
            block_on(story);
        }
    }
}

/// The projection stands still for a while: whoever posts waits a little longer each, and nobody is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_stands_still_slows_accepting_and_refuses_nobody() {
    const LAG_MAX: usize = 400;
    const POSTERS: usize = 32;
    let path = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::clock::SystemClock);
    let config = EmbeddedConfig {
        lag_max: LAG_MAX,
        ..config(path.path())
    };
    let store = Embedded::open(config, clock, Arc::default()).unwrap();
    let lock = rusqlite::Connection::open(path.path().join("projection.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();

    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..30 {
                    let id = (poster * 1000 + number + 1) as u128;
                    let accepted = store.append(plain_event(id)).await;
                    assert_eq!(accepted, Ok(Appended::New));
                    let lag = usize::try_from(store.stored().lag).unwrap();
                    assert!(lag <= LAG_MAX + POSTERS, "{lag}");
                }
            })
        })
        .collect();
    while store.stored().lag < LAG_MAX as u64 * 3 / 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lock.execute_batch("ROLLBACK").unwrap();
    for poster in posters {
        poster.await.unwrap();
    }
    assert_eq!(store.usage(TENANT).events, (POSTERS * 30) as u64);
    store.close().await;
}

fn plain_event(id: u128) -> crate::store::NewEvent {
    crate::store::NewEvent {
        waited_for: None,
        decisions: Vec::new(),
        event: Event {
            id: EventId::from_u128(id),
            tenant: TENANT,
            source: crate::store::conformance::SOURCE,
            received_at: crate::clock::Timestamp(1),
            method: "POST".to_owned(),
            target: "/".to_owned(),
            headers: protocol::frame::Headers::default(),
            body: bytes::Bytes::new(),
            verification: crate::lifecycle::Verification {
                rule: "none".to_owned(),
                secret: None,
            },
            event_type: None,
            provider_id: None,
            remote: None,
        },
        dedupe_window: Duration::ZERO,
        deliveries: Vec::new(),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_events_takes_settlements_and_recovers_by_itself() {
    let disk = Arc::new(std::sync::Mutex::new(SimFs::new()));
    let path = Arc::new(tempfile::tempdir().unwrap());
    let mut stage = stage_on(disk.clone(), path).await;
    let sim = disk.lock().unwrap().clone();
    // The current segment and two spares; nothing more.
    while sim.used() < 3 * 16 * 1024 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sim.resize(sim.used());
    let mut accepted = 0;
    let refused = loop {
        let new = stage.event(None);
        match stage.store.events.append(new).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000);
    };
    assert_eq!(refused, StoreError::Full);
    assert_eq!(stage.store.events.accepting(), Err(StoreError::Full));
    for _ in 0..10 {
        let lease = stage.claim_one().await;
        assert_eq!(
            stage.settle(&lease, Verdict::Deliver).await,
            Settled::Applied
        );
    }

    sim.resize(u64::MAX / 2);
    while stage.store.events.accepting().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.accept().await;
    stage.pause().await;
    let depth = stage.store.queries.depth(TENANT, QUEUE.destination).await;
    assert_eq!(depth.unwrap().open, accepted + 1 - 10);
}

#[tokio::test]
async fn a_failed_sync_is_never_called_durable() {
    let disk = Arc::new(std::sync::Mutex::new(SimFs::new()));
    let path = Arc::new(tempfile::tempdir().unwrap());
    let mut stage = stage_on(disk.clone(), path).await;
    stage.accept().await;
    let lease = stage.claim_one().await;
    disk.lock().unwrap().fail_syncs();

    let new = stage.event(Some("evt-1"));
    let failed = stage.store.events.append(new).await;
    assert!(
        matches!(failed, Err(StoreError::Indeterminate(_))),
        "{failed:?}"
    );
    let again = stage.event(Some("evt-1"));
    let refused = stage.store.events.append(again).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(stage.store.events.accepting().is_err());
    let settlement = stage.settlement(&lease, Verdict::Deliver);
    assert!(stage.store.events.settle(vec![settlement]).await.is_err());
}

#[tokio::test]
async fn a_damaged_event_is_quarantined_and_its_repeat_accepted() {
    let disk = Arc::new(std::sync::Mutex::new(SimFs::new()));
    let path = Arc::new(tempfile::tempdir().unwrap());
    let mut stage = stage_on(disk.clone(), path.clone()).await;
    let new = stage.event(Some("evt-1"));
    let (event, delivery) = (new.event.clone(), new.deliveries[0].id);
    stage.store.events.append(new).await.unwrap();
    let (_, healthy) = stage.accept().await;
    stage.pause().await;

    // Segment by segment, flip one bit of the body wherever it stands.
    let sim = disk.lock().unwrap().clone();
    use crate::store::embedded::JournalFs as _;
    for number in sim.list().unwrap() {
        let mut bytes = sim.bytes(number);
        let body = &event.body[..];
        while let Some(at) = bytes.windows(body.len()).position(|it| it == body) {
            bytes[at] ^= 1;
        }
        sim.put(number, bytes);
    }
    let leases = stage.claim(5).await;
    let handed: Vec<_> = leases.iter().map(|lease| lease.info.delivery).collect();
    assert_eq!(handed, [healthy]);
    assert_eq!(
        stage.state(delivery).await,
        Some(DeliveryState::Quarantined)
    );
    let detail = stage.store.queries.event(TENANT, event.id).await;
    assert!(matches!(detail, Err(StoreError::Corrupt(_))));

    let again = stage.event(Some("evt-1"));
    assert_eq!(stage.store.events.append(again).await, Ok(Appended::New));
}

#[tokio::test]
async fn one_directory_has_one_store() {
    let path = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::clock::SystemClock);
    let due = Arc::new(crate::store::Due::default());
    let first = Embedded::open(config(path.path()), clock.clone(), due.clone()).unwrap();
    let second = Embedded::open(config(path.path()), clock.clone(), due.clone());
    assert!(matches!(second, Err(OpenError::InUse(_))));
    first.close().await;
    assert!(Embedded::open(config(path.path()), clock, due).is_ok());
}

#[tokio::test]
async fn a_useless_projection_is_rebuilt() {
    let path = tempfile::tempdir().unwrap();
    let mut stage = Stage::set(
        Box::new({
            let path = path.path().to_owned();
            move |clock, due| {
                let config = config(&path);
                Box::pin(async { Backend::of(Embedded::open(config, clock, due).unwrap()) })
            }
        }),
        true,
    )
    .await;
    let (_, dead) = stage.accept_dead(Some("evt-1")).await;
    let (_, open) = stage.accept().await;
    for garbage in [&b"not a database"[..], b""] {
        stage.store.events.close().await;
        forget_projection(path.path());
        std::fs::write(path.path().join("projection.db"), garbage).unwrap();
        stage.pause().await;
        assert_eq!(stage.state(dead).await, Some(DeliveryState::Dead));
        assert_eq!(stage.state(open).await, Some(DeliveryState::Pending));
    }
}
