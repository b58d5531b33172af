//! Several agents on one destination: each gets its share, and whatever happens to them, nothing is
//! lost and little is repeated.

use std::time::{Duration, Instant};

use hookferry_tests::{
    Agent, Answer, Journey, Network, Relay, Service, is_full_size, note, pass,
    posting::{Load, Posting},
    relay::Plan,
    seed,
};
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

/// How many calls each agent makes at a time.
const CONCURRENCY: usize = 8;

/// How far from an even share each may be.
const UNEVEN_PERCENT: usize = 20;

#[tokio::test]
async fn three_agents_share_the_work_evenly() {
    let crew = Crew::start(Relay::plan()).await;

    // One after the other, so that all are free each time.
    let provider = crew.relay.provider();
    for number in 1..=60 {
        provider.send(&crew.journey.post()).await.accepted();
        crew.wait_for(number).await;
    }
    crew.is_even("one by one", &[0; 3]);

    let before = crew.counts();
    let load = Load {
        events: 1_500,
        connections: 16,
        per_s: None,
    };
    for service in &crew.services {
        service.answer_usually(Answer::status(200).after(Duration::from_millis(5)));
    }
    let posting = Posting::start(&provider, &crew.journey, load);
    assert_eq!(posting.finish().await.count(), load.events);
    crew.wait_for(60 + load.events).await;
    crew.is_even("all at once", &before);
}

