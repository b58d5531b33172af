//! The numbers as Prometheus reads them.
//!
//! Labels are destinations, which the configuration bounds, and closed lists. The text is made here:
//! a library for it would bring more code than this file, and registers for many writers, of which
//! there is one.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol::frame::ServiceFailure;

use super::Facts;
use crate::forward::{Answer, CallError};

/// What a call can come to, as the label `outcome` says it.
const OUTCOMES: [&str; 12] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "dns",
    "connect",
    "tls",
    "timeout",
    "broken",
    "protocol",
    "refused",
    "abandoned",
];

/// Upper bounds of durations, in milliseconds.
const BOUNDS_MS: [u64; 12] = [
    5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000,
];

/// What was done for one destination.
#[derive(Debug, Clone, Default)]
pub(super) struct LaneNumbers {
    pub(super) offers: u64,
    outcomes: [u64; OUTCOMES.len()],
    /// Calls by duration, each in the first bucket that takes it; the last has no bound.
    buckets: [u64; BOUNDS_MS.len() + 1],
    elapsed: Duration,
}

impl LaneNumbers {
    pub(super) fn forwarded(&mut self, result: &Result<Answer, CallError>, elapsed: Duration) {
        self.outcomes[outcome(result)] += 1;
        let fits = |bound: &u64| elapsed <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS.iter().position(fits);
        self.buckets[bucket.unwrap_or(BOUNDS_MS.len())] += 1;
        self.elapsed += elapsed;
    }

    /// Calls that a 2xx answered, and all others.
    pub(super) fn delivered_and_failed(&self) -> (u64, u64) {
        let (delivered, failed) = self.outcomes.split_at(1);
        (delivered.iter().sum(), failed.iter().sum())
    }

    /// How long a call takes, if there was any.
    pub(super) fn average(&self) -> Option<Duration> {
        let calls = u32::try_from(self.calls()).unwrap_or(u32::MAX);
        self.elapsed.checked_div(calls)
    }

