//! How far a queue is known, what is to be read of it, and what happens meanwhile.

use std::collections::HashSet;

use protocol::id::DeliveryId;

use super::{KeyPlan, Owed, load::LOAD_MAX};
use crate::{
    lifecycle::KeyDigest,
    store::{DestinationKey, embedded::journal::payload::Queue},
};

/// Live deliveries remembered while rows are read.
const FRESH_MAX: usize = 16_384;

/// How far one queue is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    /// Up to this place everything owed is known.
    pub(super) end: u64,
    /// The last place given.
    pub(super) last: u64,
}

impl Window {
    pub(super) fn reaches_tail(self) -> bool {
        self.end >= self.last
    }

    /// A plan to read on, if that is wanted, with room for some.
    pub(super) fn plan(self, wanted: bool, room: usize) -> QueuePlan {
        QueuePlan {
            after: self.end,
            most: if wanted { room.clamp(1, LOAD_MAX) } else { 0 },
            at_tail: self.reaches_tail(),
        }
    }
}

/// What happens while rows are read, and may not be undone by them.
#[derive(Debug, Default)]
pub(super) struct Loading {
    pub(super) ticket: u64,
    /// What ended or was put out of memory.
    pub(super) changed: HashSet<DeliveryId>,
    /// What came to the tail of a queue.
    pub(super) fresh: Vec<Owed>,
    pub(super) overflowed: bool,
}

impl Loading {
    pub(super) fn arrived(&mut self, owed: &Owed) {
        // A reopened delivery is owed again, whatever became of it before.
        self.changed.remove(&owed.delivery.id);
        if self.fresh.len() < FRESH_MAX {
            self.fresh.push(owed.clone());
        } else {
            self.overflowed = true;
        }
    }
}

/// Rows to read for a desk. They must reflect everything up to `durable`.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    pub(crate) key: DestinationKey,
    pub(crate) main: QueuePlan,
    pub(crate) replays: QueuePlan,
    /// Keys whose rows the main queue's need not contain.
    pub(crate) passed_over: Vec<KeyDigest>,
    /// Rows of keys, up to the main queue's `after`.
    pub(crate) keys: Vec<KeyPlan>,
    /// Rows that are not ordered and wait, in order of due time.
    pub(crate) waiting_most: usize,
    pub(crate) durable: u64,
    pub(super) ticket: u64,
}

impl LoadPlan {
    pub(crate) fn of(&self, queue: Queue) -> QueuePlan {
        match queue {
            Queue::Main => self.main,
            Queue::Replays => self.replays,
        }
    }
}

/// What to read of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueuePlan {
    /// Rows after this place, in order of place.
    pub(crate) after: u64,
    /// None are read if zero.
    pub(crate) most: usize,
    /// Everything up to the tail was known when the plan was made.
    pub(super) at_tail: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) main: Vec<Owed>,
    pub(crate) replays: Vec<Owed>,
    /// In the order of the plan's keys.
    pub(crate) keys: Vec<Vec<Owed>>,
    pub(crate) waiting: Vec<Owed>,
    /// How far the projection was.
    pub(crate) applied: u64,
}
