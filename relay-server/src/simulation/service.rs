//! Services as agents meet them: what a call comes to, and how long it takes.

use bytes::Bytes;
use protocol::frame::{Headers, Outcome, ServiceFailure};

use super::{chance::Dice, plan::Mood};

/// What a call comes to.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) after_ms: u64,
    /// Whether the service did its work, whatever the agent hears of it.
    pub(super) is_taken: bool,
}

/// A service in a mood is called with an event that it takes, unless it is poison.
pub(super) fn call(mood: Mood, poison: Option<u16>, timeout_ms: u64, dice: &mut Dice) -> Answer {
    let quick_ms = dice.between(1, 60);
    match mood {
        Mood::Gone => failed(ServiceFailure::Connect, dice.between(0, 20), false),
        Mood::Hangs => failed(ServiceFailure::Timeout, timeout_ms, dice.percent(30)),
        Mood::Slow if dice.percent(20) => failed(ServiceFailure::Timeout, timeout_ms, true),
        Mood::Slow => {
            let after_ms = dice.between(timeout_ms / 4, timeout_ms * 9 / 10);
            works(poison, after_ms)
        }
        Mood::Errs(percent) if dice.percent(percent) => answered(500, None, quick_ms),
        Mood::Busy if dice.percent(70) => {
            let status = *dice.pick(&[429, 503]);
            let seconds = dice.between(0, 20);
            let asked = dice.percent(70).then(|| seconds.to_string());
            answered(status, asked, quick_ms)
        }
        Mood::Well | Mood::Errs(_) | Mood::Busy => works(poison, quick_ms),
    }
}

fn works(poison: Option<u16>, after_ms: u64) -> Answer {
    match poison {
        Some(status) => answered(status, None, after_ms),
        None => answered(200, None, after_ms),
    }
}

fn answered(status: u16, retry_after: Option<String>, after_ms: u64) -> Answer {
    let header = retry_after.map(|value| (Bytes::from_static(b"retry-after"), Bytes::from(value)));
    Answer {
        outcome: Outcome::Answered {
            status,
            headers: Headers(header.into_iter().collect()),
            body_bytes: 0,
        },
        after_ms,
        is_taken: (200..300).contains(&status),
    }
}

fn failed(failure: ServiceFailure, after_ms: u64, is_taken: bool) -> Answer {
    Answer {
        outcome: Outcome::Failed {
            failure,
            detail: String::new(),
        },
        after_ms,
        is_taken,
    }
}
