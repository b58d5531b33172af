//! Declarations by name, changes under a condition, and requests that are repeated.

use super::*;

impl Api {
    /// A call with header fields: status, headers, body.
    async fn with(
        &self,
        token: &str,
        (method, path): (Method, &str),
        fields: &[(&str, &str)],
        body: &Value,
    ) -> (u16, http::HeaderMap, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = request.body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&body).unwrap_or_default();
        (parts.status.as_u16(), parts.headers, value)
    }
}

#[tokio::test]
async fn a_change_that_somebody_else_was_faster_with_is_refused() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    for (path, change) in [
        ("/sources/stripe", json!({ "enabled": false })),
        ("/destinations/billing", json!({ "timeout_ms": 5_000 })),
        (
            "/routes/stripe-billing",
            json!({ "filter": { "type": "a" } }),
        ),
    ] {
        let (_, headers, _) = api
            .with(token, (Method::GET, path), &[], &Value::Null)
            .await;
        let tag = headers["etag"].to_str().unwrap().to_owned();
        let guarded = [("if-match", tag.as_str())];
        let patch = (Method::PATCH, path);
        let (status, headers, _) = api.with(token, patch.clone(), &guarded, &change).await;
        assert_eq!(status, 200, "{path}");
        assert_ne!(headers["etag"], tag.as_str());
        let before = api.get(token, path).await;
        for method in [Method::PATCH, Method::DELETE] {
            let (status, _, body) = api.with(token, (method, path), &guarded, &change).await;
            assert_eq!(
                (status, text(&body, "code")),
                (412, "E-PRECONDITION".to_owned()),
                "{path}"
            );
        }
        assert_eq!(api.get(token, path).await, before);
        let (status, ..) = api
            .with(token, patch.clone(), &[("if-match", "*")], &change)
            .await;
        assert_eq!(status, 200);
        let (status, ..) = api
            .with(token, patch, &[("if-match", "W/x")], &change)
            .await;
        assert_eq!(status, 400);
    }
    let (_, headers, _) = api
        .with(
            token,
            (Method::GET, "/routes/stripe-billing"),
            &[],
            &Value::Null,
        )
        .await;
    let tag = [("if-match", headers["etag"].to_str().unwrap())];
    let delete = (Method::DELETE, "/routes/stripe-billing");
    assert_eq!(api.with(token, delete, &tag, &Value::Null).await.0, 204);
}

