//! Routes.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use protocol::id::{DestinationId, RouteId, SourceId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, ApiState,
    auth::InTenant,
    complete,
    conditions::{Declared, IfMatch, PutParams, declared, name_of},
    destinations,
    extract::{Body, Params, bad, nullable},
    pages::{List, PageParams},
    refused, sources,
};
use crate::{
    lifecycle::filter::Filter,
    problem::{Code, Problem},
    tenancy::{Directory, Invalid, Route, TenancyError},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct RouteView {
    id: String,
    name: String,
    source: String,
    source_name: Option<String>,
    destination: String,
    destination_name: Option<String>,
    filter: Option<Value>,
    version: u64,
    created_at: String,
    updated_at: String,
}

fn view(directory: &Directory, route: &Route) -> RouteView {
    let source = directory.source(route.tenant, route.source);
    let destination = directory.destination(route.tenant, route.destination);
    RouteView {
        id: route.id.to_string(),
        name: route.name.to_string(),
        source: route.source.to_string(),
        source_name: source.map(|live| live.source.name.to_string()),
        destination: route.destination.to_string(),
        destination_name: destination.map(|it| it.name.to_string()),
        filter: route
            .filter
            .as_ref()
            .map(|filter| filter.document().clone()),
        version: route.revision.version,
        created_at: route.revision.created_at.to_string(),
        updated_at: route.revision.updated_at.to_string(),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRoute {
    /// `SOURCE-DESTINATION` unless given.
    name: Option<String>,
    /// By id or name.
    source: String,
    /// By id or name.
    destination: String,
    /// Which events; all without one.
    filter: Option<Value>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteChange {
    /// The version the change is based on.
    version: Option<u64>,
    /// `null` takes all events.
    #[serde(default, deserialize_with = "nullable")]
    #[expect(
        clippy::option_option,
        reason = "absent, null and a value are three things"
    )]
    filter: Option<Option<Value>>,
}

fn parse_filter(document: Option<&Value>) -> Result<Option<Filter>, Problem> {
    let filter = document.map(Filter::parse).transpose();
    filter.map_err(|error| refused(&TenancyError::from(error)))
}

pub(super) fn find(state: &ApiState, tenant: TenantId, text: &str) -> Result<Arc<Route>, Problem> {
    let directory = state.tenancy.directory();
    let id = text.parse::<RouteId>().ok();
    let is_it = |route: &&Arc<Route>| Some(route.id) == id || route.name.as_str() == text;
    let found = directory.routes(tenant).find(is_it);
    found.cloned().ok_or(Problem::new(Code::NotFound))
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Params(page): Params<PageParams>,
) -> Result<Answer<List<RouteView>>, Problem> {
    let directory = state.tenancy.directory();
    page.page(
        directory.routes(tenant),
        |it| it.id,
        |route| view(&directory, route),
    )
}

/// What a route is to connect, and for which events.
fn read(
    state: &ApiState,
    tenant: TenantId,
    new: &NewRoute,
) -> Result<((SourceId, DestinationId), Option<Filter>), Problem> {
    let unknown = |kind: &'static str| {
        let why = format!("the tenant has no such {kind}");
        let field = kind.into();
        Problem::from(&TenancyError::Invalid(Invalid { field, why }))
    };
    let source = sources::find(state, tenant, &new.source);
    let source = source.map_err(|_| unknown("source"))?.source.id;
    let destination = destinations::find(state, tenant, &new.destination);
    let destination = destination.map_err(|_| unknown("destination"))?.id;
    let filter = parse_filter(new.filter.as_ref())?;
    Ok(((source, destination), filter))
}

/// Declares a route.
pub(super) async fn put(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
    if_match: IfMatch,
    Params(params): Params<PutParams>,
    Body(new): Body<NewRoute>,
) -> Result<Declared<RouteView>, Problem> {
    let name = match route.parse::<RouteId>() {
        Ok(_) => find(&state, tenant, &route)?.name.to_string(),
        Err(_) => name_of(route, new.name.as_deref())?,
    };
    let (between, filter) = read(&state, tenant, &new)?;
    let options = params.options(if_match);
    let tenancy = Arc::clone(&state.tenancy);
    let put = async move {
        tenancy
            .put_route(tenant, &name, between, filter, options)
            .await
    };
    let written = complete(put)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    let directory = state.tenancy.directory();
    Ok(declared(
        &written,
        options,
        |it| it.revision.version,
        |it| view(&directory, it),
    ))
}

pub(super) async fn create(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Body(new): Body<NewRoute>,
) -> Result<Answer<RouteView, 201>, Problem> {
    let (between, filter) = read(&state, tenant, &new)?;
    let (source, destination) = between;
    let tenancy = Arc::clone(&state.tenancy);
    let create = async move {
        let name = new.name.as_deref();
        tenancy
            .create_route(tenant, name, source, destination, filter)
            .await
    };
    let route = complete(create).await?;
    Ok(Answer::created(view(&state.tenancy.directory(), &route)).version(route.revision.version))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
) -> Result<Answer<RouteView>, Problem> {
    let route = find(&state, tenant, &route)?;
    Ok(Answer::ok(view(&state.tenancy.directory(), &route)).version(route.revision.version))
}

pub(super) async fn update(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
    if_match: IfMatch,
    Body(change): Body<RouteChange>,
) -> Result<Answer<RouteView>, Problem> {
    let route = find(&state, tenant, &route)?;
    let Some(filter) = &change.filter else {
        return Err(bad(
            "filter",
            "is all that can be changed; give one, or null",
        ));
    };
    let filter = parse_filter(filter.as_ref())?;
    let version = if_match.or(change.version);
    let tenancy = Arc::clone(&state.tenancy);
    let update = async move {
        let id = route.id;
        tenancy.update_route(tenant, id, version, filter).await
    };
    let route = complete(update)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(Answer::ok(view(&state.tenancy.directory(), &route)).version(route.revision.version))
}

pub(super) async fn delete(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let id = find(&state, tenant, &route)?.id;
    let tenancy = state.tenancy;
    let expected = if_match.or(None);
    let delete = async move { tenancy.delete_route(tenant, id, expected).await };
    complete(delete)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(StatusCode::NO_CONTENT)
}
