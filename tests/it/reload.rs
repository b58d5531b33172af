//! A new configuration for an agent that goes on working (SIGHUP): taken whole, or refused whole.

use std::net::SocketAddr;

use hookferry_tests::{
    Agent, Answer, Provider, Relay, Request, Service, Supervisor, eventually, ports,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_new_configuration_loses_nothing_and_waits_for_what_is_in_hand() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let tenant = &journey.tenant;
    tenant.destination("audit", json!({})).await;
    let (mut old, mut new, mut audit) = (
        Service::start().await,
        Service::start().await,
        Service::start().await,
    );
    let mut supervisor = Supervisor::start();
    let mut agent = Agent::plan(&relay, &journey, &old.url())
        .variable("NOTIFY_SOCKET", &supervisor.address())
        .run();
    old.answer(Answer::status(200).held());
    let held = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(old.next().await.event(), held);
    supervisor.hears("READY=1", 1).await;

    // Another service for one destination, and one more destination, while events keep coming.
    tenant.route("shop", "audit").await;
    let sender = tokio::spawn({
        let (provider, journey) = (relay.provider(), journey.clone());
        async move {
            let mut events = Vec::new();
            for _ in 0..200 {
                events.push(provider.send(&journey.post()).await.accepted());
            }
            events
        }
    });
    let (from, to) = (old.url(), new.url());
    let more = format!(
        "[[forward]]\ndestination = \"audit\"\nto = {:?}\n",
        audit.url()
    );
    agent.reload(|config| config.replace(&from, &to) + &more);
    agent.says("Configuration was read again").await;
    supervisor.hears("RELOADING=1", 1).await;
    supervisor.hears("READY=1", 2).await;
    let said = supervisor.said().join("\n");
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    let events = sender.await.unwrap();
    new.next().await;
    audit.next().await;
    old.release();
    for event in &events {
        eventually(format!("all deliveries of {event}"), async || {
            let deliveries = tenant.api.list(&format!("/deliveries?event={event}")).await;
            let done = deliveries.iter().all(|row| row["state"] == "delivered");
            (deliveries.len() == 2 && done).then_some(())
        })
        .await;
    }
    tenant.delivery_is(&held, "delivered").await;
    assert_eq!(tenant.attempts(&held).await.len(), 1);
    assert_eq!(audit.count(), 200);
    assert_eq!(old.count() + new.count(), 201);

    // A destination that is gone waits for an agent that serves it.
    agent.reload(|config| config.replace(&more, ""));
    agent.says_times("Configuration was read again", 2).await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    new.wait_for(new.count() + 1).await;
    let states = tenant.api.list(&format!("/deliveries?event={event}")).await;
    let attempts: Vec<_> = states.iter().map(|row| row["attempts"].clone()).collect();
    assert!(attempts.contains(&json!(0)), "{states:?}");
    assert_eq!(audit.count(), 200);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_or_leads_to_no_session_changes_nothing() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let (mut service, other) = (Service::start().await, Service::start().await);
    let listener = ports::free();
    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .flag("--observability-listen", &listener.to_string())
        .run();
    relay.provider().send(&journey.post()).await.accepted();
    service.next().await;
    let right = std::fs::read_to_string(agent.home().join("agent.toml")).unwrap();
    // Each also names another service, which must not be called: nothing of it is taken.
    let elsewhere = right.replace(&service.url(), &other.url());

    let wrong = format!("tokenfile = 1\n{elsewhere}");
    let unknown = "[[forward]]\ndestination = \"nowhere\"\nto = \"http://127.0.0.1:1\"\n";
    let unknown = format!("{elsewhere}{unknown}");
    let unreachable = elsewhere.replace(&relay.url(), &format!("http://{}", ports::free()));
    let tokenless = elsewhere.replace("token_file", "#");
    let cases = [
        (wrong, "there is no key `tokenfile`", "E-CONFIG-KEY"),
        (unknown, "nowhere", "E-UNKNOWN-DESTINATION"),
        (unreachable, "no connection", "E-CONNECT"),
        (tokenless, "no agent token", "E-TOKEN-MISSING"),
        ("[[[".to_owned(), "line 1", "E-CONFIG-SYNTAX"),
    ];
    for (done, (config, reason, code)) in cases.into_iter().enumerate() {
        agent.reload(|_| config);
        agent.says_times("the old one stays\"", done + 1).await;
        let said = agent.stderr();
        let said = said
            .lines()
            .rfind(|line| line.contains("the old one stays\""));
        let said = said.unwrap();
        assert!(said.contains(reason) && said.contains(code), "{said}");
        let metrics = get(listener, "/metrics").await;
        let counted = format!(
            "_config_reloads_total{{outcome=\"refused\"}} {}\n",
            done + 1
        );
        assert!(metrics.contains(&counted), "{metrics}");
        let why = format!("_config_refused{{code=\"{code}\"}} 1\n");
        assert!(metrics.contains(&why), "{metrics}");
        let event = relay.provider().send(&journey.post()).await.accepted();
        assert_eq!(service.next().await.event(), event);
    }
    assert_eq!(other.count(), 0);

    // Being refused leaves nothing behind: the next one is taken, however little it changes.
    agent.reload(|_| elsewhere.clone());
    agent.says("Configuration was read again").await;
    relay.provider().send(&journey.post()).await.accepted();
    other.wait_for(1).await;
    let status: Value = serde_json::from_str(&get(listener, "/status").await).unwrap();
    assert_eq!(status["config_refused"], Value::Null, "{status}");
    assert!(agent.is_running());
}

#[tokio::test]
async fn a_wrong_token_given_while_the_relay_is_away_does_not_end_the_agent() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let mut service = Service::start().await;
    let mut agent = Agent::run(&relay, &journey, &service.url());
    agent.says("\"Connected\"").await;
    relay.kill9();
    agent.says("No session with the relay").await;
    std::fs::write(agent.home().join("token"), "hf_agent_nonsense").unwrap();
    agent.reload(|config| config);
    agent
        .says("Opening a session with the new configuration")
        .await;
    relay.restart().await;
    agent.says("the old one stays\"").await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), event);
    assert!(agent.is_running());
}

#[tokio::test]
async fn a_token_is_exchanged_and_the_old_one_revoked() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let mut service = Service::start().await;
    let mut agent = Agent::run(&relay, &journey, &service.url());
    // A call holds the old session open while its token is revoked.
    service.answer(Answer::status(200).held());
    let held = relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    let tenant = &journey.tenant;
    let new = tenant.token("new", &["connect"]).await;
    std::fs::write(agent.home().join("token"), new).unwrap();
    agent.reload(|config| config);
    agent.says("Configuration was read again").await;
    tenant.api.delete("/tokens/agents").await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), event);
    service.release();
    tenant.delivery_is(&held, "delivered").await;
    assert!(agent.is_running());
}

async fn get(listener: SocketAddr, path: &str) -> String {
    let request = Request::new("GET", path).header("Connection", "close");
    let reply = Provider::new(listener).send(&request).await;
    reply.text()
}
