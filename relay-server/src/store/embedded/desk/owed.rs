//! One open delivery, and how it stands.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    lifecycle::{Event, KeyDigest, Lane, Spent},
    store::{
        LeaseInfo,
        embedded::journal::{Position, payload::DeliveryRef},
    },
};
use protocol::id::{EventId, ReplayId};

/// An open delivery as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) delivery: DeliveryRef,
    pub(crate) event: EventId,
    pub(crate) position: Position,
    pub(crate) body_bytes: u64,
    /// Attempts that have ended.
    pub(crate) attempts: u32,
    /// What attempts have used up of the policy's limits.
    pub(crate) spent: Spent,
    /// The earliest next attempt; zero for at once.
    pub(crate) due: Timestamp,
    /// What asked for it, if it is a replay.
    pub(crate) replay: Option<ReplayId>,
    /// The key that it waits its turn with, if it is ordered.
    pub(crate) order: Option<KeyDigest>,
    /// Since when it is owed; zero if it was read back.
    pub(crate) since: Timestamp,
    /// Until then somebody waits for the answer; zero if nobody ever did.
    pub(crate) waited_until: Timestamp,
}

/// How a delivery in memory stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Status {
    /// Looked up to be settled or ended, and listed nowhere.
    Loose,
    /// It can be handed out.
    Ready(Lane),
    /// Its next attempt has a time.
    Waiting(Timestamp),
    /// Others of its key come first.
    Behind,
    Leased(Leased),
}

/// A delivery that somebody attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leased {
    pub(super) info: LeaseInfo,
    pub(super) until: Timestamp,
    /// A failure is being written: the lease may not change hands.
    pub(super) settling: bool,
    /// It has ended all the same; its key waits until this attempt is over.
    pub(super) over: bool,
}

/// A delivery in memory.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) owed: Owed,
    pub(super) status: Status,
    pub(super) event: Option<Arc<Event>>,
}

impl Open {
    /// Whether it is listed nowhere.
    pub(super) fn is_loose(&self) -> bool {
        matches!(self.status, Status::Loose)
    }

    /// Whether it has ended, and only an attempt goes on.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.status, Status::Leased(Leased { over: true, .. }))
    }
}

/// A delivery handed out, perhaps without its event.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) info: LeaseInfo,
    pub(crate) owed: Owed,
    pub(crate) event: Option<Arc<Event>>,
}
