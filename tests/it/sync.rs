//! Sync mode: the provider's request is held until the service has answered, and gets that answer.

use std::{collections::HashSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookferry_tests::{
    Agent, Answer, Connection, Journey, Provider, Relay, Reply, Request, Service, agent,
    eventually, pass, sign,
};
use ring::{hmac, signature::Ed25519KeyPair, signature::KeyPair as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Longer than anything here takes: only what must run out is given less.
const LONG_MS: u32 = 60_000;

/// A journey whose source has its providers wait.
async fn journey(relay: &Relay, sync: Value) -> Journey {
    Journey::create(&relay.api(), "none", json!({ "sync": sync })).await
}

/// Begins a request that will be held; its answer is read later.
async fn begin(provider: &Provider, request: &Request) -> Connection {
    let mut connection = provider.connect().await.unwrap();
    connection.begin(request).await.unwrap();
    connection
}

async fn answer(connection: &mut Connection) -> Reply {
    connection.read().await.unwrap().expect("an answer")
}

/// Starts an agent that serves the destination; returns once it does.
async fn serve(plan: agent::Plan, journey: &Journey) -> Agent {
    let agent = plan.run();
    until_served(journey).await;
    agent
}

async fn until_served(journey: &Journey) {
    eventually("an agent", async || {
        let destination = journey.tenant.api.get("/destinations/billing").await;
        let agents = destination["flow"]["agents"].as_array().unwrap();
        (!agents.is_empty()).then_some(())
    })
    .await;
}

/// The state of the only event's only delivery, once it is this.
async fn only_delivery_is(journey: &Journey, state: &str) -> String {
    let events = eventually("the event", async || {
        let events = journey.tenant.api.list("/events").await;
        (!events.is_empty()).then_some(events)
    });
    let events = events.await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = events[0]["id"].as_str().unwrap().to_owned();
    journey.tenant.delivery_is(&event, state).await;
    event
}

/// Bytes that no two offsets have alike.
fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn the_provider_gets_the_services_own_answer() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = journey(&relay, json!({})).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    let body: Vec<u8> = (0..=255).collect();
    service.answer(
        Answer::status(201)
            .header("Set-Cookie", "a=1")
            .header("X-Mixed-Case", "  kept: as it is  ")
            .header("set-cookie", "b=2; Path=/")
            .header("Location", "https://elsewhere.example/x?y#z")
            .header("Connection", "x-of-this-hop")
            .header("X-Of-This-Hop", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authenticate", "Basic")
            .header("Hookferry-Event-Id", "evt_forged")
            .header("Content-Type", "application/octet-stream")
            .body(body.clone()),
    );
    let request = journey.post().below("/a%2Fb?c=d").body("question");
    let reply = relay.provider().send(&request).await;

    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.body, body);
    let received = service.next().await;
    assert_eq!(
        (received.target.as_str(), received.body),
        ("/a%2Fb?c=d", b"question".to_vec())
    );
    let headers = &reply.headers;
    let cookies: Vec<_> = headers.all("set-cookie").collect();
    assert_eq!(cookies, [&b"a=1"[..], b"b=2; Path=/"]);
    assert_eq!(headers.text("x-mixed-case"), "kept: as it is");
    assert_eq!(headers.text("location"), "https://elsewhere.example/x?y#z");
    assert_eq!(headers.text("content-type"), "application/octet-stream");
    assert_eq!(headers.text("content-length"), "256");
    for gone in [
        "connection",
        "x-of-this-hop",
        "keep-alive",
        "proxy-authenticate",
        "hookferry-event-id",
        "transfer-encoding",
    ] {
        assert_eq!(headers.get(gone), None, "{gone}: {reply:?}");
    }
    only_delivery_is(&journey, "delivered").await;
}

#[tokio::test]
async fn every_status_is_passed_back() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "on_timeout": "expire" })).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    // On one connection, so that each answer ends where the next begins.
    let mut kept = relay.provider().connect().await.unwrap();
    for status in [200, 204, 302, 304, 404, 418, 422, 500, 503, 599] {
        service.answer(Answer::status(status).header("X-Status", &status.to_string()));
        let reply = kept.send(&journey.post()).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.headers.text("x-status"), status.to_string());
        let body = match status {
            204 | 304 => String::new(),
            _ => format!("the service says {status}"),
        };
        assert_eq!(reply.text(), body);
    }
    // What failed was answered: nobody waits for another attempt, and none is made.
    let states: HashSet<_> = journey
        .tenant
        .settled()
        .await
        .iter()
        .map(|delivery| delivery["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        states,
        HashSet::from(["delivered".to_owned(), "expired".to_owned()])
    );
    assert_eq!(service.count(), 10);
}

