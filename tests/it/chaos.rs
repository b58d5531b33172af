//! 20 000 events while relay and agent are killed at random moments: every event that got a 200
//! arrives, unchanged.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hookferry_tests::{Agent, Journey, Provider, Relay, Service, eventually, note, sign, within};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

const EVENTS: usize = 20_000;
const CONNECTIONS: usize = 64;
const KILLS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_whoever_is_killed() {
    let seed = std::env::var("HOOKFERRY_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    note(&format!("chaos: HOOKFERRY_TEST_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let started = Instant::now();

    let mut relay = Relay::plan().set("session-grace-s", 1).start().await;
    let service = Service::start().await;
    let journey = Journey::create(&relay.api(), "none", json!({})).await;
    let mut agent = Agent::run(&relay, &journey, &service.url());

    let posting = Posting::start(&relay, &journey);
    kill_at_random_moments(&mut relay, &mut agent, &posting, &mut random).await;
    let accepted = posting.finish().await;
    let posted = started.elapsed();

    let what = format!("{} events at the service", accepted.len());
    within(Duration::from_secs(240), what, async || {
        let arrived = service.inspect(|received| {
            received
                .iter()
                .filter(|one| accepted.contains_key(&one.event()))
                .count()
        });
        (arrived >= accepted.len() && missing(&service, &accepted) == 0).then_some(())
    })
    .await;
    let unchanged = |one: &hookferry_tests::Received| match accepted.get(&one.event()) {
        Some(digest) => *digest == sign::digest(&one.body),
        // Accepted, but the answer died with the relay: the provider was not told.
        None => true,
    };
    assert!(
        service.inspect(|received| received.iter().all(unchanged)),
        "an event was altered"
    );
    let deliveries = eventually("the end of all deliveries", async || {
        let depth = journey.tenant.api.get("/destinations/billing").await;
        (depth["depth"]["open"] == 0).then_some(depth)
    })
    .await;
    assert_eq!(deliveries["depth"]["dead"], 0);

    let (all, different) = service.inspect(|received| {
        let different: std::collections::HashSet<_> = received
            .iter()
            .map(hookferry_tests::Received::event)
            .collect();
        (received.len(), different.len())
    });
    note(&format!(
        "chaos: {} answered 200 in {posted:.1?}, {different} different events arrived, {} duplicates, {:.1?} in all",
        accepted.len(),
        all - different,
        started.elapsed(),
    ));
    assert!(
        accepted.len() >= EVENTS,
        "every event was posted until it was accepted"
    );
}

fn missing(service: &Service, accepted: &HashMap<String, String>) -> usize {
    let arrived: std::collections::HashSet<_> = service.inspect(|received| {
        received
            .iter()
            .map(hookferry_tests::Received::event)
            .collect()
    });
    accepted
        .keys()
        .filter(|event| !arrived.contains(*event))
        .count()
}

/// 64 connections that post until every event was accepted, through every crash.
struct Posting {
    shared: Arc<Shared>,
    connections: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    next: AtomicUsize,
    /// Id and digest of every event that got a 200.
    accepted: Mutex<HashMap<String, String>>,
}

impl Posting {
    fn start(relay: &Relay, journey: &Journey) -> Self {
        let shared = Arc::new(Shared::default());
        let connections = (0..CONNECTIONS)
            .map(|_| tokio::spawn(post(relay.provider(), journey.clone(), Arc::clone(&shared))));
        let connections = connections.collect();
        Self {
            shared,
            connections,
        }
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    async fn finish(self) -> HashMap<String, String> {
        for connection in self.connections {
            connection.await.unwrap();
        }
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
        let body = format!("event {number} {}", "x".repeat(number % 500));
        let request = journey.post().body(body.clone());
        let event = provider.insist(&mut connection, &request).await.accepted();
        let before = shared
            .accepted
            .lock()
            .unwrap()
            .insert(event, sign::digest(body.as_bytes()));
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
    let mut moments: Vec<(usize, bool)> = (0..2 * KILLS)
        .map(|index| (random.random_range(0..EVENTS * 9 / 10), index % 2 == 0))
        .collect();
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
