//! Tenants, for operators.

use std::time::Duration;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::{Operator, find_tenant},
    complete,
    extract::{Body, Params, nullable},
    pages::{List, PageParams},
};
use crate::{
    problem::Problem,
    tenancy::{Keep, Quota, Tenant, TenantLimits},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct TenantView {
    id: String,
    name: String,
    rate_per_second: Option<u32>,
    /// Its own choice; `null` leaves it to the relay.
    quota: QuotaFields,
    retention: RetentionFields,
    /// What holds, the relay's choice included.
    in_force: InForce,
    usage: UsageView,
    created_at: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct InForce {
    quota: QuotaFields,
    retention: RetentionFields,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct UsageView {
    stored_events: u64,
    stored_bytes: u64,
}

/// How much a tenant may bring.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct QuotaFields {
    ingest_per_second: Option<u32>,
    event_bytes_max: Option<u64>,
    stored_events_max: Option<u64>,
    stored_bytes_max: Option<u64>,
}

/// How long and how much of a tenant's is kept.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct RetentionFields {
    age_s: Option<u64>,
    events_max: Option<u64>,
    bytes_max: Option<u64>,
    dead_age_s: Option<u64>,
    pending_age_s: Option<u64>,
}

impl From<Quota> for QuotaFields {
    fn from(quota: Quota) -> Self {
        Self {
            ingest_per_second: quota.ingest_per_second,
            event_bytes_max: quota.event_bytes_max,
            stored_events_max: quota.stored_events_max,
            stored_bytes_max: quota.stored_bytes_max,
        }
    }
}

impl From<Keep> for RetentionFields {
    fn from(keep: Keep) -> Self {
        Self {
            age_s: keep.age.map(|age| age.as_secs()),
            events_max: keep.events_max,
            bytes_max: keep.bytes_max,
            dead_age_s: keep.dead_age.map(|age| age.as_secs()),
            pending_age_s: keep.pending_age.map(|age| age.as_secs()),
        }
    }
}

fn view(state: &ApiState, tenant: &Tenant) -> TenantView {
    let usage = state.events.usage(tenant.id);
    let retention = state.tenancy.retention(tenant.id);
    TenantView {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        rate_per_second: tenant.limits.rate_per_second,
        quota: tenant.limits.quota.into(),
        retention: tenant.limits.keep.into(),
        in_force: InForce {
            quota: state.tenancy.quota(tenant.id).into(),
            retention: RetentionFields {
                age_s: Some(retention.age.as_secs()),
                events_max: retention.events,
                bytes_max: retention.bytes,
                dead_age_s: Some(retention.dead_age.as_secs()),
                pending_age_s: Some(retention.pending_age.as_secs()),
            },
        },
        usage: UsageView {
            stored_events: usage.events,
            stored_bytes: usage.bytes,
        },
        created_at: tenant.revision.created_at.to_string(),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    name: String,
}

pub(super) async fn list(
    _: Operator,
    State(state): State<ApiState>,
    Params(page): Params<PageParams>,
) -> Result<Answer<List<TenantView>>, Problem> {
    let directory = state.tenancy.directory();
    page.page(
        directory.tenants(),
        |tenant| tenant.id,
        |tenant| view(&state, tenant),
    )
}

pub(super) async fn create(
    _: Operator,
    State(state): State<ApiState>,
    Body(new): Body<NewTenant>,
) -> Result<Answer<TenantView, 201>, Problem> {
    let tenancy = state.tenancy.clone();
    let tenant = complete(async move { tenancy.create_tenant(&new.name).await }).await?;
    Ok(Answer::created(view(&state, &tenant)))
}

pub(super) async fn show(
    _: Operator,
    State(state): State<ApiState>,
    Path(tenant): Path<String>,
) -> Result<Answer<TenantView>, Problem> {
    Ok(Answer::ok(view(&state, &*find_tenant(&state, &tenant)?)))
}

/// What changes; what is absent stays as it is, and `null` takes a limit away.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
pub(super) struct LimitsChange {
    #[serde(default, deserialize_with = "nullable")]
    rate_per_second: Option<Option<u32>>,
    #[serde(default)]
    quota: QuotaChange,
    #[serde(default)]
    retention: RetentionChange,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
struct QuotaChange {
    #[serde(deserialize_with = "nullable")]
    ingest_per_second: Option<Option<u32>>,
    #[serde(deserialize_with = "nullable")]
    event_bytes_max: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    stored_events_max: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    stored_bytes_max: Option<Option<u64>>,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
struct RetentionChange {
    #[serde(deserialize_with = "nullable")]
    age_s: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    events_max: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    bytes_max: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    dead_age_s: Option<Option<u64>>,
    #[serde(deserialize_with = "nullable")]
    pending_age_s: Option<Option<u64>>,
}

impl QuotaChange {
    fn apply(&self, to: &mut Quota) {
        set(&mut to.ingest_per_second, self.ingest_per_second);
        set(&mut to.event_bytes_max, self.event_bytes_max);
        set(&mut to.stored_events_max, self.stored_events_max);
        set(&mut to.stored_bytes_max, self.stored_bytes_max);
    }
}

impl RetentionChange {
    fn apply(&self, to: &mut Keep) {
        let seconds = |age: Option<Option<u64>>| age.map(|age| age.map(Duration::from_secs));
        set(&mut to.age, seconds(self.age_s));
        set(&mut to.events_max, self.events_max);
        set(&mut to.bytes_max, self.bytes_max);
        set(&mut to.dead_age, seconds(self.dead_age_s));
        set(&mut to.pending_age, seconds(self.pending_age_s));
    }
}

#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
fn set<T>(field: &mut Option<T>, change: Option<Option<T>>) {
    if let Some(value) = change {
        *field = value;
    }
}

pub(super) async fn update(
    _: Operator,
    State(state): State<ApiState>,
    Path(tenant): Path<String>,
    Body(change): Body<LimitsChange>,
) -> Result<Answer<TenantView>, Problem> {
    let id = find_tenant(&state, &tenant)?.id;
    let apply = move |limits: &mut TenantLimits| {
        set(&mut limits.rate_per_second, change.rate_per_second);
        change.quota.apply(&mut limits.quota);
        change.retention.apply(&mut limits.keep);
    };
    let tenancy = state.tenancy.clone();
    let tenant = complete(async move { tenancy.update_tenant(id, apply).await }).await?;
    Ok(Answer::ok(view(&state, &tenant)))
}

pub(super) async fn delete(
    _: Operator,
    State(state): State<ApiState>,
    Path(tenant): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = find_tenant(&state, &tenant)?.id;
    let tenancy = state.tenancy;
    complete(async move { tenancy.delete_tenant(id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
