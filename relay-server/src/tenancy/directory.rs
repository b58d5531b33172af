//! The picture of all settings that ingress, sessions and dispatch read, made anew on every change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use protocol::id::{DestinationId, RouteId, SourceId, TenantId, TokenId};
use tracing::error;

use super::{
    Destination, Invalid, Name, OldSignatures, ProviderKeys, Route, Routed, Routing, SecretKey,
    Signer, Source, Tenant, Token, TokenHash, TokenText,
    documents::{self, Stored},
    secrets::Place,
    sync,
};
use crate::{
    clock::Timestamp,
    ingress::Rate,
    lifecycle::{Event, OrderKey, filter::Subject},
    store::{Resource, ResourceKind, StoreError},
    verify::{Credentials, Preset, Secret, Verifier},
};

/// All settings, by id. Cloning it copies references.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) tenants: BTreeMap<TenantId, Arc<Tenant>>,
    pub(super) sources: BTreeMap<SourceId, Arc<Source>>,
    pub(super) destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub(super) routes: BTreeMap<RouteId, Arc<Route>>,
    pub(super) tokens: BTreeMap<TokenId, Arc<Token>>,
}

impl Records {
    /// Reads what the store holds.
    pub(super) fn read(resources: &[Resource]) -> Result<Self, StoreError> {
        let mut records = Self::default();
        for resource in resources {
            match resource.kind {
                ResourceKind::Tenant => records.insert(documents::read::<Tenant>(resource)?),
                ResourceKind::Source => records.insert(documents::read::<Source>(resource)?),
                ResourceKind::Destination => {
                    records.insert(documents::read::<Destination>(resource)?);
                }
                ResourceKind::Route => records.insert(documents::read::<Route>(resource)?),
                ResourceKind::Token => records.insert(documents::read::<Token>(resource)?),
                // What somebody asked to be done, not a setting: see `replays`.
                ResourceKind::Replay => {}
            }
        }
        Ok(records)
    }

    pub(super) fn insert<R: Recorded>(&mut self, record: R) {
        R::of(self).insert(record.key(), Arc::new(record));
    }

    pub(super) fn remove<R: Recorded>(&mut self, key: R::Key) {
        R::of(self).remove(&key);
    }
}

/// A kind of record, and where it is kept.
pub(super) trait Recorded: Stored {
    type Key: Ord;

    fn key(&self) -> Self::Key;
    fn of(records: &mut Records) -> &mut BTreeMap<Self::Key, Arc<Self>>;
}

macro_rules! recorded {
    ($($record:ident, $key:ident, $field:ident;)*) => {$(
        impl Recorded for $record {
            type Key = $key;

            fn key(&self) -> $key {
                self.id
            }

            fn of(records: &mut Records) -> &mut BTreeMap<$key, Arc<Self>> {
                &mut records.$field
            }
        }
    )*};
}

recorded! {
    Tenant, TenantId, tenants;
    Source, SourceId, sources;
    Destination, DestinationId, destinations;
    Route, RouteId, routes;
    Token, TokenId, tokens;
}

/// Why a source cannot check requests.
#[derive(Debug)]
pub enum NotReady {
    /// Its secret is still to come, in a handshake: answer that, and refuse events until then.
    AwaitingHandshake {
        /// The provider.
        preset: &'static Preset,
        /// What is known already.
        credentials: Credentials,
    },
    /// Stored settings or secrets no longer work, in words for their owner: answer 503, never 2xx.
    Unusable(String),
}

/// A source, ready for requests.
#[derive(Debug)]
pub struct LiveSource {
    /// The source.
    pub source: Arc<Source>,
    /// What checks its requests, or why nothing can.
    pub verifier: Result<Verifier, NotReady>,
    /// The methods it takes.
    pub methods: Vec<String>,
    /// The same for Allow.
    pub allow: http::HeaderValue,
    /// Where its events go.
    pub routing: Routing,
    /// Whose service answers, if providers wait for it and there is one.
    pub answering: Option<DestinationId>,
    /// How fast it takes requests, if limited. Starts anew when the source changes.
    pub rate: Option<Rate>,
}

