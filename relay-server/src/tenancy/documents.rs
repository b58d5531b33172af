//! The JSON documents in the store, apart from the types they become: either can change alone, and
//! a document of an older version reads with defaults.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protocol::id::{AgentId, DestinationId, RouteId, SourceId, TenantId, TokenId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Dedupe, Destination, DestinationPolicy, Expiring, Flow, Keep, Name, OldSignatures, OnTimeout,
    Paused, Quota, Revision, Route, SchemeChoice, SigningKey, Source, SourceKey, SourceSecret,
    SourceSettings, SyncAnswer, SyncSettings, Tenant, TenantLimits, Token, TokenHash,
    secrets::Sealed, source::BODY_BYTES_DEFAULT,
};
use crate::{
    clock::Timestamp,
    lifecycle::{
        BreakerPolicy, Maintenance, OnDead, Order, RetryPolicy, StatusSpec, filter::Filter,
    },
    store::{Resource, ResourceKind, StoreError},
    verify::RuleSpec,
};

/// What can be stored as a resource.
pub(super) trait Stored: Sized {
    const KIND: ResourceKind;

    fn id(&self) -> u128;
    fn name(&self) -> &Name;
    fn revision(&self) -> &Revision;
    fn revision_mut(&mut self) -> &mut Revision;
    fn owner(&self) -> Option<TenantId>;
    /// The JSON document.
    fn document(&self) -> String;
    /// Reads a stored resource; `None` if it is not one of this kind.
    fn read(resource: &Resource) -> Option<Self>;

    /// As the store takes it.
    fn to_resource(&self) -> Resource {
        let revision = self.revision();
        Resource {
            kind: Self::KIND,
            id: self.id(),
            tenant: self.owner(),
            name: self.name().to_string(),
            document: self.document(),
            version: revision.version,
            created_at: revision.created_at,
            updated_at: revision.updated_at,
        }
    }
}

/// Reads a resource, or says that the settings are damaged.
pub(super) fn read<R: Stored>(resource: &Resource) -> Result<R, StoreError> {
    R::read(resource).ok_or_else(|| {
        let kind = resource.kind.as_str();
        StoreError::Corrupt(format!(
            "the settings of {kind} `{}` cannot be read",
            resource.name
        ))
    })
}

fn revision(resource: &Resource) -> Revision {
    Revision {
        version: resource.version,
        created_at: resource.created_at,
        updated_at: resource.updated_at,
    }
}

fn to_json(document: &impl Serialize) -> String {
    // Structs of texts, numbers, lists and maps with text keys always have a JSON form.
    serde_json::to_string(document).unwrap_or_default()
}

fn from_json<D: DeserializeOwned>(resource: &Resource) -> Option<D> {
    serde_json::from_str(&resource.document).ok()
}

/// What is the same for every kind.
macro_rules! identity {
    ($kind:ident, $owner:expr) => {
        const KIND: ResourceKind = ResourceKind::$kind;

        fn id(&self) -> u128 {
            self.id.as_u128()
        }

        fn name(&self) -> &Name {
            &self.name
        }

        fn revision(&self) -> &Revision {
            &self.revision
        }

        fn revision_mut(&mut self) -> &mut Revision {
            &mut self.revision
        }

        fn owner(&self) -> Option<TenantId> {
            let owner: fn(&Self) -> Option<TenantId> = $owner;
            owner(self)
        }
    };
}

#[derive(Serialize, Deserialize)]
struct TenantDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    quota: QuotaDocument,
    #[serde(default, skip_serializing_if = "is_default")]
    retention: KeepDocument,
}

#[derive(Serialize, Deserialize, Default, PartialEq)]
#[serde(default)]
struct QuotaDocument {
    ingest_per_second: Option<u32>,
    event_bytes_max: Option<u64>,
    stored_events_max: Option<u64>,
    stored_bytes_max: Option<u64>,
}

