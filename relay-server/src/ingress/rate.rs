//! How many requests per second a source takes: a token bucket that holds one second's worth. Pure.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use protocol::id::TenantId;

use crate::clock::Timestamp;

/// A limit on requests per second.
#[derive(Debug)]
pub struct Rate {
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In thousandths of a request.
    tokens: u64,
    at: Timestamp,
}

impl Rate {
    /// A full bucket.
    pub fn new(per_second: u32) -> Self {
        let tokens = u64::from(per_second) * 1000;
        Self {
            per_second,
            state: Mutex::new(State {
                tokens,
                at: Timestamp(0),
            }),
        }
    }

    /// Takes one request's worth; false if there is none.
    pub fn take(&self, now: Timestamp) -> bool {
        let capacity = u64::from(self.per_second) * 1000;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed_ms = u64::try_from(now.since(state.at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(u64::from(self.per_second));
        state.tokens = state.tokens.saturating_add(gained).min(capacity);
        state.at = state.at.max(now);
        let taken = state.tokens >= 1000;
        if taken {
            state.tokens -= 1000;
        }
        taken
    }
}

/// A limit for each tenant that has one.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<TenantId, Rate>>);

impl Shares {
    /// Takes one request's worth of a tenant's; false if there is none.
    pub(super) fn take(&self, tenant: TenantId, per_second: u32, now: Timestamp) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rates.entry(tenant).or_insert_with(|| Rate::new(per_second));
        if rate.per_second != per_second {
            *rate = Rate::new(per_second);
        }
        rate.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_one_second_and_refills() {
        let rate = Rate::new(10);
        let taken = |ms, tries: usize| (0..tries).filter(|_| rate.take(Timestamp(ms))).count();

        assert_eq!(taken(1_000_000, 20), 10);
        assert_eq!(taken(1_000_099, 20), 0);
        assert_eq!(taken(1_000_100, 20), 1);
        assert_eq!(
            taken(999_000, 20),
            0,
            "a clock that goes back gives nothing"
        );
        assert_eq!(taken(1_000_350, 20), 2);
        assert_eq!(taken(2_000_000, 20), 10);
    }
}
