//! What is kept stays whole, what is not goes, and the disk gets its room back.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::id::{DeliveryId, EventId, TenantId};

use super::super::{
    Embedded, EmbeddedConfig,
    upkeep::{check, rebuild},
};
use crate::{
    lifecycle::{AttemptOutcome, DeliveryState, Verdict},
    store::{
        Appended, Erased, Erasure, EventFilter, Keeping, Retention, Retentions, Selection, Settled,
        Swept, Usage,
        conformance::{Backend, Stage, TENANT, die},
    },
};

const DAY: Duration = Duration::from_hours(24);

/// The same for every tenant.
struct Same(Retention);

impl Retentions for Same {
    fn of(&self, _: TenantId) -> Retention {
        self.0
    }
}

fn ever() -> Retention {
    Retention {
        age: 1000 * DAY,
        events: None,
        bytes: None,
        dead_age: 1000 * DAY,
        pending_age: 1000 * DAY,
    }
}

struct Keeper {
    stage: Stage,
    store: Arc<Mutex<Option<Arc<Embedded>>>>,
    directory: tempfile::TempDir,
}

impl Keeper {
    async fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let store: Arc<Mutex<Option<Arc<Embedded>>>> = Arc::default();
        let slot = store.clone();
        let stage = Stage::set(
            Box::new(move |clock, due| {
                let config = EmbeddedConfig {
                    segment_bytes: 16 * 1024,
                    free_bytes_min: 0,
                    ordered_hold: Duration::ZERO,
                    // Everything is read back from the journal.
                    event_bytes_max: 0,
                    ..EmbeddedConfig::new(&path)
                };
                let slot = slot.clone();
                Box::pin(async move {
                    let store = Embedded::open(config, clock, due).unwrap();
                    *slot.lock().unwrap() = Some(store.clone());
                    Backend::of(store)
                })
            }),
            true,
        )
        .await;
        Self {
            stage,
            store,
            directory,
        }
    }

    async fn retain(&self, retention: Retention) -> Swept {
        let store = self.store.lock().unwrap().clone().unwrap();
        store.retain(&Same(retention)).await.unwrap()
    }

    /// As many events that were delivered.
    async fn delivered(&mut self, count: usize) -> Vec<EventId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.stage.accept().await.0);
            let lease = self.stage.claim_one().await;
            let settled = self.stage.settle(&lease, Verdict::Deliver).await;
            assert_eq!(settled, Settled::Applied);
        }
        ids
    }

    async fn listed(&self) -> Vec<EventId> {
        let filter = EventFilter::default();
        let queries = &self.stage.store.queries;
        let page = queries.events(TENANT, &filter, None, 250).await.unwrap();
        page.rows.iter().rev().map(|row| row.id).collect()
    }

    fn usage(&self) -> Usage {
        self.stage.store.events.usage(TENANT)
    }

    /// Closes the store, checks it, makes the lists anew and opens it.
    async fn rebuild(&mut self) {
        self.stage.store.events.close().await;
        assert_eq!(check(self.directory.path()).unwrap().troubles, []);
        rebuild(self.directory.path(), |_| {}).unwrap();
        self.stage.pause().await;
    }
}

