//! Who gets an event, how often, and when nobody does.

use std::collections::BTreeSet;

use hookferry_tests::{Agent, Answer, Journey, Relay, Service, eventually};
use serde_json::json;

#[tokio::test]
async fn a_repeat_is_answered_and_not_delivered_again() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let provider = relay.provider();
    let signed = |body: &str| journey.post().body(body).stripe(&journey.source.secret);

    let first = provider.send(&signed(r#"{"id":"evt_1"}"#)).await.accepted();
    let repeat = provider
        .send(&signed(r#"{"id":"evt_1","try":2}"#))
        .await
        .accepted();
    assert_eq!(repeat, first);
    let other = provider.send(&signed(r#"{"id":"evt_2"}"#)).await.accepted();

    let events = BTreeSet::from([service.next().await.event(), service.next().await.event()]);
    assert_eq!(events, BTreeSet::from([first, other]));
    journey.tenant.settled().await;
    assert_eq!(service.count(), 2);
    assert_eq!(journey.tenant.api.list("/events").await.len(), 2);
}

#[tokio::test]
async fn repeats_at_the_same_time_are_one_event() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = relay.journey("github").await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let provider = relay.provider();

    let repeats = (0..32).map(|_| {
        let provider = provider.clone();
        let request = journey
            .post()
            .body("{}")
            .github(&journey.source.secret, "the same");
        tokio::spawn(async move { provider.send(&request).await.accepted() })
    });
    let mut events = BTreeSet::new();
    for repeat in repeats.collect::<Vec<_>>() {
        events.insert(repeat.await.unwrap());
    }
    assert_eq!(events.len(), 1, "{events:?}");
    journey.tenant.settled().await;
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn repeats_are_known_after_a_crash() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("github").await;
    let request = journey
        .post()
        .body("{}")
        .github(&journey.source.secret, "the same");
    let first = relay.provider().send(&request).await.accepted();
    relay.kill9();
    relay.restart().await;
    assert_eq!(relay.provider().send(&request).await.accepted(), first);
}

#[tokio::test]
async fn without_an_id_nothing_is_a_repeat_unless_the_source_says_so() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let provider = relay.provider();
    let first = provider.send(&journey.post().body("same")).await.accepted();
    assert_ne!(
        provider.send(&journey.post().body("same")).await.accepted(),
        first
    );

    let api = &journey.tenant.api;
    api.patch("/sources/shop", json!({ "dedupe": { "body_hash": true } }))
        .await;
    let first = provider.send(&journey.post().body("same")).await.accepted();
    assert_eq!(
        provider.send(&journey.post().body("same")).await.accepted(),
        first
    );
    assert_ne!(
        provider
            .send(&journey.post().body("other"))
            .await
            .accepted(),
        first
    );
}

#[tokio::test]
async fn a_delivery_that_is_given_up_is_listed_and_can_be_replayed() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let retry = json!({ "base_ms": 20, "factor": 1, "attempts_max": 2 });
    api.patch("/destinations/billing", json!({ "retry": retry }))
        .await;
    service.answer_usually(Answer::status(500));
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay
        .provider()
        .send(&journey.post().body("again"))
        .await
        .accepted();

    let delivery = journey.tenant.delivery_is(&event, "dead").await;
    assert_eq!(
        (&delivery["attempts"], &delivery["reason"]),
        (&json!(2), &json!("retries_exhausted"))
    );
    let dead = api.list("/deliveries?state=dead").await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0]["id"], delivery["id"]);

    service.answer_usually(Answer::status(204));
    let replay = api
        .post(&format!("/events/{event}/replay"), json!({}))
        .await;
    for _ in 0..2 {
        service.next().await;
    }
    let replayed = service.next().await;
    assert_eq!(
        (replayed.event(), replayed.body),
        (event.clone(), b"again".to_vec())
    );
    assert_eq!(
        replayed.headers.text("hookferry-replay"),
        replay["replay"].as_str().unwrap()
    );
    eventually("the replay to be delivered", async || {
        let deliveries = api.list(&format!("/deliveries?event={event}")).await;
        deliveries
            .iter()
            .any(|delivery| delivery["state"] == "delivered")
            .then_some(())
    })
    .await;
    let destination = api.get("/destinations/billing").await;
    assert_eq!(
        destination["depth"]["dead"], 0,
        "it is done with: {destination}"
    );
}

#[tokio::test]
async fn a_delivered_event_can_be_replayed() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay
        .provider()
        .send(&journey.post().below("/p?q").body("once more"))
        .await
        .accepted();
    let first = service.next().await;
    journey.tenant.delivery_is(&event, "delivered").await;

    journey
        .tenant
        .api
        .post(&format!("/events/{event}/replay"), json!({}))
        .await;
    let second = service.next().await;
    assert_eq!(second.event(), event);
    assert_eq!((second.target, second.body), (first.target, first.body));
}

