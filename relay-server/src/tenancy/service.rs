//! The one place that changes settings, with the rules that hold across them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use protocol::id::{DestinationId, RouteId, SourceId, TenantId, TokenId};
use tokio::sync::watch;
use tracing::warn;

use super::{
    Destination, DestinationPolicy, Directory, Invalid, Keep, Name, NewToken, Paused, ProviderKeys,
    Quota, Revision, Route, Routing, SecretKey, Source, SourceSecret, SourceSettings, TenancyError,
    Tenant, TenantLimits, Token, TokenText,
    change::{self, Change},
    directory::{open_secrets, secret_place},
    listen::Presence,
    sync,
};
use crate::{
    clock::{Clock, Timestamp},
    ids,
    lifecycle::{EndReason, filter::Filter},
    store::{DestinationKey, Events, ResourceKind, Settings, StoreError},
    verify::Secret,
};

const TENANTS_MAX: usize = 100_000;
pub(super) const SOURCES_MAX: usize = 1_000;
pub(super) const DESTINATIONS_MAX: usize = 1_000;
pub(super) const ROUTES_MAX: usize = 10_000;
const TOKENS_MAX: usize = 1_000;

/// Revoked tokens that are remembered, of a tenant or of the operators.
const REVOKED_TOKENS_MAX: usize = 100;

/// What the operator chose about tenancy.
#[derive(Debug, Clone)]
pub struct TenancyConfig {
    /// How long after its last session the destination of a listener ends.
    pub listen_expiry: Duration,
    /// How much tenants may bring that have no quota of their own.
    pub quota: Quota,
    /// How long and how much is kept of tenants without a choice of their own.
    pub keep: Keep,
    /// Where public keys come from that live at the provider.
    pub provider_keys: ProviderKeys,
}

impl Default for TenancyConfig {
    fn default() -> Self {
        Self {
            listen_expiry: Duration::from_mins(10),
            quota: Quota::default(),
            keep: Keep::default(),
            provider_keys: ProviderKeys::default(),
        }
    }
}

/// A source to create.
#[derive(Debug)]
pub struct NewSource {
    /// Its name.
    pub name: String,
    /// What people chose.
    pub settings: SourceSettings,
    /// The provider's secrets.
    pub secrets: Vec<Secret>,
}

/// The settings of all tenants. Share it in an `Arc`.
///
/// Changes are durable when they return, and visible in the [`Directory`]. A change whose future is
/// dropped half-way may still have been stored; it becomes visible with the next one.
pub struct Tenancy {
    pub(super) settings: Arc<dyn Settings>,
    pub(super) events: Arc<dyn Events>,
    pub(super) key: ArcSwap<SecretKey>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: TenancyConfig,
    pub(super) directory: ArcSwap<Directory>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) writing: tokio::sync::Mutex<()>,
    /// The store may hold more than the directory shows.
    pub(super) stale: AtomicBool,
    /// When tokens were last used.
    pub(super) used: DashMap<TokenId, super::tokens::Use>,
    pub(super) listeners: Mutex<HashMap<DestinationId, Presence>>,
}

impl fmt::Debug for Tenancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenancy").finish_non_exhaustive()
    }
}

impl Tenancy {
    /// Reads the settings, and finishes what a crash may have interrupted.
    ///
    /// # Errors
    ///
    /// The store failed, or the settings are damaged (`Corrupt`): do not start.
    pub async fn open(
        settings: Arc<dyn Settings>,
        events: Arc<dyn Events>,
        key: SecretKey,
        clock: Arc<dyn Clock>,
        config: TenancyConfig,
    ) -> Result<Self, StoreError> {
        let tenancy = Self {
            settings,
            events,
            key: ArcSwap::from_pointee(key),
            clock,
            config,
            directory: ArcSwap::default(),
            changes: watch::Sender::new(0),
            writing: tokio::sync::Mutex::new(()),
            stale: AtomicBool::new(true),
            used: DashMap::new(),
            listeners: Mutex::default(),
        };
        let reconciled = async {
            tenancy.reconcile().await?;
            tenancy.load_uses().await
        };
        match reconciled.await {
            Ok(()) => {}
            Err(TenancyError::Store(error)) => return Err(error),
            Err(other) => return Err(StoreError::Unavailable(other.to_string())),
        }
        tenancy.watch_restored_listeners();
        Ok(tenancy)
    }

