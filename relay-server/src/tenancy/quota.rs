//! What a tenant may bring, and how long the relay keeps it: its own choice, else the relay's.

use std::time::Duration;

use protocol::id::TenantId;

use super::{Invalid, Tenancy};
use crate::store::{Retention, Retentions};

const RATE_MAX: u32 = 100_000;
const AGE_MIN: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_hours(10 * 365 * 24);
const DAY: Duration = Duration::from_hours(24);

/// How much a tenant may bring. None: no limit, or for a tenant's own choice, the relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Requests to all its sources together, a second.
    pub ingest_per_second: Option<u32>,
    /// The largest body of an event, in bytes.
    pub event_bytes_max: Option<u64>,
    /// Events that are stored.
    pub stored_events_max: Option<u64>,
    /// Bytes of events that are stored.
    pub stored_bytes_max: Option<u64>,
}

/// How long and how much is kept. None: the relay's choice; for `events_max` and `bytes_max` of the relay
/// itself, all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// How long an event is kept.
    pub age: Option<Duration>,
    /// How many of the newest events are kept.
    pub events_max: Option<u64>,
    /// How many bytes of the newest events are kept.
    pub bytes_max: Option<u64>,
    /// How long dead letters are kept at least.
    pub dead_age: Option<Duration>,
    /// When what is still owed ends as expired.
    pub pending_age: Option<Duration>,
}

impl Quota {
    /// Checks that it can work.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        let rate = self.ingest_per_second;
        if rate.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
            let why = format!("must be 1 to {RATE_MAX}");
            return Err(Invalid::new("quota.ingest_per_second", why));
        }
        let sizes = [
            ("quota.event_bytes_max", self.event_bytes_max),
            ("quota.stored_events_max", self.stored_events_max),
            ("quota.stored_bytes_max", self.stored_bytes_max),
        ];
        match sizes.into_iter().find(|(_, size)| *size == Some(0)) {
            Some((field, _)) => Err(Invalid::new(field, "must be at least 1")),
            None => Ok(()),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            ingest_per_second: self.ingest_per_second.or(other.ingest_per_second),
            event_bytes_max: self.event_bytes_max.or(other.event_bytes_max),
            stored_events_max: self.stored_events_max.or(other.stored_events_max),
            stored_bytes_max: self.stored_bytes_max.or(other.stored_bytes_max),
        }
    }
}

impl Keep {
    /// Checks that it can work.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        let ages = [
            ("retention.age_s", self.age),
            ("retention.dead_age_s", self.dead_age),
            ("retention.pending_age_s", self.pending_age),
        ];
        let is_wrong = |age: Duration| !(AGE_MIN..=AGE_MAX).contains(&age);
        match ages.into_iter().find(|(_, age)| age.is_some_and(is_wrong)) {
            Some((field, _)) => Err(Invalid::new(field, "must be 1 second to 10 years")),
            None => Ok(()),
        }
    }

    /// What holds where the relay's choice fills the gaps.
    fn or(self, relay: Self) -> Retention {
        let age = |own: Option<Duration>, relay: Option<Duration>, days| {
            own.or(relay).unwrap_or(DAY * days)
        };
        Retention {
            age: age(self.age, relay.age, 30),
            events: self.events_max.or(relay.events_max),
            bytes: self.bytes_max.or(relay.bytes_max),
            dead_age: age(self.dead_age, relay.dead_age, 90),
            pending_age: age(self.pending_age, relay.pending_age, 90),
        }
    }
}

impl Tenancy {
    /// How much a tenant may bring.
    pub fn quota(&self, tenant: TenantId) -> Quota {
        let directory = self.directory();
        let own = directory.tenant(tenant).map(|tenant| tenant.limits.quota);
        own.unwrap_or_default().or(self.config.quota)
    }

    /// How long and how much of a tenant's is kept. What is left of a tenant that is gone is kept as the
    /// relay keeps.
    pub fn retention(&self, tenant: TenantId) -> Retention {
        let directory = self.directory();
        let own = directory.tenant(tenant).map(|tenant| tenant.limits.keep);
        own.unwrap_or_default().or(self.config.keep)
    }
}

impl Retentions for Tenancy {
    fn of(&self, tenant: TenantId) -> Retention {
        self.retention(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_choices_win_and_gaps_are_the_relays() {
        let relay = Keep {
            age: Some(DAY),
            events_max: Some(10),
            ..Keep::default()
        };
        let own = Keep {
            events_max: Some(20),
            dead_age: Some(2 * DAY),
            ..Keep::default()
        };
        let retention = own.or(relay);
        assert_eq!((retention.age, retention.events), (DAY, Some(20)));
        assert_eq!(retention.dead_age, 2 * DAY);
        assert_eq!((retention.pending_age, retention.bytes), (90 * DAY, None));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let field = |invalid: Result<(), Invalid>| invalid.err().map(|it| it.field.into_owned());
        let quota = Quota {
            stored_bytes_max: Some(0),
            ..Quota::default()
        };
        let expected = Some("quota.stored_bytes_max".to_owned());
        assert_eq!(field(quota.check()), expected);
        let keep = Keep {
            dead_age: Some(Duration::ZERO),
            ..Keep::default()
        };
        assert_eq!(field(keep.check()), Some("retention.dead_age_s".to_owned()));
        assert_eq!(field(Keep::default().check()), None);
    }
}
