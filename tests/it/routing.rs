//! Which events go where: filters, several destinations, and what no route takes.

use hookferry_tests::{Agent, Relay, Request, Service, eventually};
use serde_json::{Value, json};

/// The states of an event's deliveries by the names of their destinations.
fn states(event: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let deliveries = event["deliveries"].as_array().unwrap().iter();
    let mut states: Vec<_> = deliveries
        .map(|delivery| {
            let name = text(&delivery["destination_name"]);
            (name, text(&delivery["state"]))
        })
        .collect();
    states.sort();
    states
}

#[tokio::test]
async fn events_go_where_their_filters_say() {
    let relay = Relay::start().await;
    let (mut billing, mut audit) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    let (tenant, api) = (&journey.tenant, &journey.tenant.api);
    tenant.destination("audit", json!({})).await;
    let large = json!({ "body": { "amount": { "$gte": 100 }, "lines": { "sku": "a" } } });
    api.patch("/routes/shop-billing", json!({ "filter": large }))
        .await;
    let audited = json!({ "$or": [
        { "headers": { "x-env": "live" }, "method": "POST" },
        { "query": { "audit": "yes" }, "path": { "$startsWith": "/eu/" } },
    ] });
    let route = json!({ "source": "shop", "destination": "audit", "filter": audited });
    api.post("/routes", route).await;
    let _agent = Agent::plan(&relay, &journey, &billing.url())
        .forward("audit", &audit.url())
        .run();

    let send = async |request: Request| relay.provider().send(&request).await.accepted();
    let order = r#"{"amount": 250, "lines": [{"sku": "b"}, {"sku": "a"}]}"#;
    let both = send(journey.post().header("X-Env", "live").body(order)).await;
    assert_eq!(billing.next().await.event(), both);
    assert_eq!(audit.next().await.event(), both);
    let small = r#"{"amount": 99, "lines": [{"sku": "a"}]}"#;
    let audit_only = send(journey.post().below("/eu/x?audit=yes").body(small)).await;
    assert_eq!(audit.next().await.event(), audit_only);
    let billing_only = send(journey.post().below("/us/x?audit=yes").body(order)).await;
    assert_eq!(billing.next().await.event(), billing_only);
    let nobody = send(journey.post().body("amount=250")).await;

    tenant.settled().await;
    for (event, expected) in [
        (&both, vec!["audit", "billing"]),
        (&audit_only, vec!["audit"]),
        (&billing_only, vec!["billing"]),
        (&nobody, vec![]),
    ] {
        let states = states(&api.get(&format!("/events/{event}")).await);
        let delivered = |name: &&str| ((*name).to_owned(), "delivered".to_owned());
        assert_eq!(states, expected.iter().map(delivered).collect::<Vec<_>>());
    }
    assert_eq!((billing.count(), audit.count()), (2, 2));
}

#[tokio::test]
async fn a_filter_survives_a_restart_and_concerns_later_events() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let post = |relay: &Relay, body: &'static str| {
        let (provider, request) = (relay.provider(), journey.post().body(body));
        async move { provider.send(&request).await.accepted() }
    };
    let early = post(&relay, r#"{"n": 1}"#).await;
    let filter = json!({ "body": { "n": { "$gt": 5 } } });
    api.patch("/routes/shop-billing", json!({ "filter": filter }))
        .await;
    relay.kill9();
    relay.restart().await;

    post(&relay, r#"{"n": 2}"#).await;
    let late = post(&relay, r#"{"n": 6}"#).await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let mut received = [service.next().await.event(), service.next().await.event()];
    received.sort();
    assert_eq!(received, [early, late], "the first was owed already");
    let unrouted = api.list("/events?unrouted=true").await;
    assert_eq!(unrouted.len(), 1, "{unrouted:?}");
}

#[tokio::test]
async fn what_no_route_takes_is_seen_and_sent_later() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    let filter = json!({ "body": { "kind": "order" } });
    api.patch("/routes/shop-billing", json!({ "filter": filter }))
        .await;
    let request = journey.post().body(r#"{"kind": "refund"}"#);
    let event = relay.provider().send(&request).await.accepted();
    let cli = |line: &str| {
        let line = format!("{line} --tenant acme");
        let output = relay.cli().args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(cli("events list --unrouted").contains(&event));
    let tested = cli(&format!("route test shop-billing --event {event}"));
    assert!(tested.contains("/body/kind order is not met"), "{tested}");

    let _agent = Agent::run(&relay, &journey, &service.url());
    cli(&format!("events replay {event} --destination billing"));
    let received = service.next().await;
    assert_eq!(received.event(), event);
    assert!(
        received
            .headers
            .text("hookferry-replay")
            .starts_with("rpl_")
    );
    journey.tenant.delivery_is(&event, "delivered").await;
    assert!(api.list("/events?unrouted=true").await.is_empty());
}

#[tokio::test]
async fn a_listener_hears_only_what_passes_its_filter() {
    let relay = Relay::start().await;
    let (mut production, mut laptop) = (Service::start().await, Service::start().await);
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, &production.url());
    let port = laptop.addr().port().to_string();
    let mut listener = Agent::anywhere(&relay.url(), &journey.token)
        .flag("--filter", r#"{"headers": {"x-dev": {"$exist": true}}}"#)
        .listen(&port, "shop");
    listener.says("listening to shop").await;

    let live = relay.provider().send(&journey.post()).await.accepted();
    let for_all = journey.post().header("X-Dev", "1");
    let for_all = relay.provider().send(&for_all).await.accepted();
    assert_eq!(production.next().await.event(), live);
    assert_eq!(production.next().await.event(), for_all);
    assert_eq!(laptop.next().await.event(), for_all);
    eventually("both deliveries and the copy to settle", async || {
        let open = journey.tenant.api.list("/deliveries?state=pending").await;
        open.is_empty().then_some(())
    })
    .await;
    assert_eq!(laptop.count(), 1);

    let mut refused = Agent::anywhere(&relay.url(), &journey.token)
        .flag("--filter", r#"{"header": {"x-dev": "1"}}"#)
        .listen(&port, "shop");
    assert_eq!(refused.exit_code().await, 4);
    let stderr = refused.stderr();
    assert!(
        stderr.contains("E-FILTER") && stderr.contains("did you mean `headers`"),
        "{stderr}"
    );
}
