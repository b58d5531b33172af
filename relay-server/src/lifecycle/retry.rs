//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest wait after an attempt that an outage excused, in milliseconds: the delivery may be
/// the one that finds out that the service is back.
const EXCUSED_WAIT_MAX_MS: u64 = 60_000;

/// How a destination retries: exponential with full jitter, or a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// The longest wait before the second attempt, in milliseconds.
    pub base_ms: u64,
    /// By how much the wait grows with every attempt.
    pub factor: u32,
    /// The longest wait, in milliseconds; also caps `Retry-After`.
    pub cap_ms: u64,
    /// How long attempts and the waits between them may take in all, in milliseconds.
    pub window_ms: u64,
    /// How many attempts at most, if limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Fixed waits in milliseconds, one per retry, instead of the exponential ones. No jitter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule_ms: Vec<u64>,
}

/// What a delivery has used up of its policy's limits.
///
/// Only attempts and the waits that policy chose use up the window. What is due and not handed out,
/// because no agent is connected, the destination is paused or its service is down, uses nothing up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Attempts that counted.
    pub attempts: u32,
    /// Time, in milliseconds.
    pub window_ms: u64,
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
    /// How long to wait after attempt number `attempt` failed, and what is used up then; `None` if
    /// there is no further one.
    ///
    /// `spent` is what earlier attempts used up, and `lasted` how long this one took. `luck` is
    /// uniform in 0..1 and spreads the wait (full jitter). `asked` is what the service wants
    /// (`Retry-After`); it replaces the wait, up to the cap.
    pub fn wait(
        &self,
        spent: Spent,
        lasted: Duration,
        luck: f64,
        asked: Option<Duration>,
    ) -> Option<(Duration, Spent)> {
        let attempts = spent.attempts.saturating_add(1);
        let wait = self.wait_after(attempts, luck, asked)?;
        let window_ms = spent
            .window_ms
            .saturating_add(millis(lasted))
            .saturating_add(millis(wait));
        (window_ms <= self.window_ms).then_some((
            wait,
            Spent {
                attempts,
                window_ms,
            },
        ))
    }

    /// How long to wait after attempt number `attempt`, from 1, that uses nothing up.
    pub fn excused_wait(&self, attempt: u32, luck: f64) -> Duration {
        let ceiling = self.ceiling_ms(attempt).min(EXCUSED_WAIT_MAX_MS);
        Duration::from_millis(jitter(ceiling, luck))
    }

    fn wait_after(&self, attempt: u32, luck: f64, asked: Option<Duration>) -> Option<Duration> {
        if self.attempts_max.is_some_and(|most| attempt >= most) {
            return None;
        }
        let own = if self.schedule_ms.is_empty() {
            jitter(self.ceiling_ms(attempt), luck)
        } else {
            *self
                .schedule_ms
                .get(usize::try_from(attempt.saturating_sub(1)).ok()?)?
        };
        let cap = Duration::from_millis(self.cap_ms);
        Some(asked.map_or(Duration::from_millis(own), |asked| asked.min(cap)))
    }

    fn ceiling_ms(&self, attempt: u32) -> u64 {
        let growth = u64::from(self.factor)
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u64::MAX);
        self.base_ms.saturating_mul(growth).min(self.cap_ms)
    }
}

/// Full jitter: anywhere between nothing and the ceiling.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a ceiling is at most the cap, far below 2^53, and the result is not negative"
)]
fn jitter(ceiling_ms: u64, luck: f64) -> u64 {
    (ceiling_ms as f64 * luck.clamp(0.0, 1.0)) as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
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

    #[test]
    fn attempts_and_chosen_waits_use_up_the_window() {
        let policy = RetryPolicy {
            window_ms: 10_000,
            ..RetryPolicy::default()
        };
        let lasted = Duration::from_millis(500);

        let (wait, spent) = policy.wait(Spent::default(), lasted, 1.0, None).unwrap();
        assert_eq!(wait, Duration::from_secs(2));
        let expected = Spent {
            attempts: 1,
            window_ms: 2_500,
        };
        assert_eq!(spent, expected);
        let (_, spent) = policy.wait(spent, lasted, 1.0, None).unwrap();
        assert_eq!(spent.window_ms, 7_000);
        assert_eq!(policy.wait(spent, lasted, 1.0, None), None);
    }

    #[test]
    fn excused_attempts_never_wait_long() {
        let policy = RetryPolicy::default();

        assert_eq!(policy.excused_wait(1, 1.0), Duration::from_secs(2));
        assert_eq!(policy.excused_wait(40, 1.0), Duration::from_mins(1));
    }

    proptest! {
        #[test]
        fn no_attempt_lies_outside_the_limits(
            base_ms in 1..10_000_u64, factor in 1..5_u32, window_ms in 0..1_000_000_u64,
            attempts_max in proptest::option::of(1..20_u32), luck in 0.0..1.0_f64,
            lasted_ms in 0..10_000_u64, asked_s in proptest::option::of(0..10_000_u64),
        ) {
            let policy = RetryPolicy {
                base_ms, factor, window_ms, attempts_max, ..RetryPolicy::default()
            };
            let (lasted, asked) = (Duration::from_millis(lasted_ms), asked_s.map(Duration::from_secs));
            let mut spent = Spent::default();
            for attempt in 1..40 {
                let Some((wait, next)) = policy.wait(spent, lasted, luck, asked) else {
                    return Ok(());
                };
                prop_assert!(attempts_max.is_none_or(|most| attempt < most));
                prop_assert!(next.window_ms <= window_ms);
                prop_assert_eq!(next.attempts, attempt);
                prop_assert_eq!(next.window_ms - spent.window_ms, lasted_ms + millis(wait));
                prop_assert!(millis(wait) <= policy.cap_ms);
                spent = next;
            }
        }
    }
}