#[tokio::test]
async fn a_failure_that_was_passed_back_is_tried_again_where_events_are_kept() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({})).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(500));
    let reply = relay.provider().send(&journey.post()).await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (500, "the service says 500")
    );
    only_delivery_is(&journey, "delivered").await;
    assert_eq!(service.count(), 2);
}

#[tokio::test]
async fn a_large_answer_comes_whole_and_costs_little_memory() {
    const BYTES: usize = 48 << 20;
    const GROWTH_MAX: u64 = 24 << 20;
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({})).await;
    let agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    relay.provider().send(&journey.post()).await;
    let before = (relay.resident_bytes(), agent.resident_bytes());

    let body = pattern(BYTES);
    service.answer(Answer::status(200).body(body.clone()));
    let mut connection = begin(&relay.provider(), &journey.post()).await;
    // A provider that does not read makes the service wait, not the relay remember.
    pass(Duration::from_millis(500)).await;
    let grown = (
        relay.resident_bytes().saturating_sub(before.0),
        agent.resident_bytes().saturating_sub(before.1),
    );
    assert!(grown.0 < GROWTH_MAX && grown.1 < GROWTH_MAX, "{grown:?}");
    let reply = answer(&mut connection).await;
    assert_eq!(reply.headers.text("content-length"), BYTES.to_string());
    assert_eq!(sign::digest(&reply.body), sign::digest(&body));
    only_events_delivered(&journey, 2).await;
}

async fn only_events_delivered(journey: &Journey, count: usize) {
    let deliveries = journey.tenant.settled().await;
    assert_eq!(deliveries.len(), count);
    let is_delivered = |delivery: &Value| delivery["state"] == "delivered";
    assert!(deliveries.iter().all(is_delivered), "{deliveries:?}");
}

#[tokio::test]
async fn a_large_answer_comes_whole_over_single_requests() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let plan = Agent::plan(&relay, &journey, &service.url());
    let _agent = serve(plan.line("transport = \"poll\""), &journey).await;
    let body = pattern(9 << 20);
    service.answer(Answer::status(200).body(body.clone()));
    let reply = relay.provider().send(&journey.post()).await;
    assert_eq!(sign::digest(&reply.body), sign::digest(&body));
}

#[tokio::test]
async fn an_answer_is_passed_on_while_it_is_made() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": 300 })).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    let parts: Vec<_> = ["one ", "two ", "three"]
        .map(|part| part.as_bytes().to_vec())
        .into();
    service.answer(
        Answer::status(200)
            .header("X-Begun", "yes")
            .in_parts(parts.clone()),
    );
    let mut connection = begin(&relay.provider(), &journey.post()).await;

    let head = connection.read_head().await.unwrap().unwrap();
    assert_eq!(
        (head.status, head.headers.text("x-begun").as_str()),
        (200, "yes")
    );
    assert_eq!(head.headers.text("transfer-encoding"), "chunked");
    // The time that a provider waits is the time to the answer's beginning, not to its end.
    pass(Duration::from_millis(500)).await;
    for part in parts {
        service.release();
        assert_eq!(connection.read_chunk().await.unwrap(), part);
    }
    assert_eq!(connection.read_chunk().await.unwrap(), b"");
    only_delivery_is(&journey, "delivered").await;
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn who_waits_too_long_gets_the_configured_answer_and_the_event_is_delivered_later() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let sync = json!({
        "timeout_ms": 300,
        "answer": { "status": 202, "headers": [["Content-Type", "text/plain"], ["X-Later", "1"]], "body": "working on it" },
    });
    let journey = journey(&relay, sync).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).held());
    let reply = relay.provider().send(&journey.post()).await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (202, "working on it")
    );
    assert_eq!(reply.headers.text("content-type"), "text/plain");
    assert_eq!(reply.headers.text("x-later"), "1");

    only_delivery_is(&journey, "pending").await;
    service.release();
    only_delivery_is(&journey, "delivered").await;
    assert_eq!(service.count(), 1, "the attempt went on");
}

