//! What happened to an event as lines for people. Pure.

use std::collections::HashMap;

use protocol::id::AgentId;
use serde::Serialize;

use super::{Facts, RouteView, made_at};
use crate::{
    clock::Timestamp,
    lifecycle::{AttemptOutcome, DeliveryState},
    store::{AttemptRecord, EventDetail},
};

/// How much of a response's start a line shows, in characters.
const RESPONSE_CHARS_MAX: usize = 60;

/// One thing that happened, or that is so now.
#[derive(Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(super) struct Entry {
    /// When; missing for what is so now.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// `received`, `verified`, `dedupe`, `route`, `unrouted`, `repeated`, `replayed`, `attempt`,
    /// the state in which a delivery ended, `superseded`, or `waits`.
    what: &'static str,
    /// Which delivery it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<String>,
    text: String,
}

/// What the lines are made from.
pub(super) struct Told<'a> {
    pub(super) detail: &'a EventDetail,
    pub(super) source: Option<&'a str>,
    pub(super) routes: &'a [RouteView],
    pub(super) facts: &'a [Facts],
    /// Agents as people know them.
    pub(super) agents: &'a HashMap<AgentId, String>,
}

/// Everything that happened, in order of time, then what is so now.
pub(super) fn of(told: &Told<'_>) -> Vec<Entry> {
    let mut lines = Lines::default();
    arrival(told, &mut lines);
    for facts in told.facts {
        delivery(told, facts, &mut lines);
    }
    lines.in_order()
}

/// Lines with their times; `None` is now.
#[derive(Default)]
struct Lines(Vec<(Option<Timestamp>, Entry)>);

impl Lines {
    fn add(&mut self, at: impl Into<Option<Timestamp>>, what: &'static str, text: String) {
        let at = at.into();
        let entry = Entry {
            at: at.map(|at| at.to_string()),
            what,
            delivery: None,
            text,
        };
        self.0.push((at, entry));
    }

    fn add_of(
        &mut self,
        facts: &Facts,
        at: impl Into<Option<Timestamp>>,
        what: &'static str,
        text: String,
    ) {
        self.add(at, what, text);
        if let Some((_, entry)) = self.0.last_mut() {
            entry.delivery = Some(facts.summary.id.to_string());
        }
    }

    /// By time; what happened at the same time stays as it was told.
    fn in_order(mut self) -> Vec<Entry> {
        self.0
            .sort_by_key(|(at, _)| at.unwrap_or(Timestamp(u64::MAX)));
        self.0.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// What became of it until it was durable, and its repeats.
fn arrival(told: &Told<'_>, lines: &mut Lines) {
    let (detail, event) = (told.detail, &told.detail.event);
    let at = event.received_at;
    let from = event
        .remote
        .map_or(String::new(), |ip| format!(" from {ip}"));
    let source = told.source.map_or_else(
        || format!("{}, which is deleted", event.source),
        str::to_owned,
    );
    let bytes = event.body.len();
    if event.is_erased() {
        let text = format!("at source {source}; its content was erased since");
        lines.add(at, "received", text);
        return;
    }
    let text = format!(
        "{} {}{from} at source {source}, {bytes} bytes",
        event.method, event.target
    );
    lines.add(at, "received", text);

    let rule = &event.verification.rule;
    let text = match event.verification.secret {
        Some(index) => format!(
            "by {rule}, with secret {} of the source, counted from the oldest",
            u32::from(index) + 1
        ),
        None if rule == "none" => "not at all: the source verifies nothing".to_owned(),
        None => format!("by {rule}"),
    };
    lines.add(at, "verified", text);

    let text = match (&event.provider_id, detail.remembered_until) {
        (Some(id), Some(until)) => {
            format!("new: its provider calls it {id}, which is remembered until {until}")
        }
        (Some(id), None) => format!("its provider calls it {id}, which is not remembered"),
        (None, _) => "it has no id of its provider's: repeats cannot be recognised".to_owned(),
    };
    lines.add(at, "dedupe", text);

    for route in told.routes {
        lines.add(at, "route", decision(route));
    }
    if !told.routes.iter().any(|route| route.matched) {
        let why = match told.routes {
            [] => "its source had no route",
            _ => "no route takes it",
        };
        lines.add(
            at,
            "unrouted",
            format!("{why}: it is kept, and can be replayed"),
        );
    }
    let repeats = detail.repeats;
    if repeats.count > 0 {
        let times = match repeats.count {
            1 => "once".to_owned(),
            count => format!("{count} times, this being the last"),
        };
        let text = format!(
            "its provider sent it again {times}; answered as accepted, not delivered twice"
        );
        lines.add(repeats.last_at, "repeated", text);
    }
}

fn decision(route: &RouteView) -> String {
    let name = route.name.clone();
    let name = name.unwrap_or_else(|| format!("{}, which is deleted,", route.route));
    let to = route.destination_name.as_ref();
    let to = to.map_or(String::new(), |destination| format!(" to {destination}"));
    match &route.unmet {
        None => format!("{name} takes it{to}"),
        Some(place) => format!("{name} does not take it{to}: {place} of its filter is not met"),
    }
}

fn delivery(told: &Told<'_>, facts: &Facts, lines: &mut Lines) {
    let (summary, to) = (&facts.summary, &facts.destination);
    if let Some(replay) = summary.replay {
        let text = format!("to {to} by {replay}, as {}", summary.id);
        lines.add_of(facts, made_at(summary.id), "replayed", text);
    }
    for attempt in &facts.attempts {
        let text = attempted(told, to, attempt);
        lines.add_of(facts, attempt.ended_at, "attempt", text);
    }
    match summary.state {
        DeliveryState::Pending | DeliveryState::Retry => {
            for wait in &facts.waits {
                let text = format!("{to}: {}", wait.text);
                lines.add_of(facts, None, "waits", text);
            }
        }
        state => {
            let because = match (&summary.reason, state) {
                (Some(reason), _) if reason != state.as_str() => format!(": {reason}"),
                _ => String::new(),
            };
            let text = format!("{to}{because}");
            lines.add_of(facts, summary.updated_at, state.as_str(), text);
        }
    }
    if let Some(later) = summary.superseded_by {
        let text = format!("{to}: {later} took its place");
        lines.add_of(facts, made_at(later), "superseded", text);
    }
}

fn attempted(told: &Told<'_>, to: &str, attempt: &AttemptRecord) -> String {
    let agent = attempt.agent.map_or(String::new(), |id| {
        let known = told.agents.get(&id);
        let name = known.map_or_else(|| id.to_string(), Clone::clone);
        format!(" by {name}")
    });
    let outcome = match &attempt.outcome {
        AttemptOutcome::Answered {
            status,
            response_start,
            ..
        } => {
            let start = String::from_utf8_lossy(response_start);
            let start = start.trim();
            let mut shown: String = start.chars().take(RESPONSE_CHARS_MAX).collect();
            if shown.len() < start.len() {
                shown.push_str("...");
            }
            let shown = if shown.is_empty() {
                String::new()
            } else {
                format!(": {shown:?}")
            };
            format!("answered {status} after {} ms{shown}", attempt.elapsed_ms)
        }
        AttemptOutcome::Failed { detail, .. } => {
            format!("failed after {} ms: {detail}", attempt.elapsed_ms)
        }
        AttemptOutcome::Lost => "the agent vanished with it".to_owned(),
    };
    format!("{} to {to}{agent}: {outcome}", attempt.number)
}

#[cfg(test)]
mod tests;
