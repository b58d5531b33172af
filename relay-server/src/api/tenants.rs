//! Tenants, for operators.

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
    tenancy::{Tenant, TenantLimits},
};

#[derive(Debug, Serialize)]
pub(super) struct TenantView {
    id: String,
    name: String,
    rate_per_second: Option<u32>,
    created_at: String,
}

fn view(tenant: &Tenant) -> TenantView {
    TenantView {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        rate_per_second: tenant.limits.rate_per_second,
        created_at: tenant.revision.created_at.to_string(),
    }
}

#[derive(Debug, Deserialize)]
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
    page.page(directory.tenants(), |tenant| tenant.id, view)
}

pub(super) async fn create(
    _: Operator,
    State(state): State<ApiState>,
    Body(new): Body<NewTenant>,
) -> Result<Answer<TenantView>, Problem> {
    let tenancy = state.tenancy;
    let tenant = complete(async move { tenancy.create_tenant(&new.name).await }).await?;
    Ok(Answer::created(view(&tenant)))
}

pub(super) async fn show(
    _: Operator,
    State(state): State<ApiState>,
    Path(tenant): Path<String>,
) -> Result<Answer<TenantView>, Problem> {
    Ok(Answer::ok(view(&*find_tenant(&state, &tenant)?)))
}

/// What changes; what is absent stays as it is, and `null` takes a limit away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
pub(super) struct LimitsChange {
    #[serde(default, deserialize_with = "nullable")]
    rate_per_second: Option<Option<u32>>,
}

pub(super) async fn update(
    _: Operator,
    State(state): State<ApiState>,
    Path(tenant): Path<String>,
    Body(change): Body<LimitsChange>,
) -> Result<Answer<TenantView>, Problem> {
    let id = find_tenant(&state, &tenant)?.id;
    let apply = move |limits: &mut TenantLimits| {
        if let Some(rate) = change.rate_per_second {
            limits.rate_per_second = rate;
        }
    };
    let tenancy = state.tenancy;
    let tenant = complete(async move { tenancy.update_tenant(id, apply).await }).await?;
    Ok(Answer::ok(view(&tenant)))
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
