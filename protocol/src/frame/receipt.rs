//! What an agent reports about an attempt.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Headers, LeaseToken, Settled};
use crate::{
    id::DeliveryId,
    limits::{RECEIPT_HEADERS_BYTES_MAX, RESPONSE_START_BYTES_MAX, TEXT_BYTES_MAX},
};

/// The outcome of one attempt. Sent again until the relay confirms it.
///
/// The body of the frame is the start of the service's response, at most
/// [`crate::limits::RESPONSE_START_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The delivery that was attempted.
    pub delivery: DeliveryId,
    /// The lease under which it was attempted.
    pub lease: LeaseToken,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// From the moment the agent began to call the service until the outcome, in milliseconds.
    pub elapsed_ms: u64,
    /// The start of the response body.
    #[serde(skip)]
    pub response_start: Bytes,
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("delivery", &self.delivery)
            .field("lease", &self.lease)
            .field("attempt", &self.attempt)
            .field("outcome", &self.outcome)
            .field("elapsed_ms", &self.elapsed_ms)
            .field("response_start_bytes", &self.response_start.len())
            .finish_non_exhaustive()
    }
}

impl Receipt {
    /// What a Confirm calls it.
    pub fn key(&self) -> Settled {
        Settled {
            delivery: self.delivery,
            attempt: self.attempt,
        }
    }

    /// Cuts what is longer than a receipt may be: the response start, the headers that no longer fit,
    /// and `detail`.
    pub fn clip(&mut self) {
        self.response_start.truncate(RESPONSE_START_BYTES_MAX);
        match &mut self.outcome {
            Outcome::Answered { headers, .. } => headers.clip(RECEIPT_HEADERS_BYTES_MAX),
            Outcome::Failed { detail, .. } => {
                detail.truncate(detail.floor_char_boundary(TEXT_BYTES_MAX));
            }
        }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The service answered; its status decides.
    Answered {
        /// The status code, 200 to 599.
        status: u16,
        /// Selected response headers: `content-type`, `retry-after` and the like.
        #[serde(default)]
        headers: Headers,
        /// The length of the whole response body, as far as the agent read it, in bytes.
        #[serde(default)]
        body_bytes: u64,
    },
    /// There was no answer.
    Failed {
        /// Why not, as a closed list that policy can rely on.
        failure: ServiceFailure,
        /// The same in words for people. Holds no secret and no body.
        #[serde(default)]
        detail: String,
    },
}

impl Outcome {
    /// Whether the service answered at all.
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }

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

/// Why a service gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceFailure {
    /// Its name did not resolve.
    Dns,
    /// The connection was refused or could not be made.
    Connect,
    /// TLS could not be agreed.
    Tls,
    /// No complete answer within the destination's time-out.
    Timeout,
    /// The connection broke before a complete answer.
    Broken,
    /// What came back was not HTTP.
    Protocol,
    /// The agent's own configuration forbids the call, or names no target for the destination.
    Refused,
    /// The agent gave the attempt up, for instance because its grace ended while draining.
    Abandoned,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}
