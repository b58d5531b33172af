//! Half an hour of events while the link is cut again and again. Too long for every change:
//!
//! ```sh
//! cargo test --release -p hookferry-tests --test it soak -- --ignored --nocapture
//! ```

use std::time::Duration;

use hookferry_tests::{
    Agent, Network, Relay, Service, note, pass,
    posting::{Load, Posting},
};

/// Other lengths are chosen with this variable, in minutes.
const MINUTES: &str = "HOOKFERRY_TEST_SOAK_MIN";

const EVENTS_PER_S: u32 = 200;
const CUT_EVERY: Duration = Duration::from_secs(20);

/// How much more memory each may hold at the end than after the first third.
const RELAY_GROWTH_MAX: u64 = 48 << 20;
const AGENT_GROWTH_MAX: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour; its first lines say how to run it"]
async fn nothing_is_lost_and_memory_stays_flat() {
    let minutes = std::env::var(MINUTES).ok();
    let minutes: u32 = minutes.map_or(30, |minutes| minutes.parse().unwrap());
    let relay = Relay::start().await;
    let network = Network::start(relay.public()).await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();

    let load = Load {
        events: usize::try_from(minutes * 60 * EVENTS_PER_S).unwrap(),
        connections: 4,
        per_s: Some(EVENTS_PER_S),
    };
    let posting = Posting::start(&relay.provider(), &journey, load);
    let mut samples = Vec::new();
    for cut in 1..=minutes * 60 / 20 {
        pass(CUT_EVERY).await;
        let (of_relay, of_agent) = (relay.resident_bytes(), agent.resident_bytes());
        samples.push((of_relay, of_agent));
        note(&format!(
            "soak: {:>4} s: {:>7} accepted, {:>7} at the service, relay {:.1} MiB, agent {:.1} MiB",
            cut * 20,
            posting.accepted(),
            service.count(),
            mebibytes(of_relay),
            mebibytes(of_agent),
        ));
        network.cut();
        network.restore();
    }

    let accepted = posting.finish().await;
    assert_eq!(accepted.count(), load.events);
    let tally = accepted.arrive(&journey, &[&service]).await;
    note(&format!(
        "soak: {} events through {} cuts: none lost, {} repeated",
        load.events,
        samples.len(),
        tally.duplicates
    ));
    assert_eq!(
        tally.duplicates, 0,
        "cuts were shorter than the grace period"
    );
    let (early, last) = (samples[samples.len() / 3], samples[samples.len() - 1]);
    assert!(last.0 <= early.0 + RELAY_GROWTH_MAX, "relay: {samples:?}");
    assert!(last.1 <= early.1 + AGENT_GROWTH_MAX, "agent: {samples:?}");
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
