//! What people configured: few, small, and never lost. Documents are JSON whose shape belongs to
//! `tenancy`; the store keeps them unique by name and versioned.

use std::fmt;

use async_trait::async_trait;
use protocol::id::TenantId;

use super::{AuditFilter, AuditRecord, StoreError};
use crate::clock::Timestamp;

/// What a document describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A customer.
    Tenant,
    /// A public ingress URL.
    Source,
    /// A named queue.
    Destination,
    /// A connection from a source to a destination.
    Route,
    /// A credential.
    Token,
    /// A replay job.
    Replay,
}

impl ResourceKind {
    /// The name in the database and in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Route => "route",
            Self::Token => "token",
            Self::Replay => "replay",
        }
    }
}

/// One configured thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// The 128 bits of its id.
    pub id: u128,
    /// Whose it is; the tenant itself for a tenant, none for what belongs to the operator.
    pub tenant: Option<TenantId>,
    /// Unique among live resources of the same kind and tenant.
    pub name: String,
    /// Its settings, as JSON.
    pub document: String,
    /// Counts changes, from 1. Ignored on `put`.
    pub version: u64,
    /// When it was created. Ignored on `put` of an existing one.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What became of a `put`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is stored, with this version.
    Stored(u64),
    /// Another live resource has the name.
    NameTaken,
    /// It has another version than expected; nothing changed.
    Conflict {
        /// The version it has; none if it does not exist or was removed.
        current: Option<u64>,
    },
}

/// Durable settings.
#[async_trait]
pub trait Settings: fmt::Debug + Send + Sync + 'static {
    /// Every live resource, in order of creation.
    async fn load(&self) -> Result<Vec<Resource>, StoreError>;

    /// Creates (`expected` none) or replaces (`expected` its version) a resource; durable before
    /// this returns.
    async fn put(&self, resource: Resource, expected: Option<u64>) -> Result<Put, StoreError>;

    /// Removes a resource, keeping a tombstone. False if there was none. The rest of what belongs to
    /// it is the caller's business.
    async fn remove(&self, kind: ResourceKind, id: u128) -> Result<bool, StoreError>;

    /// Ids of removed resources of a kind, so that a start can finish what a crash interrupted.
    async fn removed(
        &self,
        kind: ResourceKind,
    ) -> Result<Vec<(u128, Option<TenantId>)>, StoreError>;

    /// Appends to the audit log; durable before this returns. Gives the record's number.
    async fn append_audit(&self, record: AuditRecord) -> Result<u64, StoreError>;

    /// Records of the audit log with their numbers, newest first: at most `limit` of those below
    /// `before`.
    async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, AuditRecord)>, StoreError>;

    /// Notes when tokens were last used. Need not be durable before this returns.
    async fn note_token_uses(&self, uses: Vec<(u128, Timestamp)>) -> Result<(), StoreError>;

    /// When tokens were last used, by their ids.
    async fn token_uses(&self) -> Result<Vec<(u128, Timestamp)>, StoreError>;
}
