use std::{sync::Arc, time::Duration};

use protocol::{
    frame::Headers,
    id::{AttemptId, DeliveryId, DestinationId, EventId, ReplayId, SourceId, TenantId},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::{Clock as _, ManualClock, Timestamp},
    ids,
    lifecycle::{
        AttemptOutcome, AttemptReport, DeadReason, DeliveryState, Event, Verdict, Verification,
    },
    store::{
        DeadLetterFilter, DeliveryFilter, DeliverySummary, DestinationKey, Due, EventFilter,
        Events as _, NewDelivery, NewEvent, Queries as _, Replayable, Settlement, Want,
        memory::Memory,
    },
    tenancy::{
        DestinationPolicy, NewSource, SchemeChoice, SecretKey, SourceSettings, Tenancy,
        TenancyConfig,
    },
};

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Memory>,
    tenancy: Arc<Tenancy>,
    tenant: TenantId,
    source: SourceId,
    billing: DestinationId,
    audit: DestinationId,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let store = Memory::new(clock.clone(), Arc::new(Due::default()));
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = TenancyConfig::default();
        let tenancy = Tenancy::open(store.clone(), store.clone(), key, clock.clone(), config);
        let tenancy = Arc::new(tenancy.await.unwrap());
        let tenant = tenancy.create_tenant("acme").await.unwrap().id;
        let source = NewSource {
            name: "shop".to_owned(),
            settings: SourceSettings::new(SchemeChoice::Preset("none".to_owned())),
            secrets: Vec::new(),
        };
        let source = tenancy.create_source(tenant, source).await.unwrap().id;
        let mut places = Vec::new();
        for name in ["billing", "audit"] {
            let policy = DestinationPolicy::default();
            let made = tenancy.create_destination(tenant, name, policy).await;
            places.push(made.unwrap().id);
        }
        Self {
            clock,
            store,
            tenancy,
            tenant,
            source,
            billing: places[0],
            audit: places[1],
        }
    }

    /// The jobs as a relay finds them when it starts.
    async fn jobs(&self) -> Arc<Replays> {
        let store = &self.store;
        let jobs = Replays::open(
            store.clone(),
            store.clone(),
            store.clone(),
            Arc::clone(&self.tenancy),
        );
        Arc::new(jobs.await.unwrap())
    }

    /// An event that is owed to these.
    async fn accept(&self, to: &[DestinationId]) -> EventId {
        let now = self.clock.now();
        let id = EventId::from_u128(ids::fresh(now));
        let event = Event {
            id,
            tenant: self.tenant,
            source: self.source,
            received_at: now,
            method: "POST".to_owned(),
            target: String::new(),
            headers: Headers::default(),
            body: bytes::Bytes::from_static(b"{}"),
            verification: Verification {
                rule: "none".to_owned(),
                secret: None,
            },
            event_type: None,
            provider_id: None,
            remote: None,
        };
        let deliveries = to.iter().map(|destination| NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(now)),
            destination: *destination,
            order: None,
        });
        let new = NewEvent {
            waited_for: None,
            event,
            decisions: Vec::new(),
            dedupe_window: Duration::ZERO,
            deliveries: deliveries.collect(),
        };
        self.store.append(new).await.unwrap();
        id
    }

    /// Settles everything that is due at a destination; how many there were.
    async fn settle(&self, destination: DestinationId, verdict: Verdict) -> usize {
        let key = DestinationKey {
            tenant: self.tenant,
            destination,
        };
        let want = Want {
            key,
            deliveries: 10_000,
            bytes: u64::MAX / 2,
            in_flight_max: None,
            ttl: Duration::from_secs(60),
        };
        let leases = self.store.claim(&[want]).await.unwrap();
        let settlements: Vec<_> = leases
            .iter()
            .map(|lease| Settlement {
                tenant: self.tenant,
                delivery: lease.info.delivery,
                token: lease.info.token,
                attempt: AttemptReport {
                    id: AttemptId::from_u128(ids::fresh(self.clock.now())),
                    number: lease.info.attempt,
                    agent: None,
                    ended_at: self.clock.now(),
                    elapsed_ms: 1,
                    outcome: AttemptOutcome::Lost,
                },
                verdict,
                park: false,
            })
            .collect();
        self.store.settle(settlements).await.unwrap();
        leases.len()
    }

    async fn accept_dead(&self, count: usize) -> Vec<EventId> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.accept(&[self.billing]).await);
        }
        self.settle(self.billing, die()).await;
        events
    }

    async fn made_by(&self, job: ReplayId) -> Vec<DeliverySummary> {
        let filter = DeliveryFilter {
            replay: Some(job),
            ..DeliveryFilter::default()
        };
        let mut made = Vec::new();
        let mut after = None;
        loop {
            let page = self
                .store
                .deliveries(self.tenant, &filter, after, 250)
                .await;
            let page = page.unwrap();
            made.extend(page.rows);
            after = page.next;
            if after.is_none() {
                return made;
            }
        }
    }
}

