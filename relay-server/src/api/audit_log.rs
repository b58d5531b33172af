//! Who did what: a tenant sees what was done to it, operators see everything.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use protocol::id::TenantId;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    Answer, ApiState,
    auth::OwnerOfTokens,
    extract::{Params, bad},
    pages::{self, List},
    unanswered,
    views::parse_past,
};
use crate::{
    clock::Timestamp,
    problem::Problem,
    store::{AuditFilter, AuditRecord, StoreError},
};

/// Records that an export reads at a time.
const EXPORT_PAGE: u32 = 250;

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct RecordView {
    /// Counts up over all tenants, with gaps.
    number: u64,
    at: String,
    tenant: Option<String>,
    tenant_name: Option<String>,
    actor: ActorView,
    /// The name of the operation, such as `sources.update`.
    action: String,
    /// The path below `/api/v1`.
    target: String,
    /// The id of what was made or changed, if the answer named one.
    resource: Option<String>,
    /// 2xx: it was done. 5xx: it may have been done.
    status: u16,
    remote: Option<String>,
    request_id: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ActorView {
    token: String,
    name: String,
    operator: bool,
}

fn view(state: &ApiState, number: u64, record: AuditRecord) -> RecordView {
    let directory = state.tenancy.directory();
    let tenant = record.tenant.and_then(|id| directory.tenant(id));
    RecordView {
        number,
        at: record.at.to_string(),
        tenant: record.tenant.map(|id| id.to_string()),
        tenant_name: tenant.map(|tenant| tenant.name.to_string()),
        actor: ActorView {
            token: record.actor,
            name: record.actor_name,
            operator: record.operator,
        },
        action: record.action,
        target: record.target,
        resource: record.resource,
        status: record.status,
        remote: record.remote.map(|ip| ip.to_string()),
        request_id: record.request,
    }
}

/// Which records.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterParams {
    /// The id of a token.
    actor: Option<String>,
    /// An operation such as `sources.update`, or `sources` for all on sources.
    action: Option<String>,
    /// The id of what was made or changed.
    resource: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// Read by [`super::auth`].
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

impl FilterParams {
    fn filter(&self, tenant: Option<TenantId>, now: Timestamp) -> Result<AuditFilter, Problem> {
        let time = |name: &str, text: &Option<String>| {
            let text = text.as_ref();
            text.map(|text| parse_past(name, text, now)).transpose()
        };
        Ok(AuditFilter {
            tenant,
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            since: time("since", &self.since)?,
            until: time("until", &self.until)?,
        })
    }
}

pub(super) async fn list(
    OwnerOfTokens(tenant): OwnerOfTokens,
    State(state): State<ApiState>,
    Params(params): Params<FilterParams>,
) -> Result<Answer<List<RecordView>>, Problem> {
    let filter = params.filter(tenant, state.tenancy.now())?;
    let limit = pages::limit(params.limit)?;
    let before = pages::number_cursor(params.cursor.as_deref())?;
    let found = state.settings.audit(&filter, before, limit + 1).await;
    let mut found = found.map_err(unanswered)?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| has_more).map(|(number, _)| *number);
    let rows = found
        .into_iter()
        .map(|(number, record)| view(&state, number, record));
    Ok(Answer::ok(List::numbered(rows.collect(), next)))
}

/// An answer of many JSON documents.
#[derive(Debug)]
pub(super) struct Export(Response);

impl IntoResponse for Export {
    fn into_response(self) -> Response {
        self.0
    }
}

/// Everything that matches, newest first, one JSON document a line, however long it is.
pub(super) async fn export(
    OwnerOfTokens(tenant): OwnerOfTokens,
    State(state): State<ApiState>,
    Params(params): Params<FilterParams>,
) -> Result<Export, Problem> {
    if params.limit.is_some() || params.cursor.is_some() {
        return Err(bad(
            "limit",
            "an export has everything; name since and until instead",
        ));
    }
    let filter = params.filter(tenant, state.tenancy.now())?;
    // The first page before the answer begins, so that a failure is told as one.
    let first = page(&state, &filter, None).await.map_err(unanswered)?;
    let pages = stream::unfold(Some(first), move |page_before| {
        let (state, filter) = (state.clone(), filter.clone());
        async move {
            let (lines, next) = page_before?;
            let next = match next {
                None => None,
                Some(before) => match page(&state, &filter, Some(before)).await {
                    Ok(page) => Some(page),
                    Err(error) => {
                        warn!(%error, "an export of the audit log was cut off");
                        return Some((Err(std::io::Error::other("cut off")), None));
                    }
                },
            };
            Some((Ok::<_, std::io::Error>(lines), next))
        }
    });
    let mut response = Body::from_stream(pages).into_response();
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, fixed("no-store"));
    Ok(Export(response))
}

/// Some lines, and the number before which to go on, if there is more.
async fn page(
    state: &ApiState,
    filter: &AuditFilter,
    before: Option<u64>,
) -> Result<(Bytes, Option<u64>), StoreError> {
    let found = state.settings.audit(filter, before, EXPORT_PAGE).await?;
    let next = found.last().map(|(number, _)| *number);
    let next = next.filter(|_| found.len() == EXPORT_PAGE as usize);
    let mut lines = Vec::new();
    for (number, record) in found {
        // A struct of texts and numbers always has a JSON form.
        let _ = serde_json::to_writer(&mut lines, &view(state, number, record));
        lines.push(b'\n');
    }
    Ok((Bytes::from(lines), next))
}
