//! The embedded store at size: a large backlog, and millions of stored events.
//!
//! `cargo bench -p relay-server --bench size -- pending|stored [--events N] [--tenants N] [--seconds N] [--body-bytes N]
//! [--dir PATH]`
//!
//! `pending` stores events that nobody takes, opens the store again, and drains it. `stored` fills a store with
//! delivered events, compares accepting with an empty store in turns, reads pages of lists, and lets
//! retention work while events come in.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures and stops at the first surprise"
)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{AttemptId, DeliveryId, DestinationId, EventId, SourceId, TenantId},
};
use relay_server::{
    clock::{Clock, SystemClock},
    ids,
    lifecycle::{AttemptOutcome, AttemptReport, Event, Verdict, Verification},
    store::{
        DestinationKey, Due, EventFilter, Events, Keeping, Lease, NewDelivery, NewEvent, Queries,
        Retention, Retentions, Settlement, StoreError, Want,
        embedded::{Embedded, EmbeddedConfig},
    },
};

/// Who posts at a time.
const TASKS: usize = 64;

/// Events a second while retention works.
const PACE: u64 = 2_000;

struct Args {
    what: String,
    events: u64,
    tenants: u64,
    seconds: u64,
    body_bytes: usize,
    dir: Option<PathBuf>,
    /// What a process of its own finds out, so that its memory is counted alone: the live rate, and where
    /// the backlog is.
    reopen: Option<(f64, PathBuf)>,
}

fn parse() -> Args {
    let mut args = Args {
        what: String::new(),
        events: 100_000,
        tenants: 100,
        seconds: 5,
        body_bytes: 1024,
        dir: None,
        reopen: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().unwrap_or_default();
        match name.as_str() {
            "--events" => args.events = value().parse().unwrap(),
            "--tenants" => args.tenants = value().parse().unwrap(),
            "--seconds" => args.seconds = value().parse().unwrap(),
            "--body-bytes" => args.body_bytes = value().parse().unwrap(),
            "--reopen" => args.reopen = Some((value().parse().unwrap(), value().into())),
            "--dir" => args.dir = Some(value().into()),
            "pending" | "stored" => args.what = name,
            _ => {}
        }
    }
    args
}

fn main() {
    let args = parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    match args.what.as_str() {
        "pending" if args.reopen.is_some() => runtime.block_on(reopen(&args)),
        "pending" => runtime.block_on(pending(&args, directory.path())),
        "stored" => runtime.block_on(stored(&args, directory.path())),
        // `cargo test` runs benchmarks without arguments: nothing to say then.
        _ => println!("say `pending` or `stored`; see the head of benches/size.rs"),
    }
}

fn open(path: &Path) -> (Arc<Embedded>, Arc<Due>) {
    let due = Arc::new(Due::default());
    let config = EmbeddedConfig::new(path);
    let store = Embedded::open(config, Arc::new(SystemClock), due.clone()).unwrap();
    (store, due)
}

async fn pending(args: &Args, directory: &Path) {
    let (live, _) = open(&directory.join("live"));
    let load = Load::start(&live, args, None);
    let drain = Drain::start(&live, args.tenants);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let live_rate = drain.settled() as f64 / args.seconds as f64;
    load.stop().await;
    drop(drain);
    live.close().await;
    drop(live);

    let path = directory.join("backlog");
    let (store, _) = open(&path);
    fill(&store, args, false).await;
    store.close().await;
    let (events, tenants) = (args.events.to_string(), args.tenants.to_string());
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([
        "pending",
        "--events",
        &events,
        "--tenants",
        &tenants,
        "--reopen",
    ]);
    command.arg(live_rate.to_string()).arg(&path);
    assert!(command.status().unwrap().success());
}

async fn reopen(args: &Args) {
    let Some((live_rate, path)) = &args.reopen else {
        return;
    };
    let began = Instant::now();
    let (store, _) = open(path);
    let opened = began.elapsed();
    let wants: Vec<Want> = (0..args.tenants).map(want).collect();
    let mut first = Vec::new();
    while first.is_empty() {
        first = store.claim(&wants).await.unwrap();
    }
    let to_first = began.elapsed();
    let settlements = first.iter().map(settlement).collect();
    store.settle(settlements).await.unwrap();
    let drain = Drain::start(&store, args.tenants);
    let began = Instant::now();
    let all = args.events - first.len() as u64;
    while drain.settled() < all && began.elapsed() < Duration::from_mins(10) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = drain.settled() as f64 / began.elapsed().as_secs_f64();
    println!(
        "{} pending: opened in {opened:.2?}, first delivery after {to_first:.2?}; drained {} at {rate:.0}/s, \
         live {live_rate:.0}/s, ratio {:.2}; memory at most {} MB",
        args.events,
        drain.settled(),
        rate / live_rate,
        status("VmHWM:") / 1024,
    );
    drop(drain);
    store.close().await;
}

