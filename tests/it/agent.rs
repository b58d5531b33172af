//! How the agent behaves as a program: exit codes, TLS, tokens that end.

use hookferry_tests::{Agent, Network, Provider, Relay, Service, certificate::Certificate};

#[tokio::test]
async fn a_wrong_token_is_told_and_ends_the_agent() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let wrong = journey.token.replacen("hf_agent_", "hf_agent_0", 1);
    for token in ["hf_agent_nonsense", wrong.as_str(), relay.token()] {
        let mut agent = Agent::plan(&relay, &journey, "http://127.0.0.1:1")
            .token(token)
            .run();
        assert_eq!(agent.exit_code().await, 3, "{}", agent.stderr());
        assert!(agent.stderr().contains("error[E-"), "{}", agent.stderr());
        assert!(!agent.stderr().contains(token), "{}", agent.stderr());
    }
    let mut agent = Agent::anywhere(&relay.url(), &wrong).listen("1", "shop");
    assert_eq!(agent.exit_code().await, 3, "{}", agent.stderr());
}

#[tokio::test]
async fn a_token_that_may_not_listen_is_told() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let token = journey.tenant.token("connect-only", &["connect"]).await;
    let mut agent = Agent::anywhere(&relay.url(), &token).listen("1", "shop");
    assert_eq!(agent.exit_code().await, 3, "{}", agent.stderr());
}

#[tokio::test]
async fn an_unknown_key_is_told_with_line_and_suggestion() {
    let mut agent = Agent::anywhere("http://127.0.0.1:1", "hf_agent_x")
        .line("tokenfile = \"x\"")
        .forward("billing", "http://127.0.0.1:2")
        .run();
    assert_eq!(agent.exit_code().await, 4, "{}", agent.stderr());
    for part in [
        "agent.toml, line 5",
        "`tokenfile`",
        "did you mean `token_file`?",
    ] {
        assert!(
            agent.stderr().contains(part),
            "{part:?} is missing in {}",
            agent.stderr()
        );
    }
}

#[tokio::test]
async fn a_token_does_not_travel_unencrypted() {
    let mut agent = Agent::anywhere("http://relay.example.com", "hf_agent_x")
        .forward("billing", "http://127.0.0.1:2")
        .run();
    assert_eq!(agent.exit_code().await, 4, "{}", agent.stderr());
    assert!(
        agent.stderr().contains("--allow-plain-http"),
        "{}",
        agent.stderr()
    );
}

#[tokio::test]
async fn a_revoked_token_ends_its_session() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let mut agent = Agent::run(&relay, &journey, &service.url());
    relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    journey.tenant.api.delete("/tokens/agents").await;
    assert_eq!(agent.exit_code().await, 3, "{}", agent.stderr());
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(journey.tenant.delivery(&event).await["state"], "pending");
}

#[tokio::test]
async fn an_agent_waits_for_a_relay_that_is_not_there_yet() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    relay.kill9();
    let mut agent = Agent::run(&relay, &journey, &service.url());
    agent.says("No session with the relay").await;

    relay.restart().await;
    assert_eq!(service.next().await.event(), event);
    assert!(agent.is_running());
}

#[tokio::test]
async fn tls_is_spoken_and_verified() {
    let certificate = Certificate::generate();
    let relay = Relay::plan().tls(certificate.clone()).start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .trusting(certificate.authority())
        .run();

    let request = journey.post().body("{}").stripe(&journey.source.secret);
    let event = relay.provider().send(&request).await.accepted();
    let received = service.next().await;
    assert_eq!(received.event(), event);
    assert_eq!(received.headers.text("X-Forwarded-Proto"), "https");

    // Plain HTTP at the same door gets nothing.
    let plain = Provider::new(relay.public())
        .raw(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(plain.is_none_or(|reply| reply.status == 400));
}

#[tokio::test]
async fn a_relay_with_a_strangers_certificate_gets_no_token() {
    let relay = Relay::plan().tls(Certificate::generate()).start().await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let stranger = Certificate::generate();
    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .trusting(stranger.authority())
        .run();
    agent.says("E-TLS").await;
    relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.count(), 0);
}

#[tokio::test]
async fn an_agent_reaches_the_relay_through_whatever_carries_bytes() {
    let relay = Relay::start().await;
    let network = Network::start(relay.public()).await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();
    for _ in 0..3 {
        let event = relay
            .provider()
            .send(&journey.post().body(vec![1; 300_000]))
            .await
            .accepted();
        assert_eq!(service.next().await.event(), event);
        network.cut();
        network.restore();
    }
}