#[tokio::test]
async fn who_waits_too_long_is_refused_where_events_expire_and_may_ask_again() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let sync = json!({ "timeout_ms": 300, "on_timeout": "expire" });
    let settings = json!({ "sync": sync });
    let journey = Journey::create(&relay.api(), "github", settings).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).held());
    let request = journey
        .post()
        .body("{}")
        .github(&journey.source.secret, "one");
    let reply = relay.provider().send(&request).await;
    reply.refused(504, "E-UNANSWERED");
    assert!(!reply.headers.text("retry-after").is_empty());
    let event = only_delivery_is(&journey, "expired").await;
    service.release();

    // The provider's repeat is a call of its own.
    service.answer(Answer::status(200).body(b"at last".to_vec()));
    let answered = eventually("an answer", async || {
        let reply = relay.provider().send(&request).await;
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(answered.await.text(), "at last");
    let deliveries = journey.tenant.settled().await;
    let delivered = deliveries
        .iter()
        .filter(|delivery| delivery["state"] == "delivered");
    assert_eq!(delivered.count(), 1, "{deliveries:?}");
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery["event"] == event.as_str())
    );
}

#[tokio::test]
async fn nobody_waits_for_an_agent_that_is_not_there() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let kept = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let sync = json!({ "sync": { "timeout_ms": LONG_MS, "on_timeout": "expire" } });
    let expiring = kept.tenant.source("expiring", "none", sync).await;
    kept.tenant.route("expiring", "billing").await;

    let event = relay.provider().send(&kept.post()).await.accepted();
    let reply = relay.provider().send(&Request::post(&expiring)).await;
    reply.refused(504, "E-UNANSWERED");
    let deliveries = kept.tenant.api.list("/deliveries").await;
    let in_state = |state: &str| deliveries.iter().filter(|it| it["state"] == state).count();
    assert_eq!(
        (in_state("pending"), in_state("expired")),
        (1, 1),
        "{deliveries:?}"
    );

    let _agent = Agent::run(&relay, &kept, &service.url());
    assert_eq!(service.next().await.event(), event);
    kept.tenant.settled().await;
    assert_eq!(service.count(), 1, "what has expired is not delivered");
}

#[tokio::test]
async fn nobody_waits_for_a_destination_that_is_paused() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    let api = &journey.tenant.api;
    api.post("/destinations/billing/pause", json!({})).await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    api.post("/destinations/billing/resume", json!({})).await;
    assert_eq!(service.next().await.event(), event);
}

#[tokio::test]
async fn an_event_that_goes_nowhere_is_answered_at_once() {
    let relay = Relay::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let routes = journey.tenant.api.list("/routes").await;
    let route = routes[0]["id"].as_str().unwrap();
    journey.tenant.api.delete(&format!("/routes/{route}")).await;
    relay.provider().send(&journey.post()).await.accepted();
}

#[tokio::test]
async fn an_agent_that_dies_while_the_service_works() {
    let relay = Relay::plan().set("session-grace-s", 1).start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": 2000 })).await;
    let mut agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).held());
    let mut connection = begin(&relay.provider(), &journey.post()).await;
    service.wait_for(1).await;
    agent.kill9();
    answer(&mut connection).await.accepted();

    agent.restart();
    let event = only_delivery_is(&journey, "delivered").await;
    assert_eq!(journey.tenant.attempts(&event).await.len(), 2);
}

