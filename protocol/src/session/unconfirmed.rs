//! Receipts that wait for their Confirm.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{
    frame::{Receipt, Settled},
    limits::{RECEIPT_RESEND_AFTER, UNCONFIRMED_BYTES_MAX, UNCONFIRMED_MAX},
};

/// Receipts that wait for their Confirm, each with its place in the cycle: queued, sent, due again.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    waiting: BTreeMap<Settled, Waiting>,
    /// When what was sent is due again.
    due: BTreeSet<(Instant, Settled)>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    receipt: Receipt,
    /// When it is due again; none while it is queued.
    due: Option<Instant>,
}

impl Unconfirmed {
    /// Keeps a receipt; the caller queues it.
    pub(super) fn insert(&mut self, receipt: Receipt) -> Settled {
        let key = receipt.key();
        self.remove(key);
        self.bytes += receipt.response_start.len();
        self.waiting.insert(key, Waiting { receipt, due: None });
        key
    }

    /// Forgets a receipt; whether there was one does not matter.
    pub(super) fn remove(&mut self, key: Settled) {
        let Some(old) = self.waiting.remove(&key) else {
            return;
        };
        self.bytes -= old.receipt.response_start.len();
        if let Some(due) = old.due {
            self.due.remove(&(due, key));
        }
    }

    /// The receipt to send now, unless it was confirmed or sent while it was queued.
    pub(super) fn send(&mut self, key: Settled, now: Instant) -> Option<Receipt> {
        let waiting = self.waiting.get_mut(&key)?;
        if waiting.due.is_some() {
            return None;
        }
        let due = now + RECEIPT_RESEND_AFTER;
        waiting.due = Some(due);
        self.due.insert((due, key));
        Some(waiting.receipt.clone())
    }

    /// A receipt that has rested long enough; the caller queues it again.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Settled> {
        if self.next_due()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.due = None;
        }
        Some(key)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|&(due, _)| due)
    }

    pub(super) fn get(&self, key: Settled) -> Option<&Receipt> {
        self.waiting.get(&key).map(|waiting| &waiting.receipt)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Settled> {
        self.waiting.keys().copied()
    }

    pub(super) fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.waiting.values().map(|waiting| &waiting.receipt)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// So many that nothing more should come until the relay has caught up.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= UNCONFIRMED_MAX || self.bytes >= UNCONFIRMED_BYTES_MAX
    }
}
