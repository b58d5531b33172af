//! What an open delivery waits for in the store: one closed list, for people who ask why nothing
//! happens.

use protocol::id::DeliveryId;

use crate::clock::Timestamp;

/// What an open delivery waits for, as far as the store decides it.
///
/// What the store holds back nothing for ([`Waiting::Turn`]) waits for the dispatcher, which knows
/// agents, pauses, outages and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// An agent works on it.
    Leased {
        /// The number of the attempt.
        attempt: u32,
        /// Since when.
        since: Timestamp,
        /// When the lease ends, unless it is renewed.
        until: Timestamp,
    },
    /// Its next attempt is not due yet.
    Retry {
        /// When it is.
        at: Timestamp,
    },
    /// Another one of its key comes first.
    Behind {
        /// The one at the head.
        delivery: DeliveryId,
    },
    /// Its key has stopped until somebody resumes it.
    Parked {
        /// Since when.
        since: Timestamp,
    },
    /// Its turn.
    Turn,
}
