//! Why nothing happens with a delivery: what the store waits for, and what holds its destination.

use protocol::id::AgentId;
use serde::Serialize;

use crate::{
    api::flow::wait_name,
    clock::Timestamp,
    dispatch::{LineView, ServiceView, Wait},
    lifecycle::Waiting,
};

/// One reason why nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(super) struct WaitView {
    /// `leased`, `retry`, `behind`, `parked`, `turn`, or what holds the destination: `paused`,
    /// `maintenance`, `no_agent`, `outage`, `room`, `in_flight_max`, `rate`.
    pub(super) reason: &'static str,
    /// Until when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
    /// The delivery that comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) behind: Option<String>,
    /// The agent that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<String>,
    /// The same in words.
    pub(super) text: String,
}

impl WaitView {
    fn new(reason: &'static str, until: Option<Timestamp>, text: impl Into<String>) -> Self {
        Self {
            reason,
            until: until.map(|until| until.to_string()),
            behind: None,
            agent: None,
            text: text.into(),
        }
    }
}

/// All reasons, the one that holds longest known last. `holder` has it in hand, with its name.
pub(super) fn of(
    waiting: Waiting,
    line: &LineView,
    holder: Option<(AgentId, String)>,
) -> Vec<WaitView> {
    match waiting {
        Waiting::Leased {
            attempt,
            since,
            until,
        } => vec![leased(attempt, since, until, holder)],
        Waiting::Behind { delivery } => {
            let text = format!("{delivery} has the same order key and comes first");
            let mut view = WaitView::new("behind", None, text);
            view.behind = Some(delivery.to_string());
            vec![view]
        }
        Waiting::Parked { since } => {
            let text = format!("its order key is stopped since {since}, until somebody resumes it");
            vec![WaitView::new("parked", None, text)]
        }
        Waiting::Retry { at } => {
            let text = format!("its next attempt is due at {at}");
            let mut views = vec![WaitView::new("retry", Some(at), text)];
            // What will still hold it then; limits of the moment will be others.
            views.extend(
                line.waits
                    .filter(|wait| lasts(*wait))
                    .map(|it| held(it, line)),
            );
            views
        }
        Waiting::Turn => match line.waits {
            Some(wait) => vec![held(wait, line)],
            None => vec![WaitView::new("turn", None, "it is handed out any moment")],
        },
    }
}

fn leased(
    attempt: u32,
    since: Timestamp,
    until: Timestamp,
    holder: Option<(AgentId, String)>,
) -> WaitView {
    let (id, name) = match holder {
        Some((id, name)) => (Some(id.to_string()), format!("agent {name}")),
        None => (None, "an agent".to_owned()),
    };
    let text = format!(
        "{name} works on attempt {attempt} since {since}; it is given up at {until} unless it is heard of"
    );
    let mut view = WaitView::new("leased", Some(until), text);
    view.agent = id;
    view
}

fn lasts(wait: Wait) -> bool {
    match wait {
        Wait::Paused { .. } | Wait::Maintenance { .. } | Wait::NoAgent | Wait::Outage => true,
        Wait::Room | Wait::InFlight | Wait::Rate => false,
    }
}

/// What holds a destination.
fn held(wait: Wait, line: &LineView) -> WaitView {
    let by = |until: Option<Timestamp>| until.map_or(String::new(), |at| format!(" until {at}"));
    let (until, text) = match wait {
        Wait::Paused { until } => (until, format!("the destination is paused{}", by(until))),
        Wait::Maintenance { until } => {
            let text = format!("the destination rests by its schedule{}", by(Some(until)));
            (Some(until), text)
        }
        Wait::NoAgent => {
            let text = "no agent that serves the destination is connected";
            (None, text.to_owned())
        }
        Wait::Outage => {
            let probe = next_probe(line);
            let next = probe.map_or_else(
                || "it is being tried".to_owned(),
                |at| format!("it is tried again at {at}"),
            );
            let text = format!("no agent reaches the service: the breaker is open, and {next}");
            (probe, text)
        }
        Wait::Room => {
            let text = "the connected agents have as much in hand as they take";
            (None, text.to_owned())
        }
        Wait::InFlight => {
            let text = "as many deliveries are under way as the destination allows at a time";
            (None, text.to_owned())
        }
        Wait::Rate => {
            let text = "the destination's or the tenant's deliveries a second are used up";
            (None, text.to_owned())
        }
    };
    WaitView::new(wait_name(wait), until, text)
}

