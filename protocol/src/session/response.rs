//! Responses on their way to a provider that waits (sync mode), under reverse credit.
//!
//! Credit counts body bytes of one response, as totals: [`RESPONSE_BYTES_INITIAL`] before the first
//! ResponseCredit, then what the provider has taken and a window more. So a provider that reads
//! slowly slows down its own response and nothing else.

use std::collections::BTreeMap;

use super::Violation;
use crate::{
    frame::{LeaseToken, ResponseChunk},
    id::DeliveryId,
    limits::{HEAD_BYTES_MAX, RESPONSE_BYTES_INITIAL, RESPONSE_WINDOW_BYTES},
};

/// The `bytes_max` that says that nobody waits for the response any more.
pub(super) const UNWANTED: u64 = 0;

/// Responses by the attempt they belong to.
pub(super) type Responses<T> = BTreeMap<(DeliveryId, LeaseToken), T>;

/// The relay's books for one response.
#[derive(Debug)]
pub(super) struct ResponseIntake {
    has_begun: bool,
    /// Body bytes that came.
    received: u64,
    /// Body bytes that the provider has taken.
    taken: u64,
    /// Body bytes that may come in all.
    granted: u64,
}

impl ResponseIntake {
    pub(super) fn new() -> Self {
        Self {
            has_begun: false,
            received: 0,
            taken: 0,
            granted: RESPONSE_BYTES_INITIAL,
        }
    }

    /// Whether its head came.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether a chunk is the next one (true) or a repeat (false).
    pub(super) fn take(&mut self, chunk: &ResponseChunk) -> Result<bool, Violation> {
        let end = chunk.offset.checked_add(chunk.part.len() as u64);
        let end = end.ok_or(Violation("a response is longer than can be counted"))?;
        if chunk.offset > self.received {
            return Err(Violation("a response chunk leaves a gap"));
        }
        let is_repeat = chunk.offset < self.received || (chunk.head.is_some() && self.has_begun);
        if is_repeat && end <= self.received {
            return Ok(false);
        }
        if is_repeat {
            return Err(Violation("a response chunk contradicts an earlier one"));
        }
        if let Some(head) = &chunk.head {
            if !(200..600).contains(&head.status) {
                return Err(Violation("a response has no final status"));
            }
            if head.headers.bytes_len() > HEAD_BYTES_MAX {
                return Err(Violation("the head of a response is too long"));
            }
        } else if !self.has_begun {
            return Err(Violation("a response begins without its head"));
        }
        if end > self.granted {
            return Err(Violation("a response exceeds its credit"));
        }
        self.has_begun = true;
        self.received = end;
        Ok(true)
    }

    /// The provider has taken more; answers the new total if it is worth a frame.
    pub(super) fn grant(&mut self, taken: u64) -> Option<u64> {
        if taken == 0 {
            return None;
        }
        self.taken = self.taken.saturating_add(taken).min(self.received);
        let total = self.taken.saturating_add(RESPONSE_WINDOW_BYTES);
        let more = total.saturating_sub(self.granted);
        if more < RESPONSE_WINDOW_BYTES / 4 {
            return None;
        }
        self.granted = total;
        Some(total)
    }
}

/// The agent's books for one response.
#[derive(Debug)]
pub(super) struct ResponseOutlet {
    has_begun: bool,
    sent: u64,
    granted: u64,
}

impl ResponseOutlet {
    pub(super) fn new() -> Self {
        Self {
            has_begun: false,
            sent: 0,
            granted: RESPONSE_BYTES_INITIAL,
        }
    }

    /// Body bytes that may be sent now.
    pub(super) fn room(&self) -> u64 {
        self.granted.saturating_sub(self.sent)
    }

    /// Takes a new total; whether it is more than before.
    pub(super) fn grant(&mut self, total: u64) -> bool {
        let is_more = total > self.granted;
        self.granted = self.granted.max(total);
        is_more
    }

    /// Counts a chunk and notes its place in it. False if it may not be sent.
    pub(super) fn stamp(&mut self, chunk: &mut ResponseChunk) -> bool {
        let bytes = chunk.part.len() as u64;
        if bytes > self.room() || chunk.head.is_some() == self.has_begun {
            return false;
        }
        self.has_begun = true;
        chunk.offset = self.sent;
        self.sent += bytes;
        true
    }
}
