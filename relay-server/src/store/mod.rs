//! Where events become durable and deliveries wait.
//!
//! Three contracts, each a few verbs of the domain: [`Events`] is the hot path, [`Queries`] what
//! people look at, [`Settings`] what they configured. One conformance suite defines what a backend
//! must do; nothing above this module names a backend, only `relay.rs` does.
//!
//! The store owns time and leases. Expected outcomes are values; an error means broken
//! infrastructure and says whether the change may have happened.

mod due;

mod error;

mod events;

mod keeping;

mod queries;

mod settings;

mod audit;

pub mod embedded;

#[cfg(any(test, feature = "testing"))]
pub mod memory;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;

pub use audit::{AUDIT_RECORDS_MAX, AuditFilter, AuditRecord};
pub use due::Due;
pub use embedded::{Embedded, EmbeddedConfig};
pub use error::StoreError;
pub use events::{
    Adopted, Appended, DestinationKey, Events, Held, Lease, LeaseInfo, LeaseToken, NewDelivery,
    NewEvent, PARKED_MAX, Parked, Replay, Replayed, Settled, Settlement, WaitedFor, Want,
};
pub use keeping::{
    Erased, Erasure, ErasureRecord, Keeping, Retention, Retentions, Selection, Stored, Swept, Usage,
};
pub use queries::{
    AttemptRecord, Cursor, DeadLetter, DeadLetterFilter, DeliveryFilter, DeliverySummary, Depth,
    EndingFilter, EventDetail, EventFilter, EventSummary, Match, Page, Queries, Repeats,
    Replayable, Span,
};
pub use settings::{Put, Resource, ResourceKind, Settings};
