//! One replay and its outcome.

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
