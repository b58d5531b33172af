//! One accepted request.

use std::net::IpAddr;

use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{EventId, SourceId, TenantId},
};

use crate::clock::Timestamp;

/// One accepted request, immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, in order of acceptance up to the millisecond.
    pub id: EventId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The source that accepted it.
    pub source: SourceId,
    /// When.
    pub received_at: Timestamp,
    /// The method, as received.
    pub method: String,
    /// The path below the source's URL and the query, exactly as received.
    pub target: String,
    /// The header fields in order, repeats kept.
    pub headers: Headers,
    /// The body, byte for byte.
    pub body: Bytes,
    /// How its origin was checked.
    pub verification: Verification,
    /// Its type, where the source knows how to find it.
    pub event_type: Option<String>,
    /// The provider's own id, by which repeats are recognised.
    pub provider_id: Option<String>,
    /// The address it came from.
    pub remote: Option<IpAddr>,
}

impl Event {
    /// Whether it was erased: nothing of the request is left, not even its method.
    pub fn is_erased(&self) -> bool {
        self.method.is_empty()
    }

    /// What it counts for where stored bytes are counted: body, header fields and target, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        (self.body.len() + self.headers.bytes_len() + self.target.len()) as u64
    }
}

/// How the origin of an event was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The rule, such as `stripe`; `none` where the source chose to check nothing.
    pub rule: String,
    /// Which of the source's secrets matched, from 0.
    pub secret: Option<u16>,
}
