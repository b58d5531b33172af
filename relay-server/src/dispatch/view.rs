//! How a destination is doing, for people.

use std::time::Instant;

use protocol::id::AgentId;

use super::{
    line::{Can, Line},
    machine::Moment,
    rules::Wait,
};
use crate::{clock::Timestamp, lifecycle::BreakerView};

/// How a destination is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineView {
    /// Why nothing is handed out, if something is due and nothing is.
    pub waits: Option<Wait>,
    /// Every agent that serves it.
    pub agents: Vec<AgentView>,
    /// Deliveries in their hands.
    pub in_hand: u64,
}

/// How one agent is doing at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentView {
    /// The agent.
    pub agent: AgentId,
    /// What is known of the service behind it.
    pub service: ServiceView,
    /// Deliveries in its hands.
    pub in_hand: u32,
    /// Deliveries it would take besides.
    pub free: u64,
}

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceView {
    /// It is up.
    Up,
    /// It is back and gets only some at a time.
    Recovering {
        /// That many.
        at_a_time: u64,
    },
    /// It is down.
    Down {
        /// Since when.
        since: Timestamp,
        /// When it is tried again; none while it is being tried.
        probe_at: Option<Timestamp>,
    },
}

impl LineView {
    pub(super) fn of(line: &Line, moment: Moment) -> Self {
        let agents: Vec<_> = line
            .agents()
            .map(|(agent, health)| AgentView {
                agent,
                service: ServiceView::of(health.breaker.view(), moment),
                in_hand: health.in_hand,
                free: line.free_of(agent),
            })
            .collect();
        let in_hand = agents.iter().map(|agent| u64::from(agent.in_hand)).sum();
        let waits = match line.can(moment) {
            Can::Go => None,
            Can::Wait(wait) | Can::Later(wait, _) => Some(wait),
        };
        // The store keeps this limit, and says no more until there is room.
        let is_full = line
            .rules
            .in_flight_max
            .is_some_and(|max| in_hand >= u64::from(max));
        let waits = waits.or(is_full.then_some(Wait::InFlight));
        Self {
            waits,
            agents,
            in_hand,
        }
    }
}

impl ServiceView {
    fn of(breaker: BreakerView, moment: Moment) -> Self {
        let time = |instant: Instant| match instant.checked_duration_since(moment.instant) {
            Some(ahead) => moment.time.after(ahead),
            None => {
                let ago = moment.instant.saturating_duration_since(instant);
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                Timestamp(moment.time.0.saturating_sub(ago))
            }
        };
        match breaker {
            BreakerView::Closed { at_a_time: None } => Self::Up,
            BreakerView::Closed {
                at_a_time: Some(at_a_time),
            } => Self::Recovering { at_a_time },
            BreakerView::Open { since, probe_at } => Self::Down {
                since: time(since),
                probe_at: Some(time(probe_at)),
            },
            BreakerView::Probing { since } => Self::Down {
                since: time(since),
                probe_at: None,
            },
        }
    }
}
