mod audit;
mod conditions;
mod isolation;
mod openapi;

use std::{collections::HashSet, sync::Arc};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use protocol::{
    frame::Headers,
    id::{DeliveryId, EventId, SourceId, TenantId},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::{ManualClock, Timestamp},
    ids,
    lifecycle::{Event, Verification},
    store::{Due, NewDelivery, NewEvent, memory::Memory},
    tenancy::{SecretKey, TenancyConfig, create_operator_token},
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

struct Api {
    router: Router,
    store: Arc<Memory>,
    operator: String,
}

/// A tenant with one of everything.
struct Customer {
    token: String,
    tenant: String,
    source: String,
    destination: String,
    route: String,
    token_id: String,
    event: String,
    delivery: String,
}

impl Api {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = Memory::new(clock.clone(), Arc::new(Due::default()));
        let operator = create_operator_token(&*store, "operator", NOW)
            .await
            .unwrap();
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = TenancyConfig::default();
        let tenancy = Tenancy::open(store.clone(), store.clone(), key, clock.clone(), config);
        let tenancy = Arc::new(tenancy.await.unwrap());
        let replays = crate::replays::Replays::open(
            store.clone(),
            store.clone(),
            store.clone(),
            Arc::clone(&tenancy),
        );
        let replays = Arc::new(replays.await.unwrap());
        let state = ApiState {
            ingress: Arc::new(Ingress::for_tests(&tenancy, store.clone())),
            dispatch: DispatchHandle::new(clock, Box::new(Arc::clone(&tenancy))),
            replays: Arc::clone(&replays),
            registry: Arc::default(),
            tenancy,
            events: store.clone(),
            queries: store.clone(),
            settings: store.clone(),
            keeping: store.clone(),
            public_url: "https://hooks.example.com".to_owned(),
            key_source: KeySource::File("/nonexistent/secret_key".into()),
        };
        Self {
            // Agents have theirs on the public listener; the paths differ.
            router: router(state.clone()).merge(agents::router(state)),
            store,
            operator: operator.expose().to_owned(),
        }
    }

    async fn raw(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: &str,
    ) -> http::Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        http::Response::from_parts(parts, body.to_vec())
    }

    async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = self
            .raw(token, method, &format!("/api/v1{path}"), &text)
            .await;
        let value = serde_json::from_slice(response.body()).unwrap_or_default();
        (response.status(), value)
    }

    #[track_caller]
    fn expect(answer: (StatusCode, Value), status: u16) -> Value {
        assert_eq!(answer.0, status, "{}", answer.1);
        answer.1
    }

    async fn get(&self, token: &str, path: &str) -> Value {
        Self::expect(self.call(token, Method::GET, path, Value::Null).await, 200)
    }

    async fn create(&self, token: &str, path: &str, body: Value) -> Value {
        Self::expect(self.call(token, Method::POST, path, body).await, 201)
    }

    async fn refuses(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Value,
        status: u16,
        code: &str,
    ) -> Value {
        let answer = self.call(token, method, path, body).await;
        assert_eq!(
            (answer.0.as_u16(), text(&answer.1, "code")),
            (status, code.to_owned()),
            "{path}: {}",
            answer.1
        );
        answer.1
    }

    async fn customer(&self, name: &str) -> Customer {
        let operator = &self.operator;
        let tenant = self
            .create(operator, "/tenants", json!({ "name": name }))
            .await;
        let path = format!("/tokens?tenant={name}");
        let token = self
            .create(operator, &path, json!({ "name": "api", "kind": "api" }))
            .await;
        let secret = text(&token, "token");
        let source =
            json!({ "name": "stripe", "preset": "stripe", "secret": format!("whsec_of_{name}") });
        let source = self.create(&secret, "/sources", source).await;
        let destination = self
            .create(&secret, "/destinations", json!({ "name": "billing" }))
            .await;
        let route = json!({ "source": "stripe", "destination": "billing" });
        let route = self.create(&secret, "/routes", route).await;
        let (event, delivery) = self
            .accept(
                &text(&tenant, "id"),
                &text(&source, "id"),
                &text(&destination, "id"),
            )
            .await;
        Customer {
            token: secret,
            tenant: text(&tenant, "id"),
            source: text(&source, "id"),
            destination: text(&destination, "id"),
            route: text(&route, "id"),
            token_id: text(&token, "id"),
            event,
            delivery,
        }
    }

    async fn accept(&self, tenant: &str, source: &str, destination: &str) -> (String, String) {
        let delivery = NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(NOW)),
            destination: destination.parse().unwrap(),
            order: None,
        };
        let header = |name: &'static [u8], value: &'static [u8]| {
            (
                bytes::Bytes::from_static(name),
                bytes::Bytes::from_static(value),
            )
        };
        let event = Event {
            id: EventId::from_u128(ids::fresh(NOW)),
            tenant: tenant.parse::<TenantId>().unwrap(),
            source: source.parse::<SourceId>().unwrap(),
            received_at: NOW,
            method: "POST".to_owned(),
            target: "/x?b=2&a=1".to_owned(),
            headers: Headers(vec![header(b"X-One", b"1"), header(b"X-Two", b"\xff")]),
            body: bytes::Bytes::from_static(b"\x00\xff<script>"),
            verification: Verification {
                rule: "stripe".to_owned(),
                secret: Some(0),
            },
            event_type: Some("invoice.paid".to_owned()),
            provider_id: None,
            remote: None,
        };
        let id = event.id;
        let new = NewEvent {
            waited_for: None,
            event,
            decisions: Vec::new(),
            dedupe_window: std::time::Duration::ZERO,
            deliveries: vec![delivery.clone()],
        };
        self.store.append(new).await.unwrap();
        (id.to_string(), delivery.id.to_string())
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn names(list: &Value) -> Vec<String> {
    list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| text(row, "name"))
        .collect()
}

