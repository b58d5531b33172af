//! Stories of an agent between a scripted relay and a scripted service, over real sockets.

mod carriers;

mod proxies;

mod scripted;

mod spread;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use protocol::frame::{
    Drain, Headers, Offer, Outcome, Receipt, Refuse, RefuseCode, ServiceFailure,
};
use protocol::session::RelayOutput;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    args::{Color, LogFormat},
    config::{Lane, LinkConfig, LogConfig, Token, Transport},
    inbox::sample,
    terminal::Log,
};
use scripted::{Relay, Service, TOKEN};

/// A running agent.
struct Running {
    stop: CancellationToken,
    result: JoinHandle<Result<(), Failure>>,
    status: Option<std::net::SocketAddr>,
}

impl Running {
    async fn start(config: Config) -> Self {
        Self::of(Agent::bind(config, Box::new(Log::default())).await.unwrap())
    }

    fn of(agent: Agent) -> Self {
        let stop = CancellationToken::new();
        let status = agent.status_address();
        Self {
            status,
            result: tokio::spawn(agent.run(stop.clone())),
            stop,
        }
    }

    async fn end(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.result.await.unwrap()
    }
}

fn lane(service: &Service, concurrency: u32) -> Lane {
    Lane {
        concurrency,
        window_bytes: 8 << 20,
        ..sample::lane(&service.url())
    }
}

fn config(relay: &Relay, serve: Serve) -> Config {
    config_at(&relay.url(), serve)
}

fn config_at(url: &str, serve: Serve) -> Config {
    Config {
        link: LinkConfig {
            server: url.parse().unwrap(),
            token: Token::parse(TOKEN).unwrap(),
            name: "test".to_owned(),
            proxy: None,
            client_certificate: None,
            transport: Transport::WebSocket,
        },
        ca_file: None,
        serve,
        allow_targets: Default::default(),
        connections: 1,
        data: DataConfig::Memory,
        status: None,
        ready_within: Duration::ZERO,
        grace: Duration::from_secs(10),
        log: LogConfig {
            level: tracing::Level::INFO,
            format: LogFormat::Text,
            color: Color::Never,
        },
    }
}

fn ci(relay: &Relay, service: &Service) -> Config {
    ci_at(&relay.url(), service)
}

fn ci_at(url: &str, service: &Service) -> Config {
    let lanes = vec![("ci".to_owned(), lane(service, 1))];
    config_at(url, Serve::Destinations(lanes))
}

fn with_body(mut offer: Offer, body: Bytes) -> Offer {
    offer.body_bytes = body.len() as u64;
    offer.body = body;
    offer
}

fn status(receipt: &Receipt) -> Option<u16> {
    match receipt.outcome {
        Outcome::Answered { status, .. } => Some(status),
        Outcome::Failed { .. } => None,
    }
}

#[tokio::test]
async fn an_event_reaches_the_service_unchanged_and_is_acknowledged() {
    let (relay, mut service) = (Relay::start().await, Service::start(201).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut link = relay.accept().await;
    let hello = link.welcome().await;
    assert_eq!(
        (
            hello.destinations[0].name.as_str(),
            hello.destinations[0].deliveries
        ),
        ("ci", 2)
    );

    let mut offer = with_body(sample::offer(1, 1), Bytes::from_static(b"\x00\xff{}\r\n"));
    offer.request.method = "PATCH".to_owned();
    offer.request.target = "/deep/er?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b".to_owned();
    let pairs: [(&str, &[u8]); 4] = [
        ("Host", b"relay"),
        ("X-Twice", b"1"),
        ("X-Odd", b"\xfe"),
        ("X-Twice", b"2"),
    ];
    let pairs = pairs.map(|(name, value)| {
        (
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value),
        )
    });
    offer.request.headers = Headers(pairs.to_vec());
    link.offer(offer).await;

    let received = service.next().await;
    assert_eq!(received.method, "PATCH");
    assert_eq!(
        received.target,
        "/hook/deep/er?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b"
    );
    assert_eq!(received.body, &b"\x00\xff{}\r\n"[..]);
    assert_eq!(received.headers["x-odd"].as_bytes(), b"\xfe");
    let twice: Vec<_> = received.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, ["1", "2"]);
    assert!(
        service
            .url()
            .contains(received.headers["host"].to_str().unwrap())
    );
    let mut names: Vec<_> = received.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let ours = [
        "hookferry-attempt",
        "hookferry-event-id",
        "hookferry-received-at",
        "hookferry-source",
    ];
    assert_eq!(
        names,
        [
            &["content-length"],
            &ours[..1],
            &ours[1..],
            &["host", "x-odd", "x-twice"]
        ]
        .concat()
    );

    let receipt = link.receipt().await;
    assert_eq!(status(&receipt), Some(201));
    assert_eq!(receipt.response_start, "answer");
    link.confirm(&receipt).await;
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
    assert!(said_bye);
}

