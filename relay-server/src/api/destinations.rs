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
    extract::{Body, Params, bad},
    pages::{List, PageParams},
    refused, unanswered,
};
use crate::{
    lifecycle::{RetryPolicy, StatusPolicy, StatusSpec},
    problem::{Code, Problem},
    tenancy::{Destination, DestinationPolicy, Invalid, Name, OldSignatures},
};

#[derive(Debug, Serialize)]
pub(super) struct DestinationView {
    id: String,
    name: String,
    timeout_ms: u64,
    retry: RetryPolicy,
    status: StatusSpec,
    old_signatures: OldSignatures,
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
        status: destination.policy.status.spec().clone(),
        old_signatures: destination.policy.old_signatures,
        listener: destination
            .expiring
            .map(|listener| listener.agent.to_string()),
        depth: None,
        version: destination.revision.version,
        created_at: destination.revision.created_at.to_string(),
        updated_at: destination.revision.updated_at.to_string(),
    }
}

/// What a destination is made with, or what changes about it; what is absent stays as it is. Each
/// policy is replaced as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DestinationBody {
    /// Given when it is made, and then for good.
    name: Option<String>,
    timeout_ms: Option<u64>,
    retry: Option<RetryPolicy>,
    status: Option<StatusSpec>,
    old_signatures: Option<OldSignatures>,
    /// The version the change is based on.
    version: Option<u64>,
}

/// The policies that a body asks for, with texts read.
struct PolicyChange {
    timeout_ms: Option<u64>,
    retry: Option<RetryPolicy>,
    status: Option<StatusPolicy>,
    old_signatures: Option<OldSignatures>,
}

impl DestinationBody {
    fn read(self) -> Result<PolicyChange, Problem> {
        let status = self.status.map(StatusSpec::compile).transpose();
        let status = status.map_err(|mistake| refused(&Invalid::from(mistake).into()))?;
        Ok(PolicyChange {
            timeout_ms: self.timeout_ms,
            retry: self.retry,
            status,
            old_signatures: self.old_signatures,
        })
    }
}

impl PolicyChange {
    fn apply(self, policy: &mut DestinationPolicy) {
        if let Some(timeout) = self.timeout_ms {
            policy.timeout = Duration::from_millis(timeout);
        }
        if let Some(retry) = self.retry {
            policy.retry = retry;
        }
        if let Some(status) = self.status {
            policy.status = status;
        }
        if let Some(old_signatures) = self.old_signatures {
            policy.old_signatures = old_signatures;
        }
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
    Body(mut new): Body<DestinationBody>,
) -> Result<Answer<DestinationView>, Problem> {
    let name = new.name.take().ok_or_else(|| bad("name", "is missing"))?;
    let mut policy = DestinationPolicy::default();
    new.read()?.apply(&mut policy);
    let tenancy = state.tenancy;
    let create = async move { tenancy.create_destination(tenant, &name, policy).await };
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
    Body(change): Body<DestinationBody>,
) -> Result<Answer<DestinationView>, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    if change.name.is_some() {
        return Err(bad("name", "cannot be changed: agents know it"));
    }
    let (tenancy, version) = (state.tenancy, change.version);
    let change = change.read()?;
    let update = async move {
        tenancy
            .update_destination(tenant, id, version, |policy| change.apply(policy))
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