#[tokio::test]
async fn an_agent_that_comes_back_in_time_answers_all_the_same() {
    let relay = Relay::plan().set("session-grace-s", 1).start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let mut agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).held());
    service.answer(Answer::status(200).body(b"the second one's".to_vec()));
    let mut connection = begin(&relay.provider(), &journey.post()).await;
    service.wait_for(1).await;
    agent.kill9();
    agent.restart();
    assert_eq!(answer(&mut connection).await.text(), "the second one's");
}

#[tokio::test]
async fn an_agent_that_dies_in_the_middle_of_an_answer() {
    let relay = Relay::plan().set("session-grace-s", 1).start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({})).await;
    let mut agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).in_parts(vec![b"half".to_vec(), b" and half".to_vec()]));
    let mut connection = begin(&relay.provider(), &journey.post()).await;
    service.release();
    connection.read_head().await.unwrap().unwrap();
    assert_eq!(connection.read_chunk().await.unwrap(), b"half");
    agent.kill9();
    let broken = connection.read_chunk().await;
    assert!(broken.is_err(), "what is missing must show: {broken:?}");

    // The event is owed as before.
    agent.restart();
    let event = only_delivery_is(&journey, "delivered").await;
    assert_eq!(journey.tenant.attempts(&event).await.len(), 2);
}

#[tokio::test]
async fn a_provider_that_hangs_up_changes_nothing() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "on_timeout": "expire" })).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer(Answer::status(200).held().body(pattern(4 << 20)));
    let connection = begin(&relay.provider(), &journey.post()).await;
    service.wait_for(1).await;
    drop(connection);
    service.release();
    only_delivery_is(&journey, "delivered").await;
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn a_relay_that_stops_lets_agents_answer_what_they_have() {
    let mut relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let agent = Agent::plan(&relay, &journey, &service.url());
    let _agent = serve(agent.each_forward("concurrency = 1"), &journey).await;
    service.answer(Answer::status(200).held().body(pattern(1 << 20)));
    let mut in_hand = begin(&relay.provider(), &journey.post()).await;
    service.wait_for(1).await;
    // The agent takes a few ahead; the last one is in nobody's hands.
    let mut others = Vec::new();
    for held in 2..=8 {
        others.push(begin(&relay.provider(), &journey.post()).await);
        eventually("all to be held", async || {
            let source = journey.tenant.api.get("/sources/shop").await;
            (source["sync"]["held"] == held).then_some(())
        })
        .await;
    }
    let mut last = others.pop().unwrap();

    relay.terminate().await;
    answer(&mut last).await.accepted();
    service.release();
    let reply = answer(&mut in_hand).await;
    assert_eq!(sign::digest(&reply.body), sign::digest(&pattern(1 << 20)));
    assert_eq!(relay.exit_code().await, 0);
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let relay = Relay::plan()
        .set("limits-held-requests-max", 8)
        .start()
        .await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let sync = json!({ "sync": { "timeout_ms": LONG_MS } });
    let mut sources = vec![journey.source.clone()];
    for name in ["second", "third"] {
        sources.push(journey.tenant.source(name, "none", sync.clone()).await);
        journey.tenant.route(name, "billing").await;
    }
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    service.answer_usually(Answer::status(200).held());
    let provider = relay.provider();
    let mut held = Vec::new();
    for (number, source) in [0, 0, 1, 1].into_iter().enumerate() {
        held.push(begin(&provider, &Request::post(&sources[source])).await);
        service.wait_for(number + 1).await;
    }
    // Two of a source, four of a tenant, at most.
    for (source, whose) in [(0, "the source"), (2, "the tenant")] {
        let reply = provider.send(&Request::post(&sources[source])).await;
        reply.refused(429, "E-TOO-MANY-WAITING");
        assert!(!reply.headers.text("retry-after").is_empty());
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(whose), "{detail}");
    }
    assert_eq!(journey.tenant.api.list("/events").await.len(), 4);

    for mut connection in held {
        service.release();
        let _ = answer(&mut connection).await;
    }
    service.answer_usually(Answer::status(200));
    let again = provider.send(&Request::post(&sources[2])).await;
    assert_eq!(
        again.text(),
        "the service says 200",
        "places are given back"
    );
}