/// When the first of the services behind the agents is tried again.
fn next_probe(line: &LineView) -> Option<Timestamp> {
    let probes = line.agents.iter().filter_map(|agent| match agent.service {
        ServiceView::Down { probe_at, .. } => probe_at,
        ServiceView::Up | ServiceView::Recovering { .. } => None,
    });
    probes.min()
}

#[cfg(test)]
mod tests {
    use protocol::id::DeliveryId;

    use super::*;
    use crate::dispatch::AgentView;

    const AT: Timestamp = Timestamp(1_700_000_000_000);
    const AT_TEXT: &str = "2023-11-14T22:13:20.000Z";

    fn line(waits: Option<Wait>) -> LineView {
        let agent = AgentView {
            agent: AgentId::from_u128(1),
            service: ServiceView::Down {
                since: AT,
                probe_at: Some(AT),
            },
            in_hand: 0,
            free: 1,
        };
        LineView {
            waits,
            agents: vec![agent],
            in_hand: 0,
        }
    }

    fn check(waiting: Waiting, waits: Option<Wait>, expected: &[(&str, Option<&str>)]) {
        let views = of(waiting, &line(waits), None);
        let found: Vec<_> = views
            .iter()
            .map(|view| (view.reason, view.until.as_deref()))
            .collect();
        assert_eq!(found, expected, "{waiting:?} {waits:?}");
    }

    #[test]
    fn every_reason_has_a_name_and_a_time_where_it_has_one() {
        let (turn, retry) = (Waiting::Turn, Waiting::Retry { at: AT });
        let until = Some(AT_TEXT);
        let paused = Wait::Paused { until: None };
        check(turn, None, &[("turn", None)]);
        check(turn, Some(paused), &[("paused", None)]);
        let paused_until = Wait::Paused { until: Some(AT) };
        check(turn, Some(paused_until), &[("paused", until)]);
        let resting = Wait::Maintenance { until: AT };
        check(turn, Some(resting), &[("maintenance", until)]);
        check(turn, Some(Wait::NoAgent), &[("no_agent", None)]);
        check(turn, Some(Wait::Outage), &[("outage", until)]);
        check(turn, Some(Wait::Room), &[("room", None)]);
        check(turn, Some(Wait::InFlight), &[("in_flight_max", None)]);
        check(turn, Some(Wait::Rate), &[("rate", None)]);
        check(retry, None, &[("retry", until)]);
        check(retry, Some(Wait::Rate), &[("retry", until)]);
        check(retry, Some(paused), &[("retry", until), ("paused", None)]);
        check(
            retry,
            Some(Wait::Outage),
            &[("retry", until), ("outage", until)],
        );
        check(
            Waiting::Parked { since: AT },
            Some(paused),
            &[("parked", None)],
        );
    }

    #[test]
    fn whom_it_waits_for_is_named() {
        let leased = Waiting::Leased {
            attempt: 2,
            since: AT,
            until: AT,
        };
        let agent = AgentId::from_u128(7);
        let views = of(leased, &line(None), Some((agent, "agt_7 (box)".to_owned())));
        assert_eq!(views[0].agent, Some(agent.to_string()));
        let start = "agent agt_7 (box) works on attempt 2 since";
        assert!(views[0].text.starts_with(start), "{}", views[0].text);

        let delivery = DeliveryId::from_u128(9);
        let views = of(Waiting::Behind { delivery }, &line(None), None);
        assert_eq!(views[0].behind, Some(delivery.to_string()));
    }
}
