//! Erasing events for good, and the record of it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use protocol::id::{EventId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, ApiState,
    auth::{Caller, InTenant},
    describe::{Describing, Part},
    extract::{Body, bad},
    pages::List,
    refused, unanswered,
};
use crate::{
    lifecycle::filter::{Filter, Shape, Subject},
    problem::{Code, Problem},
    store::{Erasure, ErasureRecord, Selection},
    tenancy::TenancyError,
};

/// Erasures that are listed.
const LISTED_MAX: u32 = 1_000;

/// Who asks, and for which tenant.
#[derive(Debug)]
pub(super) struct Asker {
    tenant: TenantId,
    by: String,
}

impl FromRequestParts<ApiState> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let InTenant(tenant) = InTenant::from_request_parts(parts, state).await?;
        let caller = Caller::from_request_parts(parts, state).await?;
        let by = caller.name();
        Ok(Self { tenant, by })
    }
}

impl Part for Asker {
    fn describe(to: &mut Describing<'_>) {
        InTenant::describe(to);
    }
}

/// One of these.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum NewErasure {
    /// One event.
    Event(String),
    /// The events that pass a filter, in the form of a route's.
    Filter(Value),
    /// All of the tenant's so far; the tenant's name, so that nobody does it by mistake.
    Everything(String),
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ErasedView {
    /// None if there was nothing to erase.
    number: Option<u64>,
    events: u64,
    /// More match than are erased at once: ask again.
    more: bool,
}

pub(super) async fn create(
    asker: Asker,
    State(state): State<ApiState>,
    Body(new): Body<NewErasure>,
) -> Result<Answer<ErasedView>, Problem> {
    let Asker { tenant, by } = asker;
    let (selection, what) = match new {
        NewErasure::Event(id) => {
            let id: EventId = id.parse().map_err(|error| bad("event", error))?;
            (Selection::Event(id), format!("event {id}"))
        }
        NewErasure::Filter(document) => {
            let filter = Filter::parse(&document);
            let filter = filter.map_err(|error| refused(&TenancyError::from(error)))?;
            let what = format!("events that pass a filter of {} terms", filter.terms());
            (matching(&state, tenant, filter), what)
        }
        NewErasure::Everything(name) => {
            let directory = state.tenancy.directory();
            let is_named = directory
                .tenant(tenant)
                .is_some_and(|it| it.name.as_str() == name || it.id.to_string() == name);
            if !is_named {
                return Err(bad("everything", "must be the name of the tenant"));
            }
            (Selection::All, "all events of the tenant".to_owned())
        }
    };
    let erasure = Erasure {
        tenant,
        selection,
        by,
        what,
    };
    let keeping = state.keeping;
    // To its end, even if the caller hangs up.
    let erased = tokio::spawn(async move { keeping.erase(erasure).await });
    let erased = erased.await.map_err(|_| Problem::new(Code::Internal))?;
    let erased = erased.map_err(unanswered)?;
    Ok(Answer::ok(ErasedView {
        number: erased.number,
        events: erased.events,
        more: erased.more,
    }))
}

fn matching(state: &ApiState, tenant: TenantId, filter: Filter) -> Selection {
    let tenancy = Arc::clone(&state.tenancy);
    Selection::Matching(Arc::new(move |event| {
        let directory = tenancy.directory();
        let source = directory.source(tenant, event.source);
        let source = source.map_or("", |live| live.source.name.as_str());
        let shape = Shape::of(Some(&filter));
        let subject = Subject::of(event, source);
        let (picked, _) = shape.pick(&subject);
        filter.test(&picked).is_ok()
    }))
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ErasureView {
    number: u64,
    at: String,
    by: String,
    what: String,
    events: Option<u64>,
    done: bool,
}

fn view(record: ErasureRecord) -> ErasureView {
    ErasureView {
        number: record.number,
        at: record.at.to_string(),
        by: record.by,
        what: record.what,
        events: record.events,
        done: record.done,
    }
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
) -> Result<Answer<List<ErasureView>>, Problem> {
    let records = state.keeping.erasures(tenant, LISTED_MAX).await;
    let records = records.map_err(unanswered)?;
    Ok(Answer::ok(List::whole(
        records.into_iter().map(view).collect(),
    )))
}