fn die() -> Verdict {
    Verdict::Die {
        reason: DeadReason::Permanent,
    }
}

fn all_dead() -> JobSpec {
    JobSpec {
        take: Take::All(Replayable::DeadLetters(DeadLetterFilter::default())),
        to: None,
        rate_per_second: None,
    }
}

fn job(spec: JobSpec) -> NewJob {
    NewJob {
        key: None,
        asked: String::new(),
        spec,
    }
}

async fn create(jobs: &Replays, world: &World, spec: JobSpec) -> Job {
    match jobs.create(world.tenant, job(spec)).await.unwrap() {
        Created::New(job) => job,
        Created::Before(job) => panic!("{job:?} was there"),
    }
}

/// Works until nothing can be done any more without others.
async fn work(jobs: &Replays) {
    for _ in 0..1_000 {
        if !jobs.step_all().await {
            return;
        }
    }
    panic!("the jobs never come to rest");
}

#[tokio::test]
async fn dead_letters_are_replayed_once_and_the_job_ends() {
    let world = World::new().await;
    let events = world.accept_dead(3).await;
    let still_owed = world.accept(&[world.billing]).await;
    let jobs = world.jobs().await;
    let job = create(&jobs, &world, all_dead()).await;
    assert_eq!(job.total, Some(3));
    work(&jobs).await;
    let mut made = world.made_by(job.id).await;
    made.sort_by_key(|row| events.iter().position(|event| *event == row.event));
    let replayed: Vec<_> = made.iter().map(|row| row.event).collect();
    assert_eq!(replayed, events);
    assert!(!replayed.contains(&still_owed));
    let now = jobs.get(world.tenant, job.id).await.unwrap();
    assert_eq!((now.state, now.reached.all), (JobState::Running, true));

    assert_eq!(world.settle(world.billing, Verdict::Deliver).await, 4);
    work(&jobs).await;
    let now = jobs.get(world.tenant, job.id).await.unwrap();
    assert_eq!(now.state, JobState::Done);
    assert!(now.ended_at.is_some());
    let progress = jobs.progress(&now).await.unwrap();
    let expected = Progress {
        open: 0,
        done: 3,
        failed: 0,
    };
    assert_eq!(progress, expected);
}

#[tokio::test]
async fn a_restart_in_the_middle_replays_nothing_twice() {
    let world = World::new().await;
    world.accept_dead(450).await;
    let jobs = world.jobs().await;
    let made = create(&jobs, &world, all_dead()).await;
    let before = made.clone();
    assert!(jobs.step_all().await);
    let first = world.made_by(made.id).await.len();
    assert!(first > 0 && first < 450, "{first}");

    // The relay died after a piece was made, and before it was noted.
    let resource = documents::to_resource(&before);
    let noted = jobs.get(world.tenant, made.id).await.unwrap().version;
    let put = crate::store::Settings::put(&*world.store, resource, Some(noted)).await;
    assert!(matches!(put, Ok(crate::store::Put::Stored(_))), "{put:?}");
    let jobs = world.jobs().await;
    work(&jobs).await;
    let mut events: Vec<_> = world
        .made_by(made.id)
        .await
        .iter()
        .map(|row| row.event)
        .collect();
    assert_eq!(events.len(), 450);
    events.sort();
    events.dedup();
    assert_eq!(events.len(), 450, "each once");
    let job = jobs.get(world.tenant, made.id).await.unwrap();
    assert_eq!(job.excluded.values().sum::<u64>(), 0);
}

#[tokio::test]
async fn only_some_are_owed_at_a_time_and_a_pause_holds_the_rest() {
    let world = World::new().await;
    world.accept_dead(1_500).await;
    let jobs = world.jobs().await;
    let made = create(&jobs, &world, all_dead()).await;
    work(&jobs).await;
    let owed = world.made_by(made.id).await.len();
    assert!((900..=1_000).contains(&owed), "{owed}");

    let paused = jobs.pause(world.tenant, made.id).await.unwrap();
    assert_eq!(paused.state, JobState::Paused);
    world.settle(world.billing, Verdict::Deliver).await;
    work(&jobs).await;
    assert_eq!(world.made_by(made.id).await.len(), owed, "paused");

    let jobs = world.jobs().await;
    work(&jobs).await;
    assert_eq!(
        world.made_by(made.id).await.len(),
        owed,
        "also after a restart"
    );
    let resumed = jobs.resume(world.tenant, made.id).await.unwrap();
    assert_eq!(resumed.state, JobState::Running);
    work(&jobs).await;
    assert_eq!(world.made_by(made.id).await.len(), 1_500);
}