#[tokio::test]
async fn a_thousand_wait_at_a_time_and_each_gets_its_own_answer() {
    const REQUESTS: usize = 1000;
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let agent = Agent::plan(&relay, &journey, &service.url());
    let _agent = serve(agent.each_forward("concurrency = 1000"), &journey).await;
    service.answer_usually(Answer::status(200).echoing().held());
    let body = |number: usize| format!("{number}:{}", "x".repeat(number * 7 % 4096)).into_bytes();
    let mut waiting = JoinSet::new();
    for number in 0..REQUESTS {
        let (provider, request) = (relay.provider(), journey.post().body(body(number)));
        waiting.spawn(async move {
            let mut connection = begin(&provider, &request).await;
            (number, answer(&mut connection).await)
        });
    }
    // All of them are at the service at the same time, and nobody has an answer.
    service.wait_for(REQUESTS).await;
    assert!(waiting.try_join_next().is_none());
    for _ in 0..REQUESTS {
        service.release();
    }
    while let Some(answered) = waiting.join_next().await {
        let (number, reply) = answered.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(
            reply.body == body(number),
            "{number} got another's answer: {reply:?}"
        );
    }
    only_events_delivered(&journey, REQUESTS).await;
    assert_eq!(service.count(), REQUESTS, "each was called once");
}

#[tokio::test]
async fn a_repeat_gets_the_answer_that_the_first_one_gets() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let sync = json!({ "sync": { "timeout_ms": 10_000 } });
    let journey = Journey::create(&relay.api(), "github", sync).await;
    let _agent = serve(Agent::plan(&relay, &journey, &service.url()), &journey).await;
    let request = journey
        .post()
        .body("{}")
        .github(&journey.source.secret, "one");
    service.answer(Answer::status(201).held().body(pattern(10_000)));
    let mut first = begin(&relay.provider(), &request).await;
    service.wait_for(1).await;
    let mut second = begin(&relay.provider(), &request).await;
    eventually("both to be held", async || {
        let source = journey.tenant.api.get("/sources/shop").await;
        (source["sync"]["held"] == 2).then_some(())
    })
    .await;
    // What comes to the journal after the repeat, and is at the service: the repeat waits by now.
    let after = journey.post().body("{}");
    let after = after.github(&journey.source.secret, "two");
    let _after = begin(&relay.provider(), &after).await;
    service.wait_for(2).await;
    service.release();
    for connection in [&mut first, &mut second] {
        let reply = answer(connection).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(sign::digest(&reply.body), sign::digest(&pattern(10_000)));
    }

    // Once it is done, the repeat hears that the event was taken, and the service nothing.
    only_events_delivered(&journey, 2).await;
    let third = relay.provider().send(&request).await;
    let event = third.accepted();
    journey.tenant.delivery_is(&event, "delivered").await;
    assert_eq!(service.count(), 2, "each event was called once");
}

#[tokio::test]
async fn one_of_several_destinations_answers() {
    let relay = Relay::start().await;
    let (answering, other) = (Service::start().await, Service::start().await);
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    journey.tenant.destination("audit", json!({})).await;
    let api = &journey.tenant.api;
    let route = json!({ "source": "shop", "destination": "audit" });
    let ambiguous = api.call("POST", "/routes", Some(&route)).await;
    assert_eq!(ambiguous.status, 422, "{ambiguous:?}");
    assert!(
        ambiguous.text().contains("sync.destination"),
        "{ambiguous:?}"
    );

    let sync = json!({ "sync": { "timeout_ms": LONG_MS, "destination": "billing" } });
    api.patch("/sources/shop", sync).await;
    journey.tenant.route("shop", "audit").await;
    let agent = Agent::plan(&relay, &journey, &answering.url());
    let _agent = serve(agent.forward("audit", &other.url()), &journey).await;
    answering.answer(Answer::status(200).body(b"mine".to_vec()));
    other.answer(Answer::status(500));
    let reply = relay.provider().send(&journey.post()).await;
    assert_eq!(reply.text(), "mine");
    only_events_delivered(&journey, 2).await;
    assert_eq!((answering.count(), other.count()), (1, 2));
}

