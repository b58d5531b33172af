//! The obligation to hand one event to one destination, and how it can end.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waiting for an agent; nothing failed so far.
    Pending,
    /// Waiting for its next attempt.
    Retry,
    /// The service took it.
    Delivered,
    /// Policy gave it up; it can be replayed.
    Dead,
    /// Ended by hand, or because its destination was deleted.
    Cancelled,
    /// Ended because nobody wants it any more.
    Expired,
    /// Its stored bytes are damaged; it is never delivered altered.
    Quarantined,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Retry,
        Self::Delivered,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
        Self::Quarantined,
    ];

    /// The name in the API, in metrics and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retry => "retry",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether an attempt is still owed.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Retry)
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why policy gave a delivery up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The retry window ended.
    RetriesExhausted,
    /// The service answered 410 or another status that policy calls permanent.
    Permanent,
}

impl DeadReason {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "retries_exhausted",
            Self::Permanent => "permanent",
        }
    }
}

/// Why deliveries end without the service's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// By hand, or because the destination was deleted.
    Cancelled,
    /// The listener it was for has gone, or it became too old.
    Expired,
    /// The stored bytes are damaged.
    Quarantined,
    /// By hand, so that what waits behind it goes on.
    Skipped,
    /// Given up by hand; it can be replayed.
    DeadLettered,
}

impl EndReason {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Quarantined => "quarantined",
            Self::Skipped => "skipped",
            Self::DeadLettered => "by_hand",
        }
    }

    /// The state that this end leads to.
    pub fn state(self) -> DeliveryState {
        match self {
            Self::Cancelled | Self::Skipped => DeliveryState::Cancelled,
            Self::Expired => DeliveryState::Expired,
            Self::Quarantined => DeliveryState::Quarantined,
            Self::DeadLettered => DeliveryState::Dead,
        }
    }
}