async fn stored(args: &Args, directory: &Path) {
    let (full, empty) = (directory.join("full"), directory.join("empty"));
    let (store, _) = open(&full);
    let began = Instant::now();
    let before = bytes_written();
    fill(&store, args, true).await;
    println!(
        "filled with {} events of {} tenants in {:.0?}: {:.1} KB written and {:.2} KB on disk per event",
        args.events,
        args.tenants,
        began.elapsed(),
        (bytes_written() - before) as f64 / args.events as f64 / 1000.0,
        disk(&full) as f64 / args.events as f64 / 1000.0,
    );
    pages(&store, args.tenants).await;
    let (fresh, _) = open(&empty);
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for (store, rates) in [(&fresh, &mut rates.0), (&store, &mut rates.1)] {
            let load = Load::start(store, args, None);
            let drain = Drain::start(store, args.tenants);
            tokio::time::sleep(Duration::from_secs(args.seconds)).await;
            drop(drain);
            let latencies = load.stop().await;
            rates.push((
                latencies.len() as u64 / args.seconds,
                percentile(&latencies, 99),
            ));
            settle_down(store, args.tenants).await;
        }
    }
    println!(
        "accepting and delivering, empty (events/s, p99): {:?}",
        rates.0
    );
    println!(
        "accepting and delivering, full  (events/s, p99): {:?}",
        rates.1
    );
    let ratio =
        median(rates.1.iter().map(|it| it.0 as f64)) / median(rates.0.iter().map(|it| it.0 as f64));
    println!("ratio of medians {ratio:.2}");
    fresh.close().await;
    retention(args, &store).await;
    store.close().await;
}

/// Five times in turns: nothing beside, and retention beside.
async fn retention(args: &Args, store: &Arc<Embedded>) {
    let (mut without, mut with, mut gone) = (Vec::new(), Vec::new(), 0);
    for round in 0..5 {
        let load = Load::start(store, args, Some(PACE));
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        without.push(percentile(&load.stop().await, 99));
        settle_down(store, args.tenants).await;

        let now: u64 = store
            .stored()
            .tenants
            .iter()
            .map(|(_, usage)| usage.events)
            .sum();
        let keep = now.saturating_sub(args.events / 25) / args.tenants;
        let load = Load::start(store, args, Some(PACE));
        let began = Instant::now();
        let swept = store.retain(&Newest(keep)).await.unwrap();
        gone += swept.events;
        with.push(percentile(&load.stop().await, 99));
        println!("round {round}: {swept:?} in {:.1?}", began.elapsed());
        settle_down(store, args.tenants).await;
    }
    let (a, b) = (
        median(without.iter().map(Duration::as_secs_f64)),
        median(with.iter().map(Duration::as_secs_f64)),
    );
    println!(
        "p99 at {PACE}/s without retention {without:?}, with {with:?}; ratio of medians {:.2}",
        b / a
    );
    println!("{gone} events went");
}

/// Keeps so many of each tenant.
struct Newest(u64);

impl Retentions for Newest {
    fn of(&self, _: TenantId) -> Retention {
        let ever = Duration::from_hours(24 * 365);
        Retention {
            age: ever,
            events: Some(self.0),
            bytes: None,
            dead_age: ever,
            pending_age: ever,
        }
    }
}

/// Pages of lists of tenants here and there: the newest, and one further down.
async fn pages(store: &Arc<Embedded>, tenants: u64) {
    let mut times = Vec::new();
    for number in 0..3_000_u64 {
        let tenant = key(number * 7919 % tenants).tenant;
        let filter = EventFilter::default();
        let began = Instant::now();
        let page = store.events(tenant, &filter, None, 50).await.unwrap();
        let took = began.elapsed();
        if number >= 1_000 {
            times.push(took);
        }
        if let Some(next) = page.next {
            let began = Instant::now();
            store.events(tenant, &filter, Some(next), 50).await.unwrap();
            times.push(began.elapsed());
        }
    }
    println!(
        "pages of 50: p50 {:?}, p99 {:?}",
        percentile(&times, 50),
        percentile(&times, 99)
    );
}

