//! Deliveries and their attempts.

use std::borrow::Cow;

use axum::extract::{Path, State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::{
    frame::ServiceFailure,
    id::{DeliveryId, TenantId},
};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    destinations,
    extract::{Params, bad},
    pages::{self, List},
    unanswered,
    views::{self, BytesView, HeaderView},
};
use crate::{
    lifecycle::{AttemptOutcome, DeliveryState, EndReason},
    problem::{Code, Problem},
    store::{AttemptRecord, DeliveryFilter, DeliverySummary},
    tenancy::Directory,
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct DeliveryView {
    id: String,
    event: String,
    destination: String,
    destination_name: Option<String>,
    state: &'static str,
    attempts: u32,
    received_at: String,
    updated_at: String,
    next_attempt_at: Option<String>,
    reason: Option<String>,
    /// What asked for it, if it is a replay.
    replay: Option<String>,
    /// The later replay that took its place.
    superseded_by: Option<String>,
}

pub(super) fn view(
    directory: &Directory,
    tenant: TenantId,
    delivery: DeliverySummary,
) -> DeliveryView {
    let destination = directory.destination(tenant, delivery.destination);
    DeliveryView {
        id: delivery.id.to_string(),
        event: delivery.event.to_string(),
        destination: delivery.destination.to_string(),
        destination_name: destination.map(|it| it.name.to_string()),
        state: delivery.state.as_str(),
        attempts: delivery.attempts,
        received_at: delivery.received_at.to_string(),
        updated_at: delivery.updated_at.to_string(),
        next_attempt_at: delivery.next_attempt_at.map(|time| time.to_string()),
        reason: delivery.reason,
        replay: delivery.replay.map(|replay| replay.to_string()),
        superseded_by: delivery.superseded_by.map(|later| later.to_string()),
    }
}

/// Reads the name of a state.
pub(super) fn parse_state(text: &str) -> Result<DeliveryState, Problem> {
    let known = DeliveryState::ALL;
    known
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|state| state.as_str()).collect();
            bad("state", format!("must be one of {}", names.join(", ")))
        })
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    event: Option<String>,
    destination: Option<String>,
    state: Option<String>,
    replay: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// Read by [`super::auth`].
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Params(params): Params<ListParams>,
) -> Result<Answer<List<DeliveryView>>, Problem> {
    let event = params
        .event
        .map(|text| text.parse().map_err(|error| bad("event", error)));
    let destination = params
        .destination
        .map(|text| destinations::find_id(&state, tenant, &text));
    let replay = params
        .replay
        .map(|text| text.parse().map_err(|error| bad("replay", error)));
    let filter = DeliveryFilter {
        event: event.transpose()?,
        destination: destination.transpose()?,
        state: params.state.map(|text| parse_state(&text)).transpose()?,
        replay: replay.transpose()?,
    };
    let limit = pages::limit(params.limit)?;
    let cursor = pages::cursor(params.cursor)?;
    let page = state
        .queries
        .deliveries(tenant, &filter, cursor, limit)
        .await;
    let page = page.map_err(unanswered)?;
    let directory = state.tenancy.directory();
    Ok(Answer::ok(List::from_page(page, |delivery| {
        view(&directory, tenant, delivery)
    })))
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct AttemptView {
    id: String,
    number: u32,
    agent: Option<String>,
    ended_at: String,
    elapsed_ms: u64,
    #[serde(flatten)]
    outcome: OutcomeView,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum OutcomeView {
    Answered {
        status: u16,
        headers: Vec<HeaderView>,
        body_bytes: u64,
        response_start: BytesView<'static>,
    },
    Failed {
        #[schemars(with = "String")]
        failure: ServiceFailure,
        detail: String,
    },
    Lost,
}

impl From<AttemptRecord> for AttemptView {
    fn from(attempt: AttemptRecord) -> Self {
        Self {
            id: attempt.id.to_string(),
            number: attempt.number,
            agent: attempt.agent.map(|agent| agent.to_string()),
            ended_at: attempt.ended_at.to_string(),
            elapsed_ms: attempt.elapsed_ms,
            outcome: match attempt.outcome {
                AttemptOutcome::Answered {
                    status,
                    headers,
                    body_bytes,
                    response_start,
                } => OutcomeView::Answered {
                    status,
                    headers: views::headers(&headers),
                    body_bytes,
                    response_start: match String::from_utf8(response_start.to_vec()) {
                        Ok(text) => BytesView::Text {
                            value: Cow::Owned(text),
                        },
                        Err(_) => BytesView::Binary {
                            value_base64: STANDARD.encode(&response_start),
                        },
                    },
                },
                AttemptOutcome::Failed { failure, detail } => {
                    OutcomeView::Failed { failure, detail }
                }
                AttemptOutcome::Lost => OutcomeView::Lost,
            },
        }
    }
}

fn parse_id(text: &str) -> Result<DeliveryId, Problem> {
    text.parse().map_err(|_| Problem::new(Code::NotFound))
}

pub(super) async fn attempts(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(delivery): Path<String>,
) -> Result<Answer<List<AttemptView>>, Problem> {
    let id = parse_id(&delivery)?;
    let found = attempts_of(&state, tenant, id).await?;
    Ok(Answer::ok(List::whole(
        found.ok_or(Problem::new(Code::NotFound))?,
    )))
}

/// The attempts of a delivery, first to last, if the tenant has it.
pub(super) async fn attempts_of(
    state: &ApiState,
    tenant: TenantId,
    delivery: DeliveryId,
) -> Result<Option<Vec<AttemptView>>, Problem> {
    let found = state.queries.attempts(tenant, delivery).await;
    let found = found.map_err(unanswered)?;
    Ok(found.map(|attempts| attempts.into_iter().map(AttemptView::from).collect()))
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Cancelled {
    id: String,
    state: &'static str,
}

pub(super) async fn cancel(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(delivery): Path<String>,
) -> Result<Answer<Cancelled>, Problem> {
    let id = parse_id(&delivery)?;
    let exists = state
        .queries
        .attempts(tenant, id)
        .await
        .map_err(unanswered)?;
    if exists.is_none() {
        return Err(Problem::new(Code::NotFound));
    }
    let ended = state.events.end(tenant, id, EndReason::Cancelled).await;
    if !ended.map_err(unanswered)? {
        let why = "the delivery has ended already";
        return Err(Problem::new(Code::Conflict).detail(why));
    }
    Ok(Answer::ok(Cancelled {
        id: id.to_string(),
        state: DeliveryState::Cancelled.as_str(),
    }))
}
