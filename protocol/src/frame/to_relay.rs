//! Frames from an agent to the relay.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LeaseToken, Ping, Pong, Receipt};
use crate::id::{AgentId, DeliveryId, SessionId};

/// Everything an agent may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRelay {
    /// The first frame of a session.
    Hello(Hello),
    /// More may be offered.
    Credit(Credit),
    /// The outcome of an attempt.
    Receipt(Box<Receipt>),
    /// Part of a service's response (sync mode).
    ResponseChunk(ResponseChunk),
    /// Attempts that are still being made.
    Renew(Renew),
    /// Attempts that will not be made.
    Release(Release),
    /// A heartbeat.
    Ping(Ping),
    /// The answer to the relay's heartbeat.
    Pong(Pong),
    /// The agent leaves on purpose: what it still holds may go to others at once.
    Bye(Bye),
}

/// The first frame of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions the agent speaks.
    pub versions: Vec<u32>,
    /// The installation of the agent; the same after a reconnect.
    pub instance: AgentId,
    /// What people call it.
    pub name: String,
    /// Its program and version, such as `relay-agent/0.1.0`.
    pub agent: String,
    /// What it serves, and how much of each it takes.
    pub destinations: Vec<OfferedDestination>,
    /// Attempts of earlier sessions that it is still making, or has yet to report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holding: Vec<Held>,
    /// Its sessions from which it takes nothing any more. What it does not hold of theirs was never
    /// begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<SessionId>,
    /// Asks for an expiring destination of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
}

/// A destination an agent serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedDestination {
    /// Its name.
    pub name: String,
    /// Deliveries that may be offered at first.
    pub deliveries: u64,
    /// Body bytes that may be offered at first.
    pub bytes: u64,
}

/// An attempt an agent holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Held {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The lease under which it was offered.
    pub lease: LeaseToken,
    /// The number of the attempt.
    pub attempt: u32,
}

/// Asks for an expiring destination with routes of its own, so that a laptop never competes with
/// production consumers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Names of sources; `*` stands for all.
    pub sources: Vec<String>,
    /// A filter in the relay's filter language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// Deliveries that may be offered at first.
    pub deliveries: u64,
    /// Body bytes that may be offered at first.
    pub bytes: u64,
}

/// More may be offered. Totals since the session began, so that a repeat changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The destination.
    pub destination: String,
    /// Deliveries that may have been offered in all.
    pub deliveries: u64,
    /// Body bytes that may have been offered in all.
    pub bytes: u64,
}

/// Part of a service's response (sync mode). The first one precedes or accompanies the receipt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseChunk {
    /// The delivery whose response it is.
    pub delivery: DeliveryId,
    /// The lease of the offer it belongs to.
    pub lease: LeaseToken,
    /// The status and headers, in the first chunk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<ResponseHead>,
    /// Where in the response body this part starts, in bytes.
    pub offset: u64,
    /// Whether this is the end of the response.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// The part.
    #[serde(skip)]
    pub part: Bytes,
}

impl fmt::Debug for ResponseChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseChunk")
            .field("delivery", &self.delivery)
            .field("lease", &self.lease)
            .field("head", &self.head)
            .field("offset", &self.offset)
            .field("last", &self.last)
            .field("part_bytes", &self.part.len())
            .finish_non_exhaustive()
    }
}

/// Everything of a response but its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// The header fields in order, repeats kept.
    pub headers: super::Headers,
}

/// Attempts that are still being made: their leases start anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// Which ones.
    pub leases: Vec<Held>,
}

/// Attempts that will not be made: they may go to others at once and count as no attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which ones.
    pub leases: Vec<Held>,
    /// Why.
    pub reason: ReleaseReason,
}

/// Why an agent hands an offer back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// It is shutting down.
    Draining,
    /// It has no room for it after all.
    Busy,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

/// The agent leaves on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why, for people.
    pub reason: String,
}