#[tokio::test]
async fn every_resource_is_created_listed_shown_and_deleted() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;

    assert_eq!(names(&api.get(&api.operator, "/tenants").await), ["acme"]);
    for (kind, name, id) in [
        ("sources", "stripe", &acme.source),
        ("destinations", "billing", &acme.destination),
        ("routes", "stripe-billing", &acme.route),
        ("tokens", "api", &acme.token_id),
    ] {
        assert_eq!(names(&api.get(token, &format!("/{kind}")).await), [name]);
        let by_operator = format!("/{kind}?tenant=acme");
        assert_eq!(names(&api.get(&api.operator, &by_operator).await), [name]);
        let by_name = api.get(token, &format!("/{kind}/{name}")).await;
        assert_eq!(by_name, api.get(token, &format!("/{kind}/{id}")).await);
        assert_eq!(text(&by_name, "id"), **id);
    }
    let busy = api
        .call(&api.operator, Method::DELETE, "/tenants/acme", Value::Null)
        .await;
    assert_eq!(text(&Api::expect(busy, 409), "code"), "E-CONFLICT");
    for path in [
        "/routes/stripe-billing",
        "/sources/stripe",
        "/destinations/billing",
    ] {
        let deleted = api.call(token, Method::DELETE, path, Value::Null).await;
        Api::expect(deleted, 204);
        api.refuses(token, Method::GET, path, Value::Null, 404, "E-NOT-FOUND")
            .await;
    }
    Api::expect(
        api.call(&api.operator, Method::DELETE, "/tenants/acme", Value::Null)
            .await,
        204,
    );
    api.refuses(
        token,
        Method::GET,
        "/sources",
        Value::Null,
        401,
        "E-UNAUTHORISED",
    )
    .await;
}

#[tokio::test]
async fn sources_show_no_secret_and_change_field_by_field() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let path = "/sources/stripe";

    let source = api.get(&acme.token, path).await;
    assert!(text(&source, "url").starts_with("https://hooks.example.com/in/"));
    assert!(!source.to_string().contains("whsec_of_acme"));
    assert!(!source.to_string().contains("v1:"), "no ciphertext either");

    let change =
        json!({ "rate_per_second": 5, "ip_allow": ["192.0.2.0/24"], "dedupe": { "window_s": 60 } });
    let changed = Api::expect(
        api.call(&acme.token, Method::PATCH, path, change).await,
        200,
    );
    assert_eq!(changed["rate_per_second"], 5);
    assert_eq!(
        changed["dedupe"],
        json!({ "window_s": 60, "body_hash": false, "header": null })
    );
    assert_eq!(changed["version"], 2);
    let change = json!({ "rate_per_second": null, "version": 2 });
    let changed = Api::expect(
        api.call(&acme.token, Method::PATCH, path, change).await,
        200,
    );
    assert_eq!(changed["rate_per_second"], Value::Null);
    assert_eq!(changed["ip_allow"], json!(["192.0.2.0/24"]));
    let stale = json!({ "enabled": false, "version": 2 });
    api.refuses(&acme.token, Method::PATCH, path, stale, 409, "E-CONFLICT")
        .await;

    let rotate = format!("{path}/rotate-secret");
    let body = json!({ "secret": "whsec_new" });
    let rotated = Api::expect(
        api.call(&acme.token, Method::POST, &rotate, body).await,
        200,
    );
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 2);
    let body = json!({ "secret": "whsec_newer", "drop_old": true });
    let rotated = Api::expect(
        api.call(&acme.token, Method::POST, &rotate, body).await,
        200,
    );
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn signing_keys_are_shown_to_their_owner_and_nowhere_else() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let path = "/destinations/billing";
    let keys = async |method: Method, path: String, body: Value| {
        let list = Api::expect(api.call(&acme.token, method, &path, body).await, 200);
        let data = list["data"].as_array().unwrap().iter();
        data.map(|key| text(key, "key")).collect::<Vec<_>>()
    };
    let show = || keys(Method::GET, format!("{path}/signing-keys"), Value::Null);
    assert!(show().await.is_empty());

    let change = json!({ "old_signatures": "add" });
    let changed = api.call(&acme.token, Method::PATCH, path, change).await;
    let changed = Api::expect(changed, 200);
    assert_eq!(changed["old_signatures"], "add");
    let first = show().await;
    assert!(first.len() == 1 && first[0].starts_with("whsec_"));
    let rotate = format!("{path}/signing-keys/rotate");
    let rotated = keys(Method::POST, rotate.clone(), json!({ "overlap_s": 60 })).await;
    assert_eq!((rotated.len(), &rotated[1]), (2, &first[0]));
    let alone = keys(Method::POST, rotate, json!({ "overlap_s": 0 })).await;
    assert_eq!(alone.len(), 1);
    let destination = api.get(&acme.token, path).await.to_string();
    assert!(!destination.contains("whsec_") && !destination.contains("v1:"));
}

