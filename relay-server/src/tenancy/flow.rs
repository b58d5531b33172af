//! When and how fast deliveries are handed out: limits, rests and breakers of a destination, and
//! the limits of a tenant.

use std::time::Duration;

use protocol::id::TenantId;

use super::{Invalid, Keep, Quota, Tenancy};
use crate::{
    clock::Timestamp,
    dispatch::{Pause, Rulebook, Rules, TenantRules},
    lifecycle::{BreakerPolicy, Maintenance, MaintenanceMistake},
    store::DestinationKey,
};

const RATE_MAX: u32 = 100_000;
const IN_FLIGHT_MAX: u32 = 1_000_000;
const AGE_MIN: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_hours(365 * 24);

/// What a pause may be called.
const REASON_BYTES_MAX: usize = 200;

/// When and how fast deliveries of a destination are handed out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flow {
    /// Deliveries at a time, over all agents, if limited.
    pub in_flight_max: Option<u32>,
    /// Deliveries a second, if limited.
    pub rate_per_second: Option<u32>,
    /// How old an event may be when it is handed out, if that matters.
    pub age_max: Option<Duration>,
    /// When a service counts as down.
    pub breaker: BreakerPolicy,
    /// When nothing is handed out.
    pub maintenance: Maintenance,
}

/// A pause that somebody made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// When.
    pub since: Timestamp,
    /// When it ends by itself, if it does.
    pub until: Option<Timestamp>,
    /// Why, in their words.
    pub reason: Option<String>,
}

/// How much of the relay a tenant gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// Deliveries a second, over all destinations, if limited.
    pub rate_per_second: Option<u32>,
    /// How much it may bring.
    pub quota: Quota,
    /// How long and how much of it is kept.
    pub keep: Keep,
}

impl Flow {
    /// Checks that it can work.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        check_limits(self.in_flight_max, self.rate_per_second)?;
        if self
            .age_max
            .is_some_and(|age| !(AGE_MIN..=AGE_MAX).contains(&age))
        {
            return Err(Invalid::new("age_max_ms", "must be a second to a year"));
        }
        let breaker = &self.breaker;
        if breaker.error_percent > 100 {
            return Err(Invalid::new("breaker.error_percent", "must be 0 to 100"));
        }
        if !(1_000..=600_000).contains(&breaker.window_ms) {
            let why = "must be 1 second to 10 minutes";
            return Err(Invalid::new("breaker.window_ms", why));
        }
        if !(100..=600_000).contains(&breaker.probe_max_ms) {
            let why = "must be 100 ms to 10 minutes";
            return Err(Invalid::new("breaker.probe_max_ms", why));
        }
        if !(100..=breaker.probe_max_ms).contains(&breaker.probe_min_ms) {
            let why = "must be at least 100 and at most probe_max_ms";
            return Err(Invalid::new("breaker.probe_min_ms", why));
        }
        Ok(())
    }
}

impl Paused {
    /// Checks that it makes sense at its time.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.until.is_some_and(|until| until <= self.since) {
            return Err(Invalid::new("until", "lies in the past"));
        }
        let is_too_long = |reason: &String| reason.len() > REASON_BYTES_MAX;
        if self.reason.as_ref().is_some_and(is_too_long) {
            let why = format!("must be at most {REASON_BYTES_MAX} bytes");
            return Err(Invalid::new("reason", why));
        }
        Ok(())
    }
}

impl TenantLimits {
    /// Checks that they can work.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        check_limits(None, self.rate_per_second)?;
        self.quota.check()?;
        self.keep.check()
    }
}

fn check_limits(in_flight_max: Option<u32>, rate_per_second: Option<u32>) -> Result<(), Invalid> {
    let is_within = |limit: Option<u32>, max| limit.is_none_or(|limit| (1..=max).contains(&limit));
    if !is_within(in_flight_max, IN_FLIGHT_MAX) {
        let why = format!("must be 1 to {IN_FLIGHT_MAX}; null takes the limit away");
        return Err(Invalid::new("in_flight_max", why));
    }
    if !is_within(rate_per_second, RATE_MAX) {
        let why = format!("must be 1 to {RATE_MAX}; null takes the limit away");
        return Err(Invalid::new("rate_per_second", why));
    }
    Ok(())
}

impl From<MaintenanceMistake> for Invalid {
    fn from(mistake: MaintenanceMistake) -> Self {
        match mistake.at {
            Some(at) => Self::new(format!("maintenance[{at}]"), mistake.why),
            None => Self::new("maintenance", mistake.why),
        }
    }
}

/// The dispatcher asks at the time, so that changes count at once.
impl Rulebook for std::sync::Arc<Tenancy> {
    fn destination(&self, key: DestinationKey) -> Option<Rules> {
        let directory = self.directory();
        let destination = directory.destination(key.tenant, key.destination)?;
        let flow = &destination.policy.flow;
        Some(Rules {
            in_flight_max: flow.in_flight_max,
            rate_per_second: flow.rate_per_second,
            breaker: flow.breaker,
            pause: destination.paused.as_ref().map(|paused| Pause {
                until: paused.until,
            }),
            maintenance: flow.maintenance.clone(),
            age_max: flow.age_max,
        })
    }

    fn tenant(&self, tenant: TenantId) -> TenantRules {
        let directory = self.directory();
        let limits = directory.tenant(tenant).map(|tenant| tenant.limits);
        let limits = limits.unwrap_or_default();
        TenantRules {
            rate_per_second: limits.rate_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: fn(&mut Flow), expected: Result<(), &str>) {
        let mut flow = Flow::default();
        change(&mut flow);
        let outcome = flow.check().map_err(|invalid| invalid.field.into_owned());
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        check(|_| {}, Ok(()));
        check(|flow| flow.in_flight_max = Some(0), Err("in_flight_max"));
        check(
            |flow| flow.rate_per_second = Some(0),
            Err("rate_per_second"),
        );
        check(
            |flow| flow.rate_per_second = Some(RATE_MAX + 1),
            Err("rate_per_second"),
        );
        check(
            |flow| flow.age_max = Some(Duration::ZERO),
            Err("age_max_ms"),
        );
        check(
            |flow| flow.breaker.error_percent = 101,
            Err("breaker.error_percent"),
        );
        check(|flow| flow.breaker.window_ms = 0, Err("breaker.window_ms"));
        check(
            |flow| flow.breaker.probe_max_ms = 0,
            Err("breaker.probe_max_ms"),
        );
        check(
            |flow| flow.breaker.probe_min_ms = 60_000,
            Err("breaker.probe_min_ms"),
        );
        check(
            |flow| (flow.breaker.failures, flow.breaker.error_percent) = (0, 0),
            Ok(()),
        );
    }

    #[test]
    fn a_pause_lies_ahead_and_is_explained_briefly() {
        let pause = |until, reason: &str| {
            let since = Timestamp(10);
            let paused = Paused {
                since,
                until,
                reason: Some(reason.to_owned()),
            };
            paused.check().map_err(|invalid| invalid.field.into_owned())
        };
        assert_eq!(pause(None, "upgrade"), Ok(()));
        assert_eq!(pause(Some(Timestamp(11)), ""), Ok(()));
        assert_eq!(pause(Some(Timestamp(10)), ""), Err("until".to_owned()));
        assert_eq!(pause(None, &"x".repeat(201)), Err("reason".to_owned()));
    }
}
