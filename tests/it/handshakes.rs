//! Challenges of providers, as they document them, over HTTP: answered by the relay alone, with no
//! agent anywhere, and never kept as events.

use std::{collections::BTreeSet, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookferry_tests::{
    Relay, Reply, Request,
    api::Tenant,
    sign::{self, hmac_sha256, now_s},
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

/// What the sources of these tests sign with, where the documentation names nothing else.
const SECRET: &str = "a secret of this test";

/// One documented exchange.
struct Exchange {
    /// Its name in the table of handshakes.
    id: &'static str,
    /// The settings of the source.
    source: Value,
    method: &'static str,
    /// What is behind the source's URL.
    below: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    expected: Expected,
}

/// What the provider wants to hear.
struct Expected {
    status: u16,
    body: Body,
    header: Option<(&'static str, &'static str)>,
}

enum Body {
    Text(&'static str),
    Json(Value),
}

fn text(status: u16, body: &'static str) -> Expected {
    Expected {
        status,
        body: Body::Text(body),
        header: None,
    }
}

fn json_200(body: Value) -> Expected {
    Expected {
        status: 200,
        body: Body::Json(body),
        header: None,
    }
}

fn header(name: &'static str, value: &'static str) -> Expected {
    Expected {
        status: 200,
        body: Body::Text(""),
        header: Some((name, value)),
    }
}

fn get(id: &'static str, preset: &str, below: &'static str, expected: Expected) -> Exchange {
    Exchange {
        id,
        source: json!({ "preset": preset, "secret": SECRET }),
        method: "GET",
        below,
        headers: Vec::new(),
        body: Vec::new(),
        expected,
    }
}

fn post(id: &'static str, preset: &str, body: &str, expected: Expected) -> Exchange {
    Exchange {
        method: "POST",
        body: body.as_bytes().to_vec(),
        ..get(id, preset, "", expected)
    }
}

impl Exchange {
    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn below(mut self, below: &'static str) -> Self {
        self.below = below;
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A setting of the source.
    fn set(mut self, name: &str, value: Value) -> Self {
        self.source[name] = value;
        self
    }

    /// Slack and Zoom: `v0=` and the HMAC of `v0:time:body`.
    fn v0(self, secret: &str, time_header: &'static str, signature_header: &'static str) -> Self {
        let time = now_s().to_string();
        let mac = hmac_sha256(
            secret.as_bytes(),
            &[b"v0:", time.as_bytes(), b":", &self.body],
        );
        self.header(signature_header, format!("v0={}", hex::encode(mac)))
            .header(time_header, time)
    }

    /// Discord: Ed25519 over time and body.
    fn discord(self) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let time = now_s().to_string();
        let signature = pair.sign(&[time.as_bytes(), &self.body].concat());
        let mut exchange = self
            .header("X-Signature-Ed25519", hex::encode(signature))
            .header("X-Signature-Timestamp", time);
        let settings = exchange.source.as_object_mut().unwrap();
        settings.remove("secret");
        settings.insert(
            "public_keys".to_owned(),
            json!([hex::encode(pair.public_key())]),
        );
        exchange
    }

    /// Twitch: the HMAC of id, time and body.
    fn twitch(self) -> Self {
        let time = jiff::Timestamp::now().to_string();
        let parts: [&[u8]; 3] = [b"e76c6bd4", time.as_bytes(), &self.body];
        let mac = hmac_sha256(SECRET.as_bytes(), &parts);
        self.header("Twitch-Eventsub-Message-Id", "e76c6bd4")
            .header("Twitch-Eventsub-Message-Timestamp", time)
            .header(
                "Twitch-Eventsub-Message-Signature",
                format!("sha256={}", hex::encode(mac)),
            )
            .header(
                "Twitch-Eventsub-Message-Type",
                "webhook_callback_verification",
            )
    }

    /// Xero: the HMAC of the body in base64.
    fn xero(self) -> Self {
        let mac = hmac_sha256(SECRET.as_bytes(), &[&self.body]);
        self.header("x-xero-signature", STANDARD.encode(mac))
    }

    fn to_request(&self, path: &str) -> Request {
        let mut request = Request::new(self.method, &format!("{path}{}", self.below));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(self.body.clone())
    }

    #[track_caller]
    fn check(&self, reply: &Reply) {
        let (id, expected) = (self.id, &self.expected);
        assert_eq!(reply.status, expected.status, "{id}: {reply:?}");
        match &expected.body {
            Body::Text(body) => assert_eq!(reply.text(), *body, "{id}"),
            Body::Json(body) => assert_eq!(reply.json(), *body, "{id}"),
        }
        if let Some((name, value)) = expected.header {
            assert_eq!(reply.headers.text(name), value, "{id}: {name}");
        }
        // Whatever is echoed as text can never be run as a page.
        if !reply.body.is_empty() && matches!(expected.body, Body::Text(_)) && self.method == "GET"
        {
            assert_eq!(
                reply.headers.text("x-content-type-options"),
                "nosniff",
                "{id}"
            );
            assert!(
                reply.headers.text("content-type").starts_with("text/plain"),
                "{id}"
            );
        }
    }
}

/// The challenges of 22 handshakes; some are spoken by several providers.
fn exchanges() -> Vec<Exchange> {
    let mut all = signed();
    all.extend(echoes());
    all.extend(keyed());
    all
}

/// Challenges that are signed themselves.
fn signed() -> Vec<Exchange> {
    let slack = r#"{"token":"t","challenge":"3eZbrw1aB","type":"url_verification"}"#;
    let zoom = r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1654503849680,"event":"endpoint.url_validation"}"#;
    let zoom_answer = json!({
        "plainToken": "qgg8vlvZRS6UYooatFL8Aw",
        "encryptedToken": "5a1b8d5d8247baacf3b04b24047d72606b5d7a6844179e63233788b7a6a9d706",
    });
    let twitch = r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{}}"#;
    let xero = r#"{"events":[],"firstEventSequence":0,"lastEventSequence":0,"entropy":"S0m3"}"#;
    // The signature is in the body: the HMAC of time and type.
    let mac = hmac_sha256(SECRET.as_bytes(), &[b"1348177752", b"callback_test"]);
    let dropbox_sign = json!({"event": {
        "event_time": "1348177752", "event_type": "callback_test", "event_hash": hex::encode(mac),
    }});
    vec![
        post(
            "slack-url-verification",
            "slack",
            slack,
            text(200, "3eZbrw1aB"),
        )
        .v0(SECRET, "X-Slack-Request-Timestamp", "X-Slack-Signature"),
        post("zoom-url-validation", "zoom", zoom, json_200(zoom_answer))
            .set("secret", json!("Zoom"))
            .v0("Zoom", "x-zm-request-timestamp", "x-zm-signature"),
        post(
            "discord-interactions-ping",
            "discord-interactions",
            r#"{"type":1}"#,
            json_200(json!({"type": 1})),
        )
        .discord(),
        post(
            "discord-events-ping",
            "discord-webhook-events",
            r#"{"version":1,"type":0}"#,
            text(204, ""),
        )
        .discord(),
        post(
            "twitch-challenge",
            "twitch",
            twitch,
            text(200, "pogchamp-kappa-360noscope-vohiyo"),
        )
        .twitch(),
        post("xero-itr", "xero", xero, text(200, "")).xero(),
        post("xero-itr", "xero", xero, refused_with(401)).header("x-xero-signature", "d3Jvbmc="),
        post(
            "dropboxsign-ack",
            "dropbox-sign",
            &dropbox_sign.to_string(),
            text(200, "Hello API Event Received"),
        )
        .header("Content-Type", "application/json"),
    ]
}

/// A refusal, whose text is ours.
fn refused_with(status: u16) -> Expected {
    Expected {
        status,
        body: Body::Json(json!(null)),
        header: None,
    }
}

/// Challenges that want to have something back.
fn echoes() -> Vec<Exchange> {
    vec![
        get("hub-challenge", "meta", "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock", text(200, "1158201444"))
            .set("vars", json!({"verify_token": "meatyhamhock"})),
        get("hub-challenge", "meta", "?hub.mode=subscribe&hub.challenge=1&hub.verify_token=other", text(403, ""))
            .set("vars", json!({"verify_token": "meatyhamhock"})),
        get("hub-challenge", "websub", "?hub.mode=unsubscribe&hub.topic=t&hub.challenge=c1", text(200, "c1")),
        get("query-challenge-echo", "dropbox", "?challenge=a%2Bb", text(200, "a+b")),
        get("query-challenge-echo", "nylas", "?challenge=bc609b38", text(200, "bc609b38")),
        get("query-challenge-echo", "dropbox", "?challenge=a%0d%0aX:y", text(400, "")),
        get("okta-challenge", "okta", "", json_200(json!({"verification": "abc"})))
            .header("X-Okta-Verification-Challenge", "abc"),
        post("msgraph-validationtoken", "ms-graph", "", text(200, "Validation: Testing"))
            .below("?validationToken=Validation%3A+Testing"),
        post(
            "eventgrid-validation",
            "azure-eventgrid",
            r#"[{"id":"2d","data":{"validationCode":"512d38b6"},"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent"}]"#,
            json_200(json!({"validationResponse": "512d38b6"})),
        )
        .header("aeg-event-type", "SubscriptionValidation"),
        get("cloudevents-options", "cloudevents-webhook", "", header("WebHook-Allowed-Origin", "eventemitter.example.com"))
            .method("OPTIONS")
            .header("WebHook-Request-Origin", "eventemitter.example.com"),
        post("json-challenge-echo", "monday", r#"{"challenge":"3eZbrw1aBm"}"#, json_200(json!({"challenge": "3eZbrw1aBm"}))),
        post("header-echo", "smartsheet", r#"{"challenge":"d78d"}"#, header("Smartsheet-Hook-Response", "d78d"))
            .header("Smartsheet-Hook-Challenge", "d78d"),
        post("header-echo", "ringcentral", "", header("Validation-Token", "v1")).header("Validation-Token", "v1"),
        get("header-echo", "worldline", "", text(200, "w-1")).header("X-GCS-Webhooks-Endpoint-Verification", "w-1"),
        get("onfleet-check", "onfleet", "?check=abc", text(200, "abc")),
        get("head-200", "trello", "", text(200, "")).method("HEAD"),
        get("head-200", "mandrill", "", text(200, "")).method("HEAD"),
        get("head-200", "intercom", "", text(200, "")).method("HEAD"),
    ]
}

/// Challenges that are answered with the secret, or bring it.
fn keyed() -> Vec<Exchange> {
    vec![
        get(
            "x-crc",
            "x-twitter",
            "?crc_token=foo",
            json_200(json!({"response_token": format!(
                "sha256={}",
                STANDARD.encode(hmac_sha256(SECRET.as_bytes(), &[b"foo"]))
            )})),
        ),
        get(
            "braintree-challenge",
            "braintree",
            "?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53",
            text(
                200,
                "integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4",
            ),
        )
        .set("secret", json!("integration_private_key"))
        .set("vars", json!({"public_key": "integration_public_key"})),
        post(
            "asana-hook-secret",
            "asana",
            "",
            header("X-Hook-Secret", "b537207f20cbfa02"),
        )
        .set("secret", json!(null))
        .header("X-Hook-Secret", "b537207f20cbfa02"),
        post(
            "notion-verification-token",
            "notion",
            r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#,
            text(200, ""),
        )
        .set("secret", json!(null)),
        sns(),
    ]
}

/// A subscription as Amazon sent and signed it once, among the recorded vectors.
fn sns() -> Exchange {
    let vector = recorded("sns-subscription-confirmation");
    let body = STANDARD.decode(vector["body_base64"].as_str().unwrap());
    let confirmation = Exchange {
        body: body.unwrap(),
        ..post(
            "sns-subscription-confirmation",
            "aws-sns",
            "",
            text(200, ""),
        )
    };
    confirmation
        .set("secret", json!(null))
        .set("vars", json!({"confirm_subscription": "yes"}))
        .header("x-amz-sns-message-type", "SubscriptionConfirmation")
        .header("Content-Type", "text/plain; charset=UTF-8")
}

fn recorded(id: &str) -> Value {
    let all = include_str!("../../relay-server/src/verify/testdata/vectors.json");
    let all: Value = serde_json::from_str(all).unwrap();
    let all = all.as_array().or(all["vectors"].as_array()).unwrap();
    all.iter().find(|it| it["id"] == id).unwrap().clone()
}

#[tokio::test]
async fn every_handshake_is_answered_with_no_agent_connected() {
    let keys = tempfile::tempdir().unwrap();
    let vector = recorded("sns-subscription-confirmation");
    let body = STANDARD
        .decode(vector["body_base64"].as_str().unwrap())
        .unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    let published = json!({ message["SigningCertURL"].as_str().unwrap(): vector["cert_pem"] });
    fs::write(keys.path().join("sns.json"), published.to_string()).unwrap();
    let relay = Relay::plan()
        .set("keys-dir", keys.path().display())
        .start()
        .await;
    let tenant = Tenant::create(&relay.api(), "acme").await;

    let exchanges = exchanges();
    let mut kept = 0;
    for (number, exchange) in exchanges.iter().enumerate() {
        let mut settings = exchange.source.clone();
        settings["name"] = format!("s{number}").into();
        let created = tenant.api.post("/sources", settings).await;
        let url = created["url"].as_str().unwrap();
        let path = &url[url.find("/in/").unwrap()..];
        let reply = relay.provider().send(&exchange.to_request(path)).await;
        if exchange.expected.status == 401 {
            reply.refused(401, "E-SIGNATURE");
            continue;
        }
        exchange.check(&reply);
        // These two have no challenge of their own: every event is answered as they want it.
        kept += usize::from(["xero-itr", "dropboxsign-ack"].contains(&exchange.id));
    }

    let ids: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.id).collect();
    assert_eq!(ids.len(), 22, "{ids:?}");
    assert_eq!(tenant.api.list("/events").await.len(), kept);
}

#[tokio::test]
async fn a_secret_arrives_by_handshake_once_and_survives_a_restart() {
    let mut relay = Relay::start().await;
    let tenant = Tenant::create(&relay.api(), "acme").await;
    let created = tenant
        .api
        .post("/sources", json!({"name": "notion", "preset": "notion"}));
    let created = created.await;
    assert_eq!(created["state"], "awaiting_handshake");
    let url = created["url"].as_str().unwrap();
    let path = url[url.find("/in/").unwrap()..].to_owned();
    let provider = relay.provider();
    let post = |body: &str| Request::new("POST", &path).body(body);

    let early = provider.send(&post(r#"{"id":"1"}"#)).await;
    early.refused(403, "E-SIGNATURE");
    let token = provider
        .send(&post(r#"{"verification_token":"secret_first"}"#))
        .await;
    assert_eq!(token.status, 200);
    relay.kill9();
    relay.restart().await;

    let thief = provider
        .send(&post(r#"{"verification_token":"secret_other"}"#))
        .await;
    thief.refused(403, "E-SIGNATURE");
    let body = r#"{"id":"2","type":"page.created"}"#;
    let signature = hex::encode(hmac_sha256(b"secret_first", &[body.as_bytes()]));
    let event = post(body).header("X-Notion-Signature", format!("sha256={signature}"));
    provider.send(&event).await.accepted();
    let source = tenant.api.get("/sources/notion").await;
    assert_eq!(source["state"], "ready");
    assert!(!source.to_string().contains("secret_first"));
    let shown = tenant.api.get("/sources/notion/handshake-secret").await;
    assert_eq!(shown["secret"], "secret_first");
    assert!(!relay.output().contains("secret_first"));
}

#[tokio::test]
async fn a_test_event_of_an_agent_takes_the_whole_journey() {
    let relay = Relay::start().await;
    let mut service = hookferry_tests::Service::start().await;
    let journey = relay.journey("stripe").await;
    let _agent = hookferry_tests::Agent::run(&relay, &journey, &service.url());
    let files = tempfile::tempdir().unwrap();
    let token = files.path().join("token");
    fs::write(&token, &journey.token).unwrap();

    let url = relay.url();
    let send = |source: &str, token: &std::path::Path, server: &str| {
        std::process::Command::new(hookferry_tests::binaries::relay_agent())
            .args([
                "send",
                source,
                "--event",
                "invoice.paid",
                "--server",
                server,
            ])
            .arg("--token-file")
            .arg(token)
            .output()
            .unwrap()
    };
    let output = send("shop", &token, &url);
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8(output.stdout).unwrap();
    let received = service.next().await;
    assert_eq!(received.event(), id.trim());
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["type"], "invoice.paid");
    let signature = received.headers.text("stripe-signature");
    let at_s = signature.split([',', '=']).nth(1).unwrap().parse().unwrap();
    assert_eq!(
        signature,
        sign::stripe(&journey.source.secret, at_s, &received.body)
    );

    assert_eq!(send("nothing", &token, &url).status.code(), Some(4));
    let closed = format!("http://{}", hookferry_tests::ports::free());
    assert_eq!(send("shop", &token, &closed).status.code(), Some(5));
    fs::write(&token, "hf_agent_unknown").unwrap();
    assert_eq!(send("shop", &token, &url).status.code(), Some(3));
}
