//! How long what was accepted is kept, how much of it there is, and how it is erased.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::id::{EventId, TenantId};

use super::StoreError;
use crate::{clock::Timestamp, lifecycle::Event};

/// How much of a tenant's is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events.
    pub events: u64,
    /// Bytes of their bodies and heads.
    pub bytes: u64,
}

/// How long and how much of a tenant's events is kept. What has not ended is kept whatever these say, until
/// `pending_age`; what died until `dead_age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long an event is kept from its acceptance.
    pub age: Duration,
    /// How many events are kept: the newest ones.
    pub events: Option<u64>,
    /// How many bytes of events are kept: those of the newest ones.
    pub bytes: Option<u64>,
    /// How long an event with a dead delivery that nobody replayed is kept at least.
    pub dead_age: Duration,
    /// When a delivery that is still owed ends as expired, from the acceptance of its event.
    pub pending_age: Duration,
}

/// Says how long a tenant's events are kept.
pub trait Retentions: Send + Sync {
    /// What holds for a tenant now.
    fn of(&self, tenant: TenantId) -> Retention;
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events that are gone from all lists.
    pub events: u64,
    /// Deliveries that were owed for too long and ended as expired.
    pub expired: u64,
    /// Files of the journal that are gone.
    pub segments_removed: u64,
    /// Files of the journal that were written anew without what is gone.
    pub segments_rewritten: u64,
    /// Bytes of disk that are free again.
    pub bytes_freed: u64,
}

/// Which events are erased.
#[derive(Clone)]
pub enum Selection {
    /// One.
    Event(EventId),
    /// Those for which this says so; it is asked about every event of the tenant.
    Matching(Arc<dyn Fn(&Event) -> bool + Send + Sync>),
    /// All that came so far.
    All,
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Matching(_) => "Matching",
            Self::All => "All",
        })
    }
}

/// A wish to erase events.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// Whose they are.
    pub tenant: TenantId,
    /// Which.
    pub selection: Selection,
    /// Who wants it, for the record.
    pub by: String,
    /// What was asked for, for the record, without any value of an event.
    pub what: String,
}

/// What became of a wish to erase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erased {
    /// The number of its record; none if nothing was there to erase.
    pub number: Option<u64>,
    /// How many events.
    pub events: u64,
    /// More match than are erased at once: repeat the wish.
    pub more: bool,
}

/// The record of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureRecord {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub at: Timestamp,
    /// Who wanted it.
    pub by: String,
    /// What was asked for.
    pub what: String,
    /// How many events were named; none where it was all of a tenant's.
    pub events: Option<u64>,
    /// Nothing of them is left in the journal.
    pub done: bool,
}

/// How much is stored, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// By tenant, those without any left out.
    pub tenants: Vec<(TenantId, Usage)>,
    /// Changes that lists do not show yet.
    pub lag: u64,
    /// What sweeps did since the start.
    pub swept: Swept,
}

/// What becomes of events after they came.
#[async_trait]
pub trait Keeping: fmt::Debug + Send + Sync + 'static {
    /// Lets go of what no tenant's retention keeps. It takes its time, so that accepting and delivering
    /// hardly notice; one runs at a time. What is gone is gone from lists at once and from the disk once
    /// nothing beside it is needed. Provider ids are remembered for as long as was promised.
    async fn retain(&self, retentions: &dyn Retentions) -> Result<Swept, StoreError>;

    /// Erases events for good: their content is gone from journal and lists when this returns, and what was
    /// still owed has ended as cancelled. A crash on the way does not stop it: see
    /// [`Keeping::finish_erasures`].
    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError>;

    /// Finishes erasures that a crash cut off. To be called after a start.
    async fn finish_erasures(&self) -> Result<(), StoreError>;

    /// The erasures of a tenant, newest first; at most `most`.
    async fn erasures(&self, tenant: TenantId, most: u32)
    -> Result<Vec<ErasureRecord>, StoreError>;

    /// How much there is.
    fn stored(&self) -> Stored;
}