/// Stores events as fast as it goes; delivers them, too, if asked.
async fn fill(store: &Arc<Embedded>, args: &Args, deliver: bool) {
    let left = Arc::new(AtomicU64::new(args.events));
    let drain = deliver.then(|| Drain::start(store, args.tenants));
    let tasks: Vec<_> = (0..4 * TASKS)
        .map(|_| {
            let (store, left, tenants) = (store.clone(), left.clone(), args.tenants);
            let bytes = args.body_bytes;
            tokio::spawn(async move {
                loop {
                    let number = left.fetch_sub(1, Ordering::Relaxed);
                    if number == 0 || number > u64::MAX / 2 {
                        return;
                    }
                    while let Err(error) = store.append(event(number % tenants, bytes)).await {
                        assert!(matches!(error, StoreError::Overloaded { .. }), "{error}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    if let Some(drain) = drain {
        while drain.settled() < args.events {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    while store.stored().lag > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Delivers what is left.
async fn settle_down(store: &Arc<Embedded>, tenants: u64) {
    let drain = Drain::start(store, tenants);
    let mut settled = u64::MAX;
    while settled != drain.settled() || store.stored().lag > 0 {
        settled = drain.settled();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Tasks that post, in a closed loop or so many a second.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Duration>>>,
}

impl Load {
    fn start(store: &Arc<Embedded>, args: &Args, pace: Option<u64>) -> Self {
        let (tenants, bytes) = (args.tenants, args.body_bytes);
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..TASKS as u64).map(|task| {
            let (store, stop) = (store.clone(), stop.clone());
            let between =
                pace.map(|pace| Duration::from_secs(TASKS as u64) / u32::try_from(pace).unwrap());
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut number = task * 1_000_003;
                let mut ticks = between.map(tokio::time::interval);
                while !stop.load(Ordering::Relaxed) {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    number += 1;
                    let began = Instant::now();
                    match store.append(event(number % tenants, bytes)).await {
                        Ok(_) => times.push(began.elapsed()),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                times
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    async fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for task in self.tasks {
            times.extend(task.await.unwrap());
        }
        times
    }
}

/// Claims and settles until dropped.
struct Drain {
    settled: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drain {
    fn start(store: &Arc<Embedded>, tenants: u64) -> Self {
        let settled = Arc::new(AtomicU64::new(0));
        let (store, count) = (store.clone(), settled.clone());
        let wants: Vec<Want> = (0..tenants).map(want).collect();
        let task = tokio::spawn(async move {
            let mut at = 0;
            let permits = Arc::new(tokio::sync::Semaphore::new(64));
            let mut idle = 0;
            loop {
                // Not all at once: what a dispatcher would be told is due.
                let some = &wants[at..(at + 500).min(wants.len())];
                at = if at + 500 < wants.len() { at + 500 } else { 0 };
                let leases = store.claim(some).await.unwrap();
                if leases.is_empty() {
                    idle += 1;
                    if idle > wants.len() / 500 {
                        tokio::time::sleep(Duration::from_micros(500)).await;
                    }
                    continue;
                }
                idle = 0;
                let permit = permits.clone().acquire_owned().await.unwrap();
                let (store, count) = (store.clone(), count.clone());
                tokio::spawn(async move {
                    let batch = leases.iter().map(settlement).collect();
                    if let Ok(done) = store.settle(batch).await {
                        count.fetch_add(done.len() as u64, Ordering::Relaxed);
                    }
                    drop(permit);
                });
            }
        });
        Self { settled, task }
    }

    fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn key(tenant: u64) -> DestinationKey {
    DestinationKey {
        tenant: TenantId::from_u128(1 + u128::from(tenant)),
        destination: DestinationId::from_u128(1_000_000 + u128::from(tenant)),
    }
}

fn want(tenant: u64) -> Want {
    Want {
        key: key(tenant),
        deliveries: 64,
        bytes: 1 << 30,
        in_flight_max: None,
        ttl: Duration::from_mins(1),
    }
}

fn event(tenant: u64, body_bytes: usize) -> NewEvent {
    let now = SystemClock.now();
    let key = key(tenant);
    let id = ids::fresh(now);
    let header = |name: &'static str| {
        let value = Bytes::from_static(&[b'v'; 50]);
        (Bytes::from_static(name.as_bytes()), value)
    };
    let event = Event {
        id: EventId::from_u128(id),
        tenant: key.tenant,
        source: SourceId::from_u128(2_000_000 + u128::from(tenant)),
        received_at: now,
        method: "POST".to_owned(),
        target: "/".to_owned(),
        headers: Headers(
            ["host", "user-agent", "content-type", "signature"]
                .map(header)
                .into(),
        ),
        body: Bytes::from(vec![b'x'; body_bytes]),
        verification: Verification {
            rule: "none".to_owned(),
            secret: None,
        },
        event_type: None,
        provider_id: Some(format!("{id:032x}")),
        remote: None,
    };
    NewEvent {
        waited_for: None,
        decisions: Vec::new(),
        event,
        // What is remembered longer is kept longer: here it is not what is measured.
        dedupe_window: Duration::from_secs(1),
        deliveries: vec![NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(now)),
            destination: key.destination,
            order: None,
        }],
    }
}

fn settlement(lease: &Lease) -> Settlement {
    let now = SystemClock.now();
    Settlement {
        tenant: lease.info.key.tenant,
        delivery: lease.info.delivery,
        token: lease.info.token,
        attempt: AttemptReport {
            id: AttemptId::from_u128(ids::fresh(now)),
            number: lease.info.attempt,
            agent: None,
            ended_at: now,
            elapsed_ms: 1,
            outcome: AttemptOutcome::Answered {
                status: 200,
                headers: Headers::default(),
                body_bytes: 2,
                response_start: Bytes::from_static(b"ok"),
            },
        },
        verdict: Verdict::Deliver,
        park: false,
    }
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A figure of this process in kilobytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    figure.unwrap_or(0)
}

fn disk(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => disk(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

/// Bytes this process has asked the kernel to write. Its `write_bytes` would not do: it counts a whole large page
/// of the cache whenever a part of it is written after a sync.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}
