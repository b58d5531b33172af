//! How a destination is doing: what holds it back, and how the services behind its agents are.

use serde::Serialize;

use super::ApiState;
use crate::{
    dispatch::{AgentView, LineView, Rulebook as _, ServiceView, Wait},
    store::DestinationKey,
};

/// How a destination is doing.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct FlowView {
    /// Why nothing is handed out, if that is so.
    waits: Option<WaitView>,
    /// `up`, `recovering` or `down` if the service is so for all agents that are connected, `mixed` if
    /// they differ; null without any.
    service: Option<&'static str>,
    /// Deliveries in the hands of agents.
    in_hand: u64,
    agents: Vec<AgentFlow>,
}

/// Why nothing is handed out.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct WaitView {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct AgentFlow {
    agent: String,
    service: &'static str,
    /// Since when the service is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// When it is tried again; absent while it is being tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_at: Option<String>,
    /// How many deliveries it gets at a time after it was down.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_a_time: Option<u64>,
    in_hand: u32,
    /// Deliveries the agent would take besides.
    free: u64,
}

/// How a destination is doing now.
pub(super) fn view(state: &ApiState, key: DestinationKey) -> FlowView {
    let line = line(state, key);

    let agents: Vec<_> = line.agents.iter().map(agent_flow).collect();
    let mut services = agents.iter().map(|agent| agent.service);
    let service = services.next().map(|first| {
        let is_same = services.all(|service| service == first);
        if is_same { first } else { "mixed" }
    });
    FlowView {
        waits: line.waits.map(WaitView::from),
        service,
        in_hand: line.in_hand,
        agents,
    }
}

/// What the dispatcher knows of a destination now.
pub(super) fn line(state: &ApiState, key: DestinationKey) -> LineView {
    state.dispatch.view(key).unwrap_or_else(|| {
        // Nobody was here lately; it may be paused all the same.
        let rules = state.tenancy.destination(key).unwrap_or_default();
        let waits = rules.rest(state.tenancy.now()).unwrap_or(Wait::NoAgent);
        LineView {
            waits: Some(waits),
            agents: Vec::new(),
            in_hand: 0,
        }
    })
}

fn agent_flow(view: &AgentView) -> AgentFlow {
    let mut flow = AgentFlow {
        agent: view.agent.to_string(),
        service: "up",
        since: None,
        probe_at: None,
        at_a_time: None,
        in_hand: view.in_hand,
        free: view.free,
    };
    match view.service {
        ServiceView::Up => {}
        ServiceView::Recovering { at_a_time } => {
            flow.service = "recovering";
            flow.at_a_time = Some(at_a_time);
        }
        ServiceView::Down { since, probe_at } => {
            flow.service = "down";
            flow.since = Some(since.to_string());
            flow.probe_at = probe_at.map(|at| at.to_string());
        }
    }
    flow
}

impl From<Wait> for WaitView {
    fn from(wait: Wait) -> Self {
        let until = match wait {
            Wait::Paused { until } => until,
            Wait::Maintenance { until } => Some(until),
            Wait::NoAgent | Wait::Outage | Wait::Room | Wait::InFlight | Wait::Rate => None,
        };
        Self {
            reason: wait_name(wait),
            until: until.map(|until| until.to_string()),
        }
    }
}

/// The name in the API of what holds a destination.
pub(super) fn wait_name(wait: Wait) -> &'static str {
    match wait {
        Wait::Paused { .. } => "paused",
        Wait::Maintenance { .. } => "maintenance",
        Wait::NoAgent => "no_agent",
        Wait::Outage => "outage",
        Wait::Room => "room",
        Wait::InFlight => "in_flight_max",
        Wait::Rate => "rate",
    }
}