#[tokio::test]
async fn gone_means_gone() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(410));
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();
    service.next().await;
    let delivery = journey.tenant.delivery_is(&event, "dead").await;
    assert_eq!(delivery["reason"], "permanent");
    assert_eq!(journey.tenant.attempts(&event).await.len(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let elsewhere = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(302).header("Location", &elsewhere.url()));
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();

    assert_eq!(service.next().await.attempt(), 1);
    assert_eq!(service.next().await.attempt(), 2);
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    assert_eq!(attempts[0]["status"], 302);
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn two_agents_share_the_work() {
    let relay = Relay::start().await;
    let (left, right) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    // Each takes two at once and holds them, so that neither can take all.
    let plan = |service: &Service| {
        Agent::plan(&relay, &journey, &service.url()).each_forward("concurrency = 2")
    };
    let _agents = [plan(&left).run(), plan(&right).run()];
    for service in [&left, &right] {
        service.answer_usually(Answer::status(200).held());
    }
    let mut events = BTreeSet::new();
    for _ in 0..20 {
        events.insert(relay.provider().send(&journey.post()).await.accepted());
    }
    left.wait_for(2).await;
    right.wait_for(2).await;
    assert_eq!(
        (left.count(), right.count()),
        (2, 2),
        "no more than the concurrency at once"
    );

    for service in [&left, &right] {
        service.answer_usually(Answer::status(200));
        for _ in 0..20 {
            service.release();
        }
    }
    journey.tenant.settled().await;
    let both = [left.received(), right.received()].concat();
    let seen: BTreeSet<_> = both.iter().map(hookferry_tests::Received::event).collect();
    assert_eq!(seen, events);
    assert_eq!(both.len(), 20, "each once");
}

#[tokio::test]
async fn a_source_can_lead_to_several_destinations() {
    let relay = Relay::start().await;
    let (mut billing, mut audit) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    journey.tenant.destination("audit", json!({})).await;
    journey.tenant.route("shop", "audit").await;
    // One agent serves both; the other destination's failures are its own.
    audit.answer(Answer::status(500));
    let _agent = Agent::plan(&relay, &journey, &billing.url())
        .forward("audit", &audit.url())
        .run();
    let event = relay.provider().send(&journey.post()).await.accepted();

    assert_eq!(billing.next().await.event(), event);
    assert_eq!(audit.next().await.attempt(), 1);
    assert_eq!(audit.next().await.attempt(), 2);
    let deliveries = journey.tenant.settled().await;
    assert_eq!(deliveries.len(), 2);
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery["state"] == "delivered"),
        "{deliveries:?}"
    );
    assert_eq!(billing.count(), 1);
}

#[tokio::test]
async fn an_event_without_a_route_is_kept() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let lonely = journey.tenant.source("lonely", "none", json!({})).await;
    let request = hookferry_tests::Request::post(&lonely).body("kept");
    let event = relay.provider().send(&request).await.accepted();
    let unrouted = journey.tenant.api.list("/events?unrouted=true").await;
    assert_eq!(unrouted.len(), 1, "{unrouted:?}");
    assert_eq!(unrouted[0]["id"], event.as_str());

    let _agent = Agent::run(&relay, &journey, &service.url());
    let replay = json!({ "destination": "billing" });
    journey
        .tenant
        .api
        .post(&format!("/events/{event}/replay"), replay)
        .await;
    assert_eq!(service.next().await.body, b"kept");
}

#[tokio::test]
async fn a_listener_gets_its_own_copy() {
    let relay = Relay::start().await;
    let (mut production, mut laptop) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, &production.url());
    let mut listener = Agent::anywhere(&relay.url(), &journey.token)
        .listen(&laptop.addr().port().to_string(), "shop");
    listener.says("listening to shop").await;

    for number in 0..10 {
        let request = journey.post().below("/hook?n=1").body(number.to_string());
        let event = relay.provider().send(&request).await.accepted();
        assert_eq!(production.next().await.event(), event);
        let copy = laptop.next().await;
        assert_eq!(
            (copy.event(), copy.target.as_str()),
            (event.clone(), "/hook?n=1")
        );
        listener.says(&event).await;
    }
    let line: serde_json::Value =
        serde_json::from_str(listener.stdout().lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["status"], &line["outcome"]),
        (&json!(200), &json!("delivered"))
    );

    listener.terminate().await;
    assert_eq!(listener.exit_code().await, 0);
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(production.next().await.event(), event);
}

#[tokio::test]
async fn a_listeners_destination_ends_some_time_after_it() {
    let relay = Relay::plan()
        .set("session-listen-expiry-s", 1)
        .start()
        .await;
    let laptop = Service::start().await;
    let journey = relay.journey("none").await;
    let names = async || {
        let destinations = journey.tenant.api.list("/destinations").await;
        destinations
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut listener = Agent::anywhere(&relay.url(), &journey.token).listen(&laptop.url(), "*");
    eventually("a destination of the listener's own", async || {
        (names().await.len() == 2).then_some(())
    })
    .await;
    listener.kill9();
    eventually("its end", async || {
        (names().await == ["billing"]).then_some(())
    })
    .await;
    relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(journey.tenant.api.list("/deliveries").await.len(), 1);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let relay = Relay::start().await;
    let (mut ours, theirs) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    let other = hookferry_tests::Tenant::create(&relay.api(), "other").await;
    // The same names in both tenants.
    let source = other.source("shop", "none", json!({})).await;
    other.destination("billing", json!({})).await;
    other.route("shop", "billing").await;
    let token = other.token("agents", &["connect"]).await;
    let others = Journey {
        tenant: other.clone(),
        source,
        destination: "billing".to_owned(),
        token,
    };
    let _agents = [
        Agent::run(&relay, &journey, &ours.url()),
        Agent::run(&relay, &others, &theirs.url()),
    ];

    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(ours.next().await.event(), event);
    journey.tenant.delivery_is(&event, "delivered").await;
    assert_eq!(theirs.count(), 0);
    assert_eq!(other.api.list("/events").await.len(), 0);
    for path in [format!("/events/{event}"), format!("/events/{event}/body")] {
        assert_eq!(other.api.call("GET", &path, None).await.status, 404);
    }
    let replay = other
        .api
        .call("POST", &format!("/events/{event}/replay"), Some(&json!({})))
        .await;
    assert_eq!(replay.status, 404);
}
