//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a destination retries: exponential with full jitter, or a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// The longest wait before the second attempt, in milliseconds.
    pub base_ms: u64,
    /// By how much the wait grows with every attempt.
    pub factor: u32,
    /// The longest wait, in milliseconds; also caps `Retry-After`.
    pub cap_ms: u64,
    /// How long after the first attempt the last one may be, in milliseconds.
    pub window_ms: u64,
    /// How many attempts at most, if limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Fixed waits in milliseconds, one per retry, instead of the exponential ones. No jitter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule_ms: Vec<u64>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base_ms: 2_000,
            factor: 2,
            cap_ms: 3_600_000,
            window_ms: 3 * 24 * 3_600_000,
            attempts_max: None,
            schedule_ms: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after attempt number `attempt` failed, or `None` if there is no further one.
    ///
    /// `luck` is uniform in 0..1 and spreads the wait (full jitter). `asked` is what the service
    /// wants (`Retry-After`); it replaces the wait, up to the cap.
    pub fn wait_after(&self, attempt: u32, luck: f64, asked: Option<Duration>) -> Option<Duration> {
        if self.attempts_max.is_some_and(|most| attempt >= most) {
            return None;
        }
        let own = if self.schedule_ms.is_empty() {
            self.exponential_ms(attempt, luck)
        } else {
            *self
                .schedule_ms
                .get(usize::try_from(attempt.saturating_sub(1)).ok()?)?
        };
        let cap = Duration::from_millis(self.cap_ms);
        Some(asked.map_or(Duration::from_millis(own), |asked| asked.min(cap)))
    }

    /// Full jitter: anywhere between nothing and the exponential ceiling.
    fn exponential_ms(&self, attempt: u32, luck: f64) -> u64 {
        let growth = u64::from(self.factor)
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u64::MAX);
        let ceiling = self.base_ms.saturating_mul(growth).min(self.cap_ms);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the ceiling is at most the cap, far below 2^53, and the result is not negative"
        )]
        let wait = (ceiling as f64 * luck.clamp(0.0, 1.0)) as u64;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        policy: &RetryPolicy,
        attempt: u32,
        luck: f64,
        asked_s: Option<u64>,
        expected_ms: Option<u64>,
    ) {
        let wait = policy.wait_after(attempt, luck, asked_s.map(Duration::from_secs));
        assert_eq!(
            wait,
            expected_ms.map(Duration::from_millis),
            "attempt {attempt}, luck {luck}"
        );
    }

    #[test]
    fn exponential_doubles_up_to_the_cap() {
        let policy = RetryPolicy::default();

        check(&policy, 1, 1.0, None, Some(2_000));
        check(&policy, 2, 1.0, None, Some(4_000));
        check(&policy, 3, 0.5, None, Some(4_000));
        check(&policy, 11, 1.0, None, Some(2_048_000));
        check(&policy, 12, 1.0, None, Some(3_600_000));
        check(&policy, u32::MAX, 1.0, None, Some(3_600_000));
        check(&policy, 5, 0.0, None, Some(0));
    }

    #[test]
    fn a_service_may_ask_for_a_wait_up_to_the_cap() {
        let policy = RetryPolicy::default();

        check(&policy, 1, 0.0, Some(30), Some(30_000));
        check(&policy, 1, 1.0, Some(1_000_000), Some(3_600_000));
    }

    #[test]
    fn a_schedule_and_a_maximum_end() {
        let schedule = RetryPolicy {
            schedule_ms: vec![10, 20],
            ..RetryPolicy::default()
        };
        check(&schedule, 1, 0.1, None, Some(10));
        check(&schedule, 2, 0.1, None, Some(20));
        check(&schedule, 3, 0.1, None, None);

        let limited = RetryPolicy {
            attempts_max: Some(2),
            ..RetryPolicy::default()
        };
        check(&limited, 1, 1.0, None, Some(2_000));
        check(&limited, 2, 1.0, None, None);
    }
}
