//! What becomes of complete requests: events, test events and handshakes, over the reference store.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::StatusCode;
use protocol::{frame::Headers, id::TenantId};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept::{Ingress, IngressConfig},
    body::BodyDeadlines,
    hold::Holding,
    receive::{Accepted, Received, Taken},
    test_event::TestEvent,
};
use crate::{
    clock::{ManualClock, Timestamp},
    lifecycle::Event,
    outbound::{Outbound, tests::Provider},
    problem::{Code, Problem},
    store::{Due, EventFilter, Queries, memory::Memory},
    tenancy::{
        BODY_BYTES_MAX, LiveSource, NewSource, NotReady, ProviderKeys, SchemeChoice, SecretKey,
        SourceSettings, Tenancy, TenancyConfig,
    },
    verify::{Answer, RuleSpec, Secret, preset, presets},
    waiting::{Limits, Room},
};

const NOW: Timestamp = Timestamp(1_760_000_000_000);

impl Ingress {
    /// An ingress with generous limits.
    pub(crate) fn for_tests(tenancy: &Arc<Tenancy>, store: Arc<Memory>) -> Self {
        Self::reaching(Outbound::idle(), tenancy, store)
    }

    /// The same with keys from elsewhere.
    fn reaching(outbound: Arc<Outbound>, tenancy: &Arc<Tenancy>, store: Arc<Memory>) -> Self {
        let config = IngressConfig {
            body_bytes_in_flight_max: 1 << 20,
            body_bytes_max: BODY_BYTES_MAX,
            body_deadlines: BodyDeadlines::default(),
            public_url: "https://hooks.example.com".to_owned(),
            trusted_proxies: Vec::new(),
        };
        let holding = Holding::for_tests(store.clone());
        Self::new(config, Arc::clone(tenancy), store, outbound, holding)
    }
}

impl Holding {
    fn for_tests(store: Arc<Memory>) -> Self {
        Self {
            room: Room::new(Limits::of_relay(8)),
            registry: Arc::default(),
            queries: store,
            due: Arc::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }
}

struct World {
    store: Arc<Memory>,
    tenancy: Arc<Tenancy>,
    ingress: Ingress,
    tenant: TenantId,
}

impl World {
    async fn new() -> Self {
        Self::reaching(Outbound::idle()).await
    }

    /// One that gets providers' keys from elsewhere.
    async fn reaching(outbound: Arc<Outbound>) -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = Memory::new(clock.clone(), Arc::new(Due::default()));
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = TenancyConfig {
            provider_keys: ProviderKeys::new(Arc::<Outbound>::clone(&outbound)),
            ..TenancyConfig::default()
        };
        let tenancy = Tenancy::open(store.clone(), store.clone(), key, clock, config);
        let tenancy = Arc::new(tenancy.await.unwrap());
        let tenant = tenancy.create_tenant("acme").await.unwrap().id;
        Self {
            ingress: Ingress::reaching(outbound, &tenancy, store.clone()),
            store,
            tenancy,
            tenant,
        }
    }

    async fn source(&self, settings: SourceSettings, secret: Option<&str>) -> Arc<LiveSource> {
        let name = format!("s{}", self.tenancy.directory().sources(self.tenant).count());
        let new = NewSource {
            name,
            settings,
            secrets: secret.map(Secret::from_text).into_iter().collect(),
        };
        let created = self.tenancy.create_source(self.tenant, new).await.unwrap();
        self.live(&created.key.to_string())
    }

    async fn preset(&self, name: &str, secret: Option<&str>) -> Arc<LiveSource> {
        let settings = SourceSettings::new(SchemeChoice::Preset(name.to_owned()));
        self.source(settings, secret).await
    }

    /// The source as it is now.
    fn live(&self, key: &str) -> Arc<LiveSource> {
        Arc::clone(self.tenancy.directory().source_by_key(key).unwrap())
    }

