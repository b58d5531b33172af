//! Who did what: append-only, durable, beside the settings.

use std::net::IpAddr;

use protocol::id::TenantId;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Records that are kept of one tenant, or of the operators; the oldest go first.
pub const AUDIT_RECORDS_MAX: u64 = 100_000;

/// One thing that somebody did, or tried without it being known what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it ended.
    pub at: Timestamp,
    /// The tenant it was done to; none for what belongs to the operators.
    pub tenant: Option<TenantId>,
    /// The id of the token that did it.
    pub actor: String,
    /// What that token is called.
    pub actor_name: String,
    /// Whether it is an operator's.
    pub operator: bool,
    /// What was done, such as `sources.update`.
    pub action: String,
    /// What it was done to, as the path below `/api/v1`.
    pub target: String,
    /// The id of that, or of what was made, if the answer named one.
    pub resource: Option<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Where the request came from.
    pub remote: Option<IpAddr>,
    /// The request's id, which its answer names too.
    pub request: String,
}

/// Which records to list. Empty fields match everything.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this tenant alone; an operator sees those of all.
    pub tenant: Option<TenantId>,
    /// By this token.
    pub actor: Option<String>,
    /// Of this action, or, up to the dot, of all actions on a kind of thing.
    pub action: Option<String>,
    /// On the thing with this id.
    pub resource: Option<String>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl AuditFilter {
    /// Whether a record is among those asked for.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn takes(&self, record: &AuditRecord) -> bool {
        let is = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == has)
        };
        let kind = record.action.split('.').next();
        self.tenant.is_none_or(|it| record.tenant == Some(it))
            && is(&self.actor, Some(&record.actor))
            && (is(&self.action, Some(&record.action)) || is(&self.action, kind))
            && is(&self.resource, record.resource.as_deref())
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }
}