fn segments(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("journal"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn old_events_go_and_what_is_owed_or_dead_stays_until_its_own_limits() {
    let mut keeper = Keeper::begin().await;
    keeper.delivered(3).await;
    let (dead, dead_delivery) = keeper.stage.accept_dead(None).await;
    let (open, open_delivery) = keeper.stage.accept().await;
    keeper.stage.clock.advance(2 * DAY);
    let new = keeper.delivered_behind(1).await;

    let month = Retention {
        age: DAY,
        dead_age: 10 * DAY,
        pending_age: 20 * DAY,
        ..ever()
    };
    let swept = keeper.retain(month).await;
    assert_eq!((swept.events, swept.expired), (3, 0));
    assert_eq!(keeper.listed().await, [dead, open, new[0]]);
    assert_eq!(keeper.usage().events, 3);
    keeper.stage.pause().await;
    assert_eq!(keeper.usage().events, 3);

    keeper.stage.clock.advance(9 * DAY);
    assert_eq!(keeper.retain(month).await.events, 2);
    assert_eq!(keeper.listed().await, [open]);
    assert_eq!(keeper.stage.state(dead_delivery).await, None);

    keeper.stage.clock.advance(10 * DAY);
    let swept = keeper.retain(month).await;
    assert_eq!((swept.events, swept.expired), (0, 1));
    let state = keeper.stage.state(open_delivery).await;
    assert_eq!(state, Some(DeliveryState::Expired));
    assert_eq!(keeper.retain(month).await.events, 1);
    assert_eq!(keeper.usage(), Usage::default());
}

impl Keeper {
    /// The same while something else waits at the head of the queue.
    async fn delivered_behind(&mut self, count: usize) -> Vec<EventId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let (event, delivery) = self.stage.accept().await;
            let leases = self.stage.claim(10).await;
            for lease in leases {
                if lease.info.delivery == delivery {
                    self.stage.settle(&lease, Verdict::Deliver).await;
                } else {
                    let held = crate::store::Held::of(&lease.info);
                    self.stage.store.events.release(&[held]).await.unwrap();
                }
            }
            ids.push(event);
        }
        ids
    }
}

#[tokio::test]
async fn the_newest_are_kept_by_count_and_by_bytes() {
    let mut keeper = Keeper::begin().await;
    let ids = keeper.delivered(10).await;
    let each = keeper.usage().bytes / 10;

    let by_count = Retention {
        events: Some(7),
        ..ever()
    };
    assert_eq!(keeper.retain(by_count).await.events, 3);
    assert_eq!(keeper.listed().await, ids[3..]);
    let by_bytes = Retention {
        bytes: Some(each * 4 + each / 2),
        ..ever()
    };
    assert_eq!(keeper.retain(by_bytes).await.events, 3);
    assert_eq!(keeper.listed().await, ids[6..]);
    assert_eq!(keeper.usage().bytes, each * 4);
    assert_eq!(keeper.retain(by_bytes).await, Swept::default());
}

#[tokio::test]
async fn repeats_are_known_for_as_long_as_was_promised() {
    let mut keeper = Keeper::begin().await;
    let new = keeper.stage.event(Some("evt-1"));
    let first = new.event.id;
    keeper.stage.store.events.append(new).await.unwrap();
    let lease = keeper.stage.claim_one().await;
    keeper.stage.settle(&lease, Verdict::Deliver).await;
    keeper.delivered(60).await;

    let none = Retention {
        age: Duration::ZERO,
        ..ever()
    };
    keeper.stage.clock.advance(Duration::from_secs(1));
    assert_eq!(keeper.retain(none).await.events, 61);
    keeper.retain(none).await;
    assert_eq!(keeper.listed().await, []);
    for _ in 0..2 {
        let again = keeper.stage.event(Some("evt-1"));
        let repeat = keeper.stage.store.events.append(again).await;
        assert_eq!(repeat, Ok(Appended::Duplicate { first, reopened: 0 }));
        keeper.stage.pause().await;
    }
    keeper.stage.clock.advance(Duration::from_hours(2));
    let again = keeper.stage.event(Some("evt-1"));
    assert_eq!(
        keeper.stage.store.events.append(again).await,
        Ok(Appended::New)
    );
}

