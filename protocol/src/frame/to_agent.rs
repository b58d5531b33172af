//! Frames from the relay to an agent.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{LeaseToken, Ping, Pong, RequestHead};
use crate::id::{DeliveryId, EventId, ReplayId, SessionId};

/// Everything a relay may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// The session is open.
    Welcome(Welcome),
    /// One attempt to make.
    Offer(Box<Offer>),
    /// More of the body of an offer.
    Chunk(Chunk),
    /// Receipts that are settled and synced; the agent may forget them.
    Confirm(Confirm),
    /// An attempt that is no longer wanted.
    Cancel(Cancel),
    /// A heartbeat.
    Ping(Ping),
    /// The answer to the agent's heartbeat.
    Pong(Pong),
    /// More of a response may be sent, or nothing more (sync mode).
    ResponseCredit(ResponseCredit),
    /// The relay is going away: finish, report, say Bye and connect again.
    Drain(Drain),
    /// The session is not opened, or is ended.
    Refuse(Refuse),
}

/// Opens the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both ends speak from here on.
    pub version: u32,
    /// The name of the session.
    pub session: SessionId,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// Silence after which the peer is presumed gone, in milliseconds.
    pub silence_ms: u64,
    /// The largest body part of one frame the relay takes, in bytes.
    pub chunk_bytes_max: u64,
    /// What the session serves.
    pub destinations: Vec<ServedDestination>,
    /// Which of several relays this is, so that an agent with several sessions can spread them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The expiring destination made for `listen`, if the agent asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
}

/// A destination of the session, with the part of its policy that the agent carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedDestination {
    /// The name the agent asked for.
    pub name: String,
    /// How long the service may take to answer, in milliseconds.
    pub timeout_ms: u64,
}

/// What a `listen` session listens to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The destination the relay made; it is also among [`Welcome::destinations`].
    pub destination: String,
    /// The sources whose events it receives, with their public URLs.
    pub sources: Vec<ListenedSource>,
}

/// A source behind a `listen` session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenedSource {
    /// The name of the source.
    pub name: String,
    /// Where providers post.
    pub url: String,
}

/// One attempt to make.
///
/// The body of the frame is the start of the event's body: all of it if it fits in
/// [`crate::limits::CHUNK_BYTES_MAX`], else exactly that much, and the rest follows in chunks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The obligation.
    pub delivery: DeliveryId,
    /// The event to replay.
    pub event: EventId,
    /// The right to this attempt.
    pub lease: LeaseToken,
    /// How long the lease lasts from now unless it is renewed, in milliseconds.
    pub lease_ms: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The destination it is for.
    pub destination: String,
    /// The name of the source that accepted it.
    pub source: String,
    /// When the relay accepted it, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The type of the event, if the source knows how to find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The address the request came from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The public scheme and host of the source: what `X-Forwarded-Proto` and `X-Forwarded-Host` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_origin: Option<String>,
    /// What an operator asked for, if this delivery is a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayId>,
    /// Whether the provider waits for the service's answer (sync mode): send all of it in response chunks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub respond: bool,
    /// The request.
    pub request: RequestHead,
    /// The length of the whole body, in bytes.
    pub body_bytes: u64,
    /// Deliveries offered for this destination in this session, this one included.
    pub used_deliveries: u64,
    /// Body bytes offered for this destination in this session, this one included.
    pub used_bytes: u64,
    /// The body, or its start.
    #[serde(skip)]
    pub body: Bytes,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("delivery", &self.delivery)
            .field("event", &self.event)
            .field("lease", &self.lease)
            .field("attempt", &self.attempt)
            .field("destination", &self.destination)
            .field("body_bytes", &self.body_bytes)
            .finish_non_exhaustive()
    }
}

/// More of the body of an offer. Chunks of different deliveries may interleave.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The delivery whose body goes on.
    pub delivery: DeliveryId,
    /// The lease of the offer it belongs to.
    pub lease: LeaseToken,
    /// Where in the body this part starts, in bytes.
    pub offset: u64,
    /// The part.
    #[serde(skip)]
    pub part: Bytes,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("delivery", &self.delivery)
            .field("lease", &self.lease)
            .field("offset", &self.offset)
            .field("part_bytes", &self.part.len())
            .finish_non_exhaustive()
    }
}

/// Receipts that are settled and synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// Which ones.
    pub receipts: Vec<Settled>,
}

/// One settled receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Settled {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The number of the attempt.
    pub attempt: u32,
}

/// An attempt that is no longer wanted. If the service was already called, the receipt still counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The lease that has ended.
    pub lease: LeaseToken,
    /// Why, for people.
    pub reason: String,
}

/// More of a response may be sent (sync mode).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseCredit {
    /// The delivery whose response it is.
    pub delivery: DeliveryId,
    /// The lease of the offer it belongs to.
    pub lease: LeaseToken,
    /// How much of the response body may have been sent in all, in bytes. 0 says that nobody waits
    /// for it any more.
    pub bytes_max: u64,
}

/// The relay is going away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Why, for people.
    pub reason: String,
    /// When to connect again, in milliseconds from now.
    pub reconnect_after_ms: u64,
}

/// The session is not opened, or is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, as a closed list.
    pub code: RefuseCode,
    /// The same in words: what happened, and what to do.
    pub detail: String,
    /// When trying again makes sense, in milliseconds from now; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Why a relay refuses a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseCode {
    /// The token was revoked or has expired.
    TokenRevoked,
    /// The token does not allow what Hello asks for.
    Forbidden,
    /// Hello names a destination that does not exist.
    UnknownDestination,
    /// Hello names a source that does not exist.
    UnknownSource,
    /// The filter of a listener is not valid.
    InvalidFilter,
    /// No version in common.
    Version,
    /// Too many sessions, destinations or frames.
    Limit,
    /// The relay cannot serve sessions now.
    Unavailable,
    /// A frame broke the rules of the protocol.
    Violation,
    /// A reason that this version does not know: judge by `retry_after_ms`.
    #[serde(other)]
    Other,
}