    async fn post(
        &self,
        live: &LiveSource,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Kept, Problem> {
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let pairs = headers.iter().map(|(n, v)| (copy(n), copy(v)));
        let received = Received {
            method: "POST".to_owned(),
            url: self.ingress.url(live.source.key.as_str(), ""),
            target: String::new(),
            headers: Headers(pairs.collect()),
            body: copy(body),
            remote: None,
            at: NOW,
        };
        match self.ingress.take(live, received).await? {
            Taken::Challenge(answer) => Ok(Kept::Challenge(answer)),
            Taken::Event(new) => self.ingress.append(new).await.map(Kept::Event),
        }
    }

    async fn event(&self, accepted: &Accepted) -> Arc<Event> {
        let found = self.store.event(self.tenant, accepted.id).await.unwrap();
        found.unwrap().event.into()
    }

    async fn events(&self) -> usize {
        let filter = EventFilter::default();
        let page = self.store.events(self.tenant, &filter, None, 250).await;
        page.unwrap().rows.len()
    }
}

/// What came of a request.
#[derive(Debug)]
enum Kept {
    Challenge(Answer),
    Event(Accepted),
}

fn code(taken: Result<Kept, Problem>) -> Code {
    taken.unwrap_err().code
}

#[tokio::test]
async fn a_test_event_is_signed_with_the_sources_own_secret() {
    let world = World::new().await;
    let live = world.preset("stripe", Some("whsec_one")).await;

    let test = TestEvent {
        event_type: Some("invoice.paid".to_owned()),
        path: "/below?a=1".to_owned(),
        ..TestEvent::default()
    };
    let accepted = world.ingress.send_test(&live, test).await.unwrap();

    let event = world.event(&accepted).await;
    assert!(!accepted.duplicate);
    assert_eq!(event.event_type.as_deref(), Some("invoice.paid"));
    assert_eq!(event.target, "/below?a=1");
    assert_eq!(event.verification.rule, "stripe");
    assert!(event.provider_id.is_some());
    // What is stored would be accepted again, had its id not been seen.
    let headers: Vec<_> = event.headers.0.iter().map(text).collect();
    let headers: Vec<_> = headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let body = String::from_utf8(event.body.to_vec()).unwrap();
    let Kept::Event(again) = world.post(&live, &headers, &body).await.unwrap() else {
        panic!("no event");
    };
    assert!(again.duplicate && again.id == accepted.id);
    let forged = body.replace("1999", "2999");
    assert_eq!(
        code(world.post(&live, &headers, &forged).await),
        Code::Signature
    );
}

fn text(pair: &(Bytes, Bytes)) -> (String, String) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&pair.0), text(&pair.1))
}

#[tokio::test]
async fn every_provider_with_a_shared_secret_can_be_tested() {
    let world = World::new().await;
    let mut cannot = Vec::new();
    for preset in presets() {
        let mut settings = SourceSettings::new(SchemeChoice::Preset(preset.name.to_owned()));
        let vars = [
            "public_key",
            "application_key",
            "audience",
            "email",
            "verify_token",
            "webhook_id",
        ];
        settings.vars = vars
            .map(|name| (name.to_owned(), format!("{name}1")))
            .into();
        let secrets = [
            "user:a secret",
            "d2h5IG5vdCBhIHNlY3JldD8=",
            "00112233445566778899aabbccddeeff",
        ];
        let fits = |secret: &&&str| {
            let secret = Secret::from_text(**secret);
            settings.check(vec![secret]).is_ok()
        };
        let Some(secret) = secrets.iter().find(fits) else {
            continue;
        };
        let live = world.source(settings, Some(secret)).await;
        match world.ingress.send_test(&live, TestEvent::default()).await {
            Ok(accepted) => assert!(!accepted.duplicate, "{}", preset.name),
            Err(_) => cannot.push(preset.name),
        }
    }
    assert_eq!(cannot, CANNOT_BE_TESTED);
}

/// Presets whose requests the relay can check, but not make: only the provider has the key.
const CANNOT_BE_TESTED: &[&str] = &["aws-sns", "google-pubsub", "mailchannels", "paypal"];

#[tokio::test]
async fn a_test_of_a_rule_of_ones_own_needs_no_preset() {
    let world = World::new().await;
    let rule: RuleSpec = serde_json::from_value(serde_json::json!({
        "kind": "hmac", "hash": "sha256", "content": "{body}", "encoding": "hex",
        "sig": {"from": "header:X-Sig", "parse": "raw"},
    }))
    .unwrap();
    let settings = SourceSettings::new(SchemeChoice::Own(rule.into()));
    let live = world.source(settings, Some("s")).await;

    let test = TestEvent {
        body: Some(Bytes::from_static(b"\xff\x00 as it is")),
        headers: vec![("X-Extra".to_owned(), "1".to_owned())],
        ..TestEvent::default()
    };
    let accepted = world.ingress.send_test(&live, test).await.unwrap();

    let event = world.event(&accepted).await;
    assert_eq!(event.body, &b"\xff\x00 as it is"[..]);
    assert_eq!(event.headers.get("x-extra"), Some(&b"1"[..]));
}

