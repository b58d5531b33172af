//! Routes.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use protocol::id::{RouteId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    complete, destinations,
    extract::{Body, Params},
    pages::{List, PageParams},
    sources,
};
use crate::{
    problem::{Code, Problem},
    tenancy::{Directory, Invalid, Route, TenancyError},
};

#[derive(Debug, Serialize)]
pub(super) struct RouteView {
    id: String,
    name: String,
    source: String,
    source_name: Option<String>,
    destination: String,
    destination_name: Option<String>,
    created_at: String,
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
        created_at: route.revision.created_at.to_string(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRoute {
    /// `SOURCE-DESTINATION` unless given.
    name: Option<String>,
    /// By id or name.
    source: String,
    /// By id or name.
    destination: String,
}

fn find(state: &ApiState, tenant: TenantId, text: &str) -> Result<Arc<Route>, Problem> {
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

pub(super) async fn create(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Body(new): Body<NewRoute>,
) -> Result<Answer<RouteView>, Problem> {
    let unknown = |kind: &'static str| {
        let why = format!("the tenant has no such {kind}");
        let field = kind.into();
        Problem::from(&TenancyError::Invalid(Invalid { field, why }))
    };
    let source = sources::find(&state, tenant, &new.source);
    let source = source.map_err(|_| unknown("source"))?.source.id;
    let destination = destinations::find(&state, tenant, &new.destination);
    let destination = destination.map_err(|_| unknown("destination"))?.id;
    let tenancy = Arc::clone(&state.tenancy);
    let create = async move {
        let name = new.name.as_deref();
        tenancy
            .create_route(tenant, name, source, destination)
            .await
    };
    let route = complete(create).await?;
    Ok(Answer::created(view(&state.tenancy.directory(), &route)))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
) -> Result<Answer<RouteView>, Problem> {
    let route = find(&state, tenant, &route)?;
    Ok(Answer::ok(view(&state.tenancy.directory(), &route)))
}

pub(super) async fn delete(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(route): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = find(&state, tenant, &route)?.id;
    let tenancy = state.tenancy;
    complete(async move { tenancy.delete_route(tenant, id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