/// A path, a body, and what is said about it.
const REFUSED: &[(&str, &str, u16, &str, &str)] = &[
    (
        "/sources",
        r#"{"name":"a"}"#,
        422,
        "E-INVALID",
        "preset `none`",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"stripe"}"#,
        422,
        "E-INVALID",
        "secret",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"stripe","secret":" "}"#,
        422,
        "E-INVALID",
        "blank",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"stirpe","secret":"x"}"#,
        422,
        "E-INVALID",
        "mean `stripe`",
    ),
    (
        "/sources",
        r#"{"name":"A b","preset":"none"}"#,
        422,
        "E-INVALID",
        "name",
    ),
    (
        "/sources",
        r#"{"name":"stripe","preset":"none"}"#,
        409,
        "E-NAME-TAKEN",
        "stripe",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"none","ip_allow":["x"]}"#,
        422,
        "E-INVALID",
        "ip_allow",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"none","rule":{"kind":"none"}}"#,
        422,
        "E-INVALID",
        "not both",
    ),
    (
        "/sources",
        r#"{"name":"a","preset":"none","secrt":"s"}"#,
        400,
        "E-REQUEST",
        "field `secrt`",
    ),
    (
        "/sources",
        r#"{"preset":"none"}"#,
        400,
        "E-REQUEST",
        "missing field `name`",
    ),
    (
        "/routes",
        r#"{"source":"nope","destination":"billing"}"#,
        422,
        "E-INVALID",
        "source",
    ),
    (
        "/routes",
        r#"{"source":"stripe","destination":"nope"}"#,
        422,
        "E-INVALID",
        "destination",
    ),
    (
        "/destinations",
        r#"{"name":"d","timeout_ms":0}"#,
        422,
        "E-INVALID",
        "timeout_ms",
    ),
    (
        "/tokens",
        r#"{"name":"t","kind":"root"}"#,
        400,
        "E-REQUEST",
        "kind",
    ),
    (
        "/tokens",
        r#"{"name":"t","kind":"agent","scopes":["tenant"]}"#,
        422,
        "E-INVALID",
        "scopes",
    ),
    (
        "/tokens",
        r#"{"name":"t","kind":"api","scopes":["operator"]}"#,
        422,
        "E-INVALID",
        "scopes",
    ),
    (
        "/tokens",
        r#"{"name":"t","kind":"api","expires_at":"soon"}"#,
        400,
        "E-REQUEST",
        "expires_at",
    ),
    (
        "/tokens",
        r#"{"name":"t","kind":"api","expires_at":"2001-01-01T00:00:00Z"}"#,
        422,
        "E-INVALID",
        "past",
    ),
];

#[tokio::test]
async fn what_is_wrong_is_named() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    for (path, body, status, code, part) in REFUSED {
        let body: Value = serde_json::from_str(body).unwrap();
        let shown = body.to_string();
        let problem = api
            .refuses(&acme.token, Method::POST, path, body, *status, code)
            .await;
        assert!(
            text(&problem, "detail").contains(part),
            "{shown}: {problem}"
        );
    }
}

#[tokio::test]
async fn what_was_sent_is_not_repeated_and_has_a_limit() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let canary = json!({ "name": "a", "preset": "stripe", "secret": ["canary"], "vars": "canary" });
    let problem = api
        .refuses(
            &acme.token,
            Method::POST,
            "/sources",
            canary,
            400,
            "E-REQUEST",
        )
        .await;
    assert!(!problem.to_string().contains("canary"), "{problem}");

    let huge = "x".repeat(REQUEST_BYTES_MAX + 1);
    let response = api
        .raw(&acme.token, Method::POST, "/api/v1/sources", &huge)
        .await;
    assert_eq!(response.status(), 413);
    let response = api
        .raw(&acme.token, Method::POST, "/api/v1/sources", "{")
        .await;
    assert_eq!(response.status(), 400);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}