#[tokio::test]
async fn tests_that_cannot_be_made_say_why() {
    type Change = fn(&mut TestEvent);
    let world = World::new().await;
    let live = world.preset("stripe", Some("whsec_one")).await;
    let test = |change: Change| {
        let mut test = TestEvent::default();
        change(&mut test);
        world.ingress.send_test(&live, test)
    };
    let cases: [(Change, Code); 6] = [
        (|t| t.method = Some("DELETE".to_owned()), Code::Method),
        (|t| t.path = "no slash".to_owned(), Code::Request),
        (|t| t.path = "/a/../b".to_owned(), Code::Request),
        (|t| t.path = "/a#b".to_owned(), Code::Request),
        (
            |t| t.headers = vec![("a b".to_owned(), String::new())],
            Code::Request,
        ),
        (
            |t| t.headers = vec![("a".to_owned(), "x\r\ny".to_owned())],
            Code::Request,
        ),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let problem = test(change).await.unwrap_err();
        assert_eq!(problem.code, expected, "case {index}");
    }
    let mut settings = SourceSettings::new(SchemeChoice::Preset("none".to_owned()));
    settings.body_bytes_max = 4;
    let small = world.source(settings.clone(), None).await;
    let problem = world.ingress.send_test(&small, TestEvent::default()).await;
    assert_eq!(problem.unwrap_err().code, Code::BodyTooLarge);
    settings.enabled = false;
    let disabled = world.source(settings, None).await;
    let problem = world
        .ingress
        .send_test(&disabled, TestEvent::default())
        .await;
    assert_eq!(problem.unwrap_err().code, Code::Conflict);
    let challenge = TestEvent {
        event_type: Some("x".to_owned()),
        body: Some(Bytes::from_static(
            br#"{"type":"url_verification","challenge":"c"}"#,
        )),
        ..TestEvent::default()
    };
    let slack = world.preset("slack", Some("s")).await;
    let problem = world.ingress.send_test(&slack, challenge).await;
    assert_eq!(problem.unwrap_err().code, Code::Invalid);
    assert_eq!(world.events().await, 0);
}