    fn calls(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The place of an outcome in [`OUTCOMES`].
fn outcome(result: &Result<Answer, CallError>) -> usize {
    let failure = match result {
        Ok(answer) => return usize::from(answer.status.as_u16() / 100).clamp(2, 5) - 2,
        Err(error) => error.failure(),
    };
    match failure {
        ServiceFailure::Dns => 4,
        ServiceFailure::Connect => 5,
        ServiceFailure::Tls => 6,
        ServiceFailure::Timeout => 7,
        ServiceFailure::Broken => 8,
        ServiceFailure::Protocol => 9,
        ServiceFailure::Refused => 10,
        // The other is for versions to come; this one does not say it.
        ServiceFailure::Abandoned | ServiceFailure::Other => 11,
    }
}

/// The text that a scrape gets.
pub(super) fn render(facts: &Facts) -> String {
    let mut text = Text::default();
    text.gauge(
        "build_info",
        "The version of the agent",
        [(&[("version", env!("CARGO_PKG_VERSION"))][..], 1.0)],
    );
    for (name, help, value) in plain_gauges(facts) {
        text.gauge(name, help, [(&[][..], value)]);
    }
    text.counter(
        "reconnects_total",
        "Sessions that were opened after the first",
        [(&[][..], facts.sessions_opened.saturating_sub(1))],
    );
    text.counter(
        "config_reloads_total",
        "Times the configuration was read again",
        [
            (&[("outcome", "taken")][..], facts.reloads),
            (&[("outcome", "refused")][..], facts.reloads_refused),
        ],
    );
    let refused = facts.reload_refused.as_ref();
    let code = refused.map(|(code, _)| code.to_string());
    let label = code.as_deref().map(|code| [("code", code)]);
    text.gauge(
        "config_refused",
        "Whether the last configuration that was read again is not in force, and why",
        [match &label {
            Some(label) => (&label[..], 1.0),
            None => (&[][..], 0.0),
        }],
    );
    text.counter(
        "answered_again_total",
        "Offers that were answered from the journal, without a call",
        [(&[][..], facts.answered_again)],
    );
    lanes(&mut text, &facts.lanes);
    text.0
}

fn plain_gauges(facts: &Facts) -> [(&'static str, &'static str, f64); 8] {
    let started = facts.started_at.duration_since(UNIX_EPOCH);
    [
        (
            "start_time_seconds",
            "When the agent was started, since 1970",
            started.unwrap_or_default().as_secs_f64(),
        ),
        (
            "connected",
            "Whether a session with the relay is open",
            f64::from(u8::from(facts.gauges.sessions > 0)),
        ),
        (
            "sessions",
            "Sessions that are open",
            facts.gauges.sessions as f64,
        ),
        (
            "heartbeat_rtt_seconds",
            "Time until the relay answered the last heartbeat",
            facts.rtt.unwrap_or_default().as_secs_f64(),
        ),
        (
            "deliveries_in_hand",
            "Deliveries that wait for their call, or for its end",
            facts.gauges.in_hand as f64,
        ),
        (
            "receipts_unconfirmed",
            "Receipts that the relay has not confirmed",
            facts.gauges.unconfirmed as f64,
        ),
        (
            "journal_successes",
            "Successes that the journal remembers",
            facts.gauges.remembered as f64,
        ),
        (
            "journal_bytes",
            "Size of the journal's file",
            facts.gauges.journal_bytes as f64,
        ),
    ]
}

fn lanes(text: &mut Text, lanes: &BTreeMap<String, LaneNumbers>) {
    text.head("offers_total", "counter", "Deliveries that were offered");
    for (name, lane) in lanes {
        text.sample("offers_total", &[("destination", name)], lane.offers);
    }
    text.head("forwards_total", "counter", "Calls that have ended");
    for (name, lane) in lanes {
        for (outcome, count) in OUTCOMES.iter().zip(lane.outcomes) {
            let labels = [("destination", name.as_str()), ("outcome", outcome)];
            text.sample("forwards_total", &labels, count);
        }
    }
    text.head(
        "forward_duration_seconds",
        "histogram",
        "How long calls take",
    );
    for (name, lane) in lanes {
        let mut so_far = 0;
        let bounds = BOUNDS_MS.iter().map(|bound| *bound as f64 / 1000.0);
        let bounds = bounds.map(|bound| bound.to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(lane.buckets) {
            so_far += count;
            let labels = [("destination", name.as_str()), ("le", &bound)];
            text.sample("forward_duration_seconds_bucket", &labels, so_far);
        }
        let labels = [("destination", name.as_str())];
        let seconds = lane.elapsed.as_secs_f64();
        text.sample("forward_duration_seconds_sum", &labels, seconds);
        text.sample("forward_duration_seconds_count", &labels, so_far);
    }
}

#[derive(Default)]
struct Text(String);

type Labels<'a> = [(&'a str, &'a str)];

impl Text {
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a Labels<'a>, f64)>,
    ) {
        self.head(name, "gauge", help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a Labels<'a>, u64)>,
    ) {
        self.head(name, "counter", help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(
            self.0,
            "# HELP hookferry_agent_{name} {help}.\n# TYPE hookferry_agent_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl fmt::Display) {
        let _ = write!(self.0, "hookferry_agent_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}

/// A moment as RFC 3339 has it, to the second.
pub(super) fn rfc3339(moment: SystemTime) -> String {
    let moment = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{moment:.0}")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{explain::Code, status::Status};

    fn answer(status: u16) -> Result<Answer, CallError> {
        Ok(Answer {
            status: status.try_into().unwrap(),
            headers: Default::default(),
            start: Default::default(),
            body_bytes: 0,
        })
    }

    #[test]
    fn every_outcome_has_a_name() {
        let refused = || Err(CallError::Connect(io::ErrorKind::ConnectionRefused.into()));
        let late = || Err(CallError::Timeout(Duration::from_secs(1)));
        for (result, expected) in [
            (answer(204), "2xx"),
            (answer(302), "3xx"),
            (answer(404), "4xx"),
            (answer(599), "5xx"),
            (refused(), "connect"),
            (late(), "timeout"),
            (Err(CallError::Internal), "abandoned"),
        ] {
            assert_eq!(OUTCOMES[outcome(&result)], expected);
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let status = Status::new(Duration::ZERO);
        {
            let mut inner = status.lock();
            inner.facts.started_at = UNIX_EPOCH + Duration::from_secs(7);
            inner.facts.gauges.sessions = 2;
            inner.facts.reloads_refused = 1;
            inner.facts.reload_refused = Some((Code::ConfigValue, String::new()));
            let lane = inner.facts.lane("a\"b");
            lane.offers = 3;
            lane.forwarded(&answer(200), Duration::from_millis(7));
            lane.forwarded(&answer(200), Duration::from_millis(10));
            lane.forwarded(&answer(500), Duration::from_secs(60));
        }
        let text = render(&status.facts());
        for line in [
            "# TYPE hookferry_agent_connected gauge\nhookferry_agent_connected 1\n",
            "\nhookferry_agent_sessions 2\n",
            "\nhookferry_agent_start_time_seconds 7\n",
            "\nhookferry_agent_reconnects_total 0\n",
            "\nhookferry_agent_config_reloads_total{outcome=\"refused\"} 1\n",
            "\nhookferry_agent_config_refused{code=\"E-CONFIG-VALUE\"} 1\n",
            "\nhookferry_agent_offers_total{destination=\"a\\\"b\"} 3\n",
            "\nhookferry_agent_forwards_total{destination=\"a\\\"b\",outcome=\"2xx\"} 2\n",
            "\nhookferry_agent_forwards_total{destination=\"a\\\"b\",outcome=\"5xx\"} 1\n",
            "\nhookferry_agent_forward_duration_seconds_bucket{destination=\"a\\\"b\",le=\"0.005\"} 0\n",
            "\nhookferry_agent_forward_duration_seconds_bucket{destination=\"a\\\"b\",le=\"0.01\"} 2\n",
            "\nhookferry_agent_forward_duration_seconds_bucket{destination=\"a\\\"b\",le=\"30\"} 2\n",
            "\nhookferry_agent_forward_duration_seconds_bucket{destination=\"a\\\"b\",le=\"+Inf\"} 3\n",
            "\nhookferry_agent_forward_duration_seconds_sum{destination=\"a\\\"b\"} 60.017\n",
            "\nhookferry_agent_forward_duration_seconds_count{destination=\"a\\\"b\"} 3\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        let is_right = |line: &str| {
            line.starts_with("# HELP hookferry_agent_")
                || line.starts_with("# TYPE hookferry_agent_")
                || line.strip_prefix("hookferry_agent_").is_some_and(|rest| {
                    let value = rest.rsplit(' ').next();
                    value.is_some_and(|value| value.parse::<f64>().is_ok())
                })
        };
        assert!(text.lines().all(is_right), "{text}");
    }
}
