//! The HTTP API under `/api/v1`, and what tells whether the relay lives.
//!
//! One file a resource. Whoever calls has a token; the token decides the tenant, and what belongs to
//! another tenant answers exactly like what does not exist. Failures are [`Problem`]s.

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

mod events;

mod explain;

mod deliveries;

mod agents;

mod health;

use std::{future::Future, sync::Arc};

pub(crate) use agents::{answer_agent, is_for_agents};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use tracing::{error, warn};

use crate::{
    dispatch::DispatchHandle,
    ingress::Ingress,
    problem::{Code, Problem},
    session::Registry,
    store::{Events, Queries, StoreError},
    tenancy::{Tenancy, TenancyError},
};

/// The largest body of a request to the API, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// What the API works with.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The settings.
    pub tenancy: Arc<Tenancy>,
    /// Replays and cancellations.
    pub events: Arc<dyn Events>,
    /// Lists.
    pub queries: Arc<dyn Queries>,
    /// Takes test events.
    pub ingress: Arc<Ingress>,
    /// How destinations are doing.
    pub dispatch: DispatchHandle,
    /// Which agents are connected.
    pub registry: Arc<Registry>,
    /// What providers see, without a final slash.
    pub public_url: String,
}

/// Everything the admin listener answers.
pub fn router(state: ApiState) -> Router {
    let api = Router::new()
        .route("/version", get(health::version))
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route(
            "/tenants/{tenant}",
            get(tenants::show)
                .patch(tenants::update)
                .delete(tenants::delete),
        )
        .route("/sources", get(sources::list).post(sources::create))
        .route(
            "/sources/{source}",
            get(sources::show)
                .patch(sources::update)
                .delete(sources::delete),
        )
        .route(
            "/sources/{source}/rotate-secret",
            post(sources::rotate_secret),
        )
        .route("/sources/{source}/test", post(test_events::send))
        .route(
            "/sources/{source}/handshake-secret",
            get(sources::handshake_secret),
        )
        .route(
            "/destinations",
            get(destinations::list).post(destinations::create),
        )
        .route(
            "/destinations/{destination}",
            get(destinations::show)
                .patch(destinations::update)
                .delete(destinations::delete),
        )
        .route(
            "/destinations/{destination}/signing-keys",
            get(signing_keys::show),
        )
        .route(
            "/destinations/{destination}/signing-keys/rotate",
            post(signing_keys::rotate),
        )
        .route(
            "/destinations/{destination}/pause",
            post(destinations::pause),
        )
        .route(
            "/destinations/{destination}/resume",
            post(destinations::resume),
        )
        .route("/routes", get(routes::list).post(routes::create))
        .route(
            "/routes/{route}",
            get(routes::show)
                .patch(routes::update)
                .delete(routes::delete),
        )
        .route("/routes/{route}/test", post(route_test::test))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{token}", get(tokens::show).delete(tokens::delete))
        .merge(events_router());
    Router::new()
        .nest("/api/v1", api)
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(state)
}

/// What came, and what became of it.
fn events_router() -> Router<ApiState> {
    Router::new()
        .route("/events", get(events::list))
        .route("/events/{event}", get(events::show))
        .route("/events/{event}/body", get(events::body))
        .route("/events/{event}/explain", get(explain::show))
        .route("/events/{event}/replay", post(events::replay))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/{delivery}/attempts", get(deliveries::attempts))
        .route("/deliveries/{delivery}/cancel", post(deliveries::cancel))
}

async fn unknown_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(128).collect();
    Problem::new(Code::NotFound).detail(format!("there is nothing at {path}"))
}

async fn wrong_method() -> Problem {
    Problem::new(Code::Method)
}

/// A JSON answer that no cache keeps.
#[derive(Debug)]
struct Answer<T>(http::StatusCode, T);

impl<T: Serialize> Answer<T> {
    fn ok(value: T) -> Self {
        Self(http::StatusCode::OK, value)
    }

    fn created(value: T) -> Self {
        Self(http::StatusCode::CREATED, value)
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let mut response = (self.0, axum::Json(self.1)).into_response();
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, no_store);
        response
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
