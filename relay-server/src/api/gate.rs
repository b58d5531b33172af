//! What every request to the API passes: it gets an id, and what it changed is in the audit log
//! before it is answered. No endpoint does this itself, so none can forget it.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts as _, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, request::Parts},
    middleware::Next,
    response::Response,
};
use protocol::id::{TenantId, TokenId};
use serde::Deserialize;
use tracing::error;

use super::{
    ApiState, REQUEST_BYTES_MAX, Unchanged, auth,
    idempotency::{self, Remembered},
    table::{BASE, Operation},
};
use crate::{
    ids,
    listener::Remote,
    problem::{Code, Problem},
    store::AuditRecord,
    tenancy::Token,
};

/// The header field with a request's id, of the caller's choice or ours.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id a caller may choose, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The longest answer to a change, in bytes: all of them are small documents.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest path that is noted, in characters.
const TARGET_CHARS_MAX: usize = 256;

/// Operations that keep the keys they are asked under with what they made, durably.
const OWN_KEYS: &[&str] = &["replays.create"];

/// What stands before all endpoints.
#[derive(Clone)]
pub(super) struct Gate {
    state: ApiState,
    /// The names of endpoints that change something.
    changes: Arc<HashMap<(Method, String), &'static str>>,
    remembered: Arc<Remembered>,
}

impl Gate {
    pub(super) fn new(state: ApiState, operations: &[Operation]) -> Self {
        let changes = operations.iter().filter(|operation| !operation.is_read());
        let changes = changes.map(|operation| {
            let path = format!("{BASE}{}", operation.path);
            ((operation.method.clone(), path), operation.id)
        });
        Self {
            state,
            changes: Arc::new(changes.collect()),
            remembered: Arc::default(),
        }
    }
}

/// Lets a request pass, and notes what it did.
pub(super) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let request_id = request_id(&gate, &parts);
    let draft = match parts.method {
        Method::GET | Method::HEAD | Method::OPTIONS => None,
        _ => draft(&gate, &mut parts, &request_id).await,
    };
    let request = Request::from_parts(parts, body);
    let mut response = match draft {
        None => next.run(request).await,
        // To its end, even if the caller hangs up meanwhile.
        Some(draft) => {
            let changing = tokio::spawn(async move { gate.change(draft, request, next).await });
            changing.await.unwrap_or_else(|error| {
                error!(%error, "a change ended without an answer");
                Problem::new(Code::Internal).into()
            })
        }
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

impl Gate {
    /// Makes a change once, however often it is asked for under one key, and notes it.
    async fn change(&self, draft: Draft, request: Request, next: Next) -> Response {
        let is_own = OWN_KEYS.contains(&draft.record.action.as_str());
        let is_ours = request.method() == Method::POST && !is_own;
        let key = request
            .headers()
            .get(idempotency::KEY)
            .filter(|_| is_ours)
            .cloned();
        let Some(key) = key else {
            let response = next.run(request).await;
            return note(&self.state, draft.record, response).await;
        };
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, REQUEST_BYTES_MAX).await else {
            return Problem::new(Code::BodyTooLarge).into();
        };
        let target = parts
            .uri
            .path_and_query()
            .map_or("", |target| target.as_str());
        let fingerprint = idempotency::fingerprint(parts.method.as_str(), target, &body);
        let now = self.state.tenancy.now();
        let place = match self.remembered.enter(draft.token, &key, fingerprint, now) {
            Ok(place) => place,
            Err(answer) => return *answer,
        };
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        let response = note(&self.state, draft.record, response).await;
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, ANSWER_BYTES_MAX).await else {
            return Problem::new(Code::Internal).into();
        };
        place.done(parts.status, &parts.headers, &body);
        Response::from_parts(parts, Body::from(body))
    }
}

fn request_id(gate: &Gate, parts: &Parts) -> String {
    let given = parts
        .headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    let is_fit = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match given.filter(is_fit) {
        Some(id) => id.to_owned(),
        None => ids::request(gate.state.tenancy.now()),
    }
}

#[derive(Deserialize)]
struct TenantParameter {
    tenant: Option<String>,
}

/// Who asks for a change, and what the log will say of it.
struct Draft {
    token: TokenId,
    record: AuditRecord,
}

/// What the log will say, as far as it is known before. `None` for whoever has no valid token, and
/// so changes nothing.
async fn draft(gate: &Gate, parts: &mut Parts, request_id: &str) -> Option<Draft> {
    let state = &gate.state;
    let token = auth::authenticate(parts, state).ok()?;
    let matched = MatchedPath::from_request_parts(parts, state).await.ok()?;
    let key = (parts.method.clone(), matched.as_str().to_owned());
    let action = gate.changes.get(&key).copied();
    let path = parts.uri.path();
    let path = path.strip_prefix(BASE).unwrap_or(path);
    let record = AuditRecord {
        at: state.tenancy.now(),
        tenant: tenant(state, parts, &token, path),
        actor: token.id.to_string(),
        actor_name: token.name.to_string(),
        operator: token.tenant.is_none(),
        action: action.map_or_else(|| format!("unnamed.{}", parts.method), str::to_owned),
        target: path.chars().take(TARGET_CHARS_MAX).collect(),
        resource: None,
        status: 0,
        remote: parts.extensions.get::<Remote>().map(|remote| remote.0),
        request: request_id.to_owned(),
    };
    let token = token.id;
    Some(Draft { token, record })
}

/// Whose log it belongs into: that of the tenant that the request is about.
fn tenant(state: &ApiState, parts: &Parts, token: &Token, path: &str) -> Option<TenantId> {
    let of_query = axum::extract::Query::<TenantParameter>::try_from_uri(&parts.uri);
    let named = of_query.ok().and_then(|query| query.0.tenant);
    let of_path = || {
        path.strip_prefix("/tenants/")?
            .split('/')
            .next()
            .map(str::to_owned)
    };
    token.tenant.or_else(|| {
        let found = auth::find_tenant(state, &named.or_else(of_path)?);
        found.ok().map(|tenant| tenant.id)
    })
}

/// Notes what was done, and what may have been done. What was refused changed nothing.
async fn note(state: &ApiState, mut record: AuditRecord, response: Response) -> Response {
    let status = response.status();
    let is_unchanged = response.extensions().get::<Unchanged>().is_some();
    if is_unchanged || (!status.is_success() && !status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, ANSWER_BYTES_MAX).await else {
        return Problem::new(Code::Internal).into();
    };
    record.at = state.tenancy.now();
    record.status = status.as_u16();
    record.resource = resource(&body);
    if record.tenant.is_none() {
        record.tenant = record.resource.as_ref().and_then(|id| id.parse().ok());
    }
    if let Err(error) = state.settings.append_audit(record).await {
        error!(%error, "a change is not in the audit log");
        let why = "the change may have been made, but it could not be noted in the audit log";
        return Problem::new(Code::StoreUnavailable).detail(why).into();
    }
    Response::from_parts(parts, Body::from(body))
}

/// The id that an answer names.
fn resource(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    serde_json::from_slice::<Named>(body)
        .ok()
        .map(|named| named.id)
}
