//! Dead letters, and many events delivered again.

use std::collections::HashSet;

use hookferry_tests::{Agent, Answer, Api, Journey, Relay, Service, eventually};
use serde_json::{Value, json};

/// Runs a command for the tenant and returns what it prints.
fn cli(relay: &Relay, line: &str) -> String {
    let line = format!("{line} --tenant acme");
    let output = relay.cli().args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// Accepts so many events whose deliveries die, and returns them.
async fn dead_letters(
    relay: &Relay,
    journey: &Journey,
    service: &Service,
    count: usize,
) -> Vec<String> {
    service.answer_usually(Answer::status(410));
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(relay.provider().send(&journey.post()).await.accepted());
    }
    eventually("all of them to be dead", async || {
        let dead = journey.tenant.api.list("/dead-letters").await;
        (dead.len() == count).then_some(())
    })
    .await;
    events
}

/// Waits until a replay is in this state, and returns it.
async fn replay_is(api: &Api, replay: &str, state: &str) -> Value {
    eventually(format!("{replay} to be {state}"), async || {
        let job = api.get(&format!("/replays/{replay}")).await;
        (job["state"] == state && !job["ended_at"].is_null()).then_some(job)
    })
    .await
}

#[tokio::test]
async fn dead_letters_are_found_and_replayed_by_a_filter() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let events = dead_letters(&relay, &journey, &service, 3).await;
    for _ in &events {
        service.next().await;
    }

    let letters = api
        .list("/dead-letters?destination=billing&status=4xx&since=1h")
        .await;
    let found: HashSet<_> = letters
        .iter()
        .map(|it| it["event"].as_str().unwrap())
        .collect();
    assert_eq!(found, events.iter().map(String::as_str).collect());
    assert_eq!(letters[0]["reason"], "permanent");
    assert!(api.list("/dead-letters?status=5xx").await.is_empty());
    assert!(api.list("/dead-letters?failure=connect").await.is_empty());
    assert!(api.list("/dead-letters?until=1h").await.is_empty());
    let one = api.get(&format!("/dead-letters/{}", id(&letters[0]))).await;
    assert_eq!(one["tried"][0]["status"], 410);
    let refused = api.call("GET", "/dead-letters?status=oops", None).await;
    assert_eq!(refused.status, 400);
    let listed = cli(&relay, "dead-letters list --last 410");
    assert!(listed.contains(&id(&letters[0])), "{listed}");

    let dry = cli(
        &relay,
        "replays create --dead-letters --destination billing --dry-run -o json",
    );
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!((&dry["total"], &dry["complete"]), (&json!(3), &json!(true)));
    assert!(api.list("/replays").await.is_empty());

    service.answer_usually(Answer::status(200));
    let made = cli(&relay, "replays create --dead-letters --last 410 -o json");
    let made: Value = serde_json::from_str(&made).unwrap();
    let job = replay_is(api, &id(&made), "done").await;
    let counts = ["total", "made", "open", "done", "failed"].map(|name| job[name].as_u64());
    assert_eq!(counts, [3, 3, 0, 3, 0].map(Some));
    for _ in &events {
        let received = service.next().await;
        assert!(events.contains(&received.event()));
        assert_eq!(received.headers.text("hookferry-replay"), id(&made));
    }
    assert_eq!(service.count(), 6);
    assert!(api.list("/dead-letters").await.is_empty());
    let listed = cli(&relay, "replays list");
    assert!(
        listed.contains(&id(&made)) && listed.contains("done"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_killed_relay_goes_on_and_replays_nothing_twice() {
    const COUNT: usize = 60;
    let mut relay = Relay::start().await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = journey.tenant.api.clone();
    let mut agent = Agent::run(&relay, &journey, &service.url());
    dead_letters(&relay, &journey, &service, COUNT).await;
    service.answer_usually(Answer::status(200));
    let asked = json!({ "dead_letters": {}, "rate_per_second": 20 });
    let replay = id(&api.post("/replays", asked).await);
    eventually("some to be replayed", async || {
        let job = api.get(&format!("/replays/{replay}")).await;
        (job["made"].as_u64().unwrap() >= 5).then_some(())
    })
    .await;
    relay.kill9();
    relay.restart().await;
    agent.kill9();
    agent.restart();
    let job = replay_is(&api, &replay, "done").await;
    assert_eq!(job["made"], COUNT);
    let made = api.list(&format!("/deliveries?replay={replay}")).await;
    let events: HashSet<_> = made.iter().map(|row| row["event"].to_string()).collect();
    assert_eq!((made.len(), events.len()), (COUNT, COUNT), "each once");
}

#[tokio::test]
async fn a_replay_is_paused_resumed_and_cancelled() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let _agent = Agent::run(&relay, &journey, &service.url());
    dead_letters(&relay, &journey, &service, 5).await;
    let asked = json!({ "dead_letters": {}, "rate_per_second": 1 });
    let replay = id(&api.post("/replays", asked).await);
    let paused = cli(&relay, &format!("replays pause {replay}"));
    assert!(paused.contains("state: paused"), "{paused}");
    let before = api.get(&format!("/replays/{replay}")).await["made"].clone();
    let resumed = cli(&relay, &format!("replays resume {replay}"));
    assert!(resumed.contains("state: running"), "{resumed}");
    eventually("it to go on", async || {
        let job = api.get(&format!("/replays/{replay}")).await;
        (job["made"].as_u64() > before.as_u64()).then_some(())
    })
    .await;
    cli(&relay, &format!("replays cancel {replay}"));
    let job = replay_is(api, &replay, "cancelled").await;
    assert!(job["made"].as_u64() < Some(5), "{job}");
    let path = format!("/replays/{replay}/resume");
    assert_eq!(api.call("POST", &path, Some(&json!({}))).await.status, 409);
}

#[tokio::test]
async fn a_live_event_goes_before_a_bulk_replay() {
    const COUNT: usize = 40;
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let settings = json!({ "in_flight_max": 1 });
    api.patch("/destinations/billing", settings).await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let dead = dead_letters(&relay, &journey, &service, COUNT).await;
    for _ in &dead {
        service.next().await;
    }
    service.answer_usually(Answer::status(200).held());
    let replay = id(&api.post("/replays", json!({ "dead_letters": {} })).await);
    eventually("all to be owed again", async || {
        let job = api.get(&format!("/replays/{replay}")).await;
        (job["made"] == COUNT).then_some(())
    })
    .await;
    let first = service.next().await;
    assert!(dead.contains(&first.event()));
    let live = relay.provider().send(&journey.post()).await.accepted();
    service.release();
    assert_eq!(service.next().await.event(), live);
}

#[tokio::test]
async fn asking_twice_under_one_key_makes_one_replay() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("none").await;
    relay.provider().send(&journey.post()).await.accepted();
    let line = "replays create --events --idempotency-key monday -o json";
    let first: Value = serde_json::from_str(&cli(&relay, line)).unwrap();
    let again: Value = serde_json::from_str(&cli(&relay, line)).unwrap();
    assert_eq!(first["id"], again["id"]);
    relay.kill9();
    relay.restart().await;
    let later: Value = serde_json::from_str(&cli(&relay, line)).unwrap();
    assert_eq!(first["id"], later["id"]);
    let other = format!("{line} --type other --tenant acme");
    let other = relay.cli().args(other.split(' ')).output().unwrap();
    assert!(!other.status.success());
    let stderr = String::from_utf8(other.stderr).unwrap();
    assert!(stderr.contains("E-IDEMPOTENCY"), "{stderr}");
    assert_eq!(journey.tenant.api.list("/replays").await.len(), 1);
}

