//! Who may do what: tenants, their sources, destinations, routes and tokens.
//!
//! [`Tenancy`] is the one place that changes them, for the API and for `listen` alike. Everybody
//! else reads the [`Directory`], an immutable picture of all of it that is replaced on every change.
//!
//! Three shapes are kept apart: the types here, the JSON documents in the store (`documents`), and
//! what the API shows.

mod name;

mod ip_range;

pub mod secrets;

mod rekey;

mod put;

mod token;

mod source;

mod flow;

mod quota;

mod destination;

mod signing;

mod routing;
mod sync;

mod documents;

mod directory;

mod change;

mod service;

mod issue;

mod tokens;

mod listen;

mod error;

pub use destination::{Destination, DestinationPolicy, Expiring, Route};
pub use directory::{Directory, LiveSource, NotReady, TokenRefusal};
pub use error::TenancyError;
pub use flow::{Flow, Paused, TenantLimits};
pub use ip_range::{InvalidIpRange, IpRange};
pub use issue::{NewToken, create_operator_token};
pub use listen::Listener;
pub use name::{InvalidName, NAME_BYTES_MAX, Name};
pub use put::{PutOptions, Written};
pub use quota::{Keep, Quota};
pub use rekey::{CheckKeyError, MissingKey, Rekeyed, check_key};
pub use routing::{Routed, Routing};
pub use secrets::{KeyError, KeySource, SecretKey, read_private};
pub use service::{NewSource, Tenancy, TenancyConfig};
pub use signing::{
    OVERLAP_DEFAULT, OVERLAP_MAX, OldSignatures, Signer, SigningKey, SigningKeyText,
};
pub use source::{
    BODY_BYTES_DEFAULT, BODY_BYTES_MAX, Dedupe, ProviderKeys, SchemeChoice, Source, SourceKey,
    SourceSecret, SourceSettings,
};
pub use sync::{OnTimeout, SyncAnswer, SyncSettings};
pub use token::{InvalidToken, Scope, Token, TokenHash, TokenKind, TokenText};

use std::borrow::Cow;

use protocol::id::TenantId;

use crate::clock::Timestamp;

/// Which state of a resource this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revision {
    /// Counts changes, from 1; 0 before it was stored.
    pub version: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// An isolated customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: Name,
    /// When it changed.
    pub revision: Revision,
    /// How much of the relay it gets.
    pub limits: TenantLimits,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// The field, as the API and the command line call it.
    pub field: Cow<'static, str>,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Invalid {
    fn new(field: impl Into<Cow<'static, str>>, why: impl ToString) -> Self {
        Self {
            field: field.into(),
            why: why.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