#[tokio::test]
async fn tokens_are_shown_once_and_decide_everything() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let body = json!({ "name": "laptop", "kind": "agent", "scopes": ["listen"], "destinations": ["billing"] });
    let created = api.create(&acme.token, "/tokens", body).await;
    let agent = text(&created, "token");
    assert!(agent.starts_with("hf_agent_"));
    let shown = api.get(&acme.token, "/tokens/laptop").await;
    assert_eq!(shown["scopes"], json!(["listen"]));
    assert!(!shown.to_string().contains("hf_agent") && !shown.to_string().contains("sha256"));

    for (token, path, status, code) in [
        (agent.as_str(), "/sources", 403, "E-FORBIDDEN"),
        ("", "/sources", 401, "E-UNAUTHORISED"),
        ("hf_api_x", "/sources", 401, "E-UNAUTHORISED"),
        (&api.operator, "/sources", 400, "E-TENANT-MISSING"),
        (&api.operator, "/sources?tenant=nope", 404, "E-NOT-FOUND"),
        (&acme.token, "/tenants", 403, "E-FORBIDDEN"),
    ] {
        api.refuses(token, Method::GET, path, Value::Null, status, code)
            .await;
    }
    let tenant = json!({ "name": "x" });
    api.refuses(
        &acme.token,
        Method::POST,
        "/tenants",
        tenant,
        403,
        "E-FORBIDDEN",
    )
    .await;

    assert_eq!(
        names(&api.get(&api.operator, "/tokens").await),
        ["operator"]
    );
    let second = json!({ "name": "second", "kind": "api", "scopes": ["operator"] });
    let second = text(&api.create(&api.operator, "/tokens", second).await, "token");
    Api::expect(
        api.call(&second, Method::DELETE, "/tokens/operator", Value::Null)
            .await,
        204,
    );
    api.refuses(
        &api.operator,
        Method::GET,
        "/tenants",
        Value::Null,
        401,
        "E-TOKEN-REVOKED",
    )
    .await;
}

#[tokio::test]
async fn events_are_listed_by_many_things() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;

    for filter in [
        "",
        "?source=stripe",
        "?destination=billing",
        "?state=pending",
        "?type=invoice.paid",
        "?since=2023-11-14T00:00:00Z",
        "?tenant=acme",
    ] {
        let list = api.get(token, &format!("/events{filter}")).await;
        assert_eq!(list["data"].as_array().unwrap().len(), 1, "{filter}");
        assert_eq!(list["data"][0]["deliveries"][0]["state"], "pending");
        assert_eq!(list["has_more"], false);
    }
    for filter in [
        "?state=dead",
        "?unrouted=true",
        "?until=2001-01-01T00:00:00Z",
        "?type=x",
    ] {
        let list = api.get(token, &format!("/events{filter}")).await;
        assert_eq!(list["data"], json!([]), "{filter}");
    }
    for filter in [
        "?limit=0",
        "?limit=251",
        "?limit=x",
        "?state=x",
        "?since=x",
        "?nonsense=1",
    ] {
        api.refuses(
            token,
            Method::GET,
            &format!("/events{filter}"),
            Value::Null,
            400,
            "E-REQUEST",
        )
        .await;
    }
}

#[tokio::test]
async fn a_route_is_filtered_and_a_wrong_filter_is_refused_with_its_places() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    let filter = json!({ "headers": { "x-one": "1" } });
    let created = api
        .create(
            token,
            "/routes",
            json!({ "name": "some", "source": "stripe", "destination": "billing", "filter": filter }),
        )
        .await;
    assert_eq!(created["filter"], filter);

    let wrong = json!({ "filter": { "bdy": 1, "body": { "a/b": { "$gtt": 1 } } } });
    let problem = api
        .refuses(
            token,
            Method::PATCH,
            "/routes/some",
            wrong,
            422,
            "E-INVALID",
        )
        .await;
    let errors = problem["errors"].as_array().unwrap();
    let pointers: Vec<_> = errors.iter().map(|error| text(error, "pointer")).collect();
    assert_eq!(
        pointers,
        ["/filter/bdy", "/filter/body/a~1b/$gtt"],
        "{problem}"
    );
    for (change, status) in [
        (json!({}), 400),
        (json!({ "filter": null, "version": 7 }), 409),
        (json!({ "filter": null }), 200),
    ] {
        let answer = api.call(token, Method::PATCH, "/routes/some", change).await;
        Api::expect(answer, status);
    }
    let shown = api.get(token, "/routes/some").await;
    assert_eq!(
        (&shown["filter"], &shown["version"]),
        (&Value::Null, &json!(2))
    );
}