#[tokio::test]
async fn a_held_request_overtakes_a_backlog() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = journey(&relay, json!({ "timeout_ms": LONG_MS })).await;
    let plain = journey.tenant.source("plain", "none", json!({})).await;
    journey.tenant.route("plain", "billing").await;
    let agent = Agent::plan(&relay, &journey, &service.url());
    let _agent = serve(agent.each_forward("concurrency = 1"), &journey).await;
    service.answer_usually(Answer::status(200).held());
    for number in 0..40 {
        let request = Request::post(&plain).body(number.to_string());
        relay.provider().send(&request).await.accepted();
    }
    service.wait_for(1).await;
    let mut connection = begin(&relay.provider(), &journey.post().body("urgent")).await;
    eventually("the event", async || {
        (journey.tenant.api.list("/events").await.len() == 41).then_some(())
    })
    .await;
    for _ in 0..41 {
        service.release();
    }
    let reply = answer(&mut connection).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    journey.tenant.settled().await;
    let mut before = 0;
    while service.next().await.body != b"urgent" {
        before += 1;
    }
    // The agent has a few in hand already: twice its concurrency, and one that it had answered.
    assert!(before < 10, "{before} went first");
}

#[tokio::test]
async fn settings_are_checked_and_shown() {
    let relay = Relay::start().await;
    let journey = journey(
        &relay,
        json!({ "on_timeout": "expire", "timeout_ms": 1500 }),
    )
    .await;
    let api = &journey.tenant.api;
    let shown = api.get("/sources/shop").await;
    assert_eq!(
        shown["sync"],
        json!({ "destination": "billing", "timeout_ms": 1500, "on_timeout": "expire", "answer": null, "held": 0 })
    );
    for wrong in [
        json!({ "timeout_ms": 0 }),
        json!({ "timeout_ms": 60_001 }),
        json!({ "destination": "nowhere" }),
        json!({ "answer": { "status": 101 } }),
        json!({ "answer": { "status": 204, "body": "x" } }),
        json!({ "answer": { "status": 200, "headers": [["Content-Length", "7"]] } }),
        json!({ "answer": { "status": 200, "headers": [["X", "a\nb"]] } }),
    ] {
        let reply = api
            .call("PATCH", "/sources/shop", Some(&json!({ "sync": wrong })))
            .await;
        assert_eq!(reply.status, 422, "{wrong}: {reply:?}");
        assert!(reply.text().contains("sync."), "{wrong}: {reply:?}");
    }
    api.patch("/sources/shop", json!({ "sync": null })).await;
    assert_eq!(api.get("/sources/shop").await["sync"], Value::Null);
    relay.provider().send(&journey.post()).await.accepted();
}

/// A source of a preset in sync mode, with an agent that serves it.
async fn preset(relay: &Relay, service: &Service, settings: Value) -> (Journey, Agent) {
    let mut settings = settings;
    settings["sync"] = json!({});
    let preset = settings["preset"].as_str().unwrap().to_owned();
    let journey = Journey::create(&relay.api(), &preset, settings).await;
    let agent = serve(Agent::plan(relay, &journey, &service.url()), &journey).await;
    (journey, agent)
}

/// The service answers one request, and lets the time run out for another.
async fn answered_and_late(relay: &Relay, service: &Service, request: &Request) -> [Reply; 2] {
    service.answer(Answer::status(200).body(b"the service's".to_vec()));
    let answered = relay.provider().send(request).await;
    service.answer(Answer::status(200).held());
    let late = relay.provider().send(request).await;
    service.release();
    [answered, late]
}