impl LiveSource {
    fn new(
        source: Arc<Source>,
        routes: Vec<Arc<Route>>,
        answering: Option<DestinationId>,
        key: &SecretKey,
        provider_keys: &ProviderKeys,
    ) -> Self {
        let verifier = verifier(&source, key, provider_keys);
        let methods = source.settings.methods();
        let allow = http::HeaderValue::from_str(&methods.join(", "))
            .unwrap_or(http::HeaderValue::from_static("POST"));
        let rate = source.settings.rate_per_second.map(Rate::new);
        Self {
            source,
            verifier,
            methods,
            allow,
            routing: Routing::new(routes),
            answering,
            rate,
        }
    }

    /// Whether it takes events with a method.
    pub fn takes(&self, method: &str) -> bool {
        self.methods.iter().any(|taken| taken == method)
    }

    /// Whether its provider may send challenges with a method.
    pub fn challenged_with(&self, method: &str) -> bool {
        let preset = self.source.settings.preset();
        preset.is_some_and(|preset| preset.challenges_with(method))
    }

    /// Asks its routes about an event.
    pub fn route(&self, event: &Event) -> Routed {
        let name = self.source.name.as_str();
        self.routing.route(&Subject::of(event, name))
    }

    /// Whether it still shows these settings.
    fn is_current(&self, source: &Arc<Source>, routes: &[Arc<Route>]) -> bool {
        Arc::ptr_eq(&self.source, source) && self.routing.is_of(routes)
    }
}

fn verifier(
    source: &Source,
    key: &SecretKey,
    provider_keys: &ProviderKeys,
) -> Result<Verifier, NotReady> {
    let secrets = open_secrets(source, key).map_err(NotReady::Unusable)?;
    let unusable = |invalid: Invalid| NotReady::Unusable(invalid.to_string());
    if source.awaits_handshake()
        && let Some(preset) = source.settings.preset()
    {
        let credentials = source.settings.credentials(secrets).map_err(unusable)?;
        return Err(NotReady::AwaitingHandshake {
            preset,
            credentials,
        });
    }
    let verifier = source.settings.verifier(secrets, provider_keys);
    verifier.map_err(unusable)
}

/// Where the secrets of a source belong.
pub(super) fn secret_place(source: &Source) -> Place<'static> {
    Place {
        tenant: source.tenant,
        resource: source.id.as_u128(),
        field: "secret",
    }
}

/// Decrypts the secrets of a source.
pub(super) fn open_secrets(source: &Source, key: &SecretKey) -> Result<Vec<Secret>, String> {
    let opened = source.secrets.iter().map(|secret| {
        let bytes = key
            .open(secret_place(source), &secret.sealed)
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| "the stored secret is not text".to_owned())?;
        Ok(Secret::from_text(text))
    });
    opened.collect()
}

/// Why a credential was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Mistyped, or no token at all.
    #[error("not a token")]
    Malformed,
    /// Never existed, or was revoked long ago.
    #[error("an unknown token")]
    Unknown,
    /// Was revoked.
    #[error("a revoked token")]
    Revoked,
    /// No longer valid.
    #[error("an expired token")]
    Expired,
    /// Not from there.
    #[error("a token that may not be used from that address")]
    Address,
}

/// All settings at one moment, with the indexes that the hot path needs.
#[derive(Debug, Default)]
pub struct Directory {
    records: Records,
    live: HashMap<SourceId, Arc<LiveSource>>,
    /// Of destinations that sign with keys of their own.
    signers: HashMap<DestinationId, (Arc<Destination>, Arc<Signer>)>,
    by_key: HashMap<String, Arc<LiveSource>>,
    tenant_names: HashMap<Name, TenantId>,
    source_names: HashMap<(TenantId, Name), SourceId>,
    destination_names: HashMap<(TenantId, Name), DestinationId>,
    tokens: HashMap<TokenHash, Arc<Token>>,
}

