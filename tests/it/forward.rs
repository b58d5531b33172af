//! What agents call, and what they refuse to call: sockets, trust, lists, answers that go astray.

use hookferry_tests::{Agent, Answer, Relay, Service, certificate::Certificate};
use serde_json::json;

#[tokio::test]
async fn a_service_behind_a_unix_socket_gets_its_events() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let home = tempfile::tempdir().unwrap();
    let mut service = Service::start_unix(&home.path().join("app.sock"));
    let to = format!("{}:/hooks/", service.url());
    let _agent = Agent::plan(&relay, &journey, &to)
        .each_forward("host = \"app.corp\"")
        .run();

    let body = vec![7; 600_000];
    let request = journey.post().below("/eu?live=1").body(body.clone());
    let event = relay.provider().send(&request).await.accepted();
    let received = service.next().await;
    assert_eq!(
        (received.event(), received.target.as_str()),
        (event.clone(), "/hooks/eu?live=1")
    );
    assert_eq!(received.headers.text("host"), "app.corp");
    assert_eq!(received.body, body);
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn a_service_is_trusted_and_shown_a_certificate_as_configured() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let (own, clients) = (Certificate::generate(), Certificate::generate());
    let mut service = Service::start_tls(&own, Some(&clients)).await;
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, own.authority()).unwrap();
    let (certificate, key) = clients.write(files.path());

    let stranger = Agent::plan(&relay, &journey, &service.url())
        .each_forward(&format!("ca_file = {ca:?}"))
        .run();
    let event = relay.provider().send(&journey.post()).await.accepted();
    let attempts = hookferry_tests::eventually("an attempt", async || {
        let attempts = journey.tenant.attempts(&event).await;
        (!attempts.is_empty()).then_some(attempts)
    });
    assert_eq!(attempts.await[0]["failure"], "tls");
    drop(stranger);

    let _agent = Agent::plan(&relay, &journey, &service.url())
        .each_forward(&format!("ca_file = {ca:?}"))
        .each_forward(&format!("client_cert_file = {certificate:?}"))
        .each_forward(&format!("client_key_file = {key:?}"))
        .run();
    assert_eq!(service.next().await.event(), event);
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn an_insecure_service_is_called_and_complained_about() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let mut service = Service::start_tls(&Certificate::generate(), None).await;
    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .each_forward("insecure = true")
        .run();
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), event);
    agent.says("is NOT verified").await;
}

#[tokio::test]
async fn what_the_list_does_not_cover_is_not_called() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let service = Service::start().await;
    let port = service.addr().port();
    // A name to the agent, which the system turns into 127.0.0.1.
    let to = format!("http://2130706433:{port}");
    let _agent = Agent::plan(&relay, &journey, &to)
        .table("[limits]\nallow_targets = [\"10.0.0.0/8\", \"*.internal\"]")
        .run();
    refused(&relay, &journey, "127.0.0.1").await;
    assert_eq!(service.count(), 0);
}

#[tokio::test]
async fn a_name_that_leads_to_a_metadata_service_is_not_called() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, "http://2852039166/latest");
    refused(&relay, &journey, "169.254.169.254").await;
}

/// Sends an event that the agent refuses to forward, and looks for the reason.
async fn refused(relay: &Relay, journey: &hookferry_tests::Journey, reason: &str) {
    let event = relay.provider().send(&journey.post()).await.accepted();
    let attempts = hookferry_tests::eventually("an attempt", async || {
        let attempts = journey.tenant.attempts(&event).await;
        (!attempts.is_empty()).then_some(attempts)
    });
    let attempt = &attempts.await[0];
    assert_eq!(attempt["failure"], "refused", "{attempt}");
    assert!(attempt.to_string().contains(reason), "{attempt}");
}

#[tokio::test]
async fn a_target_that_never_can_pass_ends_the_agent_at_once() {
    for (to, list) in [
        ("http://169.254.169.254/latest", "\"0.0.0.0/0\""),
        ("http://app.corp", "\"*.internal\""),
        ("unix:/run/app.sock", "\"10.0.0.0/8\""),
    ] {
        let mut agent = Agent::anywhere("http://127.0.0.1:1", "hf_agent_x")
            .forward("billing", to)
            .table(&format!("[limits]\nallow_targets = [{list}]"))
            .run();
        assert_eq!(agent.exit_code().await, 4, "{}", agent.stderr());
        let said = agent.stderr();
        assert!(said.contains("forward billing: to: "), "{said}");
        assert!(said.contains("limits.allow_targets"), "{said}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let (service, elsewhere) = (Service::start().await, Service::start().await);
    for location in ["http://169.254.169.254/latest", &elsewhere.url()] {
        service.answer(Answer::status(307).header("location", location));
    }
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    let statuses: Vec<_> = attempts.iter().map(|attempt| &attempt["status"]).collect();
    assert_eq!(statuses, [&json!(307), &json!(307), &json!(200)]);
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn answers_that_are_huge_or_never_end_are_bounded() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let service = Service::start().await;
    service.answer(Answer::status(200).trickling());
    service.answer(Answer::status(200).body(vec![b'x'; 64 << 20]));
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .each_forward("timeout = \"500ms\"")
        .run();
    let event = relay.provider().send(&journey.post()).await.accepted();
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(attempts[0]["failure"], "timeout");
    let start = attempts[1]["response_start"]["value"].as_str().unwrap();
    assert_eq!(start.len(), 16 * 1024);
}
