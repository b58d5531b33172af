//! How fast the main job is done, with everything on this machine: `cargo bench -p hookferry-tests`.
//!
//! Each number comes from one run of some seconds; the whole takes about a minute. The generator is
//! one thread, the relay, the agent and the server that does nothing are processes of their own, and
//! the service is a thread here. They share the machine's cores, so a faster generator would show
//! higher numbers: the ratio to the server that does nothing tells more than the numbers alone.

#![expect(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on is none"
)]
#![expect(clippy::print_stdout, reason = "the numbers are what it is for")]

mod load;

mod server;

use std::time::{Duration, Instant};

use hookferry_tests::{Agent, Journey, Relay, eventually, within};
use serde_json::json;

use load::Load;
use server::{Counter, Idle};

/// The body of every event, in bytes.
const BODY_BYTES: usize = 1024;

/// Connections of the generator.
const CONNECTIONS: usize = 64;

/// How long each rate is measured.
const MEASURED: Duration = Duration::from_secs(8);

/// Events of the run from end to end.
const EVENTS: usize = 60_000;

/// Events a second while latency is measured, and for how long.
const PACE: usize = 1_000;
const PACED: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    if std::env::args().any(|argument| argument == server::IDLE) {
        return server::serve_idle().await;
    }
    println!(
        "{BODY_BYTES} byte bodies, {CONNECTIONS} connections, {} cores",
        cores()
    );
    let idle = idle().await;
    let ingest = ingest().await;
    println!("  ratio                           {:>10.2}", ingest / idle);
    end_to_end().await;
    latency().await;
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The same HTTP server, answering 200 and doing nothing.
async fn idle() -> f64 {
    let server = Idle::start().await;
    let load = Load::new(server.addr(), "/in/nothing", "no secret", BODY_BYTES);
    let rate = load.measure(CONNECTIONS, MEASURED).await;
    println!("a server that does nothing        {rate:>10.0} requests/s");
    rate
}

/// Signed events that are verified and durable before they are answered; no agent is there.
async fn ingest() -> f64 {
    let (relay, journey) = stage().await;
    let load = load_for(&relay, &journey);
    let rate = load.measure(CONNECTIONS, MEASURED).await;
    println!("durable ingest, verified          {rate:>10.0} events/s");
    rate
}

/// From the provider's request until the service was called and the relay has settled.
async fn end_to_end() {
    let (relay, journey) = stage().await;
    let counter = Counter::start();
    let _agent = agent(&relay, &journey, &counter).await;
    let load = load_for(&relay, &journey);

    let started = Instant::now();
    load.send(CONNECTIONS, EVENTS).await;
    let accepted = started.elapsed();
    within(
        Duration::from_secs(60),
        "all events at the service",
        async || (counter.count() > EVENTS).then_some(()),
    )
    .await;
    let delivered = started.elapsed();
    eventually("all events to be settled", async || {
        let destination = journey.tenant.api.get("/destinations/billing").await;
        (destination["depth"]["open"] == 0).then_some(())
    })
    .await;
    let settled = started.elapsed();
    let rate = |elapsed: Duration| EVENTS as f64 / elapsed.as_secs_f64();
    println!(
        "end to end, accepted              {:>10.0} events/s",
        rate(accepted)
    );
    println!(
        "end to end, service called        {:>10.0} events/s",
        rate(delivered)
    );
    println!(
        "end to end, settled               {:>10.0} events/s",
        rate(settled)
    );
    println!(
        "  repeats at the service          {:>10}",
        counter.count() - EVENTS - 1
    );
}

/// From the provider's request until the service is called, at a pace.
async fn latency() {
    let (relay, journey) = stage().await;
    let counter = Counter::start();
    let _agent = agent(&relay, &journey, &counter).await;
    let load = load_for(&relay, &journey);

    let count = PACE * usize::try_from(PACED.as_secs()).unwrap();
    let sent = load.pace(CONNECTIONS / 4, PACE, count).await;
    let arrived = within(
        Duration::from_secs(30),
        "all events at the service",
        async || {
            let arrived = counter.arrived();
            sent.iter()
                .all(|(id, _)| arrived.contains_key(id))
                .then_some(arrived)
        },
    )
    .await;
    let mut waits: Vec<_> = sent.iter().map(|(id, at)| arrived[id] - *at).collect();
    waits.sort_unstable();
    let percentile = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "added latency at {PACE}/s, p50       {:>10.2} ms",
        percentile(50)
    );
    println!(
        "added latency at {PACE}/s, p99       {:>10.2} ms",
        percentile(99)
    );
    println!(
        "added latency at {PACE}/s, largest   {:>10.2} ms",
        percentile(100)
    );
}

async fn stage() -> (Relay, Journey) {
    let relay = Relay::plan()
        .set("store-segment-bytes", 64 << 20)
        .set("log-level", "warn")
        .start()
        .await;
    let journey = Journey::create(&relay.api(), "github", json!({})).await;
    (relay, journey)
}

fn load_for(relay: &Relay, journey: &Journey) -> Load {
    Load::new(
        relay.public(),
        &journey.source.path,
        &journey.source.secret,
        BODY_BYTES,
    )
}

/// An agent that has delivered its first event, so that nothing of its start is measured.
async fn agent(relay: &Relay, journey: &Journey, counter: &Counter) -> Agent {
    let to = format!("http://{}", counter.addr());
    let agent = Agent::plan(relay, journey, &to)
        .each_forward("concurrency = 128")
        .run();
    load_for(relay, journey).send(1, 1).await;
    eventually("the first event", async || {
        (counter.count() == 1).then_some(())
    })
    .await;
    agent
}