#[tokio::test]
async fn a_long_body_is_streamed() {
    let (relay, mut service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut link = relay.accept().await;
    link.welcome().await;

    let body: Bytes = (0..3_000_000u32)
        .map(|number| (number % 251) as u8)
        .collect();
    link.offer(with_body(sample::offer(1, 1), body.clone()))
        .await;
    assert!(service.next().await.body == body, "the body was altered");
    let receipt = link.receipt().await;
    link.confirm(&receipt).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_receipt_is_sent_again_over_the_next_link_and_nobody_is_called_twice() {
    let (relay, mut service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    link.offer(sample::offer(1, 1)).await;
    let first = link.receipt().await;
    drop(link);
    service.next().await;

    let mut link = relay.accept().await;
    link.welcome().await;
    assert_eq!(link.receipt().await, first);
    link.confirm(&first).await;
    // Offered all the same, as a relay does whose lease ran out: the journal answers.
    link.offer(sample::offer(1, 2)).await;
    let second = link.receipt().await;
    assert_eq!((status(&second), second.attempt), (Some(200), 2));
    assert!(service.is_quiet());
    link.confirm(&second).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn work_outlives_the_link_it_came_over() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    link.offer(sample::offer(1, 1)).await;
    service.next().await;
    drop(link);

    let mut link = relay.accept().await;
    let hello = link.welcome().await;
    assert_eq!(hello.holding.len(), 1);
    assert_eq!(hello.holding[0].lease, sample::offer(1, 1).lease);
    service.answer(1);
    let receipt = link.receipt().await;
    assert_eq!(status(&receipt), Some(200));
    link.confirm(&receipt).await;
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
}

/// Takes as long as an unanswered heartbeat may: three seconds.
#[tokio::test]
async fn a_link_that_went_deaf_is_replaced() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut deaf = relay.accept().await;
    deaf.welcome().await;
    deaf.offer(sample::offer(1, 1)).await;
    service.next().await;

    // Nobody reads the first connection any more, and it is not closed either.
    let mut link = relay.accept().await;
    assert_eq!(link.welcome().await.holding.len(), 1);
    service.answer(1);
    let receipt = link.receipt().await;
    link.confirm(&receipt).await;
    assert!(!deaf.end().await, "said Bye for what it still held");
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
}

#[tokio::test]
async fn outcomes_survive_a_restart() {
    let (relay, service) = (Relay::start().await, Service::start(200).await);
    let directory = tempfile::tempdir().unwrap();
    let data = DataConfig::Directory {
        path: PathBuf::from(directory.path()),
        journal: true,
    };
    let agent = Running::start(Config {
        data: data.clone(),
        ..ci(&relay, &service)
    })
    .await;
    let mut link = relay.accept().await;
    let before = link.welcome().await.instance;
    link.offer(sample::offer(1, 1)).await;
    let first = link.receipt().await;
    // Like kill -9: nothing is said, nothing is written any more.
    agent.result.abort();
    assert!(agent.result.await.unwrap_err().is_cancelled());

    let agent = Running::start(Config {
        data,
        ..ci(&relay, &service)
    })
    .await;
    let mut link = relay.accept().await;
    assert_eq!(link.welcome().await.instance, before);
    assert_eq!(link.receipt().await, first);
    link.confirm(&first).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_hands_back_what_waits() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    link.offer(sample::offer(1, 1)).await;
    link.offer(sample::offer(2, 1)).await;
    service.next().await;
    agent.stop.cancel();
    let released = link.wait(|output| match output {
        RelayOutput::Release(held) => Some(held),
        _ => None,
    });
    assert_eq!(released.await[0].delivery, sample::offer(2, 1).delivery);

    service.answer(1);
    let receipt = link.receipt().await;
    assert_eq!(status(&receipt), Some(200));
    link.confirm(&receipt).await;
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
    assert!(service.is_quiet());
}

#[tokio::test]
async fn what_outlasts_the_grace_is_given_up_and_told() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let grace = Duration::from_millis(50);
    let agent = Running::start(Config {
        grace,
        ..ci(&relay, &service)
    })
    .await;
    let mut link = relay.accept().await;
    link.welcome().await;
    link.offer(sample::offer(1, 1)).await;
    service.next().await;
    agent.stop.cancel();
    let receipt = link.receipt().await;
    let Outcome::Failed { failure, .. } = receipt.outcome else {
        panic!("answered: {receipt:?}");
    };
    assert_eq!(failure, ServiceFailure::Abandoned);
    link.confirm(&receipt).await;
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
}

#[tokio::test]
async fn a_relay_that_goes_away_is_left_once_all_is_done() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut old = relay.accept().await;
    old.welcome().await;
    old.offer(sample::offer(1, 1)).await;
    service.next().await;
    old.session.drain(Drain {
        reason: "upgrade".to_owned(),
        reconnect_after_ms: 0,
    });
    old.flush().await;

    let mut new = relay.accept().await;
    assert!(new.welcome().await.holding.is_empty());
    service.answer(1);
    let receipt = old.receipt().await;
    old.confirm(&receipt).await;
    assert!(old.end().await, "left without Bye");
    service.answer(1);
    new.offer(sample::offer(2, 1)).await;
    let receipt = new.receipt().await;
    assert_eq!(receipt.delivery, sample::offer(2, 1).delivery);
    new.confirm(&receipt).await;
    let (result, _) = tokio::join!(agent.end(), new.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_as_such() {
    let relay = Relay::start().await;
    let service = Service::start(200).await;
    let mut gone = lane(&service, 4);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let metadata = Lane {
        target: "http://169.254.169.254/latest".parse().unwrap(),
        ..gone.clone()
    };
    gone.target = format!("http://127.0.0.1:{port}").parse().unwrap();
    let lanes = vec![("ci".to_owned(), gone), ("cloud".to_owned(), metadata)];
    let agent = Running::start(config(&relay, Serve::Destinations(lanes))).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    let mut cloud = sample::offer(2, 1);
    cloud.destination = "cloud".to_owned();
    let mut dots = sample::offer(3, 1);
    dots.request.target = "/%2e%2e/admin".to_owned();
    for (offer, expected, words) in [
        (
            sample::offer(1, 1),
            ServiceFailure::Connect,
            "connection refused",
        ),
        (cloud, ServiceFailure::Refused, "metadata"),
        (dots, ServiceFailure::Refused, "dot segments"),
    ] {
        link.offer(offer).await;
        let receipt = link.receipt().await;
        let Outcome::Failed { failure, detail } = &receipt.outcome else {
            panic!("answered: {receipt:?}");
        };
        assert_eq!(*failure, expected);
        assert!(detail.contains(words), "{detail}");
        link.confirm(&receipt).await;
    }
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_rejected_token_ends_the_agent() {
    let (relay, service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let body = r#"{"code":"E-UNAUTHORISED","detail":"no such token"}"#;
    let length = body.len();
    relay
        .reject(&format!(
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    let failure = agent.result.await.unwrap().unwrap_err();
    assert_eq!(failure.code.exit().code(), 3);
    assert!(failure.what.contains("no such token"), "{failure}");
    assert!(!failure.to_string().contains(TOKEN));
}

#[tokio::test]
async fn a_refused_session_ends_the_agent_when_trying_again_cannot_help() {
    let cases = [
        (RefuseCode::TokenRevoked, 3),
        (RefuseCode::Forbidden, 3),
        (RefuseCode::UnknownDestination, 4),
    ];
    for (code, exit) in cases {
        let (relay, service) = (Relay::start().await, Service::start(200).await);
        let agent = Running::start(ci(&relay, &service)).await;
        let mut link = relay.accept().await;
        link.hello().await;
        link.session.refuse(Refuse {
            code,
            detail: "because".to_owned(),
            retry_after_ms: None,
        });
        link.end().await;
        let failure = agent.result.await.unwrap().unwrap_err();
        assert_eq!(failure.code.exit().code(), exit, "{failure}");
        assert!(failure.what.contains("because"));
    }
}

#[tokio::test]
async fn a_busy_relay_is_asked_again() {
    let (relay, service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    relay
        .reject("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        .await;
    let mut link = relay.accept().await;
    link.welcome().await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn listening_serves_the_destination_the_relay_made() {
    let (relay, mut service) = (Relay::start().await, Service::start(200).await);
    let serve = Serve::Listen {
        sources: vec!["github".to_owned()],
        filter: Some(serde_json::json!({ "type": "push" })),
        lane: Box::new(lane(&service, 4)),
    };
    let agent = Running::start(config(&relay, serve)).await;
    let mut link = relay.accept().await;
    let hello = link.welcome().await;
    let listen = hello.listen.unwrap();
    assert_eq!(listen.sources, ["github"]);
    assert_eq!(listen.filter, Some(serde_json::json!({ "type": "push" })));
    let mut offer = sample::offer(1, 1);
    offer.destination = "listen-1".to_owned();
    link.offer(offer).await;
    service.next().await;
    let receipt = link.receipt().await;
    assert_eq!(status(&receipt), Some(200));
    link.confirm(&receipt).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn readiness_follows_the_session() {
    let (relay, service) = (Relay::start().await, Service::start(200).await);
    let status = Some("127.0.0.1:0".parse().unwrap());
    let agent = Running::start(Config {
        status,
        ..ci(&relay, &service)
    })
    .await;
    let address = agent.status.unwrap();
    assert!(probe(address, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(probe(address, "/readyz").await.starts_with("HTTP/1.1 503"));
    let mut link = relay.accept().await;
    link.welcome().await;
    // A receipt comes after Welcome was taken in.
    link.offer(sample::offer(1, 1)).await;
    let receipt = link.receipt().await;
    link.confirm(&receipt).await;
    assert!(probe(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(probe(address, "/else").await.starts_with("HTTP/1.1 404"));
    let verbose = probe(address, "/readyz?verbose").await;
    assert!(verbose.contains("[+]session ok: 1 with ws://"), "{verbose}");
    let metrics = probe(address, "/metrics").await;
    for line in [
        "\nhookferry_agent_connected 1\n",
        "\nhookferry_agent_offers_total{destination=\"ci\"} 1\n",
        "\nhookferry_agent_forwards_total{destination=\"ci\",outcome=\"2xx\"} 1\n",
        "\nhookferry_agent_receipts_unconfirmed 0\n",
    ] {
        assert!(metrics.contains(line), "{line:?} is missing in {metrics}");
    }
    let report = probe(address, "/status").await;
    assert!(report.contains("\"delivered\":1,\"failed\":0"), "{report}");
    // A page in a browser that was led here by a name of its own.
    let foreign = ask(address, "rebound.example", "/status").await;
    assert!(foreign.starts_with("HTTP/1.1 421"), "{foreign}");
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

async fn probe(address: std::net::SocketAddr, path: &str) -> String {
    ask(address, "localhost", path).await
}

async fn ask(address: std::net::SocketAddr, host: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