impl Directory {
    /// Indexes records; what `previous` prepared for unchanged sources is used again.
    pub(super) fn build(
        records: Records,
        previous: &Self,
        key: &SecretKey,
        provider_keys: &ProviderKeys,
    ) -> Self {
        let mut routed: HashMap<SourceId, Vec<Arc<Route>>> = HashMap::new();
        for route in records.routes.values() {
            if records.destinations.contains_key(&route.destination) {
                let routes = routed.entry(route.source).or_default();
                routes.push(Arc::clone(route));
            }
        }
        let mut directory = Self::default();
        for (id, source) in &records.sources {
            let routes = routed.remove(id).unwrap_or_default();
            let live = match previous.live.get(id) {
                Some(live) if live.is_current(source, &routes) => Arc::clone(live),
                _ => {
                    let source = Arc::clone(source);
                    let targets = routes
                        .iter()
                        .filter_map(|route| records.destinations.get(&route.destination))
                        .map(AsRef::as_ref);
                    let sync = source.settings.sync.as_ref();
                    // What cannot be told apart is not saved; a listener's route may come all the same.
                    let answering = sync.and_then(|it| sync::answering(it, targets).ok().flatten());
                    let live = LiveSource::new(source, routes, answering, key, provider_keys);
                    Arc::new(live)
                }
            };
            directory
                .by_key
                .insert(source.key.to_string(), Arc::clone(&live));
            directory.live.insert(*id, live);
            let name = (source.tenant, source.name.clone());
            directory.source_names.insert(name, *id);
        }
        for (id, destination) in &records.destinations {
            let name = (destination.tenant, destination.name.clone());
            directory.destination_names.insert(name, *id);
            if let Some(signer) = previous.signer_of(destination, key) {
                let signer = (Arc::clone(destination), signer);
                directory.signers.insert(*id, signer);
            }
        }
        for (id, tenant) in &records.tenants {
            directory.tenant_names.insert(tenant.name.clone(), *id);
        }
        for token in records.tokens.values() {
            directory.tokens.insert(token.hash, Arc::clone(token));
            if let Some((previous, _)) = token.previous {
                directory.tokens.insert(previous, Arc::clone(token));
            }
        }
        directory.records = records;
        directory
    }

