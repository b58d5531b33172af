//! What the public listener takes, and how it refuses the rest: the named answer, nothing delivered,
//! nothing leaked.

use hookferry_tests::{Agent, Journey, Relay, Request, Service, eventually, sign::now_s};
use serde_json::{Value, json};

/// A relay with one Stripe source, an agent and a service.
pub(crate) struct Stage {
    pub(crate) relay: Relay,
    service: Service,
    pub(crate) journey: Journey,
    _agent: Agent,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(json!({})).await
    }

    async fn with(source: Value) -> Self {
        // All that it could ever log, so that whatever leaks is seen.
        let relay = Relay::plan().set("log-level", "trace").start().await;
        let service = Service::start().await;
        let journey = Journey::create(&relay.api(), "stripe", source).await;
        let agent = Agent::run(&relay, &journey, &service.url());
        Self {
            relay,
            service,
            journey,
            _agent: agent,
        }
    }

    pub(crate) fn signed(&self, body: &str) -> Request {
        self.journey
            .post()
            .body(body)
            .stripe(&self.journey.source.secret)
    }

    /// Sends one good event: it must be the first and only one that the service and the list of
    /// events ever see. And neither secret nor body may be in what the relay printed.
    pub(crate) async fn nothing_came_through(mut self) {
        let last = self
            .relay
            .provider()
            .send(&self.signed(r#"{"id":"the good one"}"#))
            .await
            .accepted();
        assert_eq!(self.service.next().await.event(), last);
        assert_eq!(self.service.count(), 1);
        let events = self.journey.tenant.api.list("/events").await;
        assert_eq!(events.len(), 1, "{events:?}");
        let output = self.relay.output();
        for secret in [
            &self.journey.source.secret,
            &self.journey.token,
            "body of a refused",
        ] {
            assert!(
                !output.contains(secret),
                "{secret:?} is in the relay's output:\n{output}"
            );
        }
    }
}

pub(crate) const REFUSED_BODY: &str = r#"{"id":"evt_x","note":"the body of a refused request"}"#;

#[tokio::test]
async fn bad_signatures_are_refused() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let post = stage.journey.post().body(REFUSED_BODY);
    let secret = &stage.journey.source.secret;

    let missing = post.clone();
    let wrong = post.clone().stripe("whsec_another");
    let stale = post.clone().stripe_at(secret, now_s() - 301);
    let early = post.clone().stripe_at(secret, now_s() + 400);
    let malformed = post.clone().header("Stripe-Signature", b"t=\xff,v1=");
    let altered = post
        .clone()
        .stripe(secret)
        .body(REFUSED_BODY.replace("evt_x", "evt_y"));
    for request in [missing, wrong, stale, early, malformed, altered] {
        let reply = provider.send(&request).await;
        reply.refused(403, "E-SIGNATURE");
        assert!(!reply.text().contains("whsec"), "{reply:?}");
    }
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn a_method_the_source_does_not_take_is_named() {
    let stage = Stage::new().await;
    for method in ["GET", "PUT", "DELETE", "BREW"] {
        let request = stage.signed(REFUSED_BODY).method(method);
        let reply = stage.relay.provider().send(&request).await;
        reply.refused(405, "E-METHOD");
        assert_eq!(reply.headers.text("allow"), "POST");
    }
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn unknown_and_disabled_sources_look_the_same() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let tenant = &stage.journey.tenant;
    let disabled = tenant
        .source("disabled", "stripe", json!({ "enabled": false }))
        .await;
    let unknown = format!("/in/{}", "a".repeat(26));

    let mut answers = Vec::new();
    for target in [
        &disabled.path,
        &unknown,
        "/in/",
        "/in/x/../y",
        "/",
        "/elsewhere",
    ] {
        for method in ["POST", "GET"] {
            let reply = provider
                .send(&Request::new(method, target).body(REFUSED_BODY))
                .await;
            reply.refused(404, "E-SOURCE-UNKNOWN");
            let headers = reply
                .headers
                .0
                .into_iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
            answers.push((headers.collect::<Vec<_>>(), reply.body));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let stage = Stage::with(json!({ "body_bytes_max": 1000 })).await;
    let provider = stage.relay.provider();
    let too_long = "x".repeat(1001);

    provider
        .send(&stage.signed(&too_long))
        .await
        .refused(413, "E-BODY-TOO-LARGE");
    provider
        .send(&stage.signed(&too_long).chunked(100))
        .await
        .refused(413, "E-BODY-TOO-LARGE");

    // It is refused before it has all come: chunks without an end, and a length that is only a claim.
    let mut connection = provider.connect().await.unwrap();
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n", stage.journey.source.path);
    let endless = format!("{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{too_long}\r\n");
    connection.write(endless.as_bytes()).await.unwrap();
    connection
        .read()
        .await
        .unwrap()
        .unwrap()
        .refused(413, "E-BODY-TOO-LARGE");
    let claim = format!("{head}Content-Length: 99999999999\r\n\r\n");
    provider
        .raw(claim.as_bytes())
        .await
        .unwrap()
        .refused(413, "E-BODY-TOO-LARGE");

    stage.nothing_came_through().await;
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken() {
    let stage = Stage::with(json!({ "body_bytes_max": 1000 })).await;
    let provider = stage.relay.provider();
    provider
        .send(&stage.signed(&"x".repeat(1000)))
        .await
        .accepted();
    provider
        .send(&stage.signed(&"x".repeat(1000)).chunked(7))
        .await
        .accepted();
}

#[tokio::test]
async fn a_source_takes_no_more_than_its_rate() {
    let stage = Stage::with(json!({ "rate_per_second": 1 })).await;
    let provider = stage.relay.provider();
    let mut refused = 0;
    let reply = eventually("a refusal", async || {
        let reply = provider.send(&stage.signed("{}")).await;
        refused += 1;
        (reply.status != 200).then_some(reply)
    })
    .await;
    reply.refused(429, "E-RATE");
    assert_eq!(reply.headers.text("retry-after"), "1");
}

#[tokio::test]
async fn addresses_that_are_not_on_the_list_are_refused() {
    let stage = Stage::with(json!({ "ip_allow": ["192.0.2.0/24"] })).await;
    // Nobody trusts this header from anybody.
    let request = stage
        .signed(REFUSED_BODY)
        .header("X-Forwarded-For", "192.0.2.1");
    stage
        .relay
        .provider()
        .send(&request)
        .await
        .refused(403, "E-ADDRESS");
}

#[tokio::test]
async fn one_connection_carries_many_requests_good_and_bad() {
    let stage = Stage::new().await;
    let mut connection = stage.relay.provider().connect().await.unwrap();
    let good = |number: u32| stage.signed(&format!(r#"{{"id":"evt_{number}"}}"#));

    connection.send(&good(1)).await.unwrap().accepted();
    connection
        .send(&good(2).header("Stripe-Signature", "t=1"))
        .await
        .unwrap();
    connection
        .send(&stage.journey.post().body(REFUSED_BODY))
        .await
        .unwrap()
        .refused(403, "E-SIGNATURE");
    connection
        .send(&good(3).chunked(3))
        .await
        .unwrap()
        .accepted();
    connection.send(&good(4)).await.unwrap().accepted();
}

#[tokio::test]
async fn each_provider_has_its_own_signature_and_id() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let tenant = &stage.journey.tenant;
    let github = tenant.source("code", "github", json!({})).await;
    let standard = tenant
        .source("standard", "standard-webhooks", json!({}))
        .await;

    let push = Request::post(&github)
        .body("{}")
        .github(&github.secret, "72d3162e");
    let message = Request::post(&standard)
        .body("{}")
        .standard_webhooks(&standard.secret, "msg_1");
    for (request, id) in [(push, "72d3162e"), (message, "msg_1")] {
        let event = provider.send(&request).await.accepted();
        let event = tenant.api.get(&format!("/events/{event}")).await;
        assert_eq!(event["provider_id"], id);
    }
    let forged = Request::post(&github)
        .body("{}")
        .github("another", "72d3162f");
    provider.send(&forged).await.refused(403, "E-SIGNATURE");
}

#[tokio::test]
async fn secrets_rotate_without_a_gap() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let api = &stage.journey.tenant.api;
    let old = stage.journey.source.secret.clone();
    let signed = |secret: &str| stage.journey.post().body("{}").stripe(secret);
    provider
        .send(&signed("the new one"))
        .await
        .refused(403, "E-SIGNATURE");

    api.post(
        "/sources/shop/rotate-secret",
        json!({ "secret": "the new one" }),
    )
    .await;
    provider.send(&signed(&old)).await.accepted();
    provider.send(&signed("the new one")).await.accepted();

    api.post(
        "/sources/shop/rotate-secret",
        json!({ "secret": "the newest", "drop_old": true }),
    )
    .await;
    provider
        .send(&signed(&old))
        .await
        .refused(403, "E-SIGNATURE");
    provider
        .send(&signed("the new one"))
        .await
        .refused(403, "E-SIGNATURE");
    provider.send(&signed("the newest")).await.accepted();
}
