//! "Connected but deaf" cannot last: whatever silences a link or an agent is noticed, and a session
//! that is over can fail nothing.

use std::time::{Duration, Instant};

use hookferry_tests::{
    Agent, Answer, Journey, Namespace, Network, Relay, Service, eventually, is_full_size, note,
    pass, relay::Plan,
};

/// Work goes on within two seconds of the network's return; tests allow for a busy machine and print
/// what it took.
const RESUMED_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_pretends_to_be_a_living_link_is_seen_through() {
    let relay = hasty().start().await;
    let network = Network::start(relay.public()).await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();
    relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    // A middlebox answers pings and sends its own, with nothing behind it.
    let started = Instant::now();
    network.feign();
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), event);
    let seen = started.elapsed();
    note(&format!(
        "liveness: a feigned link was seen through after {seen:.1?}"
    ));
}

#[tokio::test]
async fn a_frozen_agents_work_goes_to_another_and_it_comes_back() {
    let relay = hasty().start().await;
    let (mut frozen, mut awake) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    let agent = Agent::run(&relay, &journey, &frozen.url());
    frozen.answer(Answer::status(200).held());
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(frozen.next().await.event(), event);

    agent.freeze();
    let other = Agent::run(&relay, &journey, &awake.url());
    assert_eq!(awake.next().await.event(), event);
    journey.tenant.delivery_is(&event, "delivered").await;
    drop(other);

    frozen.release();
    let event = relay.provider().send(&journey.post()).await.accepted();
    let thawed = Instant::now();
    agent.thaw();
    let received = frozen.next().await;
    assert_eq!(received.event(), event);
    let resumed = received.at - thawed;
    note(&format!(
        "liveness: an agent that froze took work {resumed:.2?} after it went on"
    ));
}

#[tokio::test]
async fn a_laptop_that_wakes_up_elsewhere_takes_up_its_work() {
    let relay = Relay::start().await;
    let network = Network::start(relay.public()).await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();
    relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    // It sleeps, and the network forgets its connections meanwhile.
    agent.freeze();
    network.black_hole();
    let event = relay.provider().send(&journey.post()).await.accepted();
    pass(outage()).await;
    network.restore();
    let woken = Instant::now();
    agent.thaw();
    let received = service.next().await;
    assert_eq!(received.event(), event);
    resumed("a laptop that slept", received.at - woken);
}

#[tokio::test]
async fn pulled_cables_and_changed_addresses_are_survived() {
    let (Some(first), Some(second)) = (Namespace::create(), Namespace::create()) else {
        return;
    };
    tokio::join!(
        lives_through_a_pulled_cable(&first, "a cable that was pulled", || {}),
        lives_through_a_pulled_cable(&second, "another address behind it", || {
            second.change_address();
        }),
    );
}

async fn lives_through_a_pulled_cable(namespace: &Namespace, what: &str, meanwhile: impl FnOnce()) {
    let relay = Relay::plan().at(namespace.relay_ip()).start().await;
    let mut service = Service::start_at((namespace.service_ip(), 0).into()).await;
    let journey = relay.journey("none").await;
    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .inside(namespace)
        .run();
    let before = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), before);

    namespace.pull();
    let event = relay.provider().send(&journey.post()).await.accepted();
    pass(outage()).await;
    meanwhile();
    let plugged = Instant::now();
    namespace.plug();
    let received = service.next().await;
    assert_eq!(received.event(), event);
    resumed(what, received.at - plugged);
    journey.tenant.delivery_is(&event, "delivered").await;
    assert_eq!(service.count(), 2, "each once");
    assert!(agent.is_running());
}

#[tokio::test]
async fn agents_of_the_same_name_are_several() {
    let relay = hasty().start().await;
    let journey = relay.journey("none").await;
    let services = [Service::start().await, Service::start().await];
    // Both are called `test`.
    let mut agents = [
        Agent::run(&relay, &journey, &services[0].url()),
        Agent::run(&relay, &journey, &services[1].url()),
    ];
    for agent in &mut agents {
        agent.says("Connected").await;
    }

    // Longer than it would take to find either of them dead.
    pass(Duration::from_secs(4)).await;
    for _ in 0..10 {
        relay.provider().send(&journey.post()).await.accepted();
    }
    journey.tenant.settled().await;
    for service in &services {
        assert!(service.count() >= 3, "one of them has lost its place");
    }
    assert_eq!(sessions_opened(&relay), 2, "nobody had to come back");
    assert!(!relay.output().contains("a session ended"));
}

