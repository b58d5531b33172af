//! How fast the embedded store accepts and cycles events, beside a plain append + `fdatasync` loop.
//!
//! `cargo bench -p relay-server --bench store -- [--seconds N] [--tasks N] [--dir PATH]`. Prints
//! figures and ratios; the directory decides which disk is measured.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures and stops at the first surprise"
)]

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
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
        DestinationKey, Due, Events, Lease, NewDelivery, NewEvent, Settlement, StoreError, Want,
        embedded::{Embedded, EmbeddedConfig},
    },
};

/// Bytes of a body.
const BODY_BYTES: usize = 1024;

/// Tenants that take turns.
const TENANTS: u128 = 100;

struct Args {
    seconds: u64,
    tasks: usize,
    dir: Option<PathBuf>,
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
    let length = Duration::from_secs(args.seconds);
    let plain = plain_appends(&directory.path().join("plain"), length);
    println!("plain append + fdatasync of 256 KiB: {plain:.0} events/s of {BODY_BYTES} bytes");
    let only = runtime.block_on(measure(&directory.path().join("a"), &args, length, false));
    only.print("append", plain);
    let cycle = runtime.block_on(measure(&directory.path().join("b"), &args, length, true));
    cycle.print("append + claim + settle", plain);
}

fn parse() -> Args {
    let mut args = Args {
        seconds: 5,
        tasks: 256,
        dir: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().unwrap_or_default();
        match name.as_str() {
            "--seconds" => args.seconds = value().parse().unwrap(),
            "--tasks" => args.tasks = value().parse().unwrap(),
            "--dir" => args.dir = Some(value().into()),
            _ => {}
        }
    }
    args
}

/// The physical limit: large batches over zeroes, synced one by one.
fn plain_appends(path: &Path, length: Duration) -> f64 {
    const BATCH: usize = 256 * 1024;
    const FILE: usize = 64 * 1024 * 1024;
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .unwrap();
    file.write_all_at(&vec![0; FILE], 0).unwrap();
    file.sync_all().unwrap();
    let batch = vec![1; BATCH];
    let start = Instant::now();
    let mut written = 0_usize;
    while start.elapsed() < length {
        file.write_all_at(&batch, (written % FILE) as u64).unwrap();
        file.sync_data().unwrap();
        written += BATCH;
    }
    written as f64 / BODY_BYTES as f64 / start.elapsed().as_secs_f64()
}

struct Figures {
    events: u64,
    seconds: f64,
    bytes_written: u64,
    micros_max: u64,
}

impl Figures {
    fn print(&self, name: &str, plain: f64) {
        let rate = self.events as f64 / self.seconds;
        println!(
            "{name}: {rate:.0}/s, {:.2} x plain, {:.1} KB written per event, slowest {:.1} ms",
            rate / plain,
            self.bytes_written as f64 / self.events.max(1) as f64 / 1000.0,
            self.micros_max as f64 / 1000.0,
        );
    }
}

async fn measure(path: &Path, args: &Args, length: Duration, cycle: bool) -> Figures {
    let due = Arc::new(Due::default());
    let store = Embedded::open(
        EmbeddedConfig::new(path),
        Arc::new(SystemClock),
        due.clone(),
    )
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(AtomicU64::new(0));
    let slowest = Arc::new(AtomicU64::new(0));
    let before = bytes_written();
    let start = Instant::now();
    let producers: Vec<_> = (0..args.tasks)
        .map(|task| {
            let (store, stop) = (store.clone(), stop.clone());
            let (accepted, slowest) = (accepted.clone(), slowest.clone());
            tokio::spawn(async move {
                let mut number = task as u128;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    number += 1;
                    match store.append(event(number)).await {
                        Ok(_) => accepted.fetch_add(1, Ordering::Relaxed),
                        Err(StoreError::Overloaded { .. }) => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    };
                    let micros = u64::try_from(began.elapsed().as_micros()).unwrap();
                    slowest.fetch_max(micros, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let settled = Arc::new(AtomicU64::new(0));
    let consumer = cycle.then(|| tokio::spawn(consume(store.clone(), settled.clone())));
    tokio::time::sleep(length).await;
    let events = if cycle { &settled } else { &accepted }.load(Ordering::Relaxed);
    let figures = Figures {
        events,
        seconds: start.elapsed().as_secs_f64(),
        bytes_written: bytes_written() - before,
        micros_max: slowest.load(Ordering::Relaxed),
    };
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.unwrap();
    }
    if let Some(consumer) = consumer {
        consumer.abort();
    }
    store.close().await;
    figures
}

/// Claims and settles everything, several batches at a time.
async fn consume(store: Arc<Embedded>, settled: Arc<AtomicU64>) {
    let wants: Vec<Want> = (0..TENANTS)
        .map(|tenant| Want {
            key: key(tenant),
            deliveries: 64,
            bytes: 1 << 30,
            in_flight_max: None,
            ttl: Duration::from_secs(60),
        })
        .collect();
    loop {
        let leases = store.claim(&wants).await.unwrap();
        if leases.is_empty() {
            tokio::time::sleep(Duration::from_micros(500)).await;
            continue;
        }
        let (store, settled) = (store.clone(), settled.clone());
        tokio::spawn(async move {
            let batch = leases.iter().map(settlement).collect();
            if let Ok(done) = store.settle(batch).await {
                settled.fetch_add(done.len() as u64, Ordering::Relaxed);
            }
        });
    }
}

fn key(tenant: u128) -> DestinationKey {
    DestinationKey {
        tenant: TenantId::from_u128(1 + tenant),
        destination: DestinationId::from_u128(1000 + tenant),
    }
}

fn event(number: u128) -> NewEvent {
    let now = SystemClock.now();
    let key = key(number % TENANTS);
    let id = ids::fresh(now);
    let header = |name: &'static str| {
        (
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(&[b'v'; 50]),
        )
    };
    let event = Event {
        id: EventId::from_u128(id),
        tenant: key.tenant,
        source: SourceId::from_u128(2000 + number % TENANTS),
        received_at: now,
        method: "POST".to_owned(),
        target: "/".to_owned(),
        headers: Headers(
            ["host", "user-agent", "content-type", "signature"]
                .map(header)
                .into(),
        ),
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
        verification: Verification {
            rule: "none".to_owned(),
            secret: None,
        },
        event_type: None,
        provider_id: Some(format!("{id:032x}")),
        remote: None,
    };
    NewEvent {
        decisions: Vec::new(),
        waited_for: None,
        event,
        dedupe_window: Duration::from_secs(3600),
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

/// Bytes this process has asked the kernel to write. Its `write_bytes` would not do: it counts a whole large page
/// of the cache whenever a part of it is written after a sync.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}
