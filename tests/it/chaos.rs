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

use hookferry_tests::{Agent, Journey, Provider, Received, Relay, Service, note, within};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

/// What an agent may have been offered when somebody dies, and so may be called for once more.
const IN_FLIGHT_MAX: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_whoever_is_killed() {
    let chaos = Chaos {
        events: 20_000,
        connections: 64,
        stops: 5,
        manner: Manner::Kill,
    };
    let duplicates = chaos.run().await;
    assert!(
        duplicates <= 2 * chaos.stops * IN_FLIGHT_MAX,
        "{duplicates} duplicates"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_when_they_are_asked_to_stop() {
    let chaos = Chaos {
        events: 5_000,
        connections: 16,
        stops: 3,
        manner: Manner::Terminate,
    };
    assert_eq!(chaos.run().await, 0, "duplicates");
}

/// How processes are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Kill,
    Terminate,
}

/// Events that are posted while relay and agent are stopped and started again.
struct Chaos {
    events: usize,
    connections: usize,
    /// How often each of the two is stopped.
    stops: usize,
    manner: Manner,
}

impl Chaos {
    /// Checks that nothing is lost or altered, and returns how many calls were repeats.
    async fn run(&self) -> usize {
        let mut random = seeded();
        let started = Instant::now();
        let mut relay = Relay::plan().set("session-grace-s", 1).start().await;
        let service = Service::start().await;
        let journey = Journey::create(&relay.api(), "none", json!({})).await;
        let mut agent = Agent::run(&relay, &journey, &service.url());

        let posting = Posting::start(self, &relay, &journey);
        self.stop_at_random_moments(&mut relay, &mut agent, &posting, &mut random)
            .await;
        let accepted = posting.finish().await;
        let posted = started.elapsed();
        assert_eq!(
            accepted.len(),
            self.events,
            "each was posted until it got a 200"
        );

        nothing_is_owed(&journey).await;
        let (calls, events) = service.inspect(|received| {
            all_are_unchanged(&accepted, received);
            let arrived = distinct(received);
            let lost: Vec<_> = accepted
                .keys()
                .filter(|event| !arrived.contains(*event))
                .collect();
            assert!(lost.is_empty(), "{} events were lost: {lost:?}", lost.len());
            (received.len(), arrived.len())
        });
        let duplicates = calls - events;
        note(&format!(
            "chaos ({:?}): {} answered 200 in {posted:.1?}, none lost, {duplicates} duplicates; {} more came \
             although the relay ended before it could answer; {:.1?} in all",
            self.manner,
            self.events,
            events - self.events,
            started.elapsed(),
        ));
        duplicates
    }

    /// Stops each of them, spread over the whole run by how much was accepted.
    async fn stop_at_random_moments(
        &self,
        relay: &mut Relay,
        agent: &mut Agent,
        posting: &Posting,
        random: &mut StdRng,
    ) {
        let moment = |index| (random.random_range(0..self.events * 9 / 10), index % 2 == 0);
        let mut moments: Vec<(usize, bool)> = (0..2 * self.stops).map(moment).collect();
        moments.sort_unstable();
        for (moment, is_relay) in moments {
            let what = format!("{moment} accepted events");
            within(Duration::from_secs(120), what, async || {
                (posting.accepted() >= moment).then_some(())
            })
            .await;
            match (self.manner, is_relay) {
                (Manner::Kill, true) => relay.kill9(),
                (Manner::Kill, false) => agent.kill9(),
                (Manner::Terminate, true) => {
                    relay.terminate().await;
                    assert_eq!(relay.exit_code().await, 0);
                }
                (Manner::Terminate, false) => {
                    agent.terminate().await;
                    assert_eq!(agent.exit_code().await, 0);
                }
            }
            if is_relay {
                relay.restart().await;
            } else {
                agent.restart();
            }
        }
    }
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

/// Waits until the relay says that every delivery has ended, and none of them badly.
async fn nothing_is_owed(journey: &Journey) {
    let depth = within(
        Duration::from_secs(180),
        "the end of all deliveries",
        async || {
            let destination = journey.tenant.api.get("/destinations/billing").await;
            let depth = destination["depth"].clone();
            (depth["open"] == 0).then_some(depth)
        },
    )
    .await;
    assert_eq!(depth["dead"], 0);
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

/// Connections that post until every event was accepted, through every crash.
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
    fn start(chaos: &Chaos, relay: &Relay, journey: &Journey) -> Self {
        let shared = Arc::new(Shared::default());
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..chaos.connections {
            connections.spawn(post(
                relay.provider(),
                journey.clone(),
                chaos.events,
                Arc::clone(&shared),
            ));
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

async fn post(provider: Provider, journey: Journey, events: usize, shared: Arc<Shared>) {
    let mut connection = None;
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= events {
            return;
        }
        let request = journey.post().body(body(number));
        let event = provider.insist(&mut connection, &request).await.accepted();
        let before = shared.accepted.lock().unwrap().insert(event, number);
        assert!(before.is_none(), "one id for two events");
    }
}
