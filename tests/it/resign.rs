//! Old signatures: a service that checks with the provider's own library accepts what has waited
//! longer than that library allows, and nothing else about the event has changed.

use hookferry_tests::{
    Agent, Journey, Received, Relay, Reply, Service, python, service::Answer, sign,
};
use serde_json::{Value, json};

const BODY: &str = "{ \"id\": \"evt_1\",  \"name\": \"Zo\u{eb} \u{1f680}\" }\n";

/// How old events are when they are accepted, in seconds: nearly as old as the relay takes them, and
/// older than the services of these tests do.
const AGE_S: u64 = 280;
const TOLERANCE_S: u64 = 200;

async fn set(journey: &Journey, what: &str) -> Value {
    let path = format!("/destinations/{}", journey.destination);
    let change = json!({ "old_signatures": what });
    journey.tenant.api.patch(&path, change).await
}

async fn keys(journey: &Journey) -> Vec<String> {
    let path = format!("/destinations/{}/signing-keys", journey.destination);
    let list = journey.tenant.api.get(&path).await;
    let keys = list["data"].as_array().unwrap().iter();
    keys.map(|key| key["key"].as_str().unwrap().to_owned())
        .collect()
}

/// Posts an event that is old already, before there is an agent.
async fn accept_old(relay: &Relay, journey: &Journey) -> String {
    let at_s = sign::now_s() - AGE_S;
    let request = journey
        .post()
        .below("/eu?live=1")
        .header("X-Own", "1")
        .body(BODY);
    let request = request.stripe_at(&journey.source.secret, at_s);
    relay.provider().send(&request).await.accepted()
}

fn is_whole(received: &Received) {
    assert_eq!(received.body, BODY.as_bytes());
    assert_eq!(received.target, "/eu?live=1");
    assert_eq!(received.headers.text("x-own"), "1");
}

fn stripe_says(journey: &Journey, received: &Received) -> String {
    python::verify("stripe", &journey.source.secret, TOLERANCE_S, received)
}

#[tokio::test]
async fn the_stripe_library_accepts_what_has_waited_if_the_relay_signs_it_again() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    accept_old(&relay, &journey).await;
    service.answer_usually(Answer::status(500));
    let agent = Agent::run(&relay, &journey, &service.url());

    let kept = service.next().await;
    is_whole(&kept);
    let verdict = stripe_says(&journey, &kept);
    assert!(verdict.contains("outside the tolerance"), "{verdict}");
    set(&journey, "refresh").await;
    let fresh = loop {
        let next = service.next().await;
        if next.headers.text("stripe-signature") != kept.headers.text("stripe-signature") {
            break next;
        }
    };
    is_whole(&fresh);
    assert_eq!(fresh.event(), kept.event());
    assert_eq!(stripe_says(&journey, &fresh), "ok");
    assert_eq!(fresh.headers.all("stripe-signature").count(), 1);
    drop(agent);

    let stored = journey
        .tenant
        .api
        .get(&format!("/events/{}", kept.event()))
        .await;
    assert!(
        stored["headers"]
            .to_string()
            .contains(&kept.headers.text("stripe-signature")),
        "the stored event never changes: {stored}"
    );
}

#[tokio::test]
async fn the_standard_webhooks_library_accepts_the_destinations_own_signature() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let shown = set(&journey, "add").await;
    assert!(!shown.to_string().contains("whsec_"), "{shown}");
    let key = keys(&journey).await.remove(0);
    let event = accept_old(&relay, &journey).await;
    service.answer(Answer::status(500));
    let _agent = Agent::run(&relay, &journey, &service.url());

    let first = service.next().await;
    let second = service.next().await;
    for received in [&first, &second] {
        is_whole(received);
        let verdict = python::verify("standardwebhooks", &key, TOLERANCE_S, received);
        assert_eq!(verdict, "ok");
        assert_eq!(
            received.headers.text("webhook-id"),
            event,
            "the same on every attempt"
        );
    }
    assert_eq!((first.attempt(), second.attempt()), (1, 2));
    let verdict = stripe_says(&journey, &second);
    assert!(
        verdict.contains("outside the tolerance"),
        "Stripe's own is kept: {verdict}"
    );

    let path = format!("/destinations/{}/signing-keys/rotate", journey.destination);
    journey.tenant.api.post(&path, json!({})).await;
    let both = keys(&journey).await;
    assert!(both.len() == 2 && both[1] == key);
    accept_new(&relay, &journey).await;
    let third = service.next().await;
    for key in &both {
        assert_eq!(
            python::verify("standardwebhooks", key, TOLERANCE_S, &third),
            "ok"
        );
    }
    journey
        .tenant
        .api
        .post(&path, json!({ "overlap_s": 0 }))
        .await;
    let new = keys(&journey).await.remove(0);
    accept_new(&relay, &journey).await;
    let fourth = service.next().await;
    assert_eq!(
        python::verify("standardwebhooks", &new, TOLERANCE_S, &fourth),
        "ok"
    );
    let verdict = python::verify("standardwebhooks", &key, TOLERANCE_S, &fourth);
    assert!(verdict.contains("No matching signature"), "{verdict}");
    assert!(!relay.output().contains(&key[6..]), "no key is in a log");
}

async fn accept_new(relay: &Relay, journey: &Journey) -> String {
    let body = format!("{{\"id\":\"evt_{}\"}}", rand::random::<u64>());
    let request = journey.post().body(body).stripe(&journey.source.secret);
    relay.provider().send(&request).await.accepted()
}

#[tokio::test]
async fn what_only_the_provider_can_sign_is_refused_when_it_is_saved() {
    let relay = Relay::start().await;
    let journey = relay.journey("stripe").await;
    set(&journey, "refresh").await;
    let api = &journey.tenant.api;
    let source = json!({
        "name": "bot",
        "preset": "discord-interactions",
        "public_keys": ["MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="],
    });
    api.post("/sources", source).await;
    let route = json!({ "source": "bot", "destination": journey.destination });
    let refused: Reply = api.call("POST", "/routes", Some(&route)).await;
    refused.refused(422, "E-INVALID");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("`bot`") && detail.contains("private key"),
        "{detail}"
    );
}
