//! How long to wait before dialling again.

use std::time::Duration;

/// Longest wait in the first minutes of an outage, so that work resumes within two seconds.
const EARLY_MAX: Duration = Duration::from_millis(1500);

/// How long an outage is early.
const EARLY: Duration = Duration::from_secs(120);

/// Longest wait later on.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Longest wait a relay may ask for.
const ASKED_MAX: Duration = Duration::from_secs(15 * 60);

/// The wait after a failure: full jitter, and at least what the relay asked for.
///
/// `outage` is how long there has been no session, `dice` is random in `0.0..1.0`.
pub(super) fn wait(outage: Duration, asked: Option<Duration>, dice: f64) -> Duration {
    let longest = if outage < EARLY { EARLY_MAX } else { LATE_MAX };
    let jitter = longest.mul_f64(dice.clamp(0.0, 1.0));
    // A relay that asks thousands of agents to return at once gets them spread out.
    asked.unwrap_or_default().min(ASKED_MAX) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits() {
        let seconds = Duration::from_secs;
        let cases = [
            (0, None, 0.0, 0),
            (0, None, 1.0, 1500),
            (119, None, 1.0, 1500),
            (120, None, 1.0, 5000),
            (86_400, None, 0.5, 2500),
            (0, Some(30), 0.0, 30_000),
            (0, Some(30), 1.0, 31_500),
            (0, Some(86_400), 0.0, 900_000),
        ];
        for (outage, asked, dice, expected_ms) in cases {
            let waited = wait(seconds(outage), asked.map(seconds), dice);
            assert_eq!(waited.as_millis(), expected_ms, "{outage} {asked:?} {dice}");
        }
    }
}