#[tokio::test]
async fn the_disk_gets_its_room_back_and_what_is_owed_moves() {
    let mut keeper = Keeper::begin().await;
    let mut kept = HashMap::new();
    for round in 0..40 {
        keeper.delivered_behind(10).await;
        if round % 10 == 5 {
            let new = keeper.stage.event(None);
            let (event, delivery) = (new.event.clone(), new.deliveries[0].id);
            keeper.stage.store.events.append(new).await.unwrap();
            kept.insert(delivery, event);
        }
        if round == 20 {
            keeper.stage.pause().await;
        }
    }
    let before = segments(keeper.directory.path());
    keeper.stage.clock.advance(DAY);
    // What comes last stays: there must be a newest file.
    keeper.delivered_behind(30).await;
    let none = Retention {
        age: Duration::from_secs(1),
        ..ever()
    };
    let swept = keeper.retain(none).await;
    assert_eq!(swept.events, 400);
    assert!(
        swept.segments_removed > 0 && swept.segments_rewritten > 10,
        "{swept:?}"
    );
    let after = segments(keeper.directory.path());
    assert!(after < before / 3, "{after} of {before}");
    for retained in 0..3 {
        let open = keeper.stage.claim(50).await;
        let handed: HashMap<DeliveryId, _> = open
            .iter()
            .map(|lease| (lease.info.delivery, (*lease.event).clone()))
            .collect();
        assert_eq!(handed, kept, "at {retained}");
        let held: Vec<_> = open
            .iter()
            .map(|lease| crate::store::Held::of(&lease.info))
            .collect();
        keeper.stage.store.events.release(&held).await.unwrap();
        // What went while its file was the newest comes back with the file, until the next sweep.
        keeper.retain(none).await;
        assert_eq!(keeper.listed().await.len(), 34);
        match retained {
            0 => keeper.stage.pause().await,
            _ => keeper.rebuild().await,
        }
    }
    for lease in keeper.stage.claim(50).await {
        keeper.stage.settle(&lease, die()).await;
    }
    keeper.stage.clock.advance(DAY);
    let swept = keeper
        .retain(Retention {
            dead_age: DAY,
            ..none
        })
        .await;
    assert!(swept.events >= 34);
    keeper.rebuild().await;
    assert_eq!(keeper.listed().await, []);
}

/// A model of what must be owed, through whatever is kept or not.
async fn random_story(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chance = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut keeper = Keeper::begin().await;
    let mut owed: HashMap<DeliveryId, crate::lifecycle::Event> = HashMap::new();
    for _ in 0..25 {
        for number in 0..chance(30) {
            let provider_id = (number % 3 == 0).then(|| format!("evt-{}", chance(u64::MAX)));
            let new = keeper.stage.event(provider_id.as_deref());
            owed.insert(new.deliveries[0].id, new.event.clone());
            let taken = keeper.stage.store.events.append(new).await;
            assert_eq!(taken, Ok(Appended::New));
        }
        let (mut held, mut settlements) = (Vec::new(), Vec::new());
        for lease in keeper.stage.claim(1000).await {
            let id = lease.info.delivery;
            let event = owed
                .get(&id)
                .unwrap_or_else(|| panic!("{id} is not owed (seed {seed})"));
            assert_eq!(*lease.event, *event);
            if chance(10) < 8 {
                settlements.push(keeper.stage.settlement(&lease, Verdict::Deliver));
                owed.remove(&id);
            } else {
                held.push(crate::store::Held::of(&lease.info));
            }
        }
        let settled = keeper.stage.store.events.settle(settlements).await.unwrap();
        assert!(settled.iter().all(|it| *it == Settled::Applied));
        keeper.stage.store.events.release(&held).await.unwrap();
        keeper.stage.clock.advance(Duration::from_mins(chance(60)));
        match chance(6) {
            0 => keeper.rebuild().await,
            1 => keeper.stage.pause().await,
            2 | 3 => {
                let age = Duration::from_mins(chance(120));
                keeper.retain(Retention { age, ..ever() }).await;
            }
            _ => {}
        }
    }
    let handed = keeper.stage.claim(2000).await;
    assert_eq!(handed.len(), owed.len(), "seed {seed}");
}

#[tokio::test]
async fn nothing_is_owed_twice_or_lost_whatever_goes_and_whenever_lists_are_made_anew() {
    for seed in 1..=4 {
        random_story(seed).await;
    }
}

impl Keeper {
    fn keeping(&self) -> Arc<Embedded> {
        self.store.lock().unwrap().clone().unwrap()
    }

    async fn erase(&self, selection: Selection) -> Erased {
        let erasure = Erasure {
            tenant: TENANT,
            selection,
            by: "a test".to_owned(),
            what: "something".to_owned(),
        };
        self.keeping().erase(erasure).await.unwrap()
    }

    /// Whether some bytes stand anywhere in the journal.
    fn holds(&self, needle: &[u8]) -> bool {
        let files = std::fs::read_dir(self.directory.path().join("journal")).unwrap();
        files
            .filter_map(|file| std::fs::read(file.ok()?.path()).ok())
            .any(|bytes| bytes.windows(needle.len()).any(|it| it == needle))
    }

