//! Why an event is where it is: everything the relay knows of it, in the order in which it happened.

mod timeline;

mod waits;

use std::collections::HashMap;

use axum::extract::{Path, State};
use protocol::id::{AgentId, DeliveryId, TenantId};
use serde::Serialize;

use self::{
    timeline::{Entry, Told},
    waits::WaitView,
};
use super::{
    Answer, ApiState,
    auth::InTenant,
    deliveries::{self, AttemptView, DeliveryView},
    events, flow, unanswered,
};
use crate::{
    lifecycle::{RouteDecision, Waiting},
    problem::Problem,
    store::{AttemptRecord, DeliverySummary, DestinationKey, EventDetail},
    tenancy::Directory,
};

/// Everything that is known of one event and what came of it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Explanation {
    event: String,
    source: String,
    source_name: Option<String>,
    received_at: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    verification: VerificationView,
    dedupe: DedupeView,
    /// What every route of the source said when the event was accepted.
    routes: Vec<RouteView>,
    deliveries: Vec<DeliveryStory>,
    /// The same for people, in order of time; what has no time is so now.
    timeline: Vec<Entry>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct VerificationView {
    rule: String,
    /// Which of the source's secrets matched, from 1, the oldest first, as they were then.
    secret: Option<u32>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct DedupeView {
    provider_id: Option<String>,
    remembered_until: Option<String>,
    /// How often its provider sent it again within that time.
    repeats: u64,
    last_repeat_at: Option<String>,
}

/// What a route said.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct RouteView {
    route: String,
    /// Missing once the route is deleted, like its destination.
    name: Option<String>,
    destination: Option<String>,
    destination_name: Option<String>,
    matched: bool,
    /// The place of the filter's term that was not met, as a JSON pointer.
    unmet: Option<String>,
}

/// A delivery with its attempts and what it waits for.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct DeliveryStory {
    #[serde(flatten)]
    delivery: DeliveryView,
    attempts: Vec<AttemptView>,
    /// Why nothing happens at the moment; empty once it has ended.
    waits: Vec<WaitView>,
}

/// One delivery as the store has it.
#[derive(Debug)]
struct Facts {
    summary: DeliverySummary,
    destination: String,
    attempts: Vec<AttemptRecord>,
    waits: Vec<WaitView>,
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(event): Path<String>,
) -> Result<Answer<Explanation>, Problem> {
    let detail = events::find(&state, tenant, &event).await?;
    let mut facts = Vec::with_capacity(detail.deliveries.len());
    for summary in &detail.deliveries {
        facts.push(look(&state, tenant, summary).await?);
    }
    Ok(Answer::ok(explain(&state, detail, facts)))
}

/// Asks for everything about one delivery.
async fn look(
    state: &ApiState,
    tenant: TenantId,
    summary: &DeliverySummary,
) -> Result<Facts, Problem> {
    let queries = &state.queries;
    let attempts = queries.attempts(tenant, summary.id).await;
    let attempts = attempts.map_err(unanswered)?.unwrap_or_default();
    let waits = if summary.state.is_open() {
        let waiting = queries.waiting(tenant, summary.id).await;
        let waiting = waiting.map_err(unanswered)?;
        waiting.map_or_else(Vec::new, |waiting| {
            waits_of(state, tenant, summary, waiting)
        })
    } else {
        Vec::new()
    };
    let directory = state.tenancy.directory();
    let known = directory.destination(tenant, summary.destination);
    Ok(Facts {
        destination: known.map_or_else(
            || format!("{}, which is deleted", summary.destination),
            |it| it.name.to_string(),
        ),
        summary: summary.clone(),
        attempts,
        waits,
    })
}

fn waits_of(
    state: &ApiState,
    tenant: TenantId,
    summary: &DeliverySummary,
    waiting: Waiting,
) -> Vec<WaitView> {
    let key = DestinationKey {
        tenant,
        destination: summary.destination,
    };
    let holder = state.dispatch.holder(summary.id);
    let holder = holder.map(|agent| (agent, agent_name(state, tenant, agent)));
    waits::of(waiting, &flow::line(state, key), holder)
}

/// An agent as people know it.
fn agent_name(state: &ApiState, tenant: TenantId, agent: AgentId) -> String {
    match state.registry.agent_name(tenant, agent) {
        Some(name) => format!("{agent} ({name})"),
        None => agent.to_string(),
    }
}

fn explain(state: &ApiState, detail: EventDetail, facts: Vec<Facts>) -> Explanation {
    let directory = state.tenancy.directory();
    let tenant = detail.event.tenant;
    let routes: Vec<_> = detail
        .decisions
        .iter()
        .map(|decision| route(&directory, tenant, decision))
        .collect();
    let source = directory.source(tenant, detail.event.source);
    let source_name = source.map(|live| live.source.name.to_string());
    let mut agents: HashMap<AgentId, String> = HashMap::new();
    for attempt in facts.iter().flat_map(|facts| &facts.attempts) {
        if let Some(agent) = attempt.agent {
            let name = || agent_name(state, tenant, agent);
            agents.entry(agent).or_insert_with(name);
        }
    }
    let told = Told {
        detail: &detail,
        source: source_name.as_deref(),
        routes: &routes,
        facts: &facts,
        agents: &agents,
    };
    let timeline = timeline::of(&told);
    let event = detail.event;
    let story = |facts: Facts| DeliveryStory {
        delivery: deliveries::view(&directory, tenant, facts.summary),
        attempts: facts.attempts.into_iter().map(AttemptView::from).collect(),
        waits: facts.waits,
    };
    Explanation {
        event: event.id.to_string(),
        source: event.source.to_string(),
        source_name,
        received_at: event.received_at.to_string(),
        event_type: event.event_type,
        verification: VerificationView {
            rule: event.verification.rule,
            secret: event.verification.secret.map(|index| u32::from(index) + 1),
        },
        dedupe: DedupeView {
            provider_id: event.provider_id,
            remembered_until: detail.remembered_until.map(|until| until.to_string()),
            repeats: detail.repeats.count,
            last_repeat_at: detail.repeats.last_at.map(|at| at.to_string()),
        },
        routes,
        deliveries: facts.into_iter().map(story).collect(),
        timeline,
    }
}

fn route(directory: &Directory, tenant: TenantId, decision: &RouteDecision) -> RouteView {
    let mut routes = directory.routes(tenant);
    let known = routes.find(|route| route.id == decision.route);
    let destination = known.and_then(|route| directory.destination(tenant, route.destination));
    RouteView {
        route: decision.route.to_string(),
        name: known.map(|route| route.name.to_string()),
        destination: known.map(|route| route.destination.to_string()),
        destination_name: destination.map(|it| it.name.to_string()),
        matched: decision.is_taken(),
        unmet: decision.unmet.clone(),
    }
}

/// When a delivery was made: its name says so.
fn made_at(delivery: DeliveryId) -> crate::clock::Timestamp {
    let millis = delivery.as_u128() >> 80;
    crate::clock::Timestamp(u64::try_from(millis).unwrap_or(u64::MAX))
}
