//! What an attempt means for its delivery.

use std::time::{Duration, SystemTime};

use super::{AttemptOutcome, DeadReason, Meaning, RetryPolicy, Spent, StatusPolicy};
use crate::clock::Timestamp;

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The service took it.
    Deliver,
    /// Try again, not before this time.
    Retry {
        /// The earliest time.
        at: Timestamp,
        /// What is used up of the limits by then.
        spent: Spent,
    },
    /// Give it up.
    Die {
        /// Why.
        reason: DeadReason,
    },
}

/// How a destination judges attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JudgePolicy {
    /// When to try again.
    pub retry: RetryPolicy,
    /// What status codes mean.
    pub status: StatusPolicy,
}

/// An attempt and what came before it.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What earlier attempts used up of the limits.
    pub spent: Spent,
    /// How long the attempt took, from its hand-out.
    pub lasted: Duration,
}

/// Whether a failed attempt is excused: then it uses nothing up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// It counts.
    None,
    /// The service is down for this agent, others reach it: they may try at once.
    Agent,
    /// The service is down for everybody.
    Outage,
}

/// Judges an attempt. `luck` is uniform in 0..1.
///
/// An attempt that was lost with its agent is tried again at once: the wait is there to spare the
/// service, and the service may never have been called.
pub fn judge(
    outcome: &AttemptOutcome,
    policy: &JudgePolicy,
    history: History,
    excuse: Excuse,
    now: Timestamp,
    luck: f64,
) -> Verdict {
    match policy.meaning(outcome) {
        Meaning::Deliver => return Verdict::Deliver,
        Meaning::Dead => {
            let reason = DeadReason::Permanent;
            return Verdict::Die { reason };
        }
        Meaning::Retry => {}
    }
    let spent = history.spent;
    match excuse {
        Excuse::None => {}
        Excuse::Agent => return Verdict::Retry { at: now, spent },
        Excuse::Outage => {
            let at = now.after(policy.retry.excused_wait(history.attempt, luck));
            return Verdict::Retry { at, spent };
        }
    }
    let asked = asked_wait(outcome, now);
    match policy.retry.wait(spent, history.lasted, luck, asked) {
        Some((wait, spent)) => Verdict::Retry {
            at: now.after(wait),
            spent,
        },
        None => Verdict::Die {
            reason: DeadReason::RetriesExhausted,
        },
    }
}

impl JudgePolicy {
    /// What an outcome means.
    pub fn meaning(&self, outcome: &AttemptOutcome) -> Meaning {
        match outcome {
            AttemptOutcome::Answered { status, .. } => self.status.meaning(*status),
            AttemptOutcome::Failed { .. } | AttemptOutcome::Lost => Meaning::Retry,
        }
    }
}

/// The wait that an outcome asks for, if it does.
fn asked_wait(outcome: &AttemptOutcome, now: Timestamp) -> Option<Duration> {
    match outcome {
        AttemptOutcome::Answered {
            status: 429 | 503,
            headers,
            ..
        } => headers
            .get("retry-after")
            .and_then(|value| parse_retry_after(value, now)),
        AttemptOutcome::Answered { .. } | AttemptOutcome::Failed { .. } => None,
        AttemptOutcome::Lost => Some(Duration::ZERO),
    }
}