    /// An event with a body, and its delivery.
    async fn accept_body(
        &mut self,
        body: &str,
        provider_id: Option<&str>,
    ) -> (EventId, DeliveryId) {
        let mut new = self.stage.event(provider_id);
        new.event.body = body.to_owned().into();
        let ids = (new.event.id, new.deliveries[0].id);
        let taken = self.stage.store.events.append(new).await;
        assert_eq!(taken, Ok(Appended::New));
        ids
    }

    async fn is_erased(&self, event: EventId) -> bool {
        let found = self
            .stage
            .store
            .queries
            .event(TENANT, event)
            .await
            .unwrap()
            .unwrap();
        let event = found.event;
        let is_blank =
            event.body.is_empty() && event.target.is_empty() && event.headers.0.is_empty();
        assert_eq!(is_blank, event.is_erased());
        is_blank
    }
}

impl Keeper {
    /// The service answers everything with what it got.
    async fn answer_all(&mut self) {
        for lease in self.stage.claim(5).await {
            let mut settlement = self.stage.settlement(&lease, Verdict::Deliver);
            let answer = format!("answer to {}", String::from_utf8_lossy(&lease.event.body));
            settlement.attempt.outcome = AttemptOutcome::Answered {
                status: 200,
                headers: protocol::frame::Headers::default(),
                body_bytes: 4,
                response_start: answer.into(),
            };
            self.stage
                .store
                .events
                .settle(vec![settlement])
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn an_erased_event_leaves_nothing_but_what_became_of_it() {
    let mut keeper = Keeper::begin().await;
    let (other, _) = keeper.accept_body("another secret", None).await;
    let (erased, delivery) = keeper.accept_body("the secret", Some("evt-secret")).await;
    keeper.answer_all().await;
    let (owed, owed_delivery) = keeper.accept_body("owed secret", None).await;

    let done = keeper.erase(Selection::Event(erased)).await;
    assert_eq!(
        (done.events, done.more, done.number.is_some()),
        (1, false, true)
    );
    let done = keeper.erase(Selection::Event(owed)).await;
    assert_eq!(done.events, 1);
    let unknown = EventId::from_u128(77);
    assert_eq!(
        keeper.erase(Selection::Event(unknown)).await,
        Erased::default()
    );
    for pass in 0..3 {
        for needle in ["answer to the secret", "evt-secret", "owed secret"] {
            assert!(!keeper.holds(needle.as_bytes()), "{needle} at {pass}");
        }
        assert!(keeper.holds(b"another secret"));
        assert!(keeper.is_erased(erased).await && !keeper.is_erased(other).await);
        assert_eq!(
            keeper.stage.state(delivery).await,
            Some(DeliveryState::Delivered)
        );
        let state = keeper.stage.state(owed_delivery).await;
        assert_eq!(state, Some(DeliveryState::Cancelled));
        assert!(keeper.stage.claim(5).await.is_empty());
        let attempts = keeper.stage.store.queries.attempts(TENANT, delivery).await;
        let outcome = &attempts.unwrap().unwrap()[0].outcome;
        let AttemptOutcome::Answered {
            status,
            response_start,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!((*status, response_start.len()), (200, 0));
        let again = keeper.stage.event(Some("evt-secret"));
        let repeat = keeper.stage.store.events.append(again).await;
        assert!(matches!(repeat, Ok(Appended::Duplicate { first, .. }) if first == erased));
        let records = keeper.keeping().erasures(TENANT, 10).await.unwrap();
        assert_eq!(records.len(), 2);
        assert!(
            records
                .iter()
                .all(|record| record.done && record.by == "a test")
        );
        match pass {
            0 => keeper.stage.pause().await,
            _ => keeper.rebuild().await,
        }
    }
}

#[tokio::test]
async fn what_matches_is_erased_and_everything_of_a_tenant_also_what_is_listed_no_more() {
    let mut keeper = Keeper::begin().await;
    for number in 0..60 {
        let body = format!("customer {} number {number}", number % 3);
        keeper.accept_body(&body, None).await;
        if number % 10 == 9 {
            keeper.stage.pause().await;
        }
    }
    let matching = |text: &'static [u8]| {
        Selection::Matching(Arc::new(move |event: &crate::lifecycle::Event| {
            event.body.starts_with(text)
        }))
    };
    assert_eq!(keeper.erase(matching(b"customer 1")).await.events, 20);
    assert!(!keeper.holds(b"customer 1") && keeper.holds(b"customer 2"));
    assert_eq!(
        keeper.erase(matching(b"customer 1")).await,
        Erased::default()
    );
    assert_eq!(keeper.stage.claim(100).await.len(), 40);

    // Some leave the lists and not yet the journal.
    keeper.stage.clock.advance(DAY);
    let none = Retention {
        age: Duration::from_secs(1),
        pending_age: Duration::from_secs(1),
        ..ever()
    };
    keeper.accept_body("later", None).await;
    keeper.retain(none).await;
    keeper
        .keeping()
        .core
        .sweep(&Same(none), &mut Swept::default())
        .await
        .unwrap();
    assert!(keeper.listed().await.len() < 60 && keeper.holds(b"customer 2"));
    keeper.erase(Selection::All).await;
    assert!(!keeper.holds(b"customer") && !keeper.holds(b"later"));
    let (after, _) = keeper.accept_body("after it", None).await;
    keeper.rebuild().await;
    assert!(!keeper.is_erased(after).await);
    assert_eq!(keeper.stage.claim(100).await.len(), 1);
}

#[tokio::test]
async fn an_erasure_that_was_cut_off_anywhere_is_finished() {
    for operations in 0..12 {
        let disk = Arc::new(Mutex::new(
            crate::store::embedded::journal::sim::SimFs::new(),
        ));
        let directory = tempfile::tempdir().unwrap();
        let (fs, path) = (disk.clone(), directory.path().to_owned());
        let store: Arc<Mutex<Option<Arc<Embedded>>>> = Arc::default();
        let slot = store.clone();
        let mut stage = Stage::set(
            Box::new(move |clock, due| {
                let config = EmbeddedConfig {
                    segment_bytes: 16 * 1024,
                    free_bytes_min: 0,
                    ..EmbeddedConfig::new(&path)
                };
                let fs = Arc::new(fs.lock().unwrap().clone());
                let store = Embedded::open_on(config, fs, clock, due).unwrap();
                *slot.lock().unwrap() = Some(store.clone());
                Box::pin(async move { Backend::of(store) })
            }),
            true,
        )
        .await;
        let (event, delivery) = stage.accept().await;
        let lease = stage.claim_one().await;
        stage.settle(&lease, Verdict::Deliver).await;
        let (_, healthy) = stage.accept().await;
        let body = format!("of {event}");
        disk.lock().unwrap().die_after(operations);
        let keeper = store.lock().unwrap().clone().unwrap();
        let erasure = Erasure {
            tenant: TENANT,
            selection: Selection::Event(event),
            by: String::new(),
            what: String::new(),
        };
        let told = keeper.erase(erasure.clone()).await;
        stage.store.events.close().await;
        let mut luck = operations;
        let survivor = disk.lock().unwrap().after_power_loss(|length| {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
            usize::try_from(luck >> 33).unwrap() % (length + 1)
        });
        *disk.lock().unwrap() = survivor;
        stage.pause().await;
        let keeper = store.lock().unwrap().clone().unwrap();
        keeper.finish_erasures().await.unwrap();
        let records = keeper.erasures(TENANT, 5).await.unwrap();
        assert!(records.iter().all(|record| record.done));
        assert!(told.is_err() || records.len() == 1, "at {operations}");
        let is_left = |disk: &crate::store::embedded::journal::sim::SimFs| {
            use crate::store::embedded::JournalFs as _;
            let mut numbers = disk.list().unwrap().into_iter();
            numbers.any(|number| {
                let bytes = disk.bytes(number);
                bytes.windows(body.len()).any(|it| it == body.as_bytes())
            })
        };
        let disk = disk.lock().unwrap().clone();
        assert_eq!(is_left(&disk), records.is_empty(), "at {operations}");
        assert_eq!(stage.state(delivery).await, Some(DeliveryState::Delivered));
        let handed: Vec<_> = stage
            .claim(5)
            .await
            .iter()
            .map(|it| it.info.delivery)
            .collect();
        assert_eq!(handed, [healthy]);
    }
}
