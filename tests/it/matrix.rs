//! Whatever stands between agent and relay: everything arrives, and work goes on soon after a black
//! hole in the middle of it.
//!
//! The black hole is between the agent and the first hop: who connects is not answered, what is sent
//! on old connections is lost, and nobody is told. `HOOKFERRY_TEST_FULL=1` makes it 60 s.

use std::time::{Duration, Instant};

use hookferry_tests::{
    Agent, Journey, Network, Proxy, Relay, Service,
    agent::Plan,
    certificate::Certificate,
    eventually, is_full_size, note, pass,
    posting::{Load, Posting},
    proxy::Upgrades,
};

/// Far more than the promise of two seconds: a machine of tests is busy.
const RESUMED_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_whatever_is_in_the_way() {
    let size = Size::chosen();
    tokio::join!(
        row(Way::Direct, size),
        row(Way::Connect, size),
        row(Way::ConnectWithPassword, size),
        row(Way::Socks5, size),
        row(Way::Intercepted, size),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_where_no_websocket_does() {
    let size = Size::chosen();
    tokio::join!(row(Way::NoUpgrades, size), row(Way::Buffered, size));
}

async fn row(way: Way, size: Size) {
    Row::start(way).await.run(size).await;
}

/// How much is tested.
#[derive(Debug, Clone, Copy)]
struct Size {
    events: usize,
    black_hole: Duration,
}

impl Size {
    fn chosen() -> Self {
        let (events, seconds) = if is_full_size() {
            (1_000, 60)
        } else {
            (300, 21)
        };
        Self {
            events,
            black_hole: Duration::from_secs(seconds),
        }
    }
}

/// What stands between agent and relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Connect,
    ConnectWithPassword,
    Socks5,
    /// TLS ends at a proxy whose authority the agent was told to trust.
    Intercepted,
    /// What asks for a WebSocket is refused.
    NoUpgrades,
    /// What does not end does not get through.
    Buffered,
}

/// One way, set up.
struct Row {
    way: Way,
    relay: Relay,
    journey: Journey,
    service: Service,
    proxy: Option<Proxy>,
    network: Network,
    agent: Agent,
}

impl Row {
    async fn start(way: Way) -> Self {
        let certificate = Certificate::generate();
        let relay = match way {
            Way::Connect | Way::Socks5 | Way::Intercepted => {
                Relay::plan().tls(certificate.clone()).start().await
            }
            // Plain HTTP through a proxy is a case of its own: it must be tunnelled, too.
            Way::Direct | Way::ConnectWithPassword | Way::NoUpgrades | Way::Buffered => {
                Relay::start().await
            }
        };
        let interceptor = Certificate::generate();
        let proxy = match way {
            Way::Direct => None,
            Way::Connect => Some(Proxy::connect().await),
            Way::ConnectWithPassword => Some(Proxy::connect_with("jo", "s@crEt").await),
            Way::Socks5 => Some(Proxy::socks5().await),
            Way::Intercepted => Some(Proxy::intercepting(&interceptor, &certificate).await),
            Way::NoUpgrades => Some(Proxy::middlebox(relay.public(), Upgrades::Refused(403)).await),
            Way::Buffered => Some(Proxy::middlebox(relay.public(), Upgrades::Awaited).await),
        };
        let first_hop = proxy.as_ref().map_or(relay.public(), Proxy::addr);
        let network = Network::start(first_hop).await;
        let (journey, service) = (relay.journey("none").await, Service::start().await);

        let plan = Agent::plan(&relay, &journey, &service.url());
        let agent = way.leads(plan, &network, &certificate, &interceptor).run();
        Self {
            way,
            relay,
            journey,
            service,
            proxy,
            network,
            agent,
        }
    }

    async fn run(mut self, size: Size) {
        let started = Instant::now();
        let load = Load {
            events: size.events,
            connections: 4,
            per_s: None,
        };
        let posting = Posting::start(&self.relay.provider(), &self.journey, load);
        let accepted = posting.finish().await;
        let tally = accepted.arrive(&self.journey, &[&self.service]).await;
        let delivered = started.elapsed();
        assert_eq!(tally.duplicates, 0, "{:?}", self.way);

        let resumed = self.survive_a_black_hole(size).await;
        note(&format!(
            "matrix: {:?}: {} events delivered in {delivered:.1?}; a black hole of {:?} amid {} more: none lost, \
             none repeated, resumed {resumed:.2?} after its end",
            self.way, size.events, size.black_hole, size.events,
        ));
        assert!(resumed < RESUMED_MAX, "{:?}: {resumed:?}", self.way);
        assert!(self.agent.is_running());
        if let Some(proxy) = &self.proxy {
            assert!(proxy.passed() >= 2, "{:?} went past the proxy", self.way);
        }
    }

    /// Posts throughout; returns how long after the return of the network work went on.
    async fn survive_a_black_hole(&self, size: Size) -> Duration {
        let before = self.service.count();
        let throughout = size.black_hole + Duration::from_secs(4);
        let per_s = size.events as f64 / throughout.as_secs_f64();
        let load = Load {
            events: size.events,
            connections: 2,
            per_s: Some(per_s.ceil() as u32),
        };
        let posting = Posting::start(&self.relay.provider(), &self.journey, load);
        self.service.wait_for(before + size.events / 20).await;

        self.network.black_hole();
        pass(size.black_hole).await;
        let restored = Instant::now();
        self.network.restore();
        let resumed = eventually("the first event after the black hole", async || {
            self.service.inspect(|received| {
                let first = received.iter().find(|one| one.at > restored)?;
                Some(first.at - restored)
            })
        })
        .await;

        let accepted = posting.finish().await;
        assert_eq!(accepted.count(), size.events);
        let tally = accepted.arrive(&self.journey, &[&self.service]).await;
        assert_eq!(tally.duplicates, 0, "{:?}", self.way);
        resumed
    }
}

impl Way {
    /// Tells an agent how to go.
    fn leads(
        self,
        plan: Plan,
        network: &Network,
        relay: &Certificate,
        interceptor: &Certificate,
    ) -> Plan {
        let through = |scheme: &str, user: &str| format!("{scheme}://{user}{}", network.addr());
        match self {
            Way::Direct | Way::NoUpgrades | Way::Buffered => plan.server(&network.url()),
            Way::Connect => plan
                .through(&through("http", ""), None)
                .trusting(relay.authority()),
            Way::ConnectWithPassword => plan.through(&through("http", "jo@"), Some("s@crEt")),
            Way::Socks5 => plan
                .through(&through("socks5h", ""), None)
                .trusting(relay.authority()),
            Way::Intercepted => plan
                .through(&through("http", ""), None)
                .trusting(interceptor.authority()),
        }
    }
}