/// Seconds or an HTTP date (RFC 9110 10.2.3).
fn parse_retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.0);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::frame::{Headers, ServiceFailure};

    use super::*;
    use crate::lifecycle::StatusSpec;

    const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn answered(status: u16, retry_after: Option<&'static str>) -> AttemptOutcome {
        let headers = retry_after
            .map(|value| {
                (
                    Bytes::from_static(b"Retry-After"),
                    Bytes::from_static(value.as_bytes()),
                )
            })
            .into_iter()
            .collect();
        AttemptOutcome::Answered {
            status,
            headers: Headers(headers),
            body_bytes: 0,
            response_start: Bytes::new(),
        }
    }

    fn judge_as(
        policy: &JudgePolicy,
        outcome: &AttemptOutcome,
        spent: Spent,
        excuse: Excuse,
    ) -> Verdict {
        let history = History {
            attempt: spent.attempts + 1,
            spent,
            lasted: Duration::from_secs(1),
        };
        judge(outcome, policy, history, excuse, NOW, 1.0)
    }

    /// Judges as the default policy does, after attempts that used up as much as they do at least.
    #[track_caller]
    fn check(outcome: &AttemptOutcome, attempt: u32, used_ms: u64, expected: Expected) {
        let spent = Spent {
            attempts: attempt - 1,
            window_ms: used_ms,
        };
        let verdict = judge_as(&JudgePolicy::default(), outcome, spent, Excuse::None);
        let expected = match expected {
            Expected::Verdict(verdict) => verdict,
            Expected::RetryIn(wait_ms) => Verdict::Retry {
                at: Timestamp(NOW.0 + wait_ms),
                spent: Spent {
                    attempts: attempt,
                    window_ms: used_ms + 1_000 + wait_ms,
                },
            },
        };
        assert_eq!(verdict, expected, "{outcome:?}");
    }

    enum Expected {
        Verdict(Verdict),
        RetryIn(u64),
    }

    fn retry_in(ms: u64) -> Expected {
        Expected::RetryIn(ms)
    }

    const DELIVER: Expected = Expected::Verdict(Verdict::Deliver);
    const PERMANENT: Expected = Expected::Verdict(Verdict::Die {
        reason: DeadReason::Permanent,
    });
    const EXHAUSTED: Expected = Expected::Verdict(Verdict::Die {
        reason: DeadReason::RetriesExhausted,
    });

    fn refused() -> AttemptOutcome {
        AttemptOutcome::Failed {
            failure: ServiceFailure::Connect,
            detail: String::new(),
        }
    }

    #[test]
    fn status_decides() {
        for status in [200, 204, 299] {
            check(&answered(status, None), 1, 0, DELIVER);
        }
        for status in [301, 400, 404, 500, 503, 599] {
            check(&answered(status, None), 1, 0, retry_in(2_000));
        }
        check(&answered(410, None), 1, 0, PERMANENT);
    }

    #[test]
    fn a_destination_may_see_a_status_otherwise() {
        let status = StatusSpec {
            deliver: vec!["409".to_owned()],
            dead: vec!["4xx".to_owned()],
            ..StatusSpec::default()
        };
        let policy = JudgePolicy {
            status: status.compile().unwrap(),
            ..JudgePolicy::default()
        };
        let verdict = |status| {
            let outcome = answered(status, None);
            judge_as(&policy, &outcome, Spent::default(), Excuse::Outage)
        };

        assert_eq!(verdict(409), Verdict::Deliver);
        let reason = DeadReason::Permanent;
        assert_eq!(
            verdict(404),
            Verdict::Die { reason },
            "no outage excuses it"
        );
    }

    #[test]
    fn retry_after_is_honoured_for_429_and_503_only() {
        check(&answered(429, Some("7")), 1, 0, retry_in(7_000));
        check(
            &answered(503, Some("Sun, 06 Nov 1994 08:50:07 GMT")),
            1,
            0,
            retry_in(30_000),
        );
        check(
            &answered(503, Some("Sun, 06 Nov 1994 08:00:00 GMT")),
            1,
            0,
            retry_in(0),
        );
        check(&answered(503, Some("soon")), 1, 0, retry_in(2_000));
        check(&answered(500, Some("7")), 1, 0, retry_in(2_000));
        check(
            &answered(429, Some("99999999999999999999")),
            1,
            0,
            retry_in(2_000),
        );
    }

    #[test]
    fn failures_are_retried_until_the_window_is_used_up() {
        let days = 24 * 3_600_000;

        check(&refused(), 3, 10_000, retry_in(8_000));
        check(&refused(), 30, 3 * days - 1, EXHAUSTED);
        check(&AttemptOutcome::Lost, 3, 10_000, retry_in(0));
        check(&AttemptOutcome::Lost, 3, 3 * days, EXHAUSTED);
    }

    #[test]
    fn an_excused_attempt_uses_nothing_up() {
        let spent = Spent {
            attempts: 7,
            window_ms: u64::MAX,
        };
        let verdict = |excuse| judge_as(&JudgePolicy::default(), &refused(), spent, excuse);

        let at_once = Verdict::Retry { at: NOW, spent };
        assert_eq!(verdict(Excuse::Agent), at_once);
        let at = Timestamp(NOW.0 + 60_000);
        assert_eq!(verdict(Excuse::Outage), Verdict::Retry { at, spent });
    }
}