    /// Ends what belonged to things that are gone.
    async fn reconcile(&self) -> Result<(), TenancyError> {
        for (id, tenant) in self.settings.removed(ResourceKind::Destination).await? {
            let Some(tenant) = tenant else { continue };
            let destination = DestinationId::from_u128(id);
            let key = DestinationKey {
                tenant,
                destination,
            };
            self.events
                .end_destination(key, EndReason::Cancelled)
                .await?;
        }
        for (id, tenant) in self.settings.removed(ResourceKind::Source).await? {
            let Some(tenant) = tenant else { continue };
            let source = SourceId::from_u128(id);
            self.events.forget_source(tenant, source).await?;
        }
        let mut change = Change::begin(self).await?;
        let records = change.records();
        let leads_nowhere = |route: &&Arc<Route>| {
            !records.sources.contains_key(&route.source)
                || !records.destinations.contains_key(&route.destination)
        };
        let orphans = records.routes.values().filter(leads_nowhere);
        for route in orphans.cloned().collect::<Vec<_>>() {
            change.remove(&*route).await?;
        }
        Ok(())
    }

    /// The settings as they are now. Load it once per request, and do not keep the guard over an
    /// await.
    pub fn directory(&self) -> Guard<Arc<Directory>> {
        self.directory.load()
    }

