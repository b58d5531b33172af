//! Events: lists, one event, its body, replays.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    deliveries::{self, DeliveryView},
    destinations,
    extract::{Body, Params, bad},
    pages::{self, List},
    sources, unanswered,
    views::{self, HeaderView, parse_past},
};
use crate::{
    ids,
    problem::{Code, Problem},
    store::{EventDetail, EventFilter, EventSummary, NewDelivery, Replay, Replayed},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct EventView {
    id: String,
    source: String,
    source_name: Option<String>,
    received_at: String,
    method: String,
    target: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    provider_id: Option<String>,
    body_bytes: u64,
    /// Its content was erased.
    erased: bool,
    deliveries: Vec<DeliveryState>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct DeliveryState {
    id: String,
    destination: String,
    destination_name: Option<String>,
    state: &'static str,
}

fn summary(state: &ApiState, tenant: TenantId, event: EventSummary) -> EventView {
    let directory = state.tenancy.directory();
    let source = directory.source(tenant, event.source);
    let deliveries = event.deliveries.iter().map(|(id, destination, state)| {
        let known = directory.destination(tenant, *destination);
        DeliveryState {
            id: id.to_string(),
            destination: destination.to_string(),
            destination_name: known.map(|it| it.name.to_string()),
            state: state.as_str(),
        }
    });
    EventView {
        id: event.id.to_string(),
        source: event.source.to_string(),
        source_name: source.map(|live| live.source.name.to_string()),
        received_at: event.received_at.to_string(),
        erased: event.method.is_empty(),
        method: event.method,
        target: event.target,
        event_type: event.event_type,
        provider_id: event.provider_id,
        body_bytes: event.body_bytes,
        deliveries: deliveries.collect(),
    }
}

/// One event without its body, which has an address of its own.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct EventDetailView {
    id: String,
    source: String,
    source_name: Option<String>,
    received_at: String,
    method: String,
    target: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    provider_id: Option<String>,
    remote: Option<String>,
    verification: VerificationView,
    headers: Vec<HeaderView>,
    body_bytes: u64,
    /// Its content was erased.
    erased: bool,
    deliveries: Vec<DeliveryView>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct VerificationView {
    rule: String,
    secret: Option<u16>,
}

fn detail(state: &ApiState, tenant: TenantId, detail: EventDetail) -> EventDetailView {
    let directory = state.tenancy.directory();
    let event = detail.event;
    let source = directory.source(tenant, event.source);
    let deliveries = detail.deliveries.into_iter();
    EventDetailView {
        id: event.id.to_string(),
        source: event.source.to_string(),
        source_name: source.map(|live| live.source.name.to_string()),
        received_at: event.received_at.to_string(),
        erased: event.is_erased(),
        method: event.method,
        target: event.target,
        event_type: event.event_type,
        provider_id: event.provider_id,
        remote: event.remote.map(|ip| ip.to_string()),
        verification: VerificationView {
            rule: event.verification.rule,
            secret: event.verification.secret,
        },
        headers: views::headers(&event.headers),
        body_bytes: event.body.len() as u64,
        deliveries: deliveries
            .map(|delivery| deliveries::view(&directory, tenant, delivery))
            .collect(),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    source: Option<String>,
    destination: Option<String>,
    #[serde(alias = "status")]
    state: Option<String>,
    #[serde(default)]
    unrouted: bool,
    #[serde(rename = "type")]
    event_type: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// Read by [`super::auth`].
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

/// Which events are meant, as people say it. Empty fields match everything.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EventChoice {
    pub(super) source: Option<String>,
    pub(super) destination: Option<String>,
    /// The state of a delivery, or `unrouted`.
    #[serde(alias = "status")]
    pub(super) state: Option<String>,
    pub(super) unrouted: bool,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    pub(super) since: Option<String>,
    pub(super) until: Option<String>,
}

impl EventChoice {
    /// The same for the store.
    pub(super) fn filter(
        &self,
        state: &ApiState,
        tenant: TenantId,
    ) -> Result<EventFilter, Problem> {
        let source = self.source.as_deref();
        let source = source.map(|text| sources::find_id(state, tenant, text));
        let destination = self.destination.as_deref();
        let destination = destination.map(|text| destinations::find_id(state, tenant, text));
        let past = |parameter: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| parse_past(parameter, text, state.tenancy.now()))
                .transpose()
        };
        let is_unrouted = self.state.as_deref() == Some("unrouted");
        let of_delivery = self.state.as_deref().filter(|_| !is_unrouted);
        Ok(EventFilter {
            id: None,
            source: source.transpose()?,
            destination: destination.transpose()?,
            state: of_delivery.map(deliveries::parse_state).transpose()?,
            unrouted: self.unrouted || is_unrouted,
            event_type: self.event_type.clone(),
            since: past("since", &self.since)?,
            until: past("until", &self.until)?,
        })
    }
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Params(params): Params<ListParams>,
) -> Result<Answer<List<EventView>>, Problem> {
    let choice = EventChoice {
        source: params.source,
        destination: params.destination,
        state: params.state,
        unrouted: params.unrouted,
        event_type: params.event_type,
        since: params.since,
        until: params.until,
    };
    let filter = choice.filter(&state, tenant)?;
    let limit = pages::limit(params.limit)?;
    let cursor = pages::cursor(params.cursor)?;
    let page = state.queries.events(tenant, &filter, cursor, limit).await;
    let page = page.map_err(unanswered)?;
    Ok(Answer::ok(List::from_page(page, |event| {
        summary(&state, tenant, event)
    })))
}

/// An event of the tenant; a text that is no id is an event that does not exist.
pub(super) async fn find(
    state: &ApiState,
    tenant: TenantId,
    text: &str,
) -> Result<EventDetail, Problem> {
    let id: EventId = text.parse().map_err(|_| Problem::new(Code::NotFound))?;
    let found = state.queries.event(tenant, id).await.map_err(unanswered)?;
    found.ok_or(Problem::new(Code::NotFound))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(event): Path<String>,
) -> Result<Answer<EventDetailView>, Problem> {
    let event = find(&state, tenant, &event).await?;
    Ok(Answer::ok(detail(&state, tenant, event)))
}

/// An answer that is the body of an event.
#[derive(Debug)]
pub(super) struct RawBody(Response);

impl IntoResponse for RawBody {
    fn into_response(self) -> Response {
        self.0
    }
}

/// The body, byte for byte, as something no browser shows: a stranger wrote it.
pub(super) async fn body(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(event): Path<String>,
) -> Result<RawBody, Problem> {
    let event = find(&state, tenant, &event).await?.event;
    if event.is_erased() {
        return Err(Problem::new(Code::Erased));
    }
    let mut headers = HeaderMap::new();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::CACHE_CONTROL, fixed("no-store"));
    let name = format!("attachment; filename=\"{}.bin\"", event.id);
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(RawBody((headers, event.body).into_response()))
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewReplay {
    /// By id or name; where the event went, or would go now, unless given.
    destination: Option<String>,
}

/// A replay of one event, made at once.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ReplayView {
    replay: String,
    #[serde(flatten)]
    deliveries: List<ReplayedView>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ReplayedView {
    delivery: String,
    destination: String,
    destination_name: Option<String>,
    /// `owed`, or `still_owed` where an earlier delivery has not ended yet.
    outcome: &'static str,
}

pub(super) async fn replay(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(event): Path<String>,
    Body(asked): Body<NewReplay>,
) -> Result<Answer<ReplayView, 202>, Problem> {
    let event = find(&state, tenant, &event).await?;
    let destinations = match &asked.destination {
        Some(text) => vec![destinations::find(&state, tenant, text)?.id],
        None => replay_destinations(&state, tenant, &event),
    };
    if destinations.is_empty() {
        return Err(bad(
            "destination",
            "the event leads nowhere any more; name a destination",
        ));
    }
    let now = state.events.now();
    let replay = ReplayId::from_u128(ids::fresh(now));
    let directory = state.tenancy.directory();
    let new = |destination| Replay {
        tenant,
        event: event.event.id,
        replay,
        delivery: NewDelivery {
            id: DeliveryId::from_u128(ids::fresh(now)),
            destination,
            order: directory.order_key(destination, &event.event),
        },
    };
    let wanted: Vec<Replay> = destinations.into_iter().map(new).collect();
    let replayed = state.events.replay(&wanted).await.map_err(unanswered)?;
    let mut deliveries = Vec::new();
    for (wanted, replayed) in wanted.iter().zip(&replayed) {
        let (delivery, outcome) = match *replayed {
            Replayed::Owed | Replayed::Repeated(_) => (wanted.delivery.id, "owed"),
            Replayed::StillOwed(earlier) => (earlier, "still_owed"),
            Replayed::Unknown => return Err(Problem::new(Code::NotFound)),
        };
        let known = directory.destination(tenant, wanted.delivery.destination);
        deliveries.push(ReplayedView {
            delivery: delivery.to_string(),
            destination: wanted.delivery.destination.to_string(),
            destination_name: known.map(|it| it.name.to_string()),
            outcome,
        });
    }
    if !replayed.contains(&Replayed::Owed) {
        let why = "the event is still owed to its destinations: wait for that, or cancel it first";
        return Err(Problem::new(Code::Conflict).detail(why));
    }
    let view = ReplayView {
        replay: replay.to_string(),
        deliveries: List::whole(deliveries),
    };
    Ok(Answer::accepted(view))
}

/// Where the event went, as far as that still exists; if it went nowhere, where it would go now.
fn replay_destinations(
    state: &ApiState,
    tenant: TenantId,
    event: &EventDetail,
) -> Vec<DestinationId> {
    let directory = state.tenancy.directory();
    let mut destinations = Vec::new();
    for delivery in &event.deliveries {
        let exists = directory
            .destination(tenant, delivery.destination)
            .is_some();
        if exists && !destinations.contains(&delivery.destination) {
            destinations.push(delivery.destination);
        }
    }
    if event.deliveries.is_empty()
        && let Some(live) = directory.source(tenant, event.event.source)
    {
        destinations = live.route(&event.event).destinations;
    }
    destinations
}
