//! What an attempt means for its delivery.

use std::time::{Duration, SystemTime};

use super::{AttemptOutcome, DeadReason, RetryPolicy};
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
    },
    /// Give it up.
    Die {
        /// Why.
        reason: DeadReason,
    },
}

/// What came before an attempt.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the first attempt was offered.
    pub first_attempt_at: Timestamp,
}

/// Judges an attempt: 2xx delivers, 410 is permanent, everything else is tried again until the
/// policy's window or number of attempts ends. `luck` is uniform in 0..1.
///
/// An attempt that was lost with its agent is tried again at once: the wait is there to spare the
/// service, and the service may never have been called.
pub fn judge(
    outcome: &AttemptOutcome,
    policy: &RetryPolicy,
    history: History,
    now: Timestamp,
    luck: f64,
) -> Verdict {
    let asked = match outcome {
        AttemptOutcome::Answered {
            status: 200..=299, ..
        } => return Verdict::Deliver,
        AttemptOutcome::Answered { status: 410, .. } => {
            return Verdict::Die {
                reason: DeadReason::Permanent,
            };
        }
        AttemptOutcome::Answered {
            status: 429 | 503,
            headers,
            ..
        } => headers
            .get("retry-after")
            .and_then(|value| parse_retry_after(value, now)),
        AttemptOutcome::Answered { .. } | AttemptOutcome::Failed { .. } => None,
        AttemptOutcome::Lost => Some(Duration::ZERO),
    };
    let exhausted = Verdict::Die {
        reason: DeadReason::RetriesExhausted,
    };
    let Some(wait) = policy.wait_after(history.attempt, luck, asked) else {
        return exhausted;
    };
    let at = now.after(wait);
    if at.since(history.first_attempt_at) > Duration::from_millis(policy.window_ms) {
        return exhausted;
    }
    Verdict::Retry { at }
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

    fn check(outcome: &AttemptOutcome, attempt: u32, started_ms_ago: u64, expected: Verdict) {
        let history = History {
            attempt,
            first_attempt_at: Timestamp(NOW.0 - started_ms_ago),
        };
        assert_eq!(
            judge(outcome, &RetryPolicy::default(), history, NOW, 1.0),
            expected,
            "{outcome:?}"
        );
    }

    fn retry_in(ms: u64) -> Verdict {
        Verdict::Retry {
            at: Timestamp(NOW.0 + ms),
        }
    }

    #[test]
    fn status_decides() {
        for status in [200, 204, 299] {
            check(&answered(status, None), 1, 0, Verdict::Deliver);
        }
        for status in [301, 400, 404, 500, 503, 599] {
            check(&answered(status, None), 1, 0, retry_in(2_000));
        }
        check(
            &answered(410, None),
            1,
            0,
            Verdict::Die {
                reason: DeadReason::Permanent,
            },
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
    fn failures_are_retried_until_the_window_ends() {
        let failed = AttemptOutcome::Failed {
            failure: ServiceFailure::Connect,
            detail: String::new(),
        };
        let days = 24 * 3_600_000;

        check(&failed, 3, 10_000, retry_in(8_000));
        check(
            &failed,
            30,
            3 * days - 1,
            Verdict::Die {
                reason: DeadReason::RetriesExhausted,
            },
        );
        check(&AttemptOutcome::Lost, 3, 10_000, retry_in(0));
        check(
            &AttemptOutcome::Lost,
            3,
            3 * days + 1,
            Verdict::Die {
                reason: DeadReason::RetriesExhausted,
            },
        );
    }
}
