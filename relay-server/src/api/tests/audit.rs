//! The audit log: nothing that changes something can miss it, and nobody reads another's.

use super::*;

/// Name, caller, path and body.
pub(super) type Change = (&'static str, &'static str, &'static str, Value);

/// For every operation that changes something: who calls it, with which path and body, so that it
/// succeeds on what [`Api::customer`] makes. In an order that works.
fn changes() -> Vec<Change> {
    let tenant = "tenant";
    vec![
        (
            "tenants.create",
            "operator",
            "/tenants",
            json!({ "name": "other" }),
        ),
        (
            "tenants.update",
            "operator",
            "/tenants/acme",
            json!({ "rate_per_second": 9 }),
        ),
        ("tenants.delete", "operator", "/tenants/other", Value::Null),
        (
            "tokens.create",
            tenant,
            "/tokens",
            json!({ "name": "x", "kind": "agent" }),
        ),
        ("tokens.rotate", tenant, "/tokens/x/rotate", json!({})),
        ("tokens.delete", tenant, "/tokens/x", Value::Null),
        (
            "sources.create",
            tenant,
            "/sources",
            json!({ "name": "second", "preset": "none" }),
        ),
        (
            "sources.update",
            tenant,
            "/sources/second",
            json!({ "enabled": false }),
        ),
        ("sources.delete", tenant, "/sources/second", Value::Null),
        (
            "sources.rotate_secret",
            tenant,
            "/sources/stripe/rotate-secret",
            json!({ "secret": "whsec_canary" }),
        ),
        ("sources.test", tenant, "/sources/stripe/test", json!({})),
    ]
}

/// The rest of [`changes`].
fn more_changes() -> Vec<Change> {
    let tenant = "tenant";
    vec![
        (
            "destinations.create",
            tenant,
            "/destinations",
            json!({ "name": "second" }),
        ),
        (
            "destinations.update",
            tenant,
            "/destinations/second",
            json!({ "old_signatures": "add" }),
        ),
        (
            "destinations.rotate_signing_key",
            tenant,
            "/destinations/second/signing-keys/rotate",
            json!({}),
        ),
        (
            "destinations.pause",
            tenant,
            "/destinations/second/pause",
            json!({}),
        ),
        (
            "destinations.resume",
            tenant,
            "/destinations/second/resume",
            json!({}),
        ),
        (
            "routes.delete",
            tenant,
            "/routes/stripe-billing",
            Value::Null,
        ),
        (
            "routes.create",
            tenant,
            "/routes",
            json!({ "source": "stripe", "destination": "second" }),
        ),
        (
            "routes.update",
            tenant,
            "/routes/stripe-second",
            json!({ "filter": null }),
        ),
        (
            "routes.test",
            tenant,
            "/routes/stripe-second/test",
            json!({ "request": {} }),
        ),
    ]
}

/// The rest of [`more_changes`].
fn last_changes() -> Vec<Change> {
    let tenant = "tenant";
    let replay = |id, path| (id, tenant, path, json!({}));
    vec![
        (
            "replays.create",
            tenant,
            "/replays",
            json!({ "dead_letters": {} }),
        ),
        replay("replays.pause", "/replays/{replay}/pause"),
        replay("replays.resume", "/replays/{replay}/resume"),
        replay("replays.cancel", "/replays/{replay}/cancel"),
        (
            "sources.put",
            tenant,
            "/sources/declared",
            json!({ "preset": "none" }),
        ),
        (
            "destinations.put",
            tenant,
            "/destinations/declared",
            json!({}),
        ),
        (
            "routes.put",
            tenant,
            "/routes/declared",
            json!({ "source": "declared", "destination": "declared" }),
        ),
        (
            "deliveries.cancel",
            tenant,
            "/deliveries/{delivery}/cancel",
            json!({}),
        ),
        (
            "events.replay",
            tenant,
            "/events/{event}/replay",
            json!({ "destination": "billing" }),
        ),
        (
            "erasures.create",
            tenant,
            "/erasures",
            json!({ "filter": { "body": { "canary": "canary" } } }),
        ),
        (
            "destinations.delete",
            tenant,
            "/destinations/second",
            Value::Null,
        ),
    ]
}

/// All of them.
pub(super) fn examples() -> Vec<Change> {
    let parts = [changes(), more_changes(), last_changes()];
    parts.into_iter().flatten().collect()
}

#[tokio::test]
async fn whatever_changes_something_is_noted() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let table = endpoints::table();
    let mutating = table.operations().iter().filter(|it| !it.is_read());
    let mut missing: Vec<_> = mutating.clone().map(|it| it.id).collect();
    // Needs a key file; `tests/it` runs it.
    missing.retain(|id| *id != "secret_keys.reload");
    let mut replay = String::new();
    for (id, who, path, body) in examples() {
        let operation = mutating.clone().find(|it| it.id == id).unwrap();
        let token = if who == "operator" {
            &api.operator
        } else {
            &acme.token
        };
        let path = path
            .replace("{event}", &acme.event)
            .replace("{delivery}", &acme.delivery)
            .replace("{replay}", &replay);
        let (status, answer) = api.call(token, operation.method.clone(), &path, body).await;
        assert!(status.is_success(), "{id}: {status} {answer}");
        missing.retain(|missing| *missing != id);
        if id == "replays.create" {
            replay = text(&answer, "id");
        }

        let log = api.get(&api.operator, "/audit-log?limit=1").await;
        let record = &log["data"][0];
        assert_eq!(
            (text(record, "action"), text(record, "target")),
            (id.to_owned(), path)
        );
        assert_eq!(record["status"], status.as_u16());
        assert_eq!(record["actor"]["operator"], who == "operator");
        if answer["id"].is_string() {
            assert_eq!(record["resource"], answer["id"], "{id}");
        }
        assert!(!log.to_string().contains("canary"), "{log}");
    }
    assert!(
        missing.is_empty(),
        "add an example to `changes` for {missing:?}"
    );
}