    /// Tells of every change: look at the directory again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The time by which tokens are judged.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Creates a tenant.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn create_tenant(&self, name: &str) -> Result<Arc<Tenant>, TenancyError> {
        let name = change::name(name)?;
        let mut change = Change::begin(self).await?;
        change.check_count::<Tenant>(change.records().tenants.len(), TENANTS_MAX)?;
        // The store keeps names apart within a tenant only, and every tenant is its own.
        if self.directory().tenant_by_name(&name).is_some() {
            return Err(TenancyError::NameTaken {
                kind: "tenant",
                name: name.to_string(),
            });
        }
        let id = TenantId::from_u128(self.fresh());
        let revision = Revision::default();
        let tenant = Tenant {
            id,
            name,
            revision,
            limits: TenantLimits::default(),
        };
        change.put(tenant, None).await
    }

    /// Changes how much of the relay a tenant gets.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn update_tenant(
        &self,
        id: TenantId,
        change_limits: impl FnOnce(&mut TenantLimits),
    ) -> Result<Arc<Tenant>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let tenant = change.records().tenants.get(&id).cloned();
        let tenant = tenant.ok_or(TenancyError::NotFound("tenant"))?;
        let mut tenant = Arc::unwrap_or_clone(tenant);
        change_limits(&mut tenant.limits);
        tenant.limits.check()?;
        let version = tenant.revision.version;
        change.put(tenant, Some(version)).await
    }

    /// Removes a tenant that has no sources and destinations any more, with its tokens.
    ///
    /// # Errors
    ///
    /// `Conflict` while it has sources or destinations; see [`TenancyError`].
    pub async fn delete_tenant(&self, id: TenantId) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        change.check_tenant(id)?;
        let records = change.records();
        let in_use = records.sources.values().any(|source| source.tenant == id)
            || records
                .destinations
                .values()
                .any(|destination| destination.tenant == id);
        if in_use {
            let why = "the tenant still has sources or destinations; delete them first";
            return Err(TenancyError::Conflict(why.to_owned()));
        }
        let tenant = Arc::clone(&records.tenants[&id]);
        let its = |token: &&Arc<Token>| token.tenant == Some(id);
        for token in records
            .tokens
            .values()
            .filter(its)
            .cloned()
            .collect::<Vec<_>>()
        {
            change.remove(&*token).await?;
        }
        change.remove(&*tenant).await
    }

    /// Creates a source with a fresh URL.
    ///
    /// # Errors
    ///
    /// `Invalid` if scheme and secrets cannot work together; see [`TenancyError`].
    pub async fn create_source(
        &self,
        tenant: TenantId,
        new: NewSource,
    ) -> Result<Arc<Source>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let source = self.new_source(&change, tenant, new)?;
        change.put(source, None).await
    }

    /// Changes the settings of a source; of its state `expected`, if given.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn update_source(
        &self,
        tenant: TenantId,
        id: SourceId,
        expected: Option<u64>,
        change_settings: impl FnOnce(&mut SourceSettings),
    ) -> Result<Arc<Source>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut source = self.own_source(&change, tenant, id)?;
        check_version(source.revision, expected)?;
        change_settings(&mut source.settings);
        let secrets = self.open_secrets(&source)?;
        source.settings.check(secrets)?;
        self.check_refresh(&change, &source, None)?;
        sync::check_routes(&change, &source, None)?;
        let version = source.revision.version;
        change.put(source, Some(version)).await
    }

    /// Adds a secret to a source; the ones it has stay valid unless `drop_old`.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn rotate_secret(
        &self,
        tenant: TenantId,
        id: SourceId,
        secret: Secret,
        drop_old: bool,
    ) -> Result<Arc<Source>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut source = self.own_source(&change, tenant, id)?;
        if drop_old {
            source.secrets.clear();
        }
        let mut secrets = self.open_secrets(&source)?;
        secrets.push(secret.clone());
        source.settings.check(secrets)?;
        let sealed = self.seal(&source, &secret, false)?;
        source.secrets.push(sealed);
        let version = source.revision.version;
        change.put(source, Some(version)).await
    }

    /// Keeps the secret that a handshake brought to a source that awaits it, and ends that state.
    /// Answer the provider only after this has returned.
    ///
    /// # Errors
    ///
    /// `Conflict` if it awaits none, so that nobody can replace a secret; see [`TenancyError`].
    pub async fn take_handshake_secret(
        &self,
        tenant: TenantId,
        id: SourceId,
        secret: Secret,
    ) -> Result<Arc<Source>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut source = self.own_source(&change, tenant, id)?;
        if !source.awaits_handshake() {
            let why = "the source awaits no handshake";
            return Err(TenancyError::Conflict(why.to_owned()));
        }
        source.settings.check(vec![secret.clone()])?;
        let sealed = self.seal(&source, &secret, true)?;
        source.secrets.push(sealed);
        let version = source.revision.version;
        change.put(source, Some(version)).await
    }

    /// The secret that a handshake brought, for its owner to show to the provider: some ask for it
    /// on a page of theirs, and it is nowhere else to be read.
    ///
    /// # Errors
    ///
    /// `NotFound` unless a handshake brought one; see [`TenancyError`].
    pub fn handshake_secret(&self, source: &Source) -> Result<Secret, TenancyError> {
        let brought = source.secrets.iter().zip(self.open_secrets(source)?);
        let mut brought = brought.filter(|(sealed, _)| sealed.by_handshake);
        let newest = brought.next_back().map(|(_, secret)| secret);
        newest.ok_or(TenancyError::NotFound("secret from a handshake"))
    }

    /// Removes a source with its routes. Its events stay; its URL answers as if it had never been.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn delete_source(
        &self,
        tenant: TenantId,
        id: SourceId,
        expected: Option<u64>,
    ) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        let source = self.own_source(&change, tenant, id)?;
        check_version(source.revision, expected)?;
        remove_routes(&mut change, |route| route.source == id).await?;
        change.remove(&source).await?;
        drop(change);
        if let Err(error) = self.events.forget_source(tenant, id).await {
            warn!(source = %id, %error, "Remembered ids of a deleted source stay until the next start");
        }
        Ok(())
    }

    /// Creates a destination.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn create_destination(
        &self,
        tenant: TenantId,
        name: &str,
        policy: DestinationPolicy,
    ) -> Result<Arc<Destination>, TenancyError> {
        let name = change::name(name)?;
        policy.check()?;
        let mut change = Change::begin(self).await?;
        let destination = self.new_destination(&change, tenant, &name, policy)?;
        change.put(destination, None).await
    }

    /// Changes the policy of a destination; of its state `expected`, if given.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn update_destination(
        &self,
        tenant: TenantId,
        id: DestinationId,
        expected: Option<u64>,
        change_policy: impl FnOnce(&mut DestinationPolicy),
    ) -> Result<Arc<Destination>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut destination = own_destination(&change, tenant, id)?;
        check_version(destination.revision, expected)?;
        change_policy(&mut destination.policy);
        destination.policy.check()?;
        self.check_sources_of(&change, &destination)?;
        self.give_signing_key(&mut destination)?;
        let version = destination.revision.version;
        change.put(destination, Some(version)).await
    }

    /// Pauses a destination: what is accepted for it waits. A pause that it has is replaced.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn pause_destination(
        &self,
        tenant: TenantId,
        id: DestinationId,
        until: Option<Timestamp>,
        reason: Option<String>,
    ) -> Result<Arc<Destination>, TenancyError> {
        let paused = Paused {
            since: self.clock.now(),
            until,
            reason,
        };
        paused.check()?;
        self.set_paused(tenant, id, Some(paused)).await
    }

    /// Ends the pause of a destination, if it has one.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn resume_destination(
        &self,
        tenant: TenantId,
        id: DestinationId,
    ) -> Result<Arc<Destination>, TenancyError> {
        self.set_paused(tenant, id, None).await
    }

    async fn set_paused(
        &self,
        tenant: TenantId,
        id: DestinationId,
        paused: Option<Paused>,
    ) -> Result<Arc<Destination>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut destination = own_destination(&change, tenant, id)?;
        destination.paused = paused;
        let version = destination.revision.version;
        change.put(destination, Some(version)).await
    }

    /// Removes a destination with its routes, and cancels what it is still owed.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn delete_destination(
        &self,
        tenant: TenantId,
        id: DestinationId,
        expected: Option<u64>,
    ) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        let destination = own_destination(&change, tenant, id)?;
        check_version(destination.revision, expected)?;
        self.end_destination(&mut change, &destination, EndReason::Cancelled)
            .await
    }

    /// Ends deliveries before the record goes, so that a failing store changes nothing, and again
    /// after it, for what was accepted in between. What a crash leaves is found on the next start.
    pub(super) async fn end_destination(
        &self,
        change: &mut Change<'_>,
        destination: &Destination,
        reason: EndReason,
    ) -> Result<(), TenancyError> {
        let id = destination.id;
        let key = DestinationKey {
            tenant: destination.tenant,
            destination: id,
        };
        self.events.end_destination(key, reason).await?;
        remove_routes(change, |route| route.destination == id).await?;
        change.remove(destination).await?;
        if let Err(error) = self.events.end_destination(key, reason).await {
            warn!(destination = %id, %error, "Late deliveries of a deleted destination stay open until the next start");
        }
        Ok(())
    }

    /// Connects a source to a destination.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn create_route(
        &self,
        tenant: TenantId,
        name: Option<&str>,
        source: SourceId,
        destination: DestinationId,
        filter: Option<Filter>,
    ) -> Result<Arc<Route>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let from = self.own_source(&change, tenant, source)?;
        let to = own_destination(&change, tenant, destination)?;
        self.check_refresh(&change, &from, Some(&to))?;
        sync::check_routes(&change, &from, Some(&to))?;
        let name = match name {
            Some(name) => change::name(name)?,
            None => default_route_name(&from.name, &to.name)?,
        };
        let count = self.directory().routes(tenant).count();
        change.check_count::<Route>(count, ROUTES_MAX)?;
        let route = Route {
            id: RouteId::from_u128(self.fresh()),
            tenant,
            name,
            revision: Revision::default(),
            source,
            destination,
            filter: filter.map(Arc::new),
        };
        check_routes(&change, &route)?;
        change.put(route, None).await
    }

    /// Gives a route another filter, or none; of its state `expected`, if given.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn update_route(
        &self,
        tenant: TenantId,
        id: RouteId,
        expected: Option<u64>,
        filter: Option<Filter>,
    ) -> Result<Arc<Route>, TenancyError> {
        let mut change = Change::begin(self).await?;
        let mut route = Arc::unwrap_or_clone(own_route(&change, tenant, id)?);
        check_version(route.revision, expected)?;
        route.filter = filter.map(Arc::new);
        check_routes(&change, &route)?;
        let version = route.revision.version;
        change.put(route, Some(version)).await
    }

    /// Removes a route. What is on its way stays owed.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn delete_route(
        &self,
        tenant: TenantId,
        id: RouteId,
        expected: Option<u64>,
    ) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        let route = own_route(&change, tenant, id)?;
        check_version(route.revision, expected)?;
        change.remove(&*route).await
    }

    /// Creates a token for a tenant, or for the operator. The text is shown here and never again.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn create_token(
        &self,
        tenant: Option<TenantId>,
        new: NewToken,
    ) -> Result<(Arc<Token>, TokenText), TenancyError> {
        let now = self.clock.now();
        let (token, text) = new.issue(tenant, self.fresh(), now)?;
        let mut change = Change::begin(self).await?;
        if let Some(tenant) = tenant {
            change.check_tenant(tenant)?;
        }
        let count = self.directory().tokens(tenant).count();
        change.check_count::<Token>(count, TOKENS_MAX)?;
        Ok((change.put(token, None).await?, text))
    }

    /// Revokes a token. Sessions that use it end when they hear of the change.
    ///
    /// # Errors
    ///
    /// `NotFound` also if it is somebody else's.
    pub async fn delete_token(
        &self,
        tenant: Option<TenantId>,
        id: TokenId,
    ) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        let records = change.records();
        let is_its = |token: &&Arc<Token>| token.tenant == tenant;
        let token = records.tokens.get(&id).filter(is_its);
        let token = token.filter(|token| token.revoked_at.is_none());
        let mut token = Token::clone(token.ok_or(TenancyError::NotFound("token"))?);
        let revoked = records.tokens.values().filter(is_its);
        let mut revoked: Vec<_> = revoked
            .filter(|token| token.revoked_at.is_some())
            .cloned()
            .collect();

        token.revoke(self.clock.now());
        let version = token.revision.version;
        change.put(token, Some(version)).await?;
        revoked.sort_by_key(|token| token.revoked_at);
        let too_many = (revoked.len() + 1).saturating_sub(REVOKED_TOKENS_MAX);
        for oldest in revoked.iter().take(too_many) {
            change.remove(&**oldest).await?;
        }
        Ok(())
    }

    pub(super) fn fresh(&self) -> u128 {
        ids::fresh(self.clock.now())
    }

    pub(super) fn own_source(
        &self,
        change: &Change<'_>,
        tenant: TenantId,
        id: SourceId,
    ) -> Result<Source, TenancyError> {
        let source = change.records().sources.get(&id);
        let source = source.filter(|source| source.tenant == tenant);
        Ok(source
            .ok_or(TenancyError::NotFound("source"))?
            .as_ref()
            .clone())
    }

    pub(super) fn seal(
        &self,
        source: &Source,
        secret: &Secret,
        by_handshake: bool,
    ) -> Result<SourceSecret, TenancyError> {
        let sealed = self
            .key
            .load()
            .seal(secret_place(source), secret.expose())?;
        Ok(SourceSecret {
            sealed,
            added_at: self.clock.now(),
            by_handshake,
        })
    }

    pub(super) fn open_secrets(&self, source: &Source) -> Result<Vec<Secret>, TenancyError> {
        open_secrets(source, &self.key.load())
            .map_err(|why| TenancyError::Invalid(Invalid::new("secret", why)))
    }
}

