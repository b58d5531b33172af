//! A service that is down for a while under load: nothing is used up meanwhile, and what has waited
//! goes out afterwards beside what arrives.

use std::{
    collections::HashMap,
    time::{Duration, Instant, UNIX_EPOCH},
};

use hookferry_tests::{
    Agent, Relay, Service, eventually, is_full_size, note, pass, ports,
    posting::{Load, Posting},
    within,
};
use serde_json::{Value, json};

/// Attempts a destination allows. Each that was used up in the outage would end deliveries as dead.
const ATTEMPTS_MAX: u32 = 3;

/// How much is tested.
struct Size {
    per_s: u32,
    outage: Duration,
    /// How long events are posted, the outage included.
    posted: Duration,
}

impl Size {
    fn chosen() -> Self {
        let (per_s, outage_s, posted_s) = if is_full_size() {
            (500, 120, 180)
        } else {
            (50, 6, 12)
        };
        Self {
            per_s,
            outage: Duration::from_secs(outage_s),
            posted: Duration::from_secs(posted_s),
        }
    }

    fn load(&self) -> Load {
        Load {
            events: usize::try_from(u64::from(self.per_s) * self.posted.as_secs()).unwrap(),
            connections: 8,
            per_s: Some(self.per_s),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_uses_nothing_up_and_is_made_good() {
    let size = Size::chosen();
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let policy = json!({
        "retry": { "attempts_max": ATTEMPTS_MAX },
        "breaker": { "probe_min_ms": 500, "probe_max_ms": 1_000 },
    });
    api.patch("/destinations/billing", policy).await;
    let addr = ports::free();
    let service = Service::start_at(addr).await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    relay.provider().send(&journey.post()).await.accepted();
    service.wait_for(1).await;

    // Connections that are open would go on: this service goes with all of them.
    drop(service);
    let went_at = Instant::now();
    let posting = Posting::start(&relay.provider(), &journey, size.load());
    eventually("the breaker to open", async || {
        let destination = api.get("/destinations/billing").await;
        is_down(&destination).then_some(())
    })
    .await;
    pass(size.outage.saturating_sub(went_at.elapsed())).await;
    let waited = api.get("/destinations/billing").await["depth"]["open"].clone();
    let service = Service::start_at(addr).await;
    let back_at = Instant::now();

    let accepted = posting.finish().await;
    within(
        Duration::from_secs(180),
        "the backlog to be drained",
        async || {
            let destination = api.get("/destinations/billing").await;
            (destination["depth"]["open"] == 0).then_some(())
        },
    )
    .await;
    let drained = back_at.elapsed();
    // None is dead: the outage has used no attempt up.
    let tally = accepted.arrive(&journey, &[&service]).await;

    let p99 = live_p99(&service, back_at);
    note(&format!(
        "outage: {} events at {}/s, down for {:?}; {waited} waited; drained {drained:.1?} after its return; \
         live p99 during the drain {p99:.1?}; {} duplicates",
        size.load().events,
        size.per_s,
        size.outage,
        tally.duplicates,
    ));
}

fn is_down(destination: &Value) -> bool {
    destination.to_string().contains("\"down\"")
}

/// From its arrival at the relay until the service was called, of events that came after the
/// service's return.
fn live_p99(service: &Service, back_at: Instant) -> Duration {
    let mut first: HashMap<String, (Instant, u64)> = HashMap::new();
    service.inspect(|received| {
        for one in received {
            let arrived = ms_of_day(&one.headers.text("hookferry-received-at"));
            first.entry(one.event()).or_insert((one.at, arrived));
        }
    });
    let back_at_ms = now_ms_of_day() + DAY_MS - millis(back_at.elapsed()) % DAY_MS;
    let mut waits: Vec<u64> = first
        .values()
        .filter_map(|(called, arrived)| {
            let after_ms = (arrived + DAY_MS - back_at_ms % DAY_MS) % DAY_MS;
            let called_ms = millis(called.saturating_duration_since(back_at));
            // What came before the return seems to have come most of a day after it.
            (after_ms < DAY_MS / 2).then(|| called_ms.saturating_sub(after_ms))
        })
        .collect();
    waits.sort_unstable();
    let last = waits.len().saturating_sub(1);
    let p99 = waits.get(last * 99 / 100).copied();
    Duration::from_millis(p99.unwrap_or_default())
}

const DAY_MS: u64 = 24 * 3_600_000;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn now_ms_of_day() -> u64 {
    millis(UNIX_EPOCH.elapsed().unwrap()) % DAY_MS
}

/// Of a time such as `2026-11-23T11:39:02.114Z`.
fn ms_of_day(text: &str) -> u64 {
    let clock = text.split_once('T').unwrap().1.trim_end_matches('Z');
    let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
    let seconds = parts[0] * 3_600.0 + parts[1] * 60.0 + parts[2];
    millis(Duration::from_secs_f64(seconds))
}
