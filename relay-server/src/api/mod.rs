//! The HTTP API under `/api/v1`, and what tells whether the relay lives.
//!
//! One file a resource. Whoever calls has a token; the token decides the tenant, and what belongs to
//! another tenant answers exactly like what does not exist. Failures are [`Problem`]s.

mod table;

mod endpoints;

mod describe;

mod openapi;

mod gate;

mod idempotency;

mod conditions;

mod auth;

mod extract;

mod pages;

mod views;

mod tenants;

mod sources;

mod test_events;

mod destinations;

mod signing_keys;

mod flow;

mod routes;

mod route_test;

mod tokens;

mod secret_keys;

mod events;

mod explain;

mod deliveries;

mod dead_letters;

mod replays;

mod audit_log;

mod erasures;

mod agents;

mod health;

mod metrics;

use std::{future::Future, sync::Arc};

pub(crate) use agents::{answer_agent, is_for_agents};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use gate::Gate;
use serde::Serialize;
use table::BASE;
use tracing::{error, warn};

use crate::{
    dispatch::DispatchHandle,
    ingress::Ingress,
    problem::{Code, Problem},
    replays::Replays,
    session::Registry,
    store::{Events, Keeping, Queries, Settings, StoreError},
    tenancy::{KeySource, Tenancy, TenancyError},
};

/// The largest body of a request to the API, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// What the API works with.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The settings.
    pub tenancy: Arc<Tenancy>,
    /// Where they are kept, and the audit log with them.
    pub settings: Arc<dyn Settings>,
    /// Replays and cancellations.
    pub events: Arc<dyn Events>,
    /// Lists.
    pub queries: Arc<dyn Queries>,
    /// How much is stored.
    pub keeping: Arc<dyn Keeping>,
    /// Replay jobs.
    pub replays: Arc<Replays>,
    /// Takes test events.
    pub ingress: Arc<Ingress>,
    /// How destinations are doing.
    pub dispatch: DispatchHandle,
    /// Which agents are connected.
    pub registry: Arc<Registry>,
    /// What providers see, without a final slash.
    pub public_url: String,
    /// Where the keys for secrets at rest are.
    pub key_source: KeySource,
}

/// Everything the admin listener answers.
pub fn router(state: ApiState) -> Router {
    let table = endpoints::table();
    let gate = Gate::new(state.clone(), table.operations());
    let api = table.into_router();
    Router::new()
        .nest(BASE, api)
        .route_layer(middleware::from_fn_with_state(gate, gate::pass))
        .route("/api/openapi.json", get(openapi::show))
        .route("/api/", get(openapi::page))
        .route("/api/page.js", get(openapi::script))
        .route("/api/page.css", get(openapi::style))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(state)
}

async fn unknown_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(128).collect();
    Problem::new(Code::NotFound).detail(format!("there is nothing at {path}"))
}

async fn wrong_method() -> Problem {
    Problem::new(Code::Method)
}

/// A JSON answer of one status that no cache keeps.
#[derive(Debug)]
struct Answer<T, const STATUS: u16 = 200> {
    value: T,
    version: Option<u64>,
    is_unchanged: bool,
}

/// Marks an answer to a request that changed nothing, for the gate.
#[derive(Debug, Clone, Copy)]
struct Unchanged;

impl<T> Answer<T> {
    fn ok(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Answer<T, 201> {
    fn created(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Answer<T, 202> {
    fn accepted(value: T) -> Self {
        Self::new(value)
    }
}

impl<T, const STATUS: u16> Answer<T, STATUS> {
    fn new(value: T) -> Self {
        Self {
            value,
            version: None,
            is_unchanged: false,
        }
    }

    /// Names the version that is shown, as an `ETag`.
    fn version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    /// Says whether nothing was changed.
    fn unchanged(mut self, is_unchanged: bool) -> Self {
        self.is_unchanged = is_unchanged;
        self
    }
}

/// A JSON answer of one of two statuses.
#[derive(Debug)]
enum OneOfTwo<T, const ONE: u16, const OTHER: u16> {
    One(Answer<T, ONE>),
    Other(Answer<T, OTHER>),
}

impl<T: Serialize, const STATUS: u16> IntoResponse for Answer<T, STATUS> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.value).into_response();
        *response.status_mut() = http::StatusCode::from_u16(STATUS).unwrap_or(http::StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let tag = self.version.map(|version| format!("\"{version}\""));
        if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
            headers.insert(header::ETAG, tag);
        }
        if self.is_unchanged {
            response.extensions_mut().insert(Unchanged);
        }
        response
    }
}

impl<T: Serialize, const ONE: u16, const OTHER: u16> IntoResponse for OneOfTwo<T, ONE, OTHER> {
    fn into_response(self) -> Response {
        match self {
            Self::One(answer) => answer.into_response(),
            Self::Other(answer) => answer.into_response(),
        }
    }
}

/// Makes a change to its end, even if the caller hangs up meanwhile.
async fn complete<T: Send + 'static>(
    change: impl Future<Output = Result<T, TenancyError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(outcome) => outcome.map_err(|error| refused(&error)),
        Err(error) => {
            error!(%error, "A change ended without an answer");
            Err(Problem::new(Code::Internal))
        }
    }
}

/// The answer to a change that was not made; what the caller must not learn is logged.
fn refused(error: &TenancyError) -> Problem {
    if let TenancyError::Store(cause) = error {
        warn!(%cause, "The settings could not be stored");
    }
    Problem::from(error)
}

/// The answer to a question the store could not answer.
fn unanswered(error: StoreError) -> Problem {
    warn!(%error, "The store could not answer the API");
    Problem::from(&error)
}

#[cfg(test)]
mod tests;
