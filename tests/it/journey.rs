//! The main job: a provider's signed POST becomes durable, reaches the internal service byte for
//! byte through an agent that only dials out, and is acknowledged back.

use hookferry_tests::{Agent, Relay, Service};
use serde_json::json;

#[tokio::test]
async fn a_signed_event_reaches_the_service_and_is_acknowledged() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let _agent = Agent::run(&relay, &journey, &service.url());

    let body = r#"{ "id": "evt_1", "type": "invoice.paid",  "amount": 1.50 }"#;
    let request = journey
        .post()
        .below("/eu?live=1")
        .body(body)
        .stripe(&journey.source.secret);
    let event = relay.provider().send(&request).await.accepted();

    let received = service.next().await;
    assert_eq!(
        (received.method.as_str(), received.target.as_str()),
        ("POST", "/eu?live=1")
    );
    assert_eq!(received.body, body.as_bytes());
    assert_eq!(received.event(), event);
    assert_eq!(received.attempt(), 1);
    assert_eq!(received.headers.text("hookferry-source"), "shop");
    assert!(!received.headers.text("hookferry-received-at").is_empty());
    assert!(!received.headers.text("stripe-signature").is_empty());

    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!(attempts[0]["status"], 200);
    assert_eq!(
        attempts[0]["response_start"]["value"],
        "the service says 200"
    );

    let listed = journey.tenant.api.get(&format!("/events/{event}")).await;
    assert_eq!(listed["type"], "invoice.paid");
    assert_eq!(listed["provider_id"], "evt_1");
    assert_eq!(listed["target"], "/eu?live=1");
    assert_eq!(
        listed["verification"],
        json!({ "rule": "stripe", "secret": 0 })
    );
}
