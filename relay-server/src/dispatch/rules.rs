//! How a destination's deliveries may be handed out, as its settings say. Pure.

use crate::{
    clock::Timestamp,
    lifecycle::{BreakerPolicy, Maintenance},
};

use std::time::Duration;

/// What the settings of a destination say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Deliveries at a time, over all agents.
    pub in_flight_max: Option<u32>,
    /// Deliveries a second.
    pub rate_per_second: Option<u32>,
    /// When a service counts as down.
    pub breaker: BreakerPolicy,
    /// Whether somebody paused it.
    pub pause: Option<Pause>,
    /// When it rests by schedule.
    pub maintenance: Maintenance,
    /// How old an event may be when it is handed out.
    pub age_max: Option<Duration>,
}

/// What the settings of a tenant say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantRules {
    /// Deliveries a second, over all destinations.
    pub rate_per_second: Option<u32>,
}

/// A pause made by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself, if it does.
    pub until: Option<Timestamp>,
}

/// Why nothing is handed out though something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Somebody paused the destination.
    Paused {
        /// When that ends by itself, if it does.
        until: Option<Timestamp>,
    },
    /// It rests by schedule.
    Maintenance {
        /// When that ends.
        until: Timestamp,
    },
    /// No agent serves it.
    NoAgent,
    /// No agent reaches the service.
    Outage,
    /// The agents have as much in hand as they take, or as the service can take for now.
    Room,
    /// As much is under way as may be at a time.
    InFlight,
    /// The rate of the destination or of its tenant is used up for the moment.
    Rate,
}

impl Rules {
    /// Whether the destination rests at a time.
    pub fn rest(&self, now: Timestamp) -> Option<Wait> {
        match &self.pause {
            Some(Pause { until }) if until.is_none_or(|until| until > now) => {
                Some(Wait::Paused { until: *until })
            }
            _ => {
                let until = self.maintenance.until(now)?;
                Some(Wait::Maintenance { until })
            }
        }
    }

    /// Whether an event is too old to be handed out.
    pub(super) fn is_too_old(&self, received_at: Timestamp, now: Timestamp) -> bool {
        self.age_max
            .is_some_and(|max| received_at.after(max) <= now)
    }
}
