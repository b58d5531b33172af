//! What a tenant may bring, and how long it is kept.

use std::{fs, path::Path};

use hookferry_tests::{Agent, Relay, Service, eventually::eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn a_tenant_over_its_quota_hears_when_to_come_back_and_others_notice_nothing() {
    let relay = Relay::plan()
        .set("quota-event-bytes-max", 1000)
        .start()
        .await;
    let journey = relay.journey("none").await;
    let (api, provider) = (relay.api(), relay.provider());
    let other = hookferry_tests::api::Tenant::create(&api, "other").await;
    let source = other.source("shop", "none", json!({})).await;
    let quota = json!({ "quota": { "stored_events_max": 3 } });
    api.patch("/tenants/acme", quota).await;

    let too_large = journey.post().body(vec![0; 1001]);
    provider
        .send(&too_large)
        .await
        .refused(413, "E-BODY-TOO-LARGE");
    for _ in 0..3 {
        provider.send(&journey.post().body("{}")).await.accepted();
    }
    let reply = provider.send(&journey.post().body("{}")).await;
    reply.refused(429, "E-QUOTA");
    assert_eq!(reply.headers.text("retry-after"), "60");
    let theirs = hookferry_tests::provider::Request::post(&source);
    provider.send(&theirs).await.accepted();

    let tenant = api.get("/tenants/acme").await;
    assert_eq!(tenant["usage"]["stored_events"], 3);
    assert_eq!(tenant["quota"]["stored_events_max"], 3);
    assert_eq!(tenant["quota"]["event_bytes_max"], Value::Null);
    assert_eq!(tenant["in_force"]["quota"]["event_bytes_max"], 1000);
    let metrics = metrics(&relay).await;
    for line in [
        "hookferry_ingress_over_quota_total 1",
        "hookferry_stored_events 4",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }

    let quota = json!({ "quota": { "stored_events_max": null, "ingest_per_second": 1 } });
    api.patch("/tenants/acme", quota).await;
    let reply = eventually("a refusal", async || {
        let reply = provider.send(&journey.post().body("{}")).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    reply.refused(429, "E-QUOTA");
    assert_eq!(reply.headers.text("retry-after"), "1");
}

async fn metrics(relay: &Relay) -> String {
    let admin = hookferry_tests::Provider::new(relay.admin());
    let request = hookferry_tests::provider::Request::new("GET", "/metrics");
    let reply = admin.send(&request).await;
    assert_eq!(reply.status, 200);
    String::from_utf8(reply.body.to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_kept_no_longer_leaves_lists_and_disk_and_what_is_owed_stays() {
    let mut relay = Relay::plan()
        .set("store-segment-bytes", 1 << 20)
        .set("retention-sweep-s", 1)
        .start()
        .await;
    let journey = relay.journey("none").await;
    let (api, provider) = (relay.api(), relay.provider());
    // No agent yet: it is owed.
    let owed = provider.send(&journey.post().body("owed")).await.accepted();
    let unrouted = journey.tenant.source("unrouted", "none", json!({})).await;
    let bulk = hookferry_tests::provider::Request::post(&unrouted).body(vec![7; 100_000]);
    for _ in 0..60 {
        provider.send(&bulk).await.accepted();
    }
    let full = bytes(&relay.data_dir().join("journal"));
    let retention = json!({ "retention": { "events_max": 10 } });
    api.patch("/tenants/acme", retention).await;

    eventually("old events to go", async || {
        let listed = journey.tenant.api.list("/events").await;
        (listed.len() <= 11).then_some(())
    })
    .await;
    eventually("the disk to have room again", async || {
        (bytes(&relay.data_dir().join("journal")) < full / 2).then_some(())
    })
    .await;
    relay.kill9();
    relay.restart().await;
    let mut service = Service::start().await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let call = service.next().await;
    assert_eq!((call.event(), &call.body[..]), (owed.clone(), &b"owed"[..]));
    journey.tenant.delivery_is(&owed, "delivered").await;
    relay.terminate().await;
    assert_eq!(relay.exit_code().await, 0);
    let check = relay
        .cli()
        .args(["store", "check", "--data-dir"])
        .arg(relay.data_dir())
        .output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}

fn bytes(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    let bytes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    bytes.sum()
}

#[tokio::test]
async fn what_is_erased_is_in_no_file_any_more() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let provider = relay.provider();
    let _agent = Agent::run(&relay, &journey, &service.url());
    let mut events = Vec::new();
    for person in ["ann", "bob", "ann"] {
        let body = format!("{{\"customer\":\"{person}@example.com\"}}");
        events.push(provider.send(&journey.post().body(body)).await.accepted());
        service.next().await;
    }
    for event in &events {
        journey.tenant.delivery_is(event, "delivered").await;
    }

    let filter = r#"{"body": {"customer": "ann@example.com"}}"#;
    let erase = |arguments: &[&str]| {
        let mut command = relay.cli();
        command.args(["erase", "--tenant", "acme", "--output", "json"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = erase(&["matching", "--filter", filter]);
    assert_eq!(told["events"], 2);
    let listed = erase(&["list"]);
    assert!(!listed.to_string().contains("ann"), "{listed}");
    let first = listed.get("data").unwrap_or(&listed)[0].clone();
    assert_eq!(
        (&first["done"], &first["events"]),
        (&true.into(), &2.into())
    );

    let api = &journey.tenant.api;
    let erased = api.get(&format!("/events/{}", events[0])).await;
    assert_eq!(
        (&erased["erased"], &erased["body_bytes"]),
        (&true.into(), &0.into())
    );
    let body = api
        .call("GET", &format!("/events/{}/body", events[0]), None)
        .await;
    body.refused(410, "E-ERASED");
    let path = format!("/events/{}/replay", events[0]);
    let replay = api.call("POST", &path, Some(&json!({}))).await;
    assert!(replay.status >= 400, "{replay:?}");
    assert_eq!(
        api.get(&format!("/events/{}", events[1])).await["erased"],
        false
    );

    relay.kill9();
    let journal = relay.data_dir().join("journal");
    let holds = |needle: &[u8]| {
        let files = fs::read_dir(&journal).unwrap();
        files
            .filter_map(|file| fs::read(file.ok()?.path()).ok())
            .any(|bytes| bytes.windows(needle.len()).any(|it| it == needle))
    };
    assert!(!holds(b"ann@example.com") && holds(b"bob@example.com"));
    relay.restart().await;
    journey.tenant.delivery_is(&events[0], "delivered").await;
}
