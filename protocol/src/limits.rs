//! Every bound of the protocol with its unit; relations between them are checked by the compiler.

use std::time::Duration;

/// The WebSocket subprotocol, and the version it stands for.
pub const SUBPROTOCOL: &str = "hookferry.v1";

/// The one protocol version this crate speaks.
pub const VERSION: u32 = 1;

/// Largest JSON header of a frame, in bytes. Holds the largest request head the relay accepts.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// Largest body part of one frame, in bytes. Longer bodies continue in chunks.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Type byte and header length in front of every frame, in bytes.
pub const PREAMBLE_BYTES: usize = 5;

/// Largest WebSocket message either side may send, in bytes.
pub const MESSAGE_BYTES_MAX: usize = PREAMBLE_BYTES + HEADER_BYTES_MAX + CHUNK_BYTES_MAX;

/// Largest event body the protocol carries, in bytes.
pub const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How much of a service's response a receipt reports back, in bytes.
pub const RESPONSE_START_BYTES_MAX: usize = 16 * 1024;

/// Destinations one agent may serve in one session.
pub const DESTINATIONS_MAX: usize = 256;

/// Leases an agent may name in one Hello, Renew or Release.
pub const LEASES_PER_FRAME_MAX: usize = 4096;

/// Deliveries one destination may have in flight in one session.
pub const WINDOW_DELIVERIES_MAX: u64 = 4096;

/// How often either side asks whether the other is alive.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// An unanswered heartbeat makes the agent dial afresh beside the old link after this long.
pub const HEARTBEAT_ANSWER_MAX: Duration = Duration::from_secs(3);

/// Silence after which the peer is presumed gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);

/// How long either side waits for Hello or Welcome.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long an unconfirmed receipt rests before it is sent again on the same session.
pub const RECEIPT_RESEND_AFTER: Duration = Duration::from_secs(10);

/// How long a session that ended without Bye keeps its leases for the agent's return.
pub const GRACE: Duration = Duration::from_secs(30);

/// What a lease lasts beyond the destination's time-out: the silence that kills a session, and a margin.
pub const LEASE_MARGIN: Duration = Duration::from_secs(60);

const _: () = assert!(HEARTBEAT_INTERVAL.as_secs() * 3 <= SILENCE_MAX.as_secs());
const _: () = assert!(HEARTBEAT_ANSWER_MAX.as_millis() < HEARTBEAT_INTERVAL.as_millis());
const _: () = assert!(LEASE_MARGIN.as_secs() > SILENCE_MAX.as_secs());
const _: () = assert!(RESPONSE_START_BYTES_MAX <= CHUNK_BYTES_MAX);
