//! What waits to be written, bounded in records and bytes, with a share per tenant.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use protocol::id::TenantId;

use super::record::{self, Kind};

/// Records that may wait.
pub(crate) const RECORDS_MAX: usize = 8192;

/// Bytes that may wait.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Larger payloads leave a quarter of the queue to smaller ones.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;

/// A record to write, and what is to be done once it is durable.
#[derive(Debug)]
pub(crate) struct Op<E> {
    pub(crate) kind: Kind,
    pub(crate) tenant: TenantId,
    pub(crate) payload: Bytes,
    /// CRC32C of the payload.
    pub(crate) crc: u32,
    /// Sequence numbers it takes.
    pub(crate) numbers: u64,
    pub(crate) effect: E,
}

impl<E> Op<E> {
    /// Checksums the payload, on the caller's thread.
    pub(crate) fn new(
        kind: Kind,
        tenant: TenantId,
        payload: Bytes,
        numbers: u64,
        effect: E,
    ) -> Self {
        let crc = crc32c::crc32c(&payload);
        Self {
            kind,
            tenant,
            payload,
            crc,
            numbers,
            effect,
        }
    }

    pub(crate) fn span(&self) -> usize {
        record::span(self.payload.len())
    }
}

/// Why something is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too much waits.
    Full,
    /// Nothing is taken any more.
    Closed,
}

#[derive(Debug)]
struct Waiting<E> {
    ops: VecDeque<Op<E>>,
    bytes: usize,
    /// Records and bytes per tenant.
    shares: HashMap<TenantId, (usize, usize)>,
    closed: bool,
}

/// The queue before the writer.
#[derive(Debug)]
pub(crate) struct Intake<E> {
    waiting: Mutex<Waiting<E>>,
    arrived: Condvar,
}

impl<E> Default for Intake<E> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                ops: VecDeque::new(),
                bytes: 0,
                shares: HashMap::new(),
                closed: false,
            }),
            arrived: Condvar::new(),
        }
    }
}

impl<E> Intake<E> {
    fn lock(&self) -> MutexGuard<'_, Waiting<E>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues records that belong together, in order; all or none.
    ///
    /// Accepts are refused beyond the bounds; everything else ends work that was admitted earlier and
    /// is only refused beyond twice the bounds.
    pub(crate) fn push(&self, ops: Vec<Op<E>>) -> Result<(), (Refused, Vec<Op<E>>)> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err((Refused::Closed, ops));
        }
        if !ops.iter().all(|op| waiting.admits(op)) {
            return Err((Refused::Full, ops));
        }
        let was_empty = waiting.ops.is_empty();
        for op in ops {
            let span = op.span();
            waiting.bytes += span;
            let share = waiting.shares.entry(op.tenant).or_default();
            share.0 += 1;
            share.1 += span;
            waiting.ops.push_back(op);
        }
        drop(waiting);
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, up to the bounds; at least one if there is any. Waits up to `patience`
    /// (without end if none) for something. `None` when closed and empty.
    pub(crate) fn take(
        &self,
        records_max: usize,
        bytes_max: usize,
        patience: Option<Duration>,
    ) -> Option<Vec<Op<E>>> {
        let mut waiting = self.lock();
        while waiting.ops.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = match patience {
                None => self
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let (waiting, timeout) = self
                        .arrived
                        .wait_timeout(waiting, patience)
                        .unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && waiting.ops.is_empty() && !waiting.closed {
                        return Some(Vec::new());
                    }
                    waiting
                }
            };
        }
        Some(waiting.take(records_max, bytes_max))
    }

    /// Takes nothing from now on; what waits is still written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }
}

impl<E> Waiting<E> {
    fn admits(&self, op: &Op<E>) -> bool {
        let span = op.span();
        if op.kind != Kind::Accept {
            return self.ops.len() < 2 * RECORDS_MAX && self.bytes + span <= 2 * BYTES_MAX;
        }
        let limit = if span > SMALL_BYTES {
            BYTES_MAX / 4 * 3
        } else {
            BYTES_MAX
        };
        if self.ops.len() >= RECORDS_MAX || (self.bytes > 0 && self.bytes + span > limit) {
            return false;
        }
        // Half of the queue at most for one tenant.
        let (records, bytes) = self.shares.get(&op.tenant).copied().unwrap_or_default();
        records < RECORDS_MAX / 2 && (bytes == 0 || bytes + span <= limit / 2)
    }

    fn take(&mut self, records_max: usize, bytes_max: usize) -> Vec<Op<E>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(op) = self.ops.front() {
            let span = op.span();
            if taken.len() == records_max || (!taken.is_empty() && bytes + span > bytes_max) {
                break;
            }
            bytes += span;
            if let Some(share) = self.shares.get_mut(&op.tenant) {
                share.0 -= 1;
                share.1 -= span;
                if share.0 == 0 {
                    self.shares.remove(&op.tenant);
                }
            }
            taken.extend(self.ops.pop_front());
        }
        self.bytes -= bytes;
        taken
    }
}