#[tokio::test]
async fn a_route_is_tried_on_events_and_requests() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    let change = json!({ "filter": { "body": { "type": { "$startsWith": "invoice." } } } });
    let changed = api
        .call(token, Method::PATCH, "/routes/stripe-billing", change)
        .await;
    Api::expect(changed, 200);

    for (test, unmet, body) in [
        (
            json!({ "event": acme.event }),
            Some("/body/type/$startsWith"),
            "not_json",
        ),
        (
            json!({ "event": acme.event, "filter": { "type": "invoice.paid", "headers": { "x-one": 1 } } }),
            None,
            "unread",
        ),
        (
            json!({ "request": { "body": "{\"type\":\"invoice.paid\"}" } }),
            None,
            "json",
        ),
        (
            json!({ "request": { "body_base64": "e30=" } }),
            Some("/body/type/$startsWith"),
            "json",
        ),
        (
            json!({ "request": { "body": "{\"type\":\"x\"}" }, "filter": { "type": "y" } }),
            Some("/type"),
            "unread",
        ),
        (
            json!({ "request": { "method": "PUT", "path": "/a?b=1", "headers": { "X-A": "b" } },
                "filter": { "method": "PUT", "path": "/a", "query": { "b": 1 }, "headers": { "x-a": "b" } } }),
            None,
            "unread",
        ),
    ] {
        let answer = api
            .call(
                token,
                Method::POST,
                "/routes/stripe-billing/test",
                test.clone(),
            )
            .await;
        let tested = Api::expect(answer, 200);
        let expected = (&json!(unmet), &json!(body), &json!(unmet.is_none()));
        let found = (&tested["unmet"], &tested["body"], &tested["matched"]);
        assert_eq!(found, expected, "{test}");
    }
}

#[tokio::test]
async fn a_test_of_a_route_that_makes_no_sense_is_refused() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    for (test, status, code) in [
        (json!({}), 400, "E-REQUEST"),
        (
            json!({ "event": acme.event, "request": {} }),
            400,
            "E-REQUEST",
        ),
        (
            json!({ "request": {}, "filter": { "x": 1 } }),
            422,
            "E-INVALID",
        ),
        (json!({ "event": "evt_nope" }), 404, "E-NOT-FOUND"),
    ] {
        let path = "/routes/stripe-billing/test";
        api.refuses(token, Method::POST, path, test, status, code)
            .await;
    }
}

#[tokio::test]
async fn an_event_is_shown_and_downloaded() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;

    let event = api.get(token, &format!("/events/{}", acme.event)).await;
    assert_eq!(event["target"], "/x?b=2&a=1");
    assert_eq!(event["received_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(
        event["headers"],
        json!([
            { "name": "X-One", "value": "1" },
            { "name": "X-Two", "value_base64": "/w==" },
        ])
    );
    let path = format!("/api/v1/events/{}/body", acme.event);
    let body = api.raw(token, Method::GET, &path, "").await;
    assert_eq!(body.body(), b"\x00\xff<script>");
    assert_eq!(body.headers()["content-type"], "application/octet-stream");
    assert_eq!(body.headers()["x-content-type-options"], "nosniff");
    assert!(
        body.headers()["content-disposition"]
            .to_str()
            .unwrap()
            .starts_with("attachment")
    );

    let attempts = format!("/deliveries/{}/attempts", acme.delivery);
    assert_eq!(api.get(token, &attempts).await["data"], json!([]));
}

#[tokio::test]
async fn an_event_is_replayed_once_it_is_no_longer_owed() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    let replay = format!("/events/{}/replay", acme.event);
    api.refuses(token, Method::POST, &replay, Value::Null, 409, "E-CONFLICT")
        .await;

    let cancel = format!("/deliveries/{}/cancel", acme.delivery);
    Api::expect(
        api.call(token, Method::POST, &cancel, Value::Null).await,
        200,
    );
    api.refuses(token, Method::POST, &cancel, Value::Null, 409, "E-CONFLICT")
        .await;
    let replayed = Api::expect(
        api.call(token, Method::POST, &replay, Value::Null).await,
        202,
    );
    let made = &replayed["data"][0];
    assert_eq!(
        (&made["destination_name"], &made["outcome"]),
        (&json!("billing"), &json!("owed"))
    );
    let deliveries = api
        .get(
            token,
            &format!("/deliveries?event={}&destination=billing", acme.event),
        )
        .await;
    let [new, old] = deliveries["data"].as_array().unwrap().as_slice() else {
        panic!("{deliveries}")
    };
    assert_eq!(new["id"], made["delivery"]);
    assert_eq!(new["replay"], replayed["replay"]);
    assert_eq!(old["superseded_by"], new["id"]);
    let elsewhere = json!({ "destination": "nope" });
    api.refuses(token, Method::POST, &replay, elsewhere, 404, "E-NOT-FOUND")
        .await;
}

