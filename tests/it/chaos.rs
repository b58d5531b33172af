//! 20 000 events (400 000 in the full size) while relay and agent are killed at random moments, 5 times each (200): every
//! event that got a 200 arrives, unchanged.

use std::time::Instant;

use hookferry_tests::{
    Agent, Journey, Relay, Service, is_full_size, note,
    posting::{Load, Posting},
    seed,
};
use rand::{Rng, rngs::StdRng};
use serde_json::json;

/// What an agent may have been offered when somebody dies, and so may be called for once more.
const IN_FLIGHT_MAX: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_whoever_is_killed() {
    let (events, stops) = if is_full_size() {
        (400_000, 200)
    } else {
        (20_000, 5)
    };
    let chaos = Chaos {
        events,
        connections: 64,
        stops,
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
        let mut random = seed::random("chaos");
        let started = Instant::now();
        let mut relay = Relay::plan().set("session-grace-s", 1).start().await;
        let service = Service::start().await;
        let journey = Journey::create(&relay.api(), "none", json!({})).await;
        let mut agent = Agent::run(&relay, &journey, &service.url());

        let load = Load {
            events: self.events,
            connections: self.connections,
            per_s: None,
        };
        let posting = Posting::start(&relay.provider(), &journey, load);
        self.stop_at_random_moments(&mut relay, &mut agent, &posting, &mut random)
            .await;
        let accepted = posting.finish().await;
        let posted = started.elapsed();
        assert_eq!(
            accepted.count(),
            self.events,
            "each was posted until it got a 200"
        );

        let tally = accepted.arrive(&journey, &[&service]).await;
        note(&format!(
            "chaos ({:?}): {} answered 200 in {posted:.1?}, none lost, {} duplicates; {} more came although the \
             relay ended before it could answer; {:.1?} in all",
            self.manner,
            self.events,
            tally.duplicates,
            tally.unanswered,
            started.elapsed(),
        ));
        tally.duplicates
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
            posting.reaches(moment).await;
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