#[tokio::test]
async fn unrouted_events_are_replayed_once_there_is_a_route() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    journey.tenant.source("mail", "none", json!({})).await;
    let mail = api.get("/sources/mail").await;
    let url = mail["url"].as_str().unwrap();
    let path = &url[url.find("/in/").unwrap()..];
    let request = hookferry_tests::Request::new("POST", path);
    let event = relay.provider().send(&request).await.accepted();
    let found = api.list("/events?status=unrouted").await;
    assert_eq!(id(&found[0]), event);
    let count = "replays create --events --state unrouted --dry-run -o json";
    let dry: Value = serde_json::from_str(&cli(&relay, count)).unwrap();
    let expected = json!({ "no_destination": 1 });
    assert_eq!((&dry["total"], &dry["excluded"]), (&json!(0), &expected));

    journey.tenant.route("mail", "billing").await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let made = cli(&relay, "replays create --events --state unrouted -o json");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(service.next().await.event(), event);
    let job = replay_is(api, &id(&made), "done").await;
    assert_eq!(job["done"], 1);
    assert!(api.list("/events?status=unrouted").await.is_empty());
}

#[tokio::test]
async fn what_is_named_goes_to_another_destination() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    journey.tenant.destination("audit", json!({})).await;
    let event = relay.provider().send(&journey.post()).await.accepted();
    let _agent = Agent::plan(&relay, &journey, "http://127.0.0.1:9")
        .forward("audit", &service.url())
        .run();
    let line = format!("replays create {event} evt_00000000000000000000000001 --to audit -o json");
    let made: Value = serde_json::from_str(&cli(&relay, &line)).unwrap();
    assert_eq!(service.next().await.event(), event);
    let job = replay_is(api, &id(&made), "done").await;
    assert_eq!(
        (&job["to_name"], &job["done"]),
        (&json!("audit"), &json!(1))
    );
    assert_eq!(job["excluded"], json!({ "not_found": 1 }));
}
