//! One finished attempt as a line: for people, or as JSON.

use std::time::SystemTime;

use protocol::frame::Offer;
use serde::Serialize;

use crate::forward::Outcome;

/// Longest text of an event that a line shows, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// One finished attempt, ready to be shown.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    time: String,
    event_id: String,
    source: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    method: String,
    path: String,
    attempt: u32,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    duration_ms: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    moment: jiff::Timestamp,
}

impl Line {
    /// The line of a finished attempt.
    pub fn new(outcome: &Outcome, now: SystemTime) -> Self {
        let offer: &Offer = &outcome.offer;
        let moment = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let status = outcome
            .result
            .as_ref()
            .ok()
            .map(|answer| answer.status.as_u16());
        let path = offer.request.target.split('?').next().unwrap_or_default();
        Self {
            time: format!("{moment:.3}"),
            event_id: offer.event.to_string(),
            source: for_people(&offer.source),
            event_type: offer.event_type.as_deref().map(for_people),
            method: for_people(&offer.request.method),
            // The query may hold what is nobody's business.
            path: for_people(path),
            attempt: offer.attempt,
            target: outcome.target.to_string(),
            status,
            duration_ms: outcome.elapsed.as_millis() as u64,
            outcome: match status {
                Some(200..=299) => "delivered",
                _ => "failed",
            },
            error: outcome
                .result
                .as_ref()
                .err()
                .map(|error| for_people(&error.to_string())),
            moment,
        }
    }

    /// `2026-11-23 11:39:02 [200] POST /in/github push → http://localhost:3000/hook (23ms) evt_…`
    pub fn compact(&self, zone: &jiff::tz::TimeZone) -> String {
        let time = self.moment.to_zoned_datetime(zone.clone());
        let time = time.strftime("%Y-%m-%d %H:%M:%S");
        let Self {
            method,
            source,
            path,
            event_id,
            duration_ms,
            ..
        } = self;
        let what = match &self.event_type {
            Some(event_type) => format!("{method} /in/{source}{path} {event_type}"),
            None => format!("{method} /in/{source}{path}"),
        };
        let again = match self.attempt {
            1 => String::new(),
            attempt => format!(" attempt {attempt}"),
        };
        match (&self.error, self.status) {
            (Some(error), _) => {
                format!("{time} [ERR] {what} → {error}; will be retried{again} {event_id}")
            }
            (None, status) => {
                let target = &self.target;
                let status = status.unwrap_or_default();
                format!("{time} [{status}] {what} → {target} ({duration_ms}ms){again} {event_id}")
            }
        }
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Text from outside, without what could steer a terminal.
pub(crate) fn for_people(text: &str) -> String {
    let characters = text.chars().take(TEXT_CHARS_MAX);
    characters
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        forward::{Answer, CallError},
        inbox::sample::offer,
    };

    fn line(result: Result<u16, CallError>, change: impl FnOnce(&mut Offer)) -> Line {
        let mut offer = offer(1, 1);
        change(&mut offer);
        let outcome = Outcome {
            offer: Box::new(offer),
            target: Arc::new("http://localhost:3000/hook".parse().unwrap()),
            result: result.map(|status| Answer {
                status: status.try_into().unwrap(),
                headers: Default::default(),
                start: Default::default(),
                body_bytes: 0,
            }),
            elapsed: Duration::from_millis(23),
        };
        Line::new(
            &outcome,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_433_942_114),
        )
    }

    fn compact(line: &Line) -> String {
        line.compact(&jiff::tz::TimeZone::UTC)
    }

    const ID: &str = "evt_00000000000000000000000001";

    #[test]
    fn compact_lines() {
        assert_eq!(
            compact(&line(Ok(200), |_| {})),
            format!(
                "2026-11-23 11:39:02 [200] POST /in/github push → http://localhost:3000/hook (23ms) {ID}"
            )
        );
        let refused = CallError::Connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            compact(&line(Err(refused), |offer| offer.event_type = None)),
            format!(
                "2026-11-23 11:39:02 [ERR] POST /in/github → connection refused; will be retried {ID}"
            )
        );
        let again = line(Ok(500), |offer| {
            offer.attempt = 2;
            offer.request.target = "/a?token=secret".to_owned();
        });
        assert_eq!(
            compact(&again),
            format!(
                "2026-11-23 11:39:02 [500] POST /in/github/a push → http://localhost:3000/hook (23ms) attempt 2 {ID}"
            )
        );
    }

    #[test]
    fn json_lines() {
        let value: serde_json::Value = serde_json::from_str(&line(Ok(200), |_| {}).json()).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-23T11:39:02.114Z", "event_id": ID, "source": "github", "type": "push",
            "method": "POST", "path": "", "attempt": 1, "target": "http://localhost:3000/hook",
            "status": 200, "duration_ms": 23, "outcome": "delivered"
        });
        assert_eq!(value, expected);
        let failed = line(Err(CallError::Timeout(Duration::from_secs(1))), |_| {}).json();
        assert!(
            failed.contains(r#""outcome":"failed","error":"no complete answer within 1000 ms""#),
            "{failed}"
        );
    }

    #[test]
    fn events_cannot_steer_the_terminal() {
        let line = line(Ok(200), |offer| {
            offer.event_type = Some("\u{1b}[2Jx\n".repeat(100))
        });
        assert!(!compact(&line).contains(['\u{1b}', '\n']));
        assert!(compact(&line).chars().count() < 400);
    }
}