pub(super) fn own_destination(
    change: &Change<'_>,
    tenant: TenantId,
    id: DestinationId,
) -> Result<Destination, TenancyError> {
    let destination = change.records().destinations.get(&id);
    let destination = destination.filter(|destination| destination.tenant == tenant);
    let destination = destination.ok_or(TenancyError::NotFound("destination"))?;
    Ok(destination.as_ref().clone())
}

fn own_route(
    change: &Change<'_>,
    tenant: TenantId,
    id: RouteId,
) -> Result<Arc<Route>, TenancyError> {
    let route = change.records().routes.get(&id);
    let route = route.filter(|route| route.tenant == tenant);
    route.cloned().ok_or(TenancyError::NotFound("route"))
}

/// Refuses what would be too much for one source, with a route that is new or changed.
pub(super) fn check_routes(change: &Change<'_>, route: &Route) -> Result<(), Invalid> {
    let all = change.records().routes.values().map(Arc::as_ref);
    let others = all.filter(|other| other.source == route.source && other.id != route.id);
    Routing::check(others.chain([route]))
}

pub(super) async fn remove_routes(
    change: &mut Change<'_>,
    which: impl Fn(&Route) -> bool,
) -> Result<(), TenancyError> {
    let all = change.records().routes.values();
    let found: Vec<_> = all.filter(|route| which(route)).cloned().collect();
    for route in found {
        change.remove(&*route).await?;
    }
    Ok(())
}

pub(super) fn check_version(revision: Revision, expected: Option<u64>) -> Result<(), TenancyError> {
    match expected {
        Some(expected) if expected != revision.version => Err(TenancyError::Conflict(format!(
            "it is at version {}, not {expected}",
            revision.version
        ))),
        _ => Ok(()),
    }
}

/// `source-destination`, if that is short enough.
fn default_route_name(source: &Name, destination: &Name) -> Result<Name, TenancyError> {
    format!("{source}-{destination}").parse().map_err(|_| {
        TenancyError::Invalid(Invalid::new(
            "name",
            "the route needs a name: source and destination together are too long for one",
        ))
    })
}
