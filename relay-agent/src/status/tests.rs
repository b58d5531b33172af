//! What is known, in the words of each that asks.

use super::*;

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = Status::new(Duration::ZERO).facts();
    change(&mut facts);
    facts
}

#[test]
fn readiness_says_why_not() {
    let trouble = Some((Code::Dns, "no such name".to_owned()));
    let cases = [
        (with(|_| {}), "[-]session not opened yet\n", false),
        (
            with(|facts| facts.trouble = trouble.clone()),
            "[-]session E-DNS: no such name\n",
            false,
        ),
        (
            with(|facts| facts.gauges.sessions = 1),
            "[+]session ok: 1",
            true,
        ),
        (
            with(|facts| {
                facts.gauges.sessions = 1;
                facts.is_stopping = true;
            }),
            "[-]running no: stopping\n",
            false,
        ),
    ];
    for (facts, line, is_ready) in cases {
        assert_eq!(facts.is_ready(), is_ready);
        let text = facts.readiness();
        assert!(text.contains(line), "{text}");
        assert_eq!(text.ends_with("\nready\n"), is_ready, "{text}");
    }
}

#[test]
fn a_loop_that_stopped_turning_is_noticed() {
    let status = Status::new(Duration::ZERO);
    let now = Instant::now();
    let next = status.turn(now, Gauges::default());
    assert!(next <= now + PULSE);
    let facts = status.facts();
    assert!(facts.is_alive(now + PULSE * 2));
    assert!(!facts.is_alive(now + PULSE_MISSED_MAX));
}

#[test]
fn the_report_is_for_people_and_programs() {
    let facts = with(|facts| {
        facts.gauges.sessions = 1;
        facts.gauges.unconfirmed = 1;
        facts.relay = "wss://relay.example.com/agent/v1/connect".to_owned();
        facts.lane("ci").offers = 3;
        facts.since = SystemTime::UNIX_EPOCH;
    });
    let text = serde_json::to_string(&facts.report()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["connected"], true);
    assert_eq!(value["destinations"][0]["offers"], 3);
    let report: Report = serde_json::from_str(&text).unwrap();
    let shown = report.to_string();
    for part in [
        "connected to wss://relay.example.com/agent/v1/connect since 1970-01-01T00:00:00Z, 1 session\n",
        "0 in hand, 1 receipt to be confirmed; the journal remembers 0 successes in 0 bytes\n",
        "\ndestination    offers delivered    failed   average\nci                  3         0         0         -",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}