#[tokio::test]
async fn a_foreign_resource_is_like_none() {
    let api = Api::new().await;
    let (acme, evil) = (api.customer("acme").await, api.customer("evil").await);
    let before = snapshot(&api).await;
    let none = Customer {
        token: String::new(),
        tenant: "ten_00000000000000000000000001".to_owned(),
        source: "src_00000000000000000000000001".to_owned(),
        destination: "dst_00000000000000000000000001".to_owned(),
        route: "rte_00000000000000000000000001".to_owned(),
        token_id: "tok_00000000000000000000000001".to_owned(),
        event: "evt_00000000000000000000000001".to_owned(),
        delivery: "dlv_00000000000000000000000001".to_owned(),
    };
    let (foreign, absent) = (requests(&acme), requests(&none));
    assert!(foreign.len() > 20);
    for ((method, path, body), (_, absent_path, absent_body)) in foreign.into_iter().zip(absent) {
        for query in ["", "tenant=acme"] {
            let with = |path: &str| match (query, path.contains('?')) {
                ("", _) => path.to_owned(),
                (query, true) => format!("{path}&{query}"),
                (query, false) => format!("{path}?{query}"),
            };
            let answer = api
                .call(&evil.token, method.clone(), &with(&path), body.clone())
                .await;
            let expected = api
                .call(
                    &evil.token,
                    method.clone(),
                    &with(&absent_path),
                    absent_body.clone(),
                )
                .await;
            assert_eq!(answer, expected, "{method} {}", with(&path));
            let found_nothing = answer.0.is_client_error() || answer.1["data"] == json!([]);
            assert!(found_nothing, "{method} {}: {}", with(&path), answer.1);
        }
    }
    assert_eq!(before, snapshot(&api).await, "nothing was changed");
}

