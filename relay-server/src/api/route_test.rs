//! Trying a route's filter, or one that is not saved yet, on an event or a request. Changes nothing.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Path, State};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use protocol::{frame::Headers, id::TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, ApiState,
    auth::InTenant,
    events,
    extract::{Body, bad},
    refused,
    routes::find,
};
use crate::{
    lifecycle::filter::{BodyView, Filter, Shape, Subject},
    problem::Problem,
    tenancy::{LiveSource, Route, TenancyError},
    verify,
};

/// What to try: an event that has come, or a request.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RouteTest {
    event: Option<String>,
    request: Option<TestRequest>,
    /// Instead of the route's own.
    filter: Option<Value>,
}

/// A request as the filter is to see it.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TestRequest {
    method: Option<String>,
    /// Path and query below the source's URL.
    path: String,
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct RouteTestView {
    route: String,
    matched: bool,
    /// The term that is not met, as a JSON pointer into the filter.
    unmet: Option<String>,
    /// What filters see of the body: `json`, `not_json`, or `unread` where none looks at it.
    body: &'static str,
    filter: Option<Value>,
}

pub(super) async fn test(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
    Body(test): Body<RouteTest>,
) -> Result<Answer<RouteTestView>, Problem> {
    let route = find(&state, tenant, &route)?;
    let filter = match &test.filter {
        None => route.filter.clone(),
        Some(document) => {
            let filter = Filter::parse(document);
            Some(Arc::new(
                filter.map_err(|error| refused(&TenancyError::from(error)))?,
            ))
        }
    };
    let (tested, body) = match (&test.event, test.request) {
        (Some(event), None) => try_event(&state, tenant, event, filter.as_deref()).await?,
        (None, Some(request)) => try_request(&state, &route, request, filter.as_deref())?,
        _ => return Err(bad("event", "name an event, or give a request")),
    };
    Ok(Answer::ok(RouteTestView {
        route: route.id.to_string(),
        matched: tested.is_ok(),
        unmet: tested.err(),
        body: match body {
            BodyView::Unread => "unread",
            BodyView::Json => "json",
            BodyView::NotJson => "not_json",
        },
        filter: filter.map(|filter| filter.document().clone()),
    }))
}

/// The unmet term, if there is one, and what was seen of the body.
type Tested = (Result<(), String>, BodyView);

fn apply(filter: Option<&Filter>, subject: &Subject<'_>) -> Tested {
    let shape = Shape::of(filter);
    let (picked, body) = shape.pick(subject);
    let tested = filter.map_or(Ok(()), |filter| filter.test(&picked));
    (tested.map_err(str::to_owned), body)
}

async fn try_event(
    state: &ApiState,
    tenant: TenantId,
    event: &str,
    filter: Option<&Filter>,
) -> Result<Tested, Problem> {
    let event = events::find(state, tenant, event).await?.event;
    let directory = state.tenancy.directory();
    let source = directory.source(tenant, event.source);
    // A deleted source has no name any more.
    let source = source.map_or("", |live| live.source.name.as_str());
    Ok(apply(filter, &Subject::of(&event, source)))
}

fn try_request(
    state: &ApiState,
    route: &Route,
    request: TestRequest,
    filter: Option<&Filter>,
) -> Result<Tested, Problem> {
    let body = match (request.body, request.body_base64) {
        (text, None) => Bytes::from(text.unwrap_or_default()),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes
                .map_err(|_| bad("request.body_base64", "is not base64"))?
                .into()
        }
        (Some(_), Some(_)) => return Err(bad("request", "give body or body_base64, not both")),
    };
    let headers = request.headers.into_iter();
    let headers = headers.map(|(name, value)| (Bytes::from(name), Bytes::from(value)));
    let headers = Headers(headers.collect());
    let directory = state.tenancy.directory();
    let live = directory.source(route.tenant, route.source);
    let method = request.method.as_deref().unwrap_or("POST");
    let seen = verify::Request {
        method,
        url: &request.path,
        headers: &headers,
        body: &body,
    };
    let preset = live.and_then(|live| live.source.settings.preset());
    let known = request
        .event_type
        .or_else(|| preset.and_then(|preset| preset.event_type(&seen)));
    let name = |live: &Arc<LiveSource>| live.source.name.to_string();
    let subject = Subject {
        method,
        target: &request.path,
        headers: &headers,
        body: &body,
        event_type: known.as_deref(),
        source: &live.map(name).unwrap_or_default(),
    };
    Ok(apply(filter, &subject))
}
