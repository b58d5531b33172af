//! One replay and its outcome.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use protocol::{
    frame::{Headers, Outcome, Receipt, ServiceFailure},
    id::{AgentId, AttemptId},
};

use crate::clock::Timestamp;

/// One replay of a delivery, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptReport {
    /// Its name.
    pub id: AttemptId,
    /// Its number within the delivery, from 1.
    pub number: u32,
    /// Who made it.
    pub agent: Option<AgentId>,
    /// When its outcome reached the relay.
    pub ended_at: Timestamp,
    /// How long the service took, in milliseconds, as the agent measured it.
    pub elapsed_ms: u64,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The service answered.
    Answered {
        /// The status code.
        status: u16,
        /// Selected response headers.
        headers: Headers,
        /// The length of the whole response body, in bytes.
        body_bytes: u64,
        /// The start of the response body.
        response_start: Bytes,
    },
    /// The service gave no answer.
    Failed {
        /// Why not.
        failure: ServiceFailure,
        /// The same in words.
        detail: String,
    },
    /// The agent vanished with the lease; whether the service was called is unknown.
    Lost,
}

impl AttemptOutcome {
    /// Whether the service took the event.
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Self::Answered {
                status: 200..=299,
                ..
            }
        )
    }
}

/// What came of an attempt, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The service answered with this status.
    Answered(u16),
    /// It gave no answer.
    Failed(ServiceFailure),
    /// The agent vanished with the lease.
    Lost,
}

impl Ending {
    /// Every ending without an answer, with its name in the API and on the command line.
    pub const UNANSWERED: [(Self, &'static str); 10] = [
        (Self::Failed(ServiceFailure::Dns), "dns"),
        (Self::Failed(ServiceFailure::Connect), "connect"),
        (Self::Failed(ServiceFailure::Tls), "tls"),
        (Self::Failed(ServiceFailure::Timeout), "timeout"),
        (Self::Failed(ServiceFailure::Broken), "broken"),
        (Self::Failed(ServiceFailure::Protocol), "protocol"),
        (Self::Failed(ServiceFailure::Refused), "refused"),
        (Self::Failed(ServiceFailure::Abandoned), "abandoned"),
        (Self::Failed(ServiceFailure::Other), "other"),
        (Self::Lost, "lost"),
    ];
}

impl fmt::Display for Ending {
    /// The status, or the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Answered(status) = self {
            return status.fmt(f);
        }
        let mut all = Self::UNANSWERED.iter();
        let known = all.find(|(ending, _)| ending == self);
        f.write_str(known.map_or("other", |(_, name)| name))
    }
}

/// A text that names no ending without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be one of dns, connect, tls, timeout, broken, protocol, refused, abandoned, other, lost"
)]
pub struct UnknownEnding;

impl FromStr for Ending {
    type Err = UnknownEnding;

    fn from_str(text: &str) -> Result<Self, UnknownEnding> {
        let mut all = Self::UNANSWERED.into_iter();
        let known = all.find(|(_, name)| *name == text);
        known.map(|(ending, _)| ending).ok_or(UnknownEnding)
    }
}

impl From<&AttemptOutcome> for Ending {
    fn from(outcome: &AttemptOutcome) -> Self {
        match outcome {
            AttemptOutcome::Answered { status, .. } => Self::Answered(*status),
            AttemptOutcome::Failed { failure, .. } => Self::Failed(*failure),
            AttemptOutcome::Lost => Self::Lost,
        }
    }
}

impl From<Receipt> for AttemptOutcome {
    fn from(receipt: Receipt) -> Self {
        match receipt.outcome {
            Outcome::Answered {
                status,
                headers,
                body_bytes,
            } => Self::Answered {
                status,
                headers,
                body_bytes,
                response_start: receipt.response_start,
            },
            Outcome::Failed { failure, detail } => Self::Failed { failure, detail },
        }
    }
}