#[derive(Serialize, Deserialize, Default, PartialEq)]
#[serde(default)]
struct KeepDocument {
    age_s: Option<u64>,
    events_max: Option<u64>,
    bytes_max: Option<u64>,
    dead_age_s: Option<u64>,
    pending_age_s: Option<u64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Stored for Tenant {
    identity!(Tenant, |tenant| Some(tenant.id));

    fn document(&self) -> String {
        let TenantLimits {
            rate_per_second,
            quota,
            keep,
        } = self.limits;
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs());
        to_json(&TenantDocument {
            rate_per_second,
            quota: QuotaDocument {
                ingest_per_second: quota.ingest_per_second,
                event_bytes_max: quota.event_bytes_max,
                stored_events_max: quota.stored_events_max,
                stored_bytes_max: quota.stored_bytes_max,
            },
            retention: KeepDocument {
                age_s: seconds(keep.age),
                events_max: keep.events_max,
                bytes_max: keep.bytes_max,
                dead_age_s: seconds(keep.dead_age),
                pending_age_s: seconds(keep.pending_age),
            },
        })
    }

    fn read(resource: &Resource) -> Option<Self> {
        let TenantDocument {
            rate_per_second,
            quota,
            retention,
        } = from_json(resource)?;
        let seconds = |age: Option<u64>| age.map(Duration::from_secs);
        Some(Self {
            id: TenantId::from_u128(resource.id),
            name: resource.name.parse().ok()?,
            revision: revision(resource),
            limits: TenantLimits {
                rate_per_second,
                quota: Quota {
                    ingest_per_second: quota.ingest_per_second,
                    event_bytes_max: quota.event_bytes_max,
                    stored_events_max: quota.stored_events_max,
                    stored_bytes_max: quota.stored_bytes_max,
                },
                keep: Keep {
                    age: seconds(retention.age_s),
                    events_max: retention.events_max,
                    bytes_max: retention.bytes_max,
                    dead_age: seconds(retention.dead_age_s),
                    pending_age: seconds(retention.pending_age_s),
                },
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
struct SourceDocument {
    key: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<Box<RuleSpec>>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
    #[serde(default)]
    public_keys: Vec<String>,
    #[serde(default)]
    methods: Option<Vec<String>>,
    #[serde(default = "body_bytes_default")]
    body_bytes_max: u64,
    #[serde(default)]
    dedupe: DedupeDocument,
    #[serde(default)]
    ip_allow: Vec<String>,
    #[serde(default)]
    rate_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sync: Option<SyncDocument>,
    #[serde(default)]
    secrets: Vec<SecretDocument>,
}

#[derive(Serialize, Deserialize)]
struct SyncDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination: Option<DestinationId>,
    timeout_ms: u64,
    #[serde(default)]
    on_timeout: OnTimeout,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<SyncAnswer>,
}

#[derive(Serialize, Deserialize)]
struct DedupeDocument {
    window_ms: u64,
    body_hash: bool,
    header: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SecretDocument {
    sealed: String,
    added_at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_handshake: bool,
}

fn yes() -> bool {
    true
}

fn body_bytes_default() -> u64 {
    BODY_BYTES_DEFAULT
}

impl Default for DedupeDocument {
    fn default() -> Self {
        Self::from(&Dedupe::default())
    }
}

impl From<&Dedupe> for DedupeDocument {
    fn from(dedupe: &Dedupe) -> Self {
        Self {
            window_ms: millis(dedupe.window),
            body_hash: dedupe.body_hash,
            header: dedupe.header.clone(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Stored for Source {
    identity!(Source, |source| Some(source.tenant));

    fn document(&self) -> String {
        let settings = &self.settings;
        let (preset, rule) = match &settings.scheme {
            SchemeChoice::Preset(name) => (Some(name.clone()), None),
            SchemeChoice::Own(rule) => (None, Some(rule.clone())),
        };
        let secrets = self.secrets.iter().map(|secret| SecretDocument {
            sealed: secret.sealed.as_str().to_owned(),
            added_at: secret.added_at,
            by_handshake: secret.by_handshake,
        });
        to_json(&SourceDocument {
            key: self.key.to_string(),
            enabled: settings.enabled,
            preset,
            rule,
            vars: settings.vars.clone(),
            public_keys: settings.public_keys.clone(),
            methods: settings.methods.clone(),
            body_bytes_max: settings.body_bytes_max,
            dedupe: DedupeDocument::from(&settings.dedupe),
            ip_allow: settings.ip_allow.iter().map(ToString::to_string).collect(),
            rate_per_second: settings.rate_per_second,
            sync: settings.sync.clone().map(|sync| SyncDocument {
                destination: sync.destination,
                timeout_ms: millis(sync.timeout),
                on_timeout: sync.on_timeout,
                answer: sync.answer,
            }),
            secrets: secrets.collect(),
        })
    }

    fn read(resource: &Resource) -> Option<Self> {
        let document: SourceDocument = from_json(resource)?;
        let ip_allow = document.ip_allow.iter().map(|range| range.parse().ok());
        let secrets = document.secrets.into_iter().map(|secret| SourceSecret {
            sealed: Sealed::from_stored(secret.sealed),
            added_at: secret.added_at,
            by_handshake: secret.by_handshake,
        });
        let settings = SourceSettings {
            enabled: document.enabled,
            scheme: match (document.preset, document.rule) {
                (Some(name), None) => SchemeChoice::Preset(name),
                (None, Some(rule)) => SchemeChoice::Own(rule),
                _ => return None,
            },
            vars: document.vars,
            public_keys: document.public_keys,
            methods: document.methods,
            body_bytes_max: document.body_bytes_max,
            dedupe: Dedupe {
                window: Duration::from_millis(document.dedupe.window_ms),
                body_hash: document.dedupe.body_hash,
                header: document.dedupe.header,
            },
            ip_allow: ip_allow.collect::<Option<_>>()?,
            rate_per_second: document.rate_per_second,
            sync: document.sync.map(|sync| SyncSettings {
                destination: sync.destination,
                timeout: Duration::from_millis(sync.timeout_ms),
                on_timeout: sync.on_timeout,
                answer: sync.answer,
            }),
        };
        Some(Self {
            id: SourceId::from_u128(resource.id),
            tenant: resource.tenant?,
            name: resource.name.parse().ok()?,
            revision: revision(resource),
            key: SourceKey::from_stored(document.key),
            settings,
            secrets: secrets.collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct DestinationDocument {
    timeout_ms: u64,
    #[serde(default)]
    retry: RetryPolicy,
    #[serde(default)]
    status: StatusSpec,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    on_dead: OnDead,
    #[serde(default)]
    old_signatures: OldSignatures,
    #[serde(flatten)]
    flow: FlowDocument,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<PausedDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiring: Option<ExpiringDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signing_keys: Vec<SigningKeyDocument>,
}

#[derive(Serialize, Deserialize)]
struct SigningKeyDocument {
    sealed: String,
    added_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct FlowDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_flight_max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_max_ms: Option<u64>,
    #[serde(default)]
    breaker: BreakerPolicy,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    maintenance: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct PausedDocument {
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Flow> for FlowDocument {
    fn from(flow: &Flow) -> Self {
        Self {
            in_flight_max: flow.in_flight_max,
            rate_per_second: flow.rate_per_second,
            age_max_ms: flow.age_max.map(millis),
            breaker: flow.breaker,
            maintenance: flow.maintenance.texts().to_vec(),
        }
    }
}

impl FlowDocument {
    fn read(self) -> Option<Flow> {
        Some(Flow {
            in_flight_max: self.in_flight_max,
            rate_per_second: self.rate_per_second,
            age_max: self.age_max_ms.map(Duration::from_millis),
            breaker: self.breaker,
            maintenance: Maintenance::read(self.maintenance).ok()?,
        })
    }
}

impl From<Paused> for PausedDocument {
    fn from(paused: Paused) -> Self {
        Self {
            since: paused.since,
            until: paused.until,
            reason: paused.reason,
        }
    }
}

impl From<PausedDocument> for Paused {
    fn from(document: PausedDocument) -> Self {
        Self {
            since: document.since,
            until: document.until,
            reason: document.reason,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ExpiringDocument {
    agent: AgentId,
    token: TokenId,
}

impl Stored for Destination {
    identity!(Destination, |destination| Some(destination.tenant));

    fn document(&self) -> String {
        let signing_keys = self.signing_keys.iter().map(|key| SigningKeyDocument {
            sealed: key.sealed.as_str().to_owned(),
            added_at: key.added_at,
            until: key.until,
        });
        to_json(&DestinationDocument {
            timeout_ms: millis(self.policy.timeout),
            retry: self.policy.retry.clone(),
            status: self.policy.status.spec().clone(),
            order: self.policy.order.clone(),
            on_dead: self.policy.on_dead,
            old_signatures: self.policy.old_signatures,
            signing_keys: signing_keys.collect(),
            flow: FlowDocument::from(&self.policy.flow),
            paused: self.paused.clone().map(PausedDocument::from),
            expiring: self
                .expiring
                .map(|Expiring { agent, token }| ExpiringDocument { agent, token }),
        })
    }

    fn read(resource: &Resource) -> Option<Self> {
        let document: DestinationDocument = from_json(resource)?;
        let signing_keys = document.signing_keys.into_iter().map(|key| SigningKey {
            sealed: Sealed::from_stored(key.sealed),
            added_at: key.added_at,
            until: key.until,
        });
        Some(Self {
            id: DestinationId::from_u128(resource.id),
            tenant: resource.tenant?,
            name: resource.name.parse().ok()?,
            revision: revision(resource),
            policy: DestinationPolicy {
                timeout: Duration::from_millis(document.timeout_ms),
                retry: document.retry,
                status: document.status.compile().ok()?,
                order: document.order,
                on_dead: document.on_dead,
                old_signatures: document.old_signatures,
                flow: document.flow.read()?,
            },
            signing_keys: signing_keys.collect(),
            paused: document.paused.map(Paused::from),
            expiring: document
                .expiring
                .map(|ExpiringDocument { agent, token }| Expiring { agent, token }),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct RouteDocument {
    source: SourceId,
    destination: DestinationId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<serde_json::Value>,
}

impl Stored for Route {
    identity!(Route, |route| Some(route.tenant));

    fn document(&self) -> String {
        to_json(&RouteDocument {
            source: self.source,
            destination: self.destination,
            filter: self.filter.as_ref().map(|filter| filter.document().clone()),
        })
    }

    fn read(resource: &Resource) -> Option<Self> {
        let document: RouteDocument = from_json(resource)?;
        let filter = document.filter.as_ref().map(Filter::parse);
        Some(Self {
            id: RouteId::from_u128(resource.id),
            tenant: resource.tenant?,
            name: resource.name.parse().ok()?,
            revision: revision(resource),
            source: document.source,
            destination: document.destination,
            filter: filter.transpose().ok()?.map(Arc::new),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct TokenDocument {
    kind: String,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destinations: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ip_allow: Vec<String>,
    sha256: String,
    /// The hash before the rotation, and until when it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(String, Timestamp)>,
}

impl Stored for Token {
    identity!(Token, |token| token.tenant);

    fn document(&self) -> String {
        let scopes = self.scopes.iter().map(|scope| scope.as_str().to_owned());
        let names = |names: &Vec<Name>| names.iter().map(Name::to_string).collect();
        to_json(&TokenDocument {
            kind: self.kind.to_string(),
            scopes: scopes.collect(),
            destinations: self.destinations.as_ref().map(names),
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            ip_allow: self.ip_allow.iter().map(ToString::to_string).collect(),
            sha256: self.hash.to_hex(),
            previous: self.previous.map(|(hash, until)| (hash.to_hex(), until)),
        })
    }

    fn read(resource: &Resource) -> Option<Self> {
        let document: TokenDocument = from_json(resource)?;
        let scopes = document.scopes.iter().map(|scope| scope.parse().ok());
        let destinations = match document.destinations {
            None => None,
            Some(names) => {
                let names = names.iter().map(|name| name.parse().ok());
                Some(names.collect::<Option<Vec<Name>>>()?)
            }
        };
        Some(Self {
            id: TokenId::from_u128(resource.id),
            tenant: resource.tenant,
            name: resource.name.parse().ok()?,
            revision: revision(resource),
            kind: document.kind.parse().ok()?,
            scopes: scopes.collect::<Option<_>>()?,
            destinations,
            expires_at: document.expires_at,
            revoked_at: document.revoked_at,
            ip_allow: {
                let ranges = document.ip_allow.iter().map(|range| range.parse().ok());
                ranges.collect::<Option<_>>()?
            },
            hash: TokenHash::from_hex(&document.sha256)?,
            previous: match document.previous {
                None => None,
                Some((hash, until)) => Some((TokenHash::from_hex(&hash)?, until)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: ResourceKind, document: &str) -> Resource {
        Resource {
            kind,
            id: 1,
            tenant: Some(TenantId::from_u128(2)),
            name: "orders".to_owned(),
            document: document.to_owned(),
            version: 3,
            created_at: Timestamp(4),
            updated_at: Timestamp(5),
        }
    }

    #[track_caller]
    fn check<R: Stored + PartialEq + std::fmt::Debug>(document: &str) {
        let first: R = read(&resource(R::KIND, document)).unwrap();
        let second: R = read(&first.to_resource()).unwrap();
        assert_eq!(first, second, "what is written reads back");
        assert!(read::<R>(&resource(R::KIND, "{")).is_err());
    }

    #[test]
    fn documents_read_with_defaults_and_read_back() {
        check::<Tenant>("{}");
        check::<Tenant>(r#"{"rate_per_second":2}"#);
        check::<Source>(r#"{"key":"abc","preset":"stripe"}"#);
        check::<Source>(
            r#"{"key":"abc","enabled":false,"rule":{"kind":"none"},"vars":{"a":"b"},
                "public_keys":["k"],"methods":["PUT"],"body_bytes_max":7,
                "dedupe":{"window_ms":9,"body_hash":true,"header":"x-id"},
                "ip_allow":["192.0.2.0/24","::1/128"],"rate_per_second":5,
                "sync":{"destination":"dst_00000000000000000000000002","timeout_ms":9,"on_timeout":"expire",
                    "answer":{"status":202,"headers":[["a","b"]],"body":"c"}},
                "secrets":[{"sealed":"v1:a:b","added_at":6},
                    {"sealed":"v1:c:d","added_at":7,"by_handshake":true}]}"#,
        );
        check::<Destination>(r#"{"timeout_ms":5}"#);
        check::<Destination>(
            r#"{"timeout_ms":5,"old_signatures":"add","signing_keys":
                [{"sealed":"v1:a:b","added_at":6,"until":7},{"sealed":"v1:c:d","added_at":7}]}"#,
        );
        check::<Destination>(
            r#"{"timeout_ms":5,"retry":{"attempts_max":3},"status":{"dead":["4xx"]},"order":"key:/id","on_dead":"park",
                "in_flight_max":4,"rate_per_second":9,"age_max_ms":60000,"breaker":{"failures":0},
                "maintenance":["daily 02:00-04:00"],"paused":{"since":5,"until":6,"reason":"x"},"expiring":
                {"agent":"agt_00000000000000000000000001","token":"tok_00000000000000000000000002"}}"#,
        );
        check::<Route>(
            r#"{"source":"src_00000000000000000000000001","destination":"dst_00000000000000000000000002"}"#,
        );
        check::<Route>(
            r#"{"source":"src_00000000000000000000000001","destination":"dst_00000000000000000000000002",
                "filter":{"body":{"a":{"$gt":1}}}}"#,
        );
        let hash = "00".repeat(32);
        check::<Token>(&format!(
            r#"{{"kind":"api","scopes":["tenant"],"sha256":"{hash}"}}"#
        ));
        check::<Token>(&format!(
            r#"{{"kind":"agent","scopes":["connect","listen"],"destinations":["a"],"expires_at":9,"revoked_at":8,"ip_allow":["192.0.2.0/24"],"previous":["{hash}",7],"sha256":"{hash}"}}"#
        ));
    }

    #[test]
    fn a_source_checks_one_thing() {
        for document in [
            r#"{"key":"abc"}"#,
            r#"{"key":"abc","preset":"x","rule":{"kind":"none"}}"#,
        ] {
            assert!(read::<Source>(&resource(ResourceKind::Source, document)).is_err());
        }
    }
}
