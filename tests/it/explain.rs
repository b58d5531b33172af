//! Why an event is where it is, for people and programs.

use hookferry_tests::{Agent, Answer, Journey, Relay, Service, eventually};
use serde_json::{Value, json};

async fn explanation(journey: &Journey, event: &str) -> Value {
    let path = format!("/events/{event}/explain");
    journey.tenant.api.get(&path).await
}

/// What the lines of a timeline are about, in order.
fn whats(explanation: &Value) -> Vec<String> {
    let entries = explanation["timeline"].as_array().unwrap().iter();
    let what = |entry: &Value| entry["what"].as_str().unwrap().to_owned();
    entries.map(what).collect()
}

/// Waits until the only delivery of an event waits for these reasons, and returns the first.
async fn waits_for(journey: &Journey, event: &str, reasons: &[&str]) -> Value {
    let what = format!("{event} to wait for {reasons:?}");
    eventually(what, async || {
        let explained = explanation(journey, event).await;
        let waits = explained["deliveries"][0]["waits"].as_array()?.clone();
        let found: Vec<_> = waits.iter().map(|wait| wait["reason"].as_str()).collect();
        let wanted: Vec<_> = reasons.iter().map(|reason| Some(*reason)).collect();
        (found == wanted).then(|| waits[0].clone())
    })
    .await
}

#[tokio::test]
async fn an_event_tells_its_story() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let api = &journey.tenant.api;
    journey.tenant.destination("audit", json!({})).await;
    let filter = json!({ "body": { "amount": { "$gt": 100 } } });
    let route = json!({ "source": "shop", "destination": "audit", "filter": filter });
    api.post("/routes", route).await;

    let body = r#"{"id": "evt_of_stripe", "type": "charge.failed", "amount": 7}"#;
    let request = || {
        let request = journey.post().body(body);
        request.stripe(&journey.source.secret)
    };
    let event = relay.provider().send(&request()).await.accepted();
    assert_eq!(relay.provider().send(&request()).await.status, 200);
    assert_eq!(relay.provider().send(&request()).await.status, 200);
    waits_for(&journey, &event, &["no_agent"]).await;

    service.answer(Answer::status(503));
    service.answer(Answer::status(200).held());
    let _agent = Agent::run(&relay, &journey, &service.url());
    assert_eq!(service.next().await.attempt(), 1);
    assert_eq!(service.next().await.attempt(), 2);
    let leased = waits_for(&journey, &event, &["leased"]).await;
    assert!(leased["agent"].as_str().unwrap().starts_with("agt_"));
    assert!(leased["until"].is_string(), "{leased}");
    service.release();
    journey.tenant.delivery_is(&event, "delivered").await;

    let explained = explanation(&journey, &event).await;
    let rule = json!({ "rule": "stripe", "secret": 1 });
    assert_eq!(explained["verification"], rule);
    assert_eq!(explained["dedupe"]["provider_id"], "evt_of_stripe");
    assert_eq!(explained["dedupe"]["repeats"], 2);
    let routes = explained["routes"].as_array().unwrap();
    let said = |index: usize| {
        let route = &routes[index];
        (route["name"].as_str(), route["matched"].as_bool())
    };
    assert_eq!(said(0), (Some("shop-billing"), Some(true)));
    assert_eq!(said(1), (Some("shop-audit"), Some(false)));
    assert_eq!(routes[1]["unmet"], "/body/amount/$gt");
    let attempts = explained["deliveries"][0]["attempts"].as_array().unwrap();
    let statuses: Vec<_> = attempts.iter().map(|it| it["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(503), Some(200)]);
    let start = &attempts[0]["response_start"]["value"];
    assert_eq!(start, "the service says 503");
    let expected = [
        "received",
        "verified",
        "dedupe",
        "route",
        "route",
        "repeated",
        "attempt",
        "attempt",
        "delivered",
    ];
    assert_eq!(whats(&explained), expected);
    assert!(!explained.to_string().contains(&journey.source.secret));

    told_within_80_columns(&relay, &event, &explained);
}

/// The command line tells the same, for people and for programs.
fn told_within_80_columns(relay: &Relay, event: &str, explained: &Value) {
    let cli = |more: &[&str]| {
        let line = ["events", "explain", event, "--tenant", "acme"];
        let output = relay.cli().args(line).args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = cli(&[]);
    assert!(
        told.lines().all(|line| line.chars().count() <= 80),
        "{told}"
    );
    for part in ["/body/amount/$gt of its", "answered 503", "2 times"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let same: Value = serde_json::from_str(&cli(&["--output", "json"])).unwrap();
    assert_eq!(&same, explained);
}

#[tokio::test]
async fn what_waits_says_why() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let settings = json!({ "retry": { "schedule_ms": [3_600_000] } });
    api.patch("/destinations/billing", settings).await;
    let event = relay.provider().send(&journey.post()).await.accepted();

    let until = "2099-01-31T00:00:00.000Z";
    let pause = json!({ "until": until });
    api.post("/destinations/billing/pause", pause).await;
    let waits = waits_for(&journey, &event, &["paused"]).await;
    assert_eq!(waits["until"], until);

    service.answer_usually(Answer::status(500));
    let _agent = Agent::run(&relay, &journey, &service.url());
    api.post("/destinations/billing/resume", json!({})).await;
    assert_eq!(service.next().await.event(), event);
    let waits = waits_for(&journey, &event, &["retry"]).await;
    let due = journey.tenant.delivery(&event).await["next_attempt_at"].clone();
    assert_eq!(waits["until"], due);
}

#[tokio::test]
async fn an_outage_is_named_with_its_next_try() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let settings = json!({ "breaker": { "failures": 1 } });
    journey
        .tenant
        .api
        .patch("/destinations/billing", settings)
        .await;
    let nobody = hookferry_tests::ports::free();
    let _agent = Agent::run(&relay, &journey, &format!("http://{nobody}"));
    let event = relay.provider().send(&journey.post()).await.accepted();
    eventually("the breaker to be the reason", async || {
        let explained = explanation(&journey, &event).await;
        let waits = explained["deliveries"][0]["waits"].as_array()?.clone();
        let outage = waits.iter().find(|wait| wait["reason"] == "outage")?;
        outage["text"]
            .as_str()
            .unwrap()
            .contains("breaker")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_explanation_belongs_to_its_tenant() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    let stranger = hookferry_tests::Tenant::create(&relay.api(), "stranger").await;
    let path = format!("/events/{event}/explain");
    assert_eq!(stranger.api.call("GET", &path, None).await.status, 404);
}
