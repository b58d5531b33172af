//! What the two ends may say to each other.
//!
//! Every frame is one type byte, the length of a JSON header, the header, and raw body bytes; see
//! [`crate::codec`]. Unknown header fields are ignored, so that either end can be newer.

pub mod request;

pub mod receipt;

mod to_agent;

mod to_relay;

pub use receipt::{Outcome, Receipt, ServiceFailure};
pub use request::{Headers, RequestHead};
pub use to_agent::{
    Cancel, Chunk, Confirm, Drain, ListenedSource, Listening, Offer, Refuse, RefuseCode,
    ResponseCredit, ServedDestination, Settled, ToAgent, Welcome,
};
pub use to_relay::{
    Bye, Credit, Held, Hello, Listen, OfferedDestination, Release, ReleaseReason, Renew,
    ResponseChunk, ResponseHead, ToRelay,
};

use serde::{Deserialize, Serialize};

/// An opaque right to one attempt. Only failures are judged by it: see `docs/PROTOCOL.md`.
///
/// The relay makes it of its store's incarnation and a counter; agents repeat it and never look inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(pub String);

/// A heartbeat, answered by a [`Pong`] with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Chosen by the sender.
    pub nonce: u64,
}

/// The answer to a [`Ping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The number of the ping that is answered.
    pub nonce: u64,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn debug_shows_no_body_and_no_header_value() {
        let secret = Bytes::from_static(b"hunter2");
        let chunk = Chunk {
            delivery: crate::id::DeliveryId::from_u128(1),
            lease: LeaseToken(String::new()),
            offset: 0,
            part: secret.clone(),
        };
        let head = RequestHead {
            method: "POST".to_owned(),
            target: "/?token=hunter2".to_owned(),
            headers: Headers(vec![("authorization".into(), secret)]),
        };
        let shown = format!("{chunk:?} {head:?}");

        assert!(
            shown.contains("authorization") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
