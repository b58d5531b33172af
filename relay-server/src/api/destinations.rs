//! Destinations.

use std::{sync::Arc, time::Duration};

use axum::extract::{Path, State};
use http::StatusCode;
use protocol::id::{DestinationId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    complete,
    extract::{Body, Params},
    pages::{List, PageParams},
    unanswered,
};
use crate::{
    lifecycle::RetryPolicy,
    problem::{Code, Problem},
    tenancy::{Destination, DestinationPolicy, Name},
};

#[derive(Debug, Serialize)]
pub(super) struct DestinationView {
    id: String,
    name: String,
    timeout_ms: u64,
    retry: RetryPolicy,
    /// The agent that listens, if the destination ends with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// How much waits; shown for one destination, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<DepthView>,
    version: u64,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize)]
struct DepthView {
    open: u64,
    dead: u64,
    oldest_open: Option<String>,
}

fn view(destination: &Destination) -> DestinationView {
    let timeout = destination.policy.timeout.as_millis();
    DestinationView {
        id: destination.id.to_string(),
        name: destination.name.to_string(),
        timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
        retry: destination.policy.retry.clone(),
        listener: destination
            .expiring
            .map(|listener| listener.agent.to_string()),
        depth: None,
        version: destination.revision.version,
        created_at: destination.revision.created_at.to_string(),
        updated_at: destination.revision.updated_at.to_string(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDestination {
    name: String,
    timeout_ms: Option<u64>,
    retry: Option<RetryPolicy>,
}

/// What changes; what is absent stays as it is. A retry policy is replaced as a whole.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationChange {
    timeout_ms: Option<u64>,
    retry: Option<RetryPolicy>,
    /// The version the change is based on.
    version: Option<u64>,
}

fn apply(policy: &mut DestinationPolicy, timeout_ms: Option<u64>, retry: Option<RetryPolicy>) {
    if let Some(timeout) = timeout_ms {
        policy.timeout = Duration::from_millis(timeout);
    }
    if let Some(retry) = retry {
        policy.retry = retry;
    }
}

/// A destination of a tenant by id or name.
pub(super) fn find(
    state: &ApiState,
    tenant: TenantId,
    text: &str,
) -> Result<Arc<Destination>, Problem> {
    let directory = state.tenancy.directory();
    let found = match text.parse() {
        Ok(id) => directory.destination(tenant, id),
        Err(_) => {
            let name: Option<Name> = text.parse().ok();
            name.and_then(|name| directory.destination_by_name(tenant, &name))
        }
    };
    found.cloned().ok_or(Problem::new(Code::NotFound))
}

/// The id of a destination for a filter. A deleted one is still known to its deliveries, so any id
/// will do.
pub(super) fn find_id(
    state: &ApiState,
    tenant: TenantId,
    text: &str,
) -> Result<DestinationId, Problem> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    find(state, tenant, text).map(|destination| destination.id)
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Params(page): Params<PageParams>,
) -> Result<Answer<List<DestinationView>>, Problem> {
    let directory = state.tenancy.directory();
    page.page(directory.destinations(tenant), |it| it.id, view)
}

pub(super) async fn create(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Body(new): Body<NewDestination>,
) -> Result<Answer<DestinationView>, Problem> {
    let mut policy = DestinationPolicy::default();
    apply(&mut policy, new.timeout_ms, new.retry);
    let tenancy = state.tenancy;
    let create = async move { tenancy.create_destination(tenant, &new.name, policy).await };
    Ok(Answer::created(view(&*complete(create).await?)))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
) -> Result<Answer<DestinationView>, Problem> {
    let destination = find(&state, tenant, &destination)?;
    let depth = state.queries.depth(tenant, destination.id).await;
    let depth = depth.map_err(unanswered)?;
    let mut view = view(&destination);
    view.depth = Some(DepthView {
        open: depth.open,
        dead: depth.dead,
        oldest_open: depth.oldest_open.map(|time| time.to_string()),
    });
    Ok(Answer::ok(view))
}

pub(super) async fn update(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    Body(change): Body<DestinationChange>,
) -> Result<Answer<DestinationView>, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    let tenancy = state.tenancy;
    let update = async move {
        let settings =
            |policy: &mut DestinationPolicy| apply(policy, change.timeout_ms, change.retry);
        tenancy
            .update_destination(tenant, id, change.version, settings)
            .await
    };
    Ok(Answer::ok(view(&*complete(update).await?)))
}

pub(super) async fn delete(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    let tenancy = state.tenancy;
    complete(async move { tenancy.delete_destination(tenant, id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
