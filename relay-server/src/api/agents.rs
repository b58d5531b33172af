//! What agents ask with their own token, on the public listener: what the token is good for, and test
//! events.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    routing::{get, post},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use protocol::limits::DESTINATIONS_MAX;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::{
    Answer, ApiState, REQUEST_BYTES_MAX, auth::AgentCaller, extract::Params, test_events,
    wrong_method,
};
use crate::{
    problem::{Code, Problem},
    tenancy::{Name, Scope},
};

/// Where agents ask about their token.
const TOKEN_PATH: &str = "/agent/v1/token";

/// Where agents send test events.
const SEND_PATH: &str = "/agent/v1/send";

/// How long an agent's request may take, its body included.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Whether a path of the public listener is answered here.
pub(crate) fn is_for_agents(path: &str) -> bool {
    path == TOKEN_PATH || path == SEND_PATH
}

/// Answers an agent's request.
pub(crate) async fn answer_agent(
    state: &ApiState,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let router = router(state.clone());
    let answering = async {
        let Ok(response) = router.oneshot(request.map(Body::new)).await;
        let (parts, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => Response::from_parts(parts, Full::new(body.to_bytes())),
            Err(_) => Problem::new(Code::Internal).into_response(),
        }
    };
    let answer = timeout(ANSWER_MAX, answering).await;
    answer.unwrap_or_else(|_| Problem::new(Code::Timeout).into_response())
}

pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route(TOKEN_PATH, get(token))
        .route(SEND_PATH, post(test_events::send_as_agent))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(state)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Question {
    /// Names, separated by commas.
    destinations: String,
}

/// What a token is good for. It names nothing that its holder has not named.
#[derive(Debug, Serialize)]
struct TokenView {
    id: String,
    name: String,
    tenant: String,
    scopes: Vec<&'static str>,
    expires_at: Option<String>,
    destinations: Vec<DestinationView>,
}

#[derive(Debug, Serialize)]
struct DestinationView {
    name: String,
    state: DestinationState,
}

/// What a session that asks for a destination would meet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum DestinationState {
    Ok,
    Unknown,
    Forbidden,
}

async fn token(
    AgentCaller { tenant, token }: AgentCaller,
    State(state): State<ApiState>,
    Params(question): Params<Question>,
) -> Result<Answer<TokenView>, Problem> {
    let directory = state.tenancy.directory();
    let asked: Vec<_> = question.destinations.split(',').collect();
    if asked.len() > DESTINATIONS_MAX {
        let why = format!("an agent serves at most {DESTINATIONS_MAX} destinations");
        return Err(Problem::new(Code::Request).detail(why));
    }
    let state_of = |name: &Name| {
        if !token.may(Scope::Connect) || !token.may_serve(name) {
            return DestinationState::Forbidden;
        }
        match directory.destination_by_name(tenant, name) {
            Some(_) => DestinationState::Ok,
            None => DestinationState::Unknown,
        }
    };
    let destinations = asked.into_iter().filter(|name| !name.is_empty());
    let destinations = destinations.map(|name| DestinationView {
        name: name.to_owned(),
        state: match name.parse() {
            Ok(name) => state_of(&name),
            Err(_) => DestinationState::Unknown,
        },
    });
    let owner = directory.tenant(tenant);
    Ok(Answer::ok(TokenView {
        id: token.id.to_string(),
        name: token.name.to_string(),
        tenant: owner.map_or_else(|| tenant.to_string(), |owner| owner.name.to_string()),
        scopes: token.scopes.iter().map(|scope| scope.as_str()).collect(),
        expires_at: token.expires_at.map(|time| time.to_string()),
        destinations: destinations.collect(),
    }))
}
