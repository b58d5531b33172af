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

/// Largest batch of frames in one request or answer of the fall-back transport, in bytes; the length
/// in front of each frame counts.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Length in front of each frame of a batch, in bytes.
pub const FRAME_LENGTH_BYTES: usize = 4;

/// Largest JSON header of such a request or answer, in bytes.
pub const POLL_HEADER_BYTES_MAX: usize = 4096;

/// Largest body of such a request or answer, in bytes.
pub const POLL_BYTES_MAX: usize = PREAMBLE_BYTES + POLL_HEADER_BYTES_MAX + BATCH_BYTES_MAX;

/// Longest time a relay holds a poll that has nothing to say: below the idle time-outs of usual proxies.
pub const POLL_HOLD_MAX: Duration = Duration::from_secs(20);

/// Largest event body the protocol carries, in bytes.
pub const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How much of a service's response a receipt reports back, in bytes.
pub const RESPONSE_START_BYTES_MAX: usize = 16 * 1024;

/// Destinations one agent may serve in one session.
pub const DESTINATIONS_MAX: usize = 256;

/// Attempts one Hello, Renew, Release or Confirm may name.
pub const LEASES_PER_FRAME_MAX: usize = 1024;

/// Sessions one Hello may replace.
pub const REPLACED_MAX: usize = 64;

/// Longest lease token, in bytes of plain ASCII.
pub const LEASE_BYTES_MAX: usize = 96;

/// Longest name of a destination or source, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest text for people in a frame (`detail`, `reason`, an agent's name), in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest reason of a close, in bytes, so that it fits in a WebSocket close frame.
pub const CLOSE_REASON_BYTES_MAX: usize = 120;

/// Largest request or response head the protocol carries: method, target, names and values
/// together, in bytes. JSON may write each byte as six.
pub const HEAD_BYTES_MAX: usize = 40 * 1024;

/// Response headers a receipt reports back, names and values together, in bytes.
pub const RECEIPT_HEADERS_BYTES_MAX: usize = 8 * 1024;

/// Body bytes of a response an agent may send before the relay's first ResponseCredit (sync mode).
pub const RESPONSE_BYTES_INITIAL: u64 = 64 * 1024;

/// Body bytes of a response that may be on their way or wait for the provider, once it reads.
pub const RESPONSE_WINDOW_BYTES: u64 = 256 * 1024;

/// Deliveries one destination may have in flight in one session.
pub const WINDOW_DELIVERIES_MAX: u64 = 4096;

/// Body bytes one destination may have in flight in one session.
pub const WINDOW_BYTES_MAX: u64 = 1 << 40;

/// What has been freed is granted again at once when it is a quarter of the window, else after this long.
pub const CREDIT_DELAY_MAX: Duration = Duration::from_millis(20);

/// Receipts an agent keeps unconfirmed before it stops granting credit.
pub const UNCONFIRMED_MAX: usize = 8192;

/// Response bytes in unconfirmed receipts before an agent stops granting credit.
pub const UNCONFIRMED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Outputs that may wait in a machine when another frame is taken. A driver that drains holds far
/// fewer; a peer that is never read and never stops talking reaches it.
pub const OUTPUTS_MAX: usize = 16 * 1024;

/// How often either side asks whether the other is alive.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// The shortest heartbeat interval either side keeps, whatever it is asked for.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Heartbeats a peer may send each second in the long run.
pub const PINGS_PER_SECOND_MAX: u32 = 20;

/// Heartbeats a peer may send at once, as after a stall of the network.
pub const PINGS_AT_ONCE_MAX: u32 = 64;

/// An unanswered heartbeat makes the agent dial afresh beside the old link after this long.
pub const HEARTBEAT_ANSWER_MAX: Duration = Duration::from_secs(3);

/// Silence after which the peer is presumed gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);

/// How long either side waits for Hello or Welcome.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long an unconfirmed receipt rests before it is sent again on the same session.
pub const RECEIPT_RESEND_AFTER: Duration = Duration::from_secs(10);

/// When to connect again after a broken rule or a replaced session.
pub const RETRY_AFTER_TROUBLE: Duration = Duration::from_secs(5);

/// How long a session that ended without Bye keeps its leases for the agent's return.
pub const GRACE: Duration = Duration::from_secs(30);

/// What a lease lasts beyond the destination's time-out: the silence that kills a session, and a margin.
pub const LEASE_MARGIN: Duration = Duration::from_secs(60);

const _: () = assert!(HEARTBEAT_INTERVAL.as_secs() * 3 <= SILENCE_MAX.as_secs());
const _: () = assert!(HEARTBEAT_ANSWER_MAX.as_millis() < HEARTBEAT_INTERVAL.as_millis());
const _: () = assert!(LEASE_MARGIN.as_secs() > SILENCE_MAX.as_secs());
const _: () = assert!(MESSAGE_BYTES_MAX + FRAME_LENGTH_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(CLOSE_REASON_BYTES_MAX * 6 + 256 < POLL_HEADER_BYTES_MAX);
const _: () = assert!(POLL_HOLD_MAX.as_secs() * 2 < SILENCE_MAX.as_secs());
const _: () = assert!(RESPONSE_START_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(HEAD_BYTES_MAX * 6 + 4 * TEXT_BYTES_MAX < HEADER_BYTES_MAX);
const _: () = assert!(
    LEASES_PER_FRAME_MAX * (LEASE_BYTES_MAX + 80)
        + DESTINATIONS_MAX * (NAME_BYTES_MAX + 80)
        + REPLACED_MAX * 40
        < HEADER_BYTES_MAX
);
const _: () = assert!(RECEIPT_HEADERS_BYTES_MAX <= HEAD_BYTES_MAX);
const _: () = assert!(RESPONSE_BYTES_INITIAL * 4 <= RESPONSE_WINDOW_BYTES);
const _: () = assert!(HEARTBEAT_INTERVAL_MIN.as_millis() * PINGS_PER_SECOND_MAX as u128 >= 1000);