#[tokio::test]
async fn one_of_three_dies_under_load_and_the_others_take_over() {
    let mut crew = Crew::start(Relay::plan().set("session-grace-s", 1)).await;
    for service in &crew.services {
        service.answer_usually(Answer::status(200).after(Duration::from_millis(20)));
    }
    let load = Load {
        events: 1_000,
        connections: 8,
        per_s: None,
    };
    let posting = Posting::start(&crew.relay.provider(), &crew.journey, load);
    crew.wait_for(load.events / 3).await;
    crew.agents[0].kill9();
    let died_with = crew.services[0].count();

    let accepted = posting.finish().await;
    let tally = accepted.arrive(&crew.journey, &crew.services()).await;
    assert!(tally.duplicates <= CONCURRENCY, "{tally:?}");
    // What was on its way to the service when it died may still get there.
    let of_the_dead = crew.services[0].count();
    assert!(of_the_dead <= died_with + CONCURRENCY, "{of_the_dead}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_agents_are_killed() {
    let relay = Relay::plan().set("session-grace-s", 1);
    let blows = [Blow::Kill, Blow::Drain, Blow::Kill];
    let duplicates = torment("agents, killed", relay, Size::chosen(), &blows).await;
    assert!(duplicates <= 3 * 2 * CONCURRENCY, "{duplicates} duplicates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_agents_are_stopped() {
    let size = Size::chosen();
    let relay = Relay::plan()
        .set("session-heartbeat-s", size.heartbeat_s)
        .set("session-grace-s", 1);
    let blows = [Blow::Stop(size.stop)];
    let duplicates = torment("agents, stopped", relay, size, &blows).await;
    assert!(duplicates <= 3 * CONCURRENCY, "{duplicates} duplicates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_repeated_when_agents_are_drained_or_cut() {
    let size = Size::chosen();
    let blows = [Blow::Cut, Blow::Drain, Blow::Cut, Blow::Drain];
    let duplicates = torment("agents, drained or cut", Relay::plan(), size, &blows).await;
    assert_eq!(duplicates, 0);
}

/// How much is tested.
#[derive(Debug, Clone, Copy)]
struct Size {
    events: usize,
    per_s: u32,
    heartbeat_s: u64,
    /// Longer than three heartbeats and the grace period: its leases go to others.
    stop: Duration,
}

impl Size {
    fn chosen() -> Self {
        if is_full_size() {
            return Self {
                events: 10_000,
                per_s: 100,
                heartbeat_s: 15,
                stop: Duration::from_secs(60),
            };
        }
        Self {
            events: 3_000,
            per_s: 200,
            heartbeat_s: 1,
            stop: Duration::from_secs(6),
        }
    }
}

/// What befalls an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// kill -9, and started again.
    Kill,
    /// SIGSTOP for so long.
    Stop(Duration),
    /// SIGTERM, and started again.
    Drain,
    /// Its connection ends, and the next one works.
    Cut,
}

/// Has the blows befall each of three agents at random moments; returns how many calls were repeats.
async fn torment(name: &str, relay: Plan, size: Size, blows: &[Blow]) -> usize {
    let mut random = seed::random(name);
    let started = Instant::now();
    let mut crew = Crew::start(relay).await;
    // Long enough that some calls are under way whenever something happens.
    for service in &crew.services {
        service.answer_usually(Answer::status(200).after(Duration::from_millis(60)));
    }
    let load = Load {
        events: size.events,
        connections: 8,
        per_s: Some(size.per_s),
    };
    let posting = Posting::start(&crew.relay.provider(), &crew.journey, load);
    let fates: [_; 3] = std::array::from_fn(|_| fate(blows, size.events, &mut random));
    let [first, second, third] = &mut crew.agents[..] else {
        unreachable!("there are three")
    };
    let networks = &crew.networks;
    tokio::join!(
        suffer(first, &networks[0], &posting, &fates[0]),
        suffer(second, &networks[1], &posting, &fates[1]),
        suffer(third, &networks[2], &posting, &fates[2]),
    );

    let accepted = posting.finish().await;
    assert_eq!(accepted.count(), size.events);
    let tally = accepted.arrive(&crew.journey, &crew.services()).await;
    note(&format!(
        "{name}: {} events while each of three agents suffered {blows:?}: none lost, {} duplicates, {:.1?} in all",
        size.events,
        tally.duplicates,
        started.elapsed(),
    ));
    tally.duplicates
}

/// What befalls one agent, after how many accepted events.
fn fate(blows: &[Blow], events: usize, random: &mut StdRng) -> Vec<(usize, Blow)> {
    let mut order = blows.to_vec();
    order.shuffle(random);
    let mut moments: Vec<_> = order
        .iter()
        .map(|_| random.random_range(0..events * 8 / 10))
        .collect();
    moments.sort_unstable();
    moments.into_iter().zip(order).collect()
}

async fn suffer(agent: &mut Agent, network: &Network, posting: &Posting, fate: &[(usize, Blow)]) {
    for &(moment, blow) in fate {
        posting.reaches(moment).await;
        match blow {
            Blow::Kill => {
                agent.kill9();
                agent.restart();
            }
            Blow::Stop(time) => {
                agent.freeze();
                pass(time).await;
                agent.thaw();
            }
            Blow::Drain => {
                agent.terminate().await;
                assert_eq!(agent.exit_code().await, 0, "{}", agent.stderr());
                agent.restart();
            }
            Blow::Cut => {
                network.cut();
                network.restore();
            }
        }
    }
}

/// Three agents on one destination, each with a service and a network of its own.
struct Crew {
    relay: Relay,
    journey: Journey,
    services: Vec<Service>,
    networks: Vec<Network>,
    agents: Vec<Agent>,
}

impl Crew {
    async fn start(relay: Plan) -> Self {
        let relay = relay.start().await;
        let mut crew = Self {
            journey: relay.journey("none").await,
            relay,
            services: Vec::new(),
            networks: Vec::new(),
            agents: Vec::new(),
        };
        for _ in 0..3 {
            let service = Service::start().await;
            let network = Network::start(crew.relay.public()).await;
            let agent = Agent::plan(&crew.relay, &crew.journey, &service.url())
                .server(&network.url())
                .each_forward(&format!("concurrency = {CONCURRENCY}"))
                .run();
            crew.agents.push(agent);
            crew.networks.push(network);
            crew.services.push(service);
        }
        for agent in &mut crew.agents {
            agent.says("Connected").await;
        }
        crew
    }

    fn services(&self) -> Vec<&Service> {
        self.services.iter().collect()
    }

    fn counts(&self) -> [usize; 3] {
        std::array::from_fn(|index| self.services[index].count())
    }

    async fn wait_for(&self, count: usize) {
        let what = format!("{count} requests at the services");
        hookferry_tests::eventually(what, async || {
            (self.counts().iter().sum::<usize>() >= count).then_some(())
        })
        .await;
    }

    fn is_even(&self, load: &str, before: &[usize; 3]) {
        let counts = self.counts();
        let shares: Vec<_> = counts
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        let even = shares.iter().sum::<usize>() / 3;
        note(&format!("agents: {load}: shares of {shares:?}"));
        for share in &shares {
            let off = share.abs_diff(even) * 100;
            assert!(off <= even * UNEVEN_PERCENT, "{load}: shares of {shares:?}");
        }
    }
}