/// Every request that names something of a customer.
const NAMING: &[(&str, &str, &str)] = &[
    ("GET", "/tenants/<ten>", ""),
    ("DELETE", "/tenants/<ten>", ""),
    ("GET", "/sources/<src>", ""),
    ("DELETE", "/sources/<src>", ""),
    ("PATCH", "/sources/<src>", r#"{"enabled":false}"#),
    (
        "POST",
        "/sources/<src>/rotate-secret",
        r#"{"secret":"whsec_evil"}"#,
    ),
    ("GET", "/destinations/<dst>", ""),
    ("DELETE", "/destinations/<dst>", ""),
    ("PATCH", "/destinations/<dst>", r#"{"timeout_ms":1000}"#),
    ("GET", "/destinations/<dst>/signing-keys", ""),
    ("POST", "/destinations/<dst>/signing-keys/rotate", "{}"),
    ("GET", "/routes/<rte>", ""),
    ("DELETE", "/routes/<rte>", ""),
    ("PATCH", "/routes/<rte>", r#"{"filter":{"method":"X"}}"#),
    ("POST", "/routes/<rte>/test", r#"{"request":{}}"#),
    (
        "POST",
        "/routes/stripe-billing/test",
        r#"{"event":"<evt>"}"#,
    ),
    (
        "POST",
        "/routes",
        r#"{"name":"a","source":"<src>","destination":"billing"}"#,
    ),
    (
        "POST",
        "/routes",
        r#"{"name":"b","source":"stripe","destination":"<dst>"}"#,
    ),
    ("GET", "/tokens/<tok>", ""),
    ("DELETE", "/tokens/<tok>", ""),
    ("GET", "/events/<evt>", ""),
    ("GET", "/events/<evt>/body", ""),
    ("POST", "/events/<evt>/replay", ""),
    (
        "POST",
        "/events/<evt>/replay",
        r#"{"destination":"billing"}"#,
    ),
    ("GET", "/events?source=<src>", ""),
    ("GET", "/events?destination=<dst>", ""),
    ("GET", "/deliveries?event=<evt>", ""),
    ("GET", "/deliveries?destination=<dst>", ""),
    ("GET", "/deliveries/<dlv>/attempts", ""),
    ("POST", "/deliveries/<dlv>/cancel", ""),
];

fn requests(of: &Customer) -> Vec<(Method, String, Value)> {
    let named = |text: &str| {
        let ids = [
            ("<ten>", &of.tenant),
            ("<src>", &of.source),
            ("<dst>", &of.destination),
            ("<rte>", &of.route),
            ("<tok>", &of.token_id),
            ("<evt>", &of.event),
            ("<dlv>", &of.delivery),
        ];
        ids.iter()
            .fold(text.to_owned(), |text, (place, id)| text.replace(place, id))
    };
    let requests = NAMING.iter().map(|(method, path, body)| {
        let body = serde_json::from_str(&named(body)).unwrap_or_default();
        (method.parse().unwrap(), named(path), body)
    });
    requests.collect()
}

async fn snapshot(api: &Api) -> Vec<Value> {
    let mut all = vec![api.get(&api.operator, "/tenants").await];
    for tenant in ["acme", "evil"] {
        for kind in [
            "sources",
            "destinations",
            "routes",
            "tokens",
            "events",
            "deliveries",
        ] {
            all.push(
                api.get(&api.operator, &format!("/{kind}?tenant={tenant}"))
                    .await,
            );
        }
    }
    all
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    for number in 0..4 {
        let body = json!({ "name": format!("d{number}") });
        api.create(&acme.token, "/destinations", body).await;
    }
    let (mut seen, mut cursor) = (HashSet::new(), String::new());
    for pages in 1.. {
        let list = api
            .get(&acme.token, &format!("/destinations?limit=2{cursor}"))
            .await;
        seen.extend(names(&list));
        if list["has_more"] == false {
            assert_eq!((pages, list["next_cursor"].clone()), (3, Value::Null));
            break;
        }
        cursor = format!("&cursor={}", text(&list, "next_cursor"));
    }
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn health_and_unknown_paths_need_no_token() {
    let api = Api::new().await;
    let get = async |path: &str| {
        let response = api.raw("", Method::GET, path, "").await;
        (
            response.status().as_u16(),
            String::from_utf8(response.into_body()).unwrap(),
        )
    };
    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz").await, (200, "ok\n".to_owned()));
    assert!(
        get("/readyz?verbose")
            .await
            .1
            .contains("store accepts events")
    );
    assert!(get("/api/v1/version").await.1.contains("\"api\":\"v1\""));
    assert_eq!(get("/api/v1/nonsense").await.0, 404);
    assert!(get("/").await.1.contains("E-NOT-FOUND"));
    let wrong = api.raw("", Method::PUT, "/api/v1/version", "").await;
    assert_eq!(wrong.status(), 405);
    assert!(wrong.headers()["allow"].to_str().unwrap().contains("GET"));

    api.store.close().await;
    assert_eq!(get("/readyz").await.0, 503);
    assert!(get("/readyz?verbose").await.1.contains("[-] store"));
    assert_eq!(get("/livez").await.0, 200);
}

#[tokio::test]
async fn test_events_are_made_for_those_who_own_the_source() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let other = api.customer("other").await;
    let path = format!("/sources/{}/test", acme.source);

    let asked = json!({ "type": "charge.failed", "headers": { "X-Mine": "1" } });
    let answer = api.call(&acme.token, Method::POST, &path, asked).await;
    let made = Api::expect(answer, 202);
    assert_eq!(made["type"], "charge.failed");
    assert_eq!(made["destinations"], 1);
    assert!(!made.to_string().contains("whsec_of_acme"));
    let event = api
        .get(&acme.token, &format!("/events/{}", text(&made, "id")))
        .await;
    assert_eq!(event["verification"]["rule"], "stripe");
    assert_eq!(event["deliveries"][0]["destination"], acme.destination);

    let by_name = "/sources/stripe/test?tenant=acme";
    let asked = json!({ "body_base64": "/wA=" });
    Api::expect(
        api.call(&api.operator, Method::POST, by_name, asked).await,
        202,
    );
    let none = json!({});
    api.refuses(
        &other.token,
        Method::POST,
        &path,
        none.clone(),
        404,
        "E-NOT-FOUND",
    )
    .await;
    api.refuses("", Method::POST, &path, none, 401, "E-UNAUTHORISED")
        .await;
    for (body, status, code) in [
        (
            json!({ "body": "a", "body_base64": "YQ==" }),
            400,
            "E-REQUEST",
        ),
        (json!({ "body_base64": "not base64" }), 400, "E-REQUEST"),
        (json!({ "source": "stripe" }), 400, "E-REQUEST"),
        (json!({ "event": "misnamed" }), 400, "E-REQUEST"),
        (json!({ "method": "TRACE" }), 405, "E-METHOD"),
    ] {
        api.refuses(&acme.token, Method::POST, &path, body, status, code)
            .await;
    }
}

#[tokio::test]
async fn agents_send_test_events_within_their_reach() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    api.create(&acme.token, "/destinations", json!({ "name": "audit" }))
        .await;
    let agent = async |name: &str, more: Value| {
        let mut token = json!({ "name": name, "kind": "agent" });
        token
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        text(&api.create(&acme.token, "/tokens", token).await, "token")
    };
    let send = async |token: &str, body: Value| {
        let response = api
            .raw(token, Method::POST, "/agent/v1/send", &body.to_string())
            .await;
        response.status().as_u16()
    };
    let any = agent("any", json!({})).await;
    let listens = agent("listens", json!({ "scopes": ["listen"] })).await;
    let billing = agent("billing", json!({ "destinations": ["billing"] })).await;
    let audit = agent("audit", json!({ "destinations": ["audit"] })).await;

    let stripe = json!({ "source": "stripe" });
    for (token, expected) in [
        (&any, 202),
        (&listens, 202),
        (&billing, 202),
        (&audit, 403),
        (&acme.token, 403),
        (&"hf_agent_unknown".to_owned(), 401),
    ] {
        assert_eq!(send(token, stripe.clone()).await, expected);
    }
    assert_eq!(send(&any, json!({ "source": "nothing" })).await, 404);
    assert_eq!(send(&any, json!({})).await, 400);
    let path = "/sources/stripe/test";
    api.refuses(&any, Method::POST, path, json!({}), 403, "E-FORBIDDEN")
        .await;

    // A second route leads beyond the reach of a bound token.
    let route = json!({ "source": "stripe", "destination": "audit" });
    api.create(&acme.token, "/routes", route).await;
    assert_eq!(send(&billing, stripe).await, 403);
}

#[tokio::test]
async fn agents_ask_what_their_token_is_good_for() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let agent = json!({ "name": "dc1", "kind": "agent", "destinations": ["billing", "audit"] });
    let made = api.create(&acme.token, "/tokens", agent).await;
    let (token, id) = (text(&made, "token"), text(&made, "id"));
    let ask = async |token: &str, query: &str| {
        let path = format!("/agent/v1/token{query}");
        let response = api.raw(token, Method::GET, &path, "").await;
        let value: Value = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), value)
    };

    let (status, answer) = ask(&token, "?destinations=billing,audit,orders,No").await;
    assert_eq!(status, 200, "{answer}");
    let expected = json!({
        "id": id,
        "name": "dc1",
        "tenant": "acme",
        "scopes": ["connect"],
        "expires_at": null,
        "destinations": [
            { "name": "billing", "state": "ok" },
            { "name": "audit", "state": "unknown" },
            { "name": "orders", "state": "forbidden" },
            { "name": "No", "state": "unknown" },
        ],
    });
    assert_eq!(answer, expected);
    // Who asks about nothing learns nothing about the tenant.
    assert_eq!(ask(&token, "").await.1["destinations"], json!([]));
    let many = vec!["a"; protocol::limits::DESTINATIONS_MAX + 1].join(",");
    let (status, _) = ask(&token, &format!("?destinations={many}")).await;
    assert_eq!(status, 400);

    let code = async |token: &str| {
        let (status, answer) = ask(token, "").await;
        (status, text(&answer, "code"))
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(code("").await, refused(401, "E-UNAUTHORISED"));
    assert_eq!(code(&acme.token).await, refused(403, "E-FORBIDDEN"));
    let path = format!("/tokens/{id}");
    api.call(&acme.token, Method::DELETE, &path, Value::Null)
        .await;
    assert_eq!(code(&token).await, refused(401, "E-TOKEN-REVOKED"));
    api.refuses(
        &acme.token,
        Method::GET,
        &path,
        Value::Null,
        404,
        "E-NOT-FOUND",
    )
    .await;
    let list = api.get(&acme.token, "/tokens").await;
    assert!(!list.to_string().contains(&id), "{list}");
    let again = json!({ "name": "dc1", "kind": "agent" });
    api.create(&acme.token, "/tokens", again).await;
}

#[tokio::test]
async fn a_source_shows_that_it_awaits_its_handshake() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let asana = json!({ "name": "asana", "preset": "asana" });
    let created = api.create(&acme.token, "/sources", asana).await;
    assert_eq!(created["state"], "awaiting_handshake");
    let stripe = api.get(&acme.token, "/sources/stripe").await;
    assert_eq!(stripe["state"], "ready");

    // A secret that a person gave is never shown.
    for source in ["asana", "stripe"] {
        let path = format!("/sources/{source}/handshake-secret");
        api.refuses(
            &acme.token,
            Method::GET,
            &path,
            Value::Null,
            404,
            "E-NOT-FOUND",
        )
        .await;
    }
    let path = "/sources/asana/test";
    api.refuses(
        &acme.token,
        Method::POST,
        path,
        json!({}),
        409,
        "E-CONFLICT",
    )
    .await;
    let secret = json!({ "secret": "by hand" });
    let path = "/sources/asana/rotate-secret";
    let ready = Api::expect(api.call(&acme.token, Method::POST, path, secret).await, 200);
    assert_eq!(ready["state"], "ready");
}