#[tokio::test]
async fn what_is_declared_is_made_changed_or_left_alone() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    let route = json!({ "source": "stripe", "destination": "queue" });
    for (path, first, second) in [
        (
            "/sources/hub",
            json!({ "preset": "github", "secret": "one" }),
            json!({ "preset": "github", "secret": "two", "enabled": false }),
        ),
        (
            "/destinations/queue",
            json!({ "timeout_ms": 5_000 }),
            json!({ "timeout_ms": 6_000 }),
        ),
        (
            "/routes/both",
            route,
            json!({ "source": "hub", "destination": "queue" }),
        ),
    ] {
        let put = (Method::PUT, path);
        let dry = format!("{path}?dry_run=true");
        let dry = (Method::PUT, dry.as_str());
        assert_eq!(api.with(token, dry.clone(), &[], &first).await.0, 201);
        api.refuses(token, Method::GET, path, Value::Null, 404, "E-NOT-FOUND")
            .await;
        let (status, _, made) = api.with(token, put.clone(), &[], &first).await;
        assert_eq!(status, 201, "{made}");
        let noted = api.get(token, "/audit-log").await;
        let (status, _, again) = api.with(token, put.clone(), &[], &first).await;
        assert_eq!((status, &again), (200, &made), "left alone");
        assert_eq!(api.get(token, "/audit-log").await, noted, "nothing to note");

        let (_, _, would) = api.with(token, dry, &[], &second).await;
        assert_eq!(api.get(token, path).await["version"], made["version"]);
        let (status, _, changed) = api.with(token, put.clone(), &[], &second).await;
        assert_eq!((status, &changed["version"]), (200, &json!(2)), "{changed}");
        for field in ["enabled", "timeout_ms", "source"] {
            assert_eq!(would.get(field), changed.get(field), "{path}");
        }
        assert_eq!(changed["id"], made["id"]);
        let (status, ..) = api
            .with(token, put.clone(), &[("if-match", "\"1\"")], &first)
            .await;
        assert_eq!(status, 412);
        let mut other = first;
        other["name"] = "other".into();
        assert_eq!(api.with(token, put, &[], &other).await.0, 400);
    }
    let absent = (Method::PUT, "/destinations/absent");
    let (status, ..) = api
        .with(token, absent, &[("if-match", "\"1\"")], &json!({}))
        .await;
    assert_eq!(status, 412, "a condition on what does not exist");

    // Secrets that are not named stay; those that are named are all.
    let unnamed = json!({ "preset": "github" });
    let put = (Method::PUT, "/sources/hub");
    let (status, _, kept) = api.with(token, put.clone(), &[], &unnamed).await;
    assert_eq!(
        (status, kept["secrets"].as_array().unwrap().len()),
        (200, 1)
    );
    let named = json!({ "preset": "github", "secrets": ["two", "three"] });
    let (_, _, both) = api.with(token, put, &[], &named).await;
    assert_eq!(both["secrets"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_repeat_under_the_same_key_is_answered_again_and_not_made_again() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let token = &acme.token;
    let key = [("idempotency-key", "a1")];
    let post = (Method::POST, "/destinations");
    let new = json!({ "name": "queue" });
    let (status, headers, first) = api.with(token, post.clone(), &key, &new).await;
    assert_eq!(status, 201);
    assert!(!headers.contains_key("idempotency-replayed"));
    let noted = api.get(token, "/audit-log").await;
    let (status, headers, again) = api.with(token, post.clone(), &key, &new).await;
    assert_eq!((status, &again), (201, &first));
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(api.get(token, "/audit-log").await, noted);

    let other = json!({ "name": "other" });
    let (status, _, body) = api.with(token, post.clone(), &key, &other).await;
    assert_eq!(
        (status, text(&body, "code")),
        (422, "E-IDEMPOTENCY".to_owned())
    );
    let rival = api.customer("rival").await;
    let (status, ..) = api.with(&rival.token, post.clone(), &key, &new).await;
    assert_eq!(status, 201, "keys are a token's own");
    let (status, ..) = api
        .with(token, post.clone(), &[("idempotency-key", "")], &other)
        .await;
    assert_eq!(status, 400);

    // A refusal is an answer, too.
    let key = [("idempotency-key", "a2")];
    assert_eq!(api.with(token, post.clone(), &key, &new).await.0, 409);
    let deleted = api
        .call(token, Method::DELETE, "/destinations/queue", Value::Null)
        .await;
    Api::expect(deleted, 204);
    assert_eq!(api.with(token, post, &key, &new).await.0, 409);
}

#[tokio::test]
async fn a_rotated_token_has_two_texts_for_a_while_and_its_uses_are_known() {
    let api = Api::new().await;
    let acme = api.customer("acme").await;
    let shown = api.get(&acme.token, "/tokens/api").await;
    assert_eq!(
        text(&shown, "last_used_at"),
        text(&shown, "created_at"),
        "just now"
    );
    let overlap = json!({ "overlap_s": 60 });
    let rotate = api.call(&acme.token, Method::POST, "/tokens/api/rotate", overlap);
    let rotated = Api::expect(rotate.await, 200);
    let new = text(&rotated, "token");
    assert_eq!(rotated["id"], shown["id"]);
    assert!(rotated["previous_until"].is_string());
    for token in [&acme.token, &new] {
        api.get(token, "/sources").await;
    }
    let at_once = json!({ "overlap_s": 0 });
    let rotate = api.call(&new, Method::POST, "/tokens/api/rotate", at_once);
    let last = text(&Api::expect(rotate.await, 200), "token");
    for token in [&acme.token, &new] {
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
    api.get(&last, "/sources").await;

    let bound = json!({ "name": "bound", "kind": "api", "ip_allow": ["192.0.2.0/24"] });
    let bound = api.create(&last, "/tokens", bound).await;
    assert_eq!(bound["ip_allow"], json!(["192.0.2.0/24"]));
    assert!(bound["last_used_at"].is_null());
    let (token, get) = (text(&bound, "token"), Method::GET);
    api.refuses(&token, get, "/sources", Value::Null, 403, "E-ADDRESS")
        .await;
    for (ip, status) in [("192.0.2.9", 200), ("198.51.100.1", 403)] {
        let mut request = Request::get("/api/v1/sources")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        request
            .extensions_mut()
            .insert(crate::listener::Remote(ip.parse().unwrap()));
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{ip}");
    }
}
