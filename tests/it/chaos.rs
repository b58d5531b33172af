//! 20 000 events while relay and agent are killed at random moments: every event that got a 200
//! arrives, unchanged.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hookferry_tests::{
    Agent, Journey, Provider, Received, Relay, Service, eventually, note, within,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

const EVENTS: usize = 20_000;
const CONNECTIONS: usize = 64;
/// How often each of the two is killed.
const KILLS: usize = 5;
/// What an agent may have been offered when somebody dies, and so may be called for once more.
const IN_FLIGHT_MAX: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_whoever_is_killed() {
    let mut random = seeded();
    let started = Instant::now();
    let mut relay = Relay::plan().set("session-grace-s", 1).start().await;
    let service = Service::start().await;
    let journey = Journey::create(&relay.api(), "none", json!({})).await;
    let mut agent = Agent::run(&relay, &journey, &service.url());

    let posting = Posting::start(&relay, &journey);
    kill_at_random_moments(&mut relay, &mut agent, &posting, &mut random).await;
    let accepted = posting.finish().await;
    let posted = started.elapsed();
    assert_eq!(accepted.len(), EVENTS, "each was posted until it got a 200");

    all_arrive(&accepted, &service).await;
    service.inspect(|received| all_are_unchanged(&accepted, received));
    let destination = eventually("the end of all deliveries", async || {
        let destination = journey.tenant.api.get("/destinations/billing").await;
        (destination["depth"]["open"] == 0).then_some(destination)
    })
    .await;
    assert_eq!(destination["depth"]["dead"], 0);

    let (calls, events) = service.inspect(|received| (received.len(), distinct(received).len()));
    let duplicates = calls - events;
    note(&format!(
        "chaos: {EVENTS} answered 200 in {posted:.1?}, none lost, {duplicates} duplicates; {} more came \
         although the relay died before it could answer; {:.1?} in all",
        events - EVENTS,
        started.elapsed(),
    ));
    assert!(
        duplicates <= 2 * KILLS * IN_FLIGHT_MAX,
        "{duplicates} duplicates"
    );
}

fn seeded() -> StdRng {
    let seed = std::env::var("HOOKFERRY_TEST_SEED").ok();
    let seed = seed
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    note(&format!("chaos: HOOKFERRY_TEST_SEED={seed}"));
    StdRng::seed_from_u64(seed)
}

/// The number of every accepted event, by id.
type Accepted = HashMap<String, usize>;

/// The body of an event: one can tell from its start what all of it must be.
fn body(number: usize) -> String {
    format!("{number} {}", "x".repeat(number * 7 % 500))
}

async fn all_arrive(accepted: &Accepted, service: &Service) {
    within(
        Duration::from_secs(240),
        "all accepted events at the service",
        async || {
            if service.count() < accepted.len() {
                return None;
            }
            let arrived = service.inspect(distinct);
            accepted
                .keys()
                .all(|event| arrived.contains(event))
                .then_some(())
        },
    )
    .await;
}

fn distinct(received: &[Received]) -> HashSet<String> {
    received.iter().map(Received::event).collect()
}

/// Also of those whose 200 died with the relay.
fn all_are_unchanged(accepted: &Accepted, received: &[Received]) {
    for one in received {
        let text = String::from_utf8_lossy(&one.body).into_owned();
        let number = text
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("altered: {text:?}"));
        assert_eq!(text, body(number));
        if let Some(accepted) = accepted.get(&one.event()) {
            assert_eq!(number, *accepted, "the body of another event");
        }
    }
}

/// 64 connections that post until every event was accepted, through every crash.
struct Posting {
    shared: Arc<Shared>,
    connections: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    next: AtomicUsize,
    accepted: Mutex<Accepted>,
}

impl Posting {
    fn start(relay: &Relay, journey: &Journey) -> Self {
        let shared = Arc::new(Shared::default());
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            connections.spawn(post(relay.provider(), journey.clone(), Arc::clone(&shared)));
        }
        Self {
            shared,
            connections,
        }
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    async fn finish(self) -> Accepted {
        self.connections.join_all().await;
        std::mem::take(&mut self.shared.accepted.lock().unwrap())
    }
}

async fn post(provider: Provider, journey: Journey, shared: Arc<Shared>) {
    let mut connection = None;
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= EVENTS {
            return;
        }
        let request = journey.post().body(body(number));
        let event = provider.insist(&mut connection, &request).await.accepted();
        let before = shared.accepted.lock().unwrap().insert(event, number);
        assert!(before.is_none(), "one id for two events");
    }
}

/// Kills each of them five times, spread over the whole run by how much was accepted.
async fn kill_at_random_moments(
    relay: &mut Relay,
    agent: &mut Agent,
    posting: &Posting,
    random: &mut StdRng,
) {
    let moment = |index| (random.random_range(0..EVENTS * 9 / 10), index % 2 == 0);
    let mut moments: Vec<(usize, bool)> = (0..2 * KILLS).map(moment).collect();
    moments.sort_unstable();
    for (moment, is_relay) in moments {
        let what = format!("{moment} accepted events");
        within(Duration::from_secs(120), what, async || {
            (posting.accepted() >= moment).then_some(())
        })
        .await;
        if is_relay {
            relay.kill9();
            relay.restart().await;
        } else {
            agent.kill9();
            agent.restart();
        }
    }
}
