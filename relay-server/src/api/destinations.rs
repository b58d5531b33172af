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
    conditions::{Declared, IfMatch, PutParams, declared, name_of},
    extract::{Body, Params, bad, nullable},
    flow::{self, FlowView},
    pages::{List, PageParams},
    refused, unanswered,
    views::parse_time,
};
use crate::{
    lifecycle::{BreakerPolicy, Maintenance, RetryPolicy, StatusPolicy, StatusSpec},
    problem::{Code, Problem},
    store::DestinationKey,
    tenancy::{Destination, DestinationPolicy, Invalid, Name, OldSignatures},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct DestinationView {
    id: String,
    name: String,
    timeout_ms: u64,
    retry: RetryPolicy,
    status: StatusSpec,
    old_signatures: OldSignatures,
    in_flight_max: Option<u32>,
    rate_per_second: Option<u32>,
    age_max_ms: Option<u64>,
    breaker: BreakerPolicy,
    maintenance: Vec<String>,
    /// The pause somebody made, over or not.
    paused: Option<PausedView>,
    /// The agent that listens, if the destination ends with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// How much waits; shown for one destination, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<DepthView>,
    /// How it is doing; shown for one destination, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<FlowView>,
    version: u64,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct DepthView {
    open: u64,
    dead: u64,
    oldest_open: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct PausedView {
    since: String,
    until: Option<String>,
    reason: Option<String>,
}

fn view(destination: &Destination) -> DestinationView {
    let flow = &destination.policy.flow;
    DestinationView {
        id: destination.id.to_string(),
        name: destination.name.to_string(),
        timeout_ms: millis(destination.policy.timeout),
        retry: destination.policy.retry.clone(),
        status: destination.policy.status.spec().clone(),
        old_signatures: destination.policy.old_signatures,
        in_flight_max: flow.in_flight_max,
        rate_per_second: flow.rate_per_second,
        age_max_ms: flow.age_max.map(millis),
        breaker: flow.breaker,
        maintenance: flow.maintenance.texts().to_vec(),
        paused: destination.paused.as_ref().map(|paused| PausedView {
            since: paused.since.to_string(),
            until: paused.until.map(|until| until.to_string()),
            reason: paused.reason.clone(),
        }),
        listener: destination
            .expiring
            .map(|listener| listener.agent.to_string()),
        depth: None,
        flow: None,
        version: destination.revision.version,
        created_at: destination.revision.created_at.to_string(),
        updated_at: destination.revision.updated_at.to_string(),
    }
}

/// What a destination is made with, or what changes about it; what is absent stays as it is, and
/// `null` takes a limit away. Each policy is replaced as a whole.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
pub(super) struct DestinationBody {
    /// Given when it is made, and then for good.
    name: Option<String>,
    timeout_ms: Option<u64>,
    retry: Option<RetryPolicy>,
    status: Option<StatusSpec>,
    old_signatures: Option<OldSignatures>,
    #[serde(deserialize_with = "nullable")]
    in_flight_max: Option<Option<u32>>,
    #[serde(deserialize_with = "nullable")]
    rate_per_second: Option<Option<u32>>,
    #[serde(deserialize_with = "nullable")]
    age_max_ms: Option<Option<u64>>,
    breaker: Option<BreakerPolicy>,
    maintenance: Option<Vec<String>>,
    /// The version the change is based on.
    version: Option<u64>,
}

/// A body with its texts read.
struct PolicyChange {
    status: Option<StatusPolicy>,
    maintenance: Option<Maintenance>,
    rest: DestinationBody,
}

impl DestinationBody {
    fn read(mut self) -> Result<PolicyChange, Problem> {
        let status = self.status.take().map(StatusSpec::compile).transpose();
        let status = status.map_err(|mistake| refused(&Invalid::from(mistake).into()))?;
        let maintenance = self.maintenance.take().map(Maintenance::read).transpose();
        let maintenance = maintenance.map_err(|mistake| refused(&Invalid::from(mistake).into()))?;
        Ok(PolicyChange {
            status,
            maintenance,
            rest: self,
        })
    }
}

impl PolicyChange {
    fn apply(self, policy: &mut DestinationPolicy) {
        let rest = self.rest;
        set(
            &mut policy.timeout,
            rest.timeout_ms.map(Duration::from_millis),
        );
        set(&mut policy.retry, rest.retry);
        set(&mut policy.status, self.status);
        set(&mut policy.old_signatures, rest.old_signatures);
        let flow = &mut policy.flow;
        set(&mut flow.in_flight_max, rest.in_flight_max);
        set(&mut flow.rate_per_second, rest.rate_per_second);
        let age_max = rest.age_max_ms.map(|age| age.map(Duration::from_millis));
        set(&mut flow.age_max, age_max);
        set(&mut flow.breaker, rest.breaker);
        set(&mut flow.maintenance, self.maintenance);
    }
}

fn set<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
) -> Result<Answer<DestinationView, 201>, Problem> {
    let name = new.name.take().ok_or_else(|| bad("name", "is missing"))?;
    let mut policy = DestinationPolicy::default();
    new.read()?.apply(&mut policy);
    let tenancy = state.tenancy;
    let create = async move { tenancy.create_destination(tenant, &name, policy).await };
    let destination = complete(create).await?;
    let version = destination.revision.version;
    Ok(Answer::created(view(&destination)).version(version))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
) -> Result<Answer<DestinationView>, Problem> {
    let destination = find(&state, tenant, &destination)?;
    let depth = state.queries.depth(tenant, destination.id).await;
    let depth = depth.map_err(unanswered)?;
    let key = DestinationKey {
        tenant,
        destination: destination.id,
    };
    let mut view = view(&destination);
    view.flow = Some(flow::view(&state, key));
    view.depth = Some(DepthView {
        open: depth.open,
        dead: depth.dead,
        oldest_open: depth.oldest_open.map(|time| time.to_string()),
    });
    Ok(Answer::ok(view).version(destination.revision.version))
}

fn tagged(destination: &Destination) -> Answer<DestinationView> {
    Answer::ok(view(destination)).version(destination.revision.version)
}

/// Declares a destination: what is absent has its default. A pause stays.
pub(super) async fn put(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    if_match: IfMatch,
    Params(params): Params<PutParams>,
    Body(new): Body<DestinationBody>,
) -> Result<Declared<DestinationView>, Problem> {
    let name = match destination.parse::<DestinationId>() {
        Ok(_) => find(&state, tenant, &destination)?.name.to_string(),
        Err(_) => name_of(destination, new.name.as_deref())?,
    };
    let mut policy = DestinationPolicy::default();
    new.read()?.apply(&mut policy);
    let options = params.options(if_match);
    let tenancy = state.tenancy;
    let put = async move {
        tenancy
            .put_destination(tenant, &name, policy, options)
            .await
    };
    let written = complete(put)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(declared(&written, options, |it| it.revision.version, view))
}

pub(super) async fn update(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    if_match: IfMatch,
    Body(change): Body<DestinationBody>,
) -> Result<Answer<DestinationView>, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    if change.name.is_some() {
        return Err(bad("name", "cannot be changed: agents know it"));
    }
    let (tenancy, version) = (state.tenancy, if_match.or(change.version));
    let change = change.read()?;
    let update = async move {
        tenancy
            .update_destination(tenant, id, version, |policy| change.apply(policy))
            .await
    };
    let destination = complete(update)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(tagged(&destination))
}

/// What a pause is made with.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseBody {
    /// When it ends by itself.
    until: Option<String>,
    reason: Option<String>,
}

pub(super) async fn pause(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    Body(pause): Body<PauseBody>,
) -> Result<Answer<DestinationView>, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    let until = pause.until.map(|text| parse_time("until", &text));
    let (until, reason) = (until.transpose()?, pause.reason);
    let tenancy = state.tenancy;
    let pause = async move { tenancy.pause_destination(tenant, id, until, reason).await };
    Ok(tagged(&*complete(pause).await?))
}

pub(super) async fn resume(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
) -> Result<Answer<DestinationView>, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    let tenancy = state.tenancy;
    let resume = async move { tenancy.resume_destination(tenant, id).await };
    Ok(tagged(&*complete(resume).await?))
}

pub(super) async fn delete(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let id = find(&state, tenant, &destination)?.id;
    let tenancy = state.tenancy;
    let expected = if_match.or(None);
    let delete = async move { tenancy.delete_destination(tenant, id, expected).await };
    complete(delete)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(StatusCode::NO_CONTENT)
}
