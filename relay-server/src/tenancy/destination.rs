//! Destinations, the named queues of a tenant, and the routes that lead to them.

use std::{sync::Arc, time::Duration};

use protocol::id::{AgentId, DestinationId, RouteId, SourceId, TenantId, TokenId};

use super::{Flow, Invalid, Name, OldSignatures, Paused, Revision, SigningKey};
use crate::lifecycle::{
    JudgePolicy, OnDead, Order, RetryPolicy, StatusMistake, StatusPolicy, filter::Filter,
};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_mins(15);
const WINDOW_MAX_MS: u64 = 90 * 24 * 3_600_000;
const SCHEDULE_MAX: usize = 100;

/// A named queue. It is not a URL: only agents know internal URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Its id.
    pub id: DestinationId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What agents and people call it.
    pub name: Name,
    /// When it changed.
    pub revision: Revision,
    /// How its deliveries are made.
    pub policy: DestinationPolicy,
    /// Who paused it, if somebody did.
    pub paused: Option<Paused>,
    /// Whose it is alone, if it was made for `listen` and ends with its listener.
    pub expiring: Option<Expiring>,
    /// What it signs with itself, oldest first.
    pub signing_keys: Vec<SigningKey>,
}

/// How the deliveries of a destination are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationPolicy {
    /// How long the service may take to answer.
    pub timeout: Duration,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// What the service's status codes mean.
    pub status: StatusPolicy,
    /// In which order deliveries are made. A change counts for what is accepted from then on.
    pub order: Order,
    /// What happens to a key when the delivery at its head ends dead.
    pub on_dead: OnDead,
    /// What becomes of the provider's signature.
    pub old_signatures: OldSignatures,
    /// When and how fast deliveries are handed out.
    pub flow: Flow,
}

impl Default for DestinationPolicy {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            retry: RetryPolicy::default(),
            status: StatusPolicy::default(),
            order: Order::None,
            on_dead: OnDead::Continue,
            old_signatures: OldSignatures::default(),
            flow: Flow::default(),
        }
    }
}

impl From<StatusMistake> for Invalid {
    fn from(mistake: StatusMistake) -> Self {
        Self::new(format!("status.{}", mistake.place), mistake.why)
    }
}

impl DestinationPolicy {
    /// How its attempts are judged.
    pub fn judge(&self) -> JudgePolicy {
        JudgePolicy {
            retry: self.retry.clone(),
            status: self.status.clone(),
        }
    }

    /// Checks that the policy can work.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field; refuse to save the destination.
    pub fn check(&self) -> Result<(), Invalid> {
        if !(Duration::from_millis(100)..=TIMEOUT_MAX).contains(&self.timeout) {
            return Err(Invalid::new("timeout_ms", "must be 100 ms to 15 minutes"));
        }
        let retry = &self.retry;
        if retry.base_ms == 0 || retry.base_ms > retry.cap_ms {
            return Err(Invalid::new(
                "retry.base_ms",
                "must be at least 1 and at most cap_ms",
            ));
        }
        if !(1..=100).contains(&retry.factor) {
            return Err(Invalid::new("retry.factor", "must be 1 to 100"));
        }
        if retry.cap_ms > WINDOW_MAX_MS || retry.window_ms > WINDOW_MAX_MS {
            return Err(Invalid::new(
                "retry.window_ms",
                "window and cap must be at most 90 days",
            ));
        }
        if retry.attempts_max == Some(0) {
            return Err(Invalid::new("retry.attempts_max", "must be at least 1"));
        }
        let too_late = |wait: &u64| *wait > WINDOW_MAX_MS;
        if retry.schedule_ms.len() > SCHEDULE_MAX || retry.schedule_ms.iter().any(too_late) {
            let why = format!("at most {SCHEDULE_MAX} waits of at most 90 days");
            return Err(Invalid::new("retry.schedule_ms", why));
        }
        self.flow.check()?;
        if self.on_dead == OnDead::Park && !self.order.is_ordered() {
            let why = "park needs an order: what is not ordered has no keys to stop";
            return Err(Invalid::new("on_dead", why));
        }
        Ok(())
    }
}

/// The listener that an expiring destination belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiring {
    /// The installation of the agent.
    pub agent: AgentId,
    /// The token it came with last.
    pub token: TokenId,
}

/// A connection from a source to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its id.
    pub id: RouteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: Name,
    /// When it changed.
    pub revision: Revision,
    /// Where events come from.
    pub source: SourceId,
    /// Where they go.
    pub destination: DestinationId,
    /// Which of them; all without one.
    pub filter: Option<Arc<Filter>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: fn(&mut DestinationPolicy), expected: Result<(), &str>) {
        let mut policy = DestinationPolicy::default();
        change(&mut policy);
        let outcome = policy.check().map_err(|invalid| invalid.field.into_owned());
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_policy_that_cannot_work_is_refused() {
        check(|_| {}, Ok(()));
        check(|p| p.timeout = Duration::ZERO, Err("timeout_ms"));
        check(|p| p.timeout = Duration::from_hours(1), Err("timeout_ms"));
        check(|p| p.retry.base_ms = 0, Err("retry.base_ms"));
        check(|p| p.retry.cap_ms = 1, Err("retry.base_ms"));
        check(|p| p.retry.factor = 0, Err("retry.factor"));
        check(|p| p.retry.window_ms = u64::MAX, Err("retry.window_ms"));
        check(
            |p| p.retry.attempts_max = Some(0),
            Err("retry.attempts_max"),
        );
        check(
            |p| p.retry.schedule_ms = vec![1; 101],
            Err("retry.schedule_ms"),
        );
        check(|p| p.retry.schedule_ms = vec![1; 100], Ok(()));
        check(|p| p.on_dead = OnDead::Park, Err("on_dead"));
        let park = |p: &mut DestinationPolicy| {
            p.order = Order::Fifo;
            p.on_dead = OnDead::Park;
        };
        check(park, Ok(()));
    }
}
