//! The relay's API as the tests use it, and what nearly every test sets up with it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    eventually,
    provider::{Provider, Request},
    wire::Reply,
};

/// A caller of the API: an operator, or an operator acting for one tenant.
#[derive(Clone)]
pub struct Api {
    addr: SocketAddr,
    token: String,
    tenant: Option<String>,
}

impl Api {
    /// A caller with a token.
    pub fn new(addr: SocketAddr, token: &str) -> Self {
        Self {
            addr,
            token: token.to_owned(),
            tenant: None,
        }
    }

    /// The same caller, acting for a tenant.
    #[must_use]
    pub fn for_tenant(&self, tenant: &str) -> Self {
        Self {
            tenant: Some(tenant.to_owned()),
            ..self.clone()
        }
    }

    /// Calls `/api/v1` + `path`, whatever is answered.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut target = format!("/api/v1{path}");
        if let Some(tenant) = &self.tenant {
            let separator = if path.contains('?') { '&' } else { '?' };
            target = format!("{target}{separator}tenant={tenant}");
        }
        let mut request = Request::new(method, &target)
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Connection", "close");
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        Provider::new(self.addr).send(&request).await
    }

    /// Creates or changes something; fails the test unless that succeeds.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        successful("POST", path, self.call("POST", path, Some(&body)).await)
    }

    /// Changes something; fails the test unless that succeeds.
    pub async fn patch(&self, path: &str, body: Value) -> Value {
        successful("PATCH", path, self.call("PATCH", path, Some(&body)).await)
    }

    /// Reads something; fails the test unless that succeeds.
    pub async fn get(&self, path: &str) -> Value {
        successful("GET", path, self.call("GET", path, None).await)
    }

    /// Deletes something; fails the test unless that succeeds.
    pub async fn delete(&self, path: &str) {
        let reply = self.call("DELETE", path, None).await;
        assert_eq!(reply.status, 204, "DELETE {path}: {reply:?}");
    }

    /// The rows of a list, all pages of it.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self
                .get(&format!("{path}{separator}limit=250{cursor}"))
                .await;
            rows.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

#[track_caller]
fn successful(method: &str, path: &str, reply: Reply) -> Value {
    assert!(
        (200..300).contains(&reply.status),
        "{method} {path}: {reply:?}"
    );
    reply.json()
}

/// A source, as its provider knows it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// The path of its URL.
    pub path: String,
    /// What its provider signs with.
    pub secret: String,
}

/// A tenant.
#[derive(Clone)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// The API in its name.
    pub api: Api,
}

impl Tenant {
    /// Creates a tenant.
    pub async fn create(operator: &Api, name: &str) -> Self {
        operator.post("/tenants", json!({ "name": name })).await;
        Self {
            name: name.to_owned(),
            api: operator.for_tenant(name),
        }
    }

    /// Creates a source with a secret that suits the preset; `more` adds to its settings.
    pub async fn source(&self, name: &str, preset: &str, more: Value) -> Source {
        let secret = match preset {
            "standard-webhooks" => "whsec_aG9va2ZlcnJ5LXRlc3RzLXNlY3JldC0zMi1ieXRlcw==",
            _ => "whsec_a secret that no log may show",
        };
        let mut settings = json!({ "name": name, "preset": preset });
        if preset != "none" {
            settings["secret"] = secret.into();
        }
        merge(&mut settings, more);
        let created = self.api.post("/sources", settings).await;
        let url = created["url"].as_str().unwrap();
        let path = url[url.find("/in/").unwrap()..].to_owned();
        Source {
            name: name.to_owned(),
            path,
            secret: secret.to_owned(),
        }
    }

    /// Creates a destination that tries again soon, so that tests need not wait; `more` adds to it.
    pub async fn destination(&self, name: &str, more: Value) {
        let mut settings = json!({
            "name": name,
            "retry": { "base_ms": 50, "factor": 1, "cap_ms": 60_000 },
        });
        merge(&mut settings, more);
        self.api.post("/destinations", settings).await;
    }

    /// Creates a route.
    pub async fn route(&self, source: &str, destination: &str) {
        self.api
            .post(
                "/routes",
                json!({ "source": source, "destination": destination }),
            )
            .await;
    }

    /// Creates an agent's token with these scopes.
    pub async fn token(&self, name: &str, scopes: &[&str]) -> String {
        let token = self.api.post(
            "/tokens",
            json!({ "name": name, "kind": "agent", "scopes": scopes }),
        );
        token.await["token"].as_str().unwrap().to_owned()
    }

    /// Waits until every delivery of the tenant has ended, and returns them.
    pub async fn settled(&self) -> Vec<Value> {
        eventually("the end of all deliveries", async || {
            let deliveries = self.api.list("/deliveries").await;
            let open =
                |delivery: &Value| matches!(delivery["state"].as_str(), Some("pending" | "retry"));
            (!deliveries.iter().any(open)).then_some(deliveries)
        })
        .await
    }

    /// The only delivery of an event.
    pub async fn delivery(&self, event: &str) -> Value {
        let mut deliveries = self.api.list(&format!("/deliveries?event={event}")).await;
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        deliveries.remove(0)
    }

    /// Waits until the only delivery of an event is in this state, and returns it.
    pub async fn delivery_is(&self, event: &str, state: &str) -> Value {
        eventually(format!("{event} to be {state}"), async || {
            let delivery = self.delivery(event).await;
            (delivery["state"] == state).then_some(delivery)
        })
        .await
    }

    /// The attempts of the only delivery of an event.
    pub async fn attempts(&self, event: &str) -> Vec<Value> {
        let delivery = self.delivery(event).await;
        let id = delivery["id"].as_str().unwrap();
        let attempts = self.api.get(&format!("/deliveries/{id}/attempts")).await;
        attempts["data"].as_array().unwrap().clone()
    }
}

fn merge(settings: &mut Value, more: Value) {
    let Value::Object(more) = more else {
        panic!("{more} is no object")
    };
    settings.as_object_mut().unwrap().extend(more);
}

/// A way from a provider to a service: tenant, source, route, destination, and an agent's token.
#[derive(Clone)]
pub struct Journey {
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it begins.
    pub source: Source,
    /// Where it ends: the name of the destination.
    pub destination: String,
    /// With it an agent may serve the destination.
    pub token: String,
}

impl Journey {
    /// Creates all of it; `more` adds to the settings of the source.
    pub async fn create(operator: &Api, preset: &str, more: Value) -> Self {
        let tenant = Tenant::create(operator, "acme").await;
        let source = tenant.source("shop", preset, more).await;
        tenant.destination("billing", json!({})).await;
        tenant.route("shop", "billing").await;
        let token = tenant.token("agents", &["connect", "listen"]).await;
        Self {
            tenant,
            source,
            destination: "billing".to_owned(),
            token,
        }
    }

    /// A request to the source, without a body or signature.
    pub fn post(&self) -> Request {
        Request::post(&self.source)
    }
}