#[tokio::test]
async fn slack_commands() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let settings = json!({ "preset": "slack", "secret": "a secret of this test" });
    let (journey, _agent) = preset(&relay, &service, settings).await;
    let shown = journey.tenant.api.get("/sources/shop").await;
    assert_eq!(shown["sync"]["timeout_ms"], 2500, "Slack waits 3 s");
    let body = "command=%2Fdeploy&text=now&trigger_id=1";
    let time = sign::now_s().to_string();
    let parts = [b"v0:", time.as_bytes(), b":", body.as_bytes()];
    let mac = sign::hmac_sha256(b"a secret of this test", &parts);
    let request = journey
        .post()
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Slack-Request-Timestamp", &time)
        .header("X-Slack-Signature", format!("v0={}", hex::encode(mac)))
        .body(body);
    let [answered, late] = answered_and_late(&relay, &service, &request).await;
    assert_eq!(answered.text(), "the service's");
    assert_eq!(
        (late.status, late.body.as_slice()),
        (200, &b""[..]),
        "an empty 200 says: taken"
    );
    only_events_delivered(&journey, 2).await;
}

#[tokio::test]
async fn twilio_messages() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let settings = json!({ "preset": "twilio", "secret": "a token of this test" });
    let (journey, _agent) = preset(&relay, &service, settings).await;
    let shown = journey.tenant.api.get("/sources/shop").await;
    assert_eq!(shown["sync"]["timeout_ms"], 10_000, "Twilio waits 15 s");
    let sync = json!({ "timeout_ms": 300 });
    journey
        .tenant
        .api
        .patch("/sources/shop", json!({ "sync": sync }))
        .await;
    let url = format!("{}{}", relay.url(), journey.source.path);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"a token of this test");
    let signed = hmac::sign(&key, format!("{url}BodyhelloFrom+1555").as_bytes());
    let request = journey
        .post()
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Twilio-Signature", STANDARD.encode(signed))
        .body("From=%2B1555&Body=hello");
    let [answered, late] = answered_and_late(&relay, &service, &request).await;
    assert_eq!(answered.text(), "the service's");
    assert_eq!((late.status, late.text().as_str()), (200, "<Response/>"));
    assert_eq!(late.headers.text("content-type"), "text/xml");
}

#[tokio::test]
async fn discord_interactions() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let keys = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = hex::encode(keys.public_key());
    let settings =
        json!({ "preset": "discord-interactions", "secret": null, "public_keys": [public] });
    let (journey, _agent) = preset(&relay, &service, settings).await;
    let shown = journey.tenant.api.get("/sources/shop").await;
    assert_eq!(shown["sync"]["timeout_ms"], 2500, "Discord waits 3 s");
    let signed = |body: &str| {
        let time = sign::now_s().to_string();
        let signature = keys.sign(format!("{time}{body}").as_bytes());
        let request = journey.post().header("Content-Type", "application/json");
        request
            .header("X-Signature-Timestamp", &time)
            .header("X-Signature-Ed25519", hex::encode(signature))
            .body(body)
    };
    // The challenge is answered by the relay, without waiting for anybody.
    let ping = relay.provider().send(&signed(r#"{"type":1}"#)).await;
    assert_eq!(ping.json(), json!({ "type": 1 }));
    assert_eq!(service.count(), 0);
    let command = signed(r#"{"id":"1","type":2,"data":{"name":"deploy"}}"#);
    service.answer(Answer::status(200).body(br#"{"type":4}"#.to_vec()));
    let answered = relay.provider().send(&command).await;
    assert_eq!(answered.json(), json!({ "type": 4 }));
    service.answer(Answer::status(200).held());
    let command = signed(r#"{"id":"2","type":2,"data":{"name":"deploy"}}"#);
    let late = relay.provider().send(&command).await;
    assert_eq!(late.json(), json!({ "type": 5 }), "an answer will follow");
    assert_eq!(late.headers.text("content-type"), "application/json");
    service.release();
}