#[tokio::test]
async fn what_was_refused_changed_nothing_and_is_not_noted() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let before = api.get(&api.operator, "/audit-log").await;
    for (token, method, path) in [
        (acme.token.as_str(), Method::DELETE, "/sources/nobodys"),
        (&acme.token, Method::POST, "/sources"),
        ("hf_api_x", Method::DELETE, "/sources/stripe"),
        (&acme.token, Method::DELETE, "/tenants/acme"),
        (&acme.token, Method::PUT, "/nowhere"),
    ] {
        let (status, _) = api.call(token, method, path, json!({})).await;
        assert!(status.is_client_error(), "{path}");
    }
    assert_eq!(api.get(&api.operator, "/audit-log").await, before);
}

#[tokio::test]
async fn a_tenant_sees_what_was_done_to_it_and_pages_through_it() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let other = api.customer("other").await;
    let limits = json!({ "rate_per_second": 9 });
    let updated = api.call(&api.operator, Method::PATCH, "/tenants/acme", limits);
    Api::expect(updated.await, 200);

    let actions = |log: &Value| -> Vec<String> {
        let rows = log["data"].as_array().unwrap().iter();
        rows.map(|row| text(row, "action")).collect()
    };
    let own = api.get(&acme.token, "/audit-log").await;
    assert_eq!(
        actions(&own),
        [
            "tenants.update",
            "routes.create",
            "destinations.create",
            "sources.create",
            "tokens.create",
            "tenants.create"
        ]
    );
    assert!(!own.to_string().contains(&other.tenant));
    let by_operator = api.get(&api.operator, "/audit-log?tenant=acme").await;
    assert_eq!(by_operator, own);
    let path = format!("/audit-log?tenant={}", other.tenant);
    api.refuses(
        &acme.token,
        Method::GET,
        &path,
        Value::Null,
        404,
        "E-NOT-FOUND",
    )
    .await;

    let first = api.get(&acme.token, "/audit-log?limit=4").await;
    let path = format!("/audit-log?limit=4&cursor={}", text(&first, "next_cursor"));
    let rest = api.get(&acme.token, &path).await;
    assert_eq!([actions(&first), actions(&rest)].concat(), actions(&own));
    assert_eq!(rest["has_more"], false);
    let filtered = format!("/audit-log?action=sources&resource={}", acme.source);
    assert_eq!(
        actions(&api.get(&acme.token, &filtered).await),
        ["sources.create"]
    );
    for bad in ["cursor=x", "limit=251", "since=now", "nonsense=1"] {
        let path = format!("/audit-log?{bad}");
        api.refuses(
            &acme.token,
            Method::GET,
            &path,
            Value::Null,
            400,
            "E-REQUEST",
        )
        .await;
    }

    let path = "/api/v1/audit-log/export?action=sources";
    let export = api.raw(&api.operator, Method::GET, path, "").await;
    assert_eq!(export.headers()["content-type"], "application/x-ndjson");
    let lines = String::from_utf8(export.into_body()).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(
        lines
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let api = Api::new().await;
    let answer = api.raw("", Method::GET, "/api/v1/version", "").await;
    assert!(
        answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req_")
    );
    let refused = api.raw("", Method::DELETE, "/api/v1/sources/x", "").await;
    assert!(refused.headers().contains_key("x-request-id"));
}