#[tokio::test]
async fn a_handshake_brings_the_secret_once() {
    let world = World::new().await;
    let live = world.preset("asana", None).await;
    assert!(matches!(
        live.verifier,
        Err(NotReady::AwaitingHandshake { .. })
    ));
    assert!(live.source.awaits_handshake());

    // Before it, events are refused, signed by whomever.
    let signed = [("x-hook-signature", "00")];
    assert_eq!(
        code(world.post(&live, &signed, "{}").await),
        Code::Signature
    );
    let problem = world.ingress.send_test(&live, TestEvent::default()).await;
    assert_eq!(problem.unwrap_err().code, Code::Conflict);

    let hello = [("x-hook-secret", "b537207f")];
    let Kept::Challenge(answer) = world.post(&live, &hello, "").await.unwrap() else {
        panic!("no handshake");
    };
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers.get("x-hook-secret"), Some(&b"b537207f"[..]));
    let ready = world.live(live.source.key.as_str());
    assert!(ready.verifier.is_ok() && !ready.source.awaits_handshake());
    let kept = world.tenancy.handshake_secret(&ready.source).unwrap();
    assert_eq!(kept, Secret::from_text("b537207f"));

    // After it, nobody can bring another one: neither now nor with an old picture of the source.
    let theirs = [("x-hook-secret", "theirs")];
    assert_eq!(code(world.post(&ready, &theirs, "").await), Code::Signature);
    assert_eq!(code(world.post(&live, &theirs, "").await), Code::Signature);
    let kept = world.tenancy.handshake_secret(&ready.source).unwrap();
    assert_eq!(kept, Secret::from_text("b537207f"));
    assert!(
        world
            .ingress
            .send_test(&ready, TestEvent::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_secret_given_by_hand_ends_the_waiting_and_is_never_shown() {
    let world = World::new().await;
    let live = world.preset("notion", None).await;
    let (tenant, id) = (world.tenant, live.source.id);
    let secret = Secret::from_text("by hand");
    let source = world
        .tenancy
        .rotate_secret(tenant, id, secret, false)
        .await
        .unwrap();
    assert!(!source.awaits_handshake());
    assert!(world.tenancy.handshake_secret(&source).is_err());
    let ready = world.live(live.source.key.as_str());
    let token = r#"{"verification_token":"secret_x"}"#;
    assert_eq!(code(world.post(&ready, &[], token).await), Code::Signature);
}

#[test]
fn only_secrets_that_arrive_may_be_missing() {
    let bring: Vec<_> = presets()
        .filter(|it| it.brings_secret())
        .map(|it| it.name)
        .collect();
    assert_eq!(bring, ["asana", "notion"]);
    assert!(preset("stripe").is_some_and(|stripe| !stripe.brings_secret()));
}

/// Recorded messages of Amazon SNS, with the certificate they were signed with.
struct Sns {
    body: String,
    certificate: &'static str,
    host: String,
}

impl Sns {
    fn recorded(id: &str) -> Self {
        let all = include_str!("../verify/testdata/vectors.json");
        let all: serde_json::Value = serde_json::from_str(all).unwrap();
        let all = all.as_array().or(all["vectors"].as_array()).unwrap();
        let vector = all.iter().find(|it| it["id"] == id).unwrap();
        let body = BASE64_STANDARD.decode(vector["body_base64"].as_str().unwrap());
        let body = String::from_utf8(body.unwrap()).unwrap();
        let message: serde_json::Value = serde_json::from_str(&body).unwrap();
        let url = message["SigningCertURL"].as_str().unwrap();
        let host = url.split('/').nth(2).unwrap().to_owned();
        let certificate = vector["cert_pem"].as_str().unwrap().to_owned().leak();
        Self {
            body,
            certificate,
            host,
        }
    }
}

#[tokio::test]
async fn a_key_that_lives_at_the_provider_is_fetched_while_the_request_waits() {
    let sns = Sns::recorded("sns-no-subject");
    let provider = Provider::start(&[&sns.host], StatusCode::OK, sns.certificate).await;
    let world = World::reaching(provider.outbound()).await;
    let live = world.preset("aws-sns", None).await;

    let taken = world.post(&live, &[], &sns.body).await;
    assert!(matches!(taken, Ok(Kept::Event(_))), "{taken:?}");
    let forged = sns.body.replace("no subject", "a subject");
    assert_eq!(code(world.post(&live, &[], &forged).await), Code::Signature);

    let alone = World::new().await;
    let live = alone.preset("aws-sns", None).await;
    let problem = alone.post(&live, &[], &sns.body).await.unwrap_err();
    assert_eq!(problem.code, Code::StoreUnavailable);
    assert!(problem.retry_after.is_some());
    assert_eq!(alone.events().await, 0);
}

#[tokio::test]
async fn a_subscription_is_confirmed_only_where_its_owner_opted_in() {
    let sns = Sns::recorded("sns-subscription-confirmation");
    let provider = Provider::start(&[&sns.host], StatusCode::OK, sns.certificate).await;
    let world = World::reaching(provider.outbound()).await;
    let header = [("x-amz-sns-message-type", "SubscriptionConfirmation")];

    let live = world.preset("aws-sns", None).await;
    let taken = world.post(&live, &header, &sns.body).await;
    assert!(matches!(taken, Ok(Kept::Event(_))), "kept for its owner");
    assert_eq!(provider.asked(), 1, "for the certificate alone");

    let mut settings = SourceSettings::new(SchemeChoice::Preset("aws-sns".to_owned()));
    settings.vars = [("confirm_subscription".to_owned(), "yes".to_owned())].into();
    let live = world.source(settings, None).await;
    let taken = world.post(&live, &header, &sns.body).await;
    assert!(matches!(taken, Ok(Kept::Challenge(_))), "{taken:?}");
    let confirmed = async {
        while provider.asked() < 2 {
            tokio::task::yield_now().await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, confirmed).await.unwrap();
}
