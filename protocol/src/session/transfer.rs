//! Bodies that are too long for one frame.
//!
//! Every part but the last holds exactly [`CHUNK_BYTES_MAX`] bytes. So a part has one place in a
//! body, and a repeat can be told from a contradiction.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
};

use bytes::Bytes;

use super::Violation;
use crate::{
    frame::{Chunk, LeaseToken, Offer},
    id::DeliveryId,
    limits::{BODY_BYTES_MAX, CHUNK_BYTES_MAX},
};

const CHUNK_BYTES: u64 = CHUNK_BYTES_MAX as u64;

/// The rest of a body on its way to the agent.
pub(super) struct Outgoing {
    delivery: DeliveryId,
    lease: LeaseToken,
    offset: u64,
    rest: Bytes,
}

impl Outgoing {
    /// Cuts an offer down to its first part; gives the rest, if there is one.
    pub(super) fn split(offer: &mut Offer) -> Option<Self> {
        if offer.body.len() <= CHUNK_BYTES_MAX {
            return None;
        }
        Some(Self {
            delivery: offer.delivery,
            lease: offer.lease.clone(),
            offset: CHUNK_BYTES,
            rest: offer.body.split_off(CHUNK_BYTES_MAX),
        })
    }

    /// The next part.
    pub(super) fn next_chunk(&mut self) -> Chunk {
        let part = self.rest.split_to(self.rest.len().min(CHUNK_BYTES_MAX));
        let offset = self.offset;
        self.offset += part.len() as u64;
        Chunk {
            delivery: self.delivery,
            lease: self.lease.clone(),
            offset,
            part,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn is_of(&self, delivery: DeliveryId, lease: &LeaseToken) -> bool {
        self.delivery == delivery && self.lease == *lease
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("delivery", &self.delivery)
            .field("offset", &self.offset)
            .field("rest_bytes", &self.rest.len())
            .finish_non_exhaustive()
    }
}

/// A body on its way in. Parts go straight on to the driver; only their digests stay.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body_bytes: u64,
    /// One for each part after the first.
    digests: Vec<u64>,
}

impl Incoming {
    /// A body that has arrived.
    pub(super) fn whole(body_bytes: u64) -> Self {
        let rest = body_bytes.div_ceil(CHUNK_BYTES).saturating_sub(1);
        Self {
            body_bytes,
            digests: vec![0; usize::try_from(rest).unwrap_or(0)],
        }
    }

    /// Checks the start of a body.
    pub(super) fn start(offer: &Offer) -> Result<Self, Violation> {
        if offer.body_bytes > BODY_BYTES_MAX {
            return Err(Violation("a body is longer than the protocol allows"));
        }
        if offer.body.len() as u64 != offer.body_bytes.min(CHUNK_BYTES) {
            return Err(Violation("an offer brings a wrong part of its body"));
        }
        Ok(Self {
            body_bytes: offer.body_bytes,
            digests: Vec::new(),
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.received() >= self.body_bytes
    }

    /// Whether a part is the next one (true) or a repeat (false).
    pub(super) fn take(&mut self, chunk: &Chunk) -> Result<bool, Violation> {
        let rest = self.body_bytes.saturating_sub(chunk.offset);
        if chunk.offset == 0 || !chunk.offset.is_multiple_of(CHUNK_BYTES) || rest == 0 {
            return Err(Violation("a chunk lies outside of its body"));
        }
        if chunk.part.len() as u64 != rest.min(CHUNK_BYTES) {
            return Err(Violation("a chunk has the wrong length"));
        }
        if chunk.offset > self.received() {
            return Err(Violation("a chunk leaves a gap"));
        }
        let digest = digest(&chunk.part);
        let part = usize::try_from(chunk.offset / CHUNK_BYTES - 1).unwrap_or(usize::MAX);
        match self.digests.get(part) {
            None => {
                self.digests.push(digest);
                Ok(true)
            }
            Some(&known) if known == digest => Ok(false),
            Some(_) => Err(Violation("a chunk contradicts an earlier one")),
        }
    }

    fn received(&self) -> u64 {
        (CHUNK_BYTES + self.digests.len() as u64 * CHUNK_BYTES).min(self.body_bytes)
    }
}

/// Tells an honest repeat from a bug; nothing depends on its strength.
fn digest(part: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(part);
    hasher.finish()
}
