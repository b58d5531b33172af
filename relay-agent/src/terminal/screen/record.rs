//! One event on the screen, with every call that was made for it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use protocol::{frame::Offer, id::DeliveryId};

use crate::{
    forward::{Answer, Attempt, Outcome, Service},
    terminal::line::for_people,
};

/// Calls that are kept of one event.
const CALLS_MAX: usize = 50;

/// One event and what came of it.
#[derive(Debug)]
pub(super) struct Record {
    /// The newest offer of it. Its own `body` is empty.
    pub(super) offer: Box<Offer>,
    /// Its body, unless it arrived in parts.
    pub(super) body: Option<Bytes>,
    pub(super) service: Arc<Service>,
    pub(super) timeout: std::time::Duration,
    pub(super) came_at: Timestamp,
    /// First to last.
    pub(super) calls: Vec<Call>,
    /// Calls that have begun and not ended.
    pub(super) running: u32,
}

/// One call of the service.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) kind: CallKind,
    pub(super) ended_at: Timestamp,
    pub(super) elapsed_ms: u64,
    /// The answer, or why there was none.
    pub(super) result: Result<Answer, String>,
}

/// Why a call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    /// The relay asked for this attempt.
    Attempt(u32),
    /// By a key press; the relay knows nothing of it.
    Replay,
    /// The same after it was changed in an editor.
    Edited,
}

/// How an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Running,
    Answered(u16),
    Failed,
}

impl Record {
    pub(super) fn new(attempt: &Attempt, now: Timestamp) -> Self {
        Self {
            offer: attempt.offer.clone(),
            body: attempt.body.as_whole().cloned(),
            service: attempt.service.clone(),
            timeout: attempt.timeout,
            came_at: now,
            calls: Vec::new(),
            running: 1,
        }
    }

    pub(super) fn delivery(&self) -> DeliveryId {
        self.offer.delivery
    }

    /// Bytes that it keeps in memory, about.
    pub(super) fn weight(&self) -> usize {
        let calls = self
            .calls
            .iter()
            .filter_map(|call| call.result.as_ref().ok());
        self.body.as_ref().map_or(0, Bytes::len)
            + self.offer.request.headers.bytes_len()
            + calls.map(|answer| answer.start.len()).sum::<usize>()
            + size_of::<Self>()
    }

    pub(super) fn ended(&mut self, call: Call) {
        self.running = self.running.saturating_sub(1);
        if self.calls.len() == CALLS_MAX {
            self.calls.remove(0);
        }
        self.calls.push(call);
    }

    pub(super) fn standing(&self) -> Standing {
        match self.calls.last() {
            _ if self.running > 0 => Standing::Running,
            Some(Call {
                result: Ok(answer), ..
            }) => Standing::Answered(answer.status.as_u16()),
            Some(_) => Standing::Failed,
            None => Standing::Running,
        }
    }

    /// The status as three signs, so that it can be read without colour.
    pub(super) fn status(&self) -> String {
        match self.standing() {
            Standing::Running => "...".to_owned(),
            Standing::Answered(status) => status.to_string(),
            Standing::Failed => "ERR".to_owned(),
        }
    }

    pub(super) fn event_type(&self) -> String {
        self.offer
            .event_type
            .as_deref()
            .map(for_people)
            .unwrap_or_default()
    }

    /// `/in/github/path`, without the query, which may hold what is nobody's business.
    pub(super) fn path(&self) -> String {
        let path = self
            .offer
            .request
            .target
            .split('?')
            .next()
            .unwrap_or_default();
        format!("/in/{}{}", for_people(&self.offer.source), for_people(path))
    }
}

impl Call {
    pub(super) fn new(kind: CallKind, outcome: &Outcome, now: Timestamp) -> Self {
        Self {
            kind,
            ended_at: now,
            elapsed_ms: outcome.elapsed.as_millis() as u64,
            result: match &outcome.result {
                Ok(answer) => Ok(answer.clone()),
                Err(error) => Err(for_people(&error.to_string())),
            },
        }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(&self.result, Ok(answer) if answer.status.is_success())
    }
}

impl std::fmt::Display for CallKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Attempt(number) => write!(f, "attempt {number}"),
            Self::Replay => f.write_str("replay"),
            Self::Edited => f.write_str("edited replay"),
        }
    }
}
