//! Dead letters: what policy gave up and nobody replayed since.

use axum::extract::{Path, State};
use protocol::id::{DeliveryId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    deliveries::{AttemptView, attempts_of},
    destinations,
    extract::{Params, bad},
    pages::{self, List},
    sources, unanswered,
    views::parse_past,
};
use crate::{
    lifecycle::{DeadReason, EndReason, Ending},
    problem::{Code, Problem},
    store::{DeadLetter, DeadLetterFilter, EndingFilter},
};

/// A dead letter.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct DeadLetterView {
    /// The delivery.
    id: String,
    event: String,
    source: String,
    source_name: Option<String>,
    destination: String,
    destination_name: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    received_at: String,
    /// When it was given up.
    died_at: String,
    attempts: u32,
    reason: Option<String>,
    /// What the last attempt was answered with.
    status: Option<u16>,
    /// Why the last attempt was not answered.
    failure: Option<String>,
    /// What asked for it, if it was a replay.
    replay: Option<String>,
}

fn view(state: &ApiState, tenant: TenantId, letter: DeadLetter) -> DeadLetterView {
    let directory = state.tenancy.directory();
    let delivery = letter.delivery;
    let source = directory.source(tenant, letter.source);
    let destination = directory.destination(tenant, delivery.destination);
    let (status, failure) = match letter.last {
        Some(Ending::Answered(status)) => (Some(status), None),
        Some(unanswered) => (None, Some(unanswered.to_string())),
        None => (None, None),
    };
    DeadLetterView {
        id: delivery.id.to_string(),
        event: delivery.event.to_string(),
        source: letter.source.to_string(),
        source_name: source.map(|live| live.source.name.to_string()),
        destination: delivery.destination.to_string(),
        destination_name: destination.map(|it| it.name.to_string()),
        event_type: letter.event_type,
        received_at: delivery.received_at.to_string(),
        died_at: delivery.updated_at.to_string(),
        attempts: delivery.attempts,
        reason: delivery.reason,
        status,
        failure,
        replay: delivery.replay.map(|replay| replay.to_string()),
    }
}

/// Which dead letters are meant, as people say it. Empty fields match everything.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DeadLetterChoice {
    pub(super) source: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) event: Option<String>,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) status: Option<String>,
    pub(super) failure: Option<String>,
    pub(super) since: Option<String>,
    pub(super) until: Option<String>,
}

impl DeadLetterChoice {
    /// The same for the store.
    pub(super) fn filter(
        &self,
        state: &ApiState,
        tenant: TenantId,
    ) -> Result<DeadLetterFilter, Problem> {
        let source = self.source.as_deref();
        let source = source.map(|text| sources::find_id(state, tenant, text));
        let destination = self.destination.as_deref();
        let destination = destination.map(|text| destinations::find_id(state, tenant, text));
        let event = self.event.as_deref();
        let event = event.map(|text| text.parse().map_err(|error| bad("event", error)));
        let past = |parameter: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| parse_past(parameter, text, state.tenancy.now()))
                .transpose()
        };
        Ok(DeadLetterFilter {
            id: None,
            source: source.transpose()?,
            destination: destination.transpose()?,
            event: event.transpose()?,
            event_type: self.event_type.clone(),
            reason: self.reason.as_deref().map(parse_reason).transpose()?,
            last: self.last()?,
            since: past("since", &self.since)?,
            until: past("until", &self.until)?,
        })
    }

    fn last(&self) -> Result<Option<EndingFilter>, Problem> {
        match (&self.status, &self.failure) {
            (Some(_), Some(_)) => Err(bad(
                "failure",
                "an attempt has a status or a failure, not both",
            )),
            (Some(text), None) => parse_status(text).map(Some).ok_or_else(|| {
                bad(
                    "status",
                    "must be a status such as 503, or a class such as 5xx",
                )
            }),
            (None, Some(text)) => {
                let failure = text.parse().map_err(|error| bad("failure", error))?;
                Ok(Some(EndingFilter::Is(failure)))
            }
            (None, None) => Ok(None),
        }
    }
}

fn parse_reason(text: &str) -> Result<String, Problem> {
    let known = [
        DeadReason::RetriesExhausted.as_str(),
        DeadReason::Permanent.as_str(),
        EndReason::DeadLettered.as_str(),
    ];
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    let why = format!("must be one of {}", known.join(", "));
    Err(bad("reason", why))
}

/// A status, or all of one class.
fn parse_status(text: &str) -> Option<EndingFilter> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
        return Some(EndingFilter::Status(class * 100, class * 100 + 99));
    }
    let status: u16 = text.parse().ok().filter(|it| (100..=999).contains(it))?;
    Some(EndingFilter::Status(status, status))
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    source: Option<String>,
    destination: Option<String>,
    event: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    reason: Option<String>,
    status: Option<String>,
    failure: Option<String>,
    since: Option<String>,
    until: Option<String>,
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
) -> Result<Answer<List<DeadLetterView>>, Problem> {
    let choice = DeadLetterChoice {
        source: params.source,
        destination: params.destination,
        event: params.event,
        event_type: params.event_type,
        reason: params.reason,
        status: params.status,
        failure: params.failure,
        since: params.since,
        until: params.until,
    };
    let filter = choice.filter(&state, tenant)?;
    let limit = pages::limit(params.limit)?;
    let cursor = pages::cursor(params.cursor)?;
    let queries = &state.queries;
    let page = queries.dead_letters(tenant, &filter, cursor, limit).await;
    let page = page.map_err(unanswered)?;
    Ok(Answer::ok(List::from_page(page, |letter| {
        view(&state, tenant, letter)
    })))
}

/// A dead letter with everything that was tried.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct DeadLetterDetail {
    #[serde(flatten)]
    letter: DeadLetterView,
    tried: Vec<AttemptView>,
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(delivery): Path<String>,
) -> Result<Answer<DeadLetterDetail>, Problem> {
    let not_found = || {
        let why = "there is no such dead letter; it may have been replayed, see `deliveries`";
        Problem::new(Code::NotFound).detail(why)
    };
    let id: DeliveryId = delivery.parse().map_err(|_| not_found())?;
    let filter = DeadLetterFilter {
        id: Some(id),
        ..DeadLetterFilter::default()
    };
    let queries = &state.queries;
    let page = queries.dead_letters(tenant, &filter, None, 1).await;
    let mut page = page.map_err(unanswered)?;
    let letter = page.rows.pop().ok_or_else(not_found)?;
    Ok(Answer::ok(DeadLetterDetail {
        letter: view(&state, tenant, letter),
        tried: attempts_of(&state, tenant, id).await?.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_or_a_class() {
        let cases = [
            ("503", Some((503, 503))),
            ("5xx", Some((500, 599))),
            ("99", None),
            ("1000", None),
            ("0xx", None),
            ("10xx", None),
            ("xx", None),
            ("timeout", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(from, to)| EndingFilter::Status(from, to));
            assert_eq!(parse_status(text), expected, "{text}");
        }
    }
}