    /// What signs for a destination, made anew when that has changed.
    fn signer_of(&self, destination: &Arc<Destination>, key: &SecretKey) -> Option<Arc<Signer>> {
        if destination.policy.old_signatures != OldSignatures::Add {
            return None;
        }
        match self.signers.get(&destination.id) {
            Some((known, signer)) if Arc::ptr_eq(known, destination) => Some(Arc::clone(signer)),
            _ => match Signer::new(destination, key) {
                Ok(signer) => Some(Arc::new(signer)),
                Err(error) => {
                    error!(destination = %destination.id, %error, "a destination cannot sign; rotate its signing key");
                    None
                }
            },
        }
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// The source with this key in its URL, enabled or not.
    pub fn source_by_key(&self, key: &str) -> Option<&Arc<LiveSource>> {
        self.by_key.get(key)
    }

    /// A source of a tenant.
    pub fn source(&self, tenant: TenantId, id: SourceId) -> Option<&Arc<LiveSource>> {
        self.live
            .get(&id)
            .filter(|live| live.source.tenant == tenant)
    }

    /// A source of a tenant by its name.
    pub fn source_by_name(&self, tenant: TenantId, name: &Name) -> Option<&Arc<LiveSource>> {
        let id = self.source_names.get(&(tenant, name.clone()))?;
        self.live.get(id)
    }

    /// A destination of a tenant.
    pub fn destination(&self, tenant: TenantId, id: DestinationId) -> Option<&Arc<Destination>> {
        let destination = self.records.destinations.get(&id)?;
        (destination.tenant == tenant).then_some(destination)
    }

    /// What an event is ordered by at a destination, if anything.
    pub fn order_key(&self, destination: DestinationId, event: &Event) -> Option<OrderKey> {
        let destination = self.destination(event.tenant, destination)?;
        let order = &destination.policy.order;
        order.key_of(&event.headers, &event.body)
    }

    /// What signs for a destination of a tenant, if it signs with keys of its own.
    pub fn signer(&self, tenant: TenantId, id: DestinationId) -> Option<&Arc<Signer>> {
        self.destination(tenant, id)?;
        self.signers.get(&id).map(|(_, signer)| signer)
    }

    /// A destination of a tenant by its name.
    pub fn destination_by_name(&self, tenant: TenantId, name: &Name) -> Option<&Arc<Destination>> {
        let id = self.destination_names.get(&(tenant, name.clone()))?;
        self.records.destinations.get(id)
    }

    /// A tenant.
    pub fn tenant(&self, id: TenantId) -> Option<&Arc<Tenant>> {
        self.records.tenants.get(&id)
    }

    /// A tenant by its name.
    pub fn tenant_by_name(&self, name: &Name) -> Option<&Arc<Tenant>> {
        self.records.tenants.get(self.tenant_names.get(name)?)
    }

    /// A token, if it was not revoked; it may have expired.
    pub fn token(&self, id: TokenId) -> Option<&Arc<Token>> {
        let token = self.records.tokens.get(&id);
        token.filter(|token| token.revoked_at.is_none())
    }

    /// All tenants, oldest first.
    pub fn tenants(&self) -> impl DoubleEndedIterator<Item = &Arc<Tenant>> {
        self.records.tenants.values()
    }

    /// The sources of a tenant, oldest first.
    pub fn sources(&self, tenant: TenantId) -> impl DoubleEndedIterator<Item = &Arc<Source>> {
        let of_tenant = move |source: &&Arc<Source>| source.tenant == tenant;
        self.records.sources.values().filter(of_tenant)
    }

    /// The destinations of a tenant, oldest first.
    pub fn destinations(
        &self,
        tenant: TenantId,
    ) -> impl DoubleEndedIterator<Item = &Arc<Destination>> {
        let of_tenant = move |destination: &&Arc<Destination>| destination.tenant == tenant;
        self.records.destinations.values().filter(of_tenant)
    }

    /// The routes of a tenant, oldest first.
    pub fn routes(&self, tenant: TenantId) -> impl DoubleEndedIterator<Item = &Arc<Route>> {
        let of_tenant = move |route: &&Arc<Route>| route.tenant == tenant;
        self.records.routes.values().filter(of_tenant)
    }

    /// The tokens of a tenant, or the operators', oldest first.
    pub fn tokens(&self, tenant: Option<TenantId>) -> impl DoubleEndedIterator<Item = &Arc<Token>> {
        let of_tenant =
            move |token: &&Arc<Token>| token.tenant == tenant && token.revoked_at.is_none();
        self.records.tokens.values().filter(of_tenant)
    }

    /// Recognises a credential.
    ///
    /// # Errors
    ///
    /// [`TokenRefusal`]; the answer is 401, whichever it is.
    pub fn authenticate(&self, text: &str, now: Timestamp) -> Result<Arc<Token>, TokenRefusal> {
        let text: TokenText = text.parse().map_err(|_| TokenRefusal::Malformed)?;
        let hash = text.hash();
        let token = self.tokens.get(&hash).ok_or(TokenRefusal::Unknown)?;
        let orphan = token
            .tenant
            .is_some_and(|tenant| self.tenant(tenant).is_none());
        if !token.is_shown_by(&hash, now) || token.kind != text.kind() || orphan {
            return Err(TokenRefusal::Unknown);
        }
        if token.revoked_at.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if token.is_expired(now) {
            return Err(TokenRefusal::Expired);
        }
        Ok(Arc::clone(token))
    }
}