#[tokio::test]
async fn a_late_failure_fails_nothing() {
    let story = Late::begin(500).await;
    story.the_first_comes_back().await;
    let attempts = story.journey.tenant.attempts(&story.event).await;
    assert_eq!(outcomes(&attempts), ["lost"], "the failure came too late");

    story.second.release();
    let tenant = &story.journey.tenant;
    tenant.delivery_is(&story.event, "delivered").await;
    let attempts = tenant.attempts(&story.event).await;
    assert_eq!(outcomes(&attempts), ["lost", "answered"]);
}

#[tokio::test]
async fn a_late_success_is_one() {
    let story = Late::begin(200).await;
    story.the_first_comes_back().await;
    let tenant = &story.journey.tenant;
    tenant.delivery_is(&story.event, "delivered").await;

    // What the other one says later changes nothing.
    story.second.release();
    let next = story.relay.provider().send(&story.journey.post()).await;
    tenant.delivery_is(&next.accepted(), "delivered").await;
    tenant.delivery_is(&story.event, "delivered").await;
}

/// Two agents have called their services for one event: the first was presumed dead and is not.
struct Late {
    relay: Relay,
    journey: Journey,
    network: Network,
    first: Service,
    second: Service,
    event: String,
    _agents: [Agent; 2],
}

impl Late {
    /// The first agent's session is over, and both services still think; the first will answer this.
    async fn begin(status: u16) -> Self {
        let relay = hasty().start().await;
        let network = Network::start(relay.public()).await;
        let (mut first, mut second) = (Service::start().await, Service::start().await);
        let journey = relay.journey("none").await;
        // A failure more would be one too many.
        let retry =
            serde_json::json!({ "retry": { "base_ms": 20, "factor": 1, "attempts_max": 2 } });
        journey
            .tenant
            .api
            .patch("/destinations/billing", retry)
            .await;
        let agent = Agent::plan(&relay, &journey, &first.url())
            .server(&network.url())
            .run();
        first.answer(Answer::status(status).held());
        let event = relay.provider().send(&journey.post()).await.accepted();
        assert_eq!(first.next().await.event(), event);

        network.black_hole();
        second.answer(Answer::status(200).held());
        let other = Agent::run(&relay, &journey, &second.url());
        let again = second.next().await;
        assert_eq!((again.event(), again.attempt()), (event.clone(), 2));
        Self {
            relay,
            journey,
            network,
            first,
            second,
            event,
            _agents: [agent, other],
        }
    }

    /// Its service has answered meanwhile, and it has reported that over a new session.
    async fn the_first_comes_back(&self) {
        self.first.release();
        self.network.restore();
        let before = self.first.count();
        // What it is given now is settled after what it reported first.
        eventually("work for the first agent", async || {
            let reply = self.relay.provider().send(&self.journey.post()).await;
            let tenant = &self.journey.tenant;
            tenant.delivery_is(&reply.accepted(), "delivered").await;
            (self.first.count() > before).then_some(())
        })
        .await;
    }
}

/// A relay that finds sessions dead after seconds, and keeps nothing for long.
fn hasty() -> Plan {
    Relay::plan()
        .set("session-heartbeat-s", 2)
        .set("session-grace-s", 1)
}

/// The promise is for outages of at least 20 s; the full size outlasts the session.
fn outage() -> Duration {
    if is_full_size() {
        return Duration::from_secs(60);
    }
    Duration::from_secs(21)
}

/// Tells how long it took until work went on.
#[track_caller]
fn resumed(what: &str, after: Duration) {
    note(&format!("liveness: {what}: resumed after {after:.2?}"));
    assert!(after < RESUMED_MAX, "{what}: {after:?}");
}

fn sessions_opened(relay: &Relay) -> usize {
    relay.output().matches("an agent is connected").count()
}

fn outcomes(attempts: &[serde_json::Value]) -> Vec<&str> {
    attempts
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect()
}