#[tokio::test]
async fn a_cancelled_job_ends_what_is_owed() {
    let world = World::new().await;
    world.accept_dead(1_200).await;
    let jobs = world.jobs().await;
    let made = create(&jobs, &world, all_dead()).await;
    work(&jobs).await;
    let owed = world.made_by(made.id).await.len();
    let cancelled = jobs.cancel(world.tenant, made.id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    work(&jobs).await;
    let rows = world.made_by(made.id).await;
    assert_eq!(rows.len(), owed);
    assert!(rows.iter().all(|row| row.state == DeliveryState::Cancelled));
    let job = jobs.get(world.tenant, made.id).await.unwrap();
    assert!(!job.is_active());
    let stuck = jobs.resume(world.tenant, made.id).await;
    assert_eq!(stuck, Err(ReplayError::Stuck(Stuck(JobState::Cancelled))));
}

#[tokio::test]
async fn the_same_key_makes_one_job() {
    let world = World::new().await;
    let jobs = world.jobs().await;
    let keyed = |asked: &str| NewJob {
        key: Some("monday".to_owned()),
        asked: asked.to_owned(),
        spec: all_dead(),
    };
    let first = jobs.create(world.tenant, keyed("a")).await.unwrap();
    let Created::New(first) = first else {
        panic!("{first:?}")
    };
    let jobs = world.jobs().await;
    let again = jobs.create(world.tenant, keyed("a")).await.unwrap();
    assert!(matches!(again, Created::Before(job) if job.id == first.id));
    let other = jobs.create(world.tenant, keyed("b")).await;
    assert!(matches!(other, Err(ReplayError::KeyReused)), "{other:?}");
    assert_eq!(jobs.of_tenant(world.tenant).await.len(), 1);
    let stranger = TenantId::from_u128(5);
    assert_eq!(
        jobs.get(stranger, first.id).await,
        Err(ReplayError::Unknown)
    );
}

#[tokio::test]
async fn a_dry_run_counts_what_the_job_then_does() {
    let world = World::new().await;
    let (billing, audit) = (world.billing, world.audit);
    let delivered = world.accept(&[billing, audit]).await;
    world.settle(billing, Verdict::Deliver).await;
    world.settle(audit, Verdict::Deliver).await;
    let owed = world.accept(&[billing]).await;
    let unrouted = world.accept(&[]).await;
    let jobs = world.jobs().await;
    let events = |filter| JobSpec {
        take: Take::All(Replayable::Events(filter)),
        ..all_dead()
    };
    let spec = events(EventFilter::default());
    let count = jobs.dry_run(world.tenant, &spec).await.unwrap();
    let excluded = [(Exclusion::StillOwed, 1), (Exclusion::NoDestination, 1)];
    let expected = Count {
        total: 2,
        excluded: excluded.into(),
        complete: true,
    };
    assert_eq!(count, expected);
    assert!(jobs.of_tenant(world.tenant).await.is_empty());
    let made = create(&jobs, &world, spec).await;
    work(&jobs).await;
    let rows = world.made_by(made.id).await;
    assert!(rows.iter().all(|row| row.event == delivered), "not {owed}");
    assert_eq!(rows.len(), 2);
    let job = jobs.get(world.tenant, made.id).await.unwrap();
    assert_eq!(job.excluded, excluded.into());

    let named = JobSpec {
        take: Take::All(Replayable::Events(EventFilter {
            unrouted: true,
            ..EventFilter::default()
        })),
        to: Some(audit),
        rate_per_second: None,
    };
    let made = create(&jobs, &world, named).await;
    work(&jobs).await;
    let rows = world.made_by(made.id).await;
    let where_to: Vec<_> = rows
        .iter()
        .map(|row| (row.event, row.destination))
        .collect();
    assert_eq!(where_to, [(unrouted, audit)]);

    // Once there is a route, it needs no name.
    let later = world.accept(&[]).await;
    let route = world
        .tenancy
        .create_route(world.tenant, None, world.source, billing, None);
    route.await.unwrap();
    let made = create(
        &jobs,
        &world,
        events(EventFilter {
            unrouted: true,
            ..EventFilter::default()
        }),
    )
    .await;
    work(&jobs).await;
    let rows = world.made_by(made.id).await;
    let where_to: Vec<_> = rows
        .iter()
        .map(|row| (row.event, row.destination))
        .collect();
    assert_eq!(where_to, [(later, billing)]);
}

#[tokio::test]
async fn ids_are_replayed_and_what_is_unknown_is_said() {
    let world = World::new().await;
    let events = world.accept_dead(2).await;
    let all = DeadLetterFilter::default();
    let page = world.store.dead_letters(world.tenant, &all, None, 10).await;
    let letters = page.unwrap().rows;
    let of_second = letters.iter().find(|it| it.delivery.event == events[1]);
    let jobs = world.jobs().await;
    let spec = JobSpec {
        take: Take::Ids(vec![
            Item::Event(events[0]),
            Item::DeadLetter(of_second.unwrap().delivery.id),
            Item::Event(EventId::from_u128(1)),
            Item::DeadLetter(DeliveryId::from_u128(1)),
        ]),
        ..all_dead()
    };
    let made = create(&jobs, &world, spec).await;
    work(&jobs).await;
    let mut replayed: Vec<_> = world
        .made_by(made.id)
        .await
        .iter()
        .map(|it| it.event)
        .collect();
    replayed.sort_by_key(|event| events.iter().position(|it| it == event));
    assert_eq!(replayed, events);
    let job = jobs.get(world.tenant, made.id).await.unwrap();
    assert_eq!(job.excluded, [(Exclusion::NotFound, 2)].into());
}

#[tokio::test]
async fn a_rate_is_kept() {
    let world = World::new().await;
    world.accept_dead(300).await;
    let jobs = world.jobs().await;
    let spec = JobSpec {
        rate_per_second: Some(1),
        ..all_dead()
    };
    let made = create(&jobs, &world, spec).await;
    jobs.step_all().await;
    jobs.step_all().await;
    assert_eq!(world.made_by(made.id).await.len(), 1);
}

#[tokio::test]
async fn a_tenant_has_so_many_jobs_at_a_time() {
    let world = World::new().await;
    let jobs = world.jobs().await;
    let mut last = None;
    for _ in 0..20 {
        last = Some(create(&jobs, &world, all_dead()).await.id);
    }
    let refused = jobs.create(world.tenant, job(all_dead())).await;
    assert!(matches!(refused, Err(ReplayError::TooMany)), "{refused:?}");
    jobs.cancel(world.tenant, last.unwrap()).await.unwrap();
    work(&jobs).await;
    create(&jobs, &world, all_dead()).await;
}

#[tokio::test]
async fn the_task_ends_when_it_is_told_to() {
    let world = World::new().await;
    world.accept_dead(1).await;
    let jobs = world.jobs().await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&jobs).run(stop.clone()));
    let made = create(&jobs, &world, all_dead()).await;
    while world.made_by(made.id).await.is_empty() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn jobs_read_back_as_they_were_written() {
    let start = job::Reached::start(crate::store::Cursor("x".to_owned()));
    let takes = [
        Take::Ids(vec![
            Item::Event(EventId::from_u128(1)),
            Item::DeadLetter(DeliveryId::from_u128(2)),
        ]),
        Take::All(Replayable::Events(EventFilter {
            id: None,
            source: Some(SourceId::from_u128(3)),
            destination: Some(DestinationId::from_u128(4)),
            state: Some(DeliveryState::Dead),
            unrouted: false,
            event_type: Some("a.b".to_owned()),
            since: Some(Timestamp(1_700_000_000_001)),
            until: Some(Timestamp(1_700_000_000_002)),
        })),
        Take::All(Replayable::Events(EventFilter {
            unrouted: true,
            ..EventFilter::default()
        })),
        Take::All(Replayable::DeadLetters(DeadLetterFilter {
            id: Some(DeliveryId::from_u128(5)),
            source: None,
            destination: None,
            event: Some(EventId::from_u128(6)),
            event_type: None,
            reason: Some("permanent".to_owned()),
            last: Some(crate::store::EndingFilter::Status(500, 599)),
            since: None,
            until: None,
        })),
        Take::All(Replayable::DeadLetters(DeadLetterFilter {
            last: Some(crate::store::EndingFilter::Is(
                crate::lifecycle::Ending::Lost,
            )),
            ..DeadLetterFilter::default()
        })),
    ];
    for take in takes {
        let job = Job {
            id: ReplayId::from_u128(1),
            tenant: TenantId::from_u128(2),
            key: Some("k".to_owned()),
            asked: "d".to_owned(),
            spec: JobSpec {
                take,
                to: Some(DestinationId::from_u128(7)),
                rate_per_second: Some(5),
            },
            state: JobState::Paused,
            total: Some(9),
            excluded: [(Exclusion::Damaged, 1)].into(),
            reached: start.clone(),
            version: 3,
            created_at: Timestamp(1),
            updated_at: Timestamp(2),
            ended_at: None,
        };
        assert_eq!(documents::read(&documents::to_resource(&job)), Some(job));
    }
}
