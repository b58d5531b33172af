//! Settings declared by name: made if they are missing, changed if they differ, left alone if not.

use std::sync::Arc;

use protocol::id::{DestinationId, RouteId, SourceId, TenantId};

use super::{
    Destination, DestinationPolicy, NewSource, Revision, Route, Source, SourceKey, SourceSettings,
    Tenancy, TenancyError,
    change::{self, Change},
    directory::Recorded,
    service::{check_routes, check_version, own_destination},
    sync,
};
use crate::{lifecycle::filter::Filter, verify::Secret};

/// What a declaration did, or would do.
#[derive(Debug, Clone)]
pub enum Written<R> {
    /// It was missing.
    Created(Arc<R>),
    /// It was different.
    Changed(Arc<R>),
    /// It is as declared already.
    Same(Arc<R>),
}

/// How a declaration is to be taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// The version that it is based on; none for whatever is there.
    pub expected: Option<u64>,
    /// Only say what would happen.
    pub dry_run: bool,
}

impl Tenancy {
    /// Declares a source. `secrets` are all that it has; without them it keeps what it has.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn put_source(
        &self,
        tenant: TenantId,
        name: &str,
        settings: SourceSettings,
        secrets: Option<Vec<Secret>>,
        options: PutOptions,
    ) -> Result<Written<Source>, TenancyError> {
        let name = change::name(name)?;
        let mut change = Change::begin(self).await?;
        let found = self.directory().source_by_name(tenant, &name).cloned();
        let Some(live) = found else {
            let new = NewSource {
                name: name.to_string(),
                settings,
                secrets: secrets.unwrap_or_default(),
            };
            let source = self.new_source(&change, tenant, new)?;
            return create(&mut change, source, options).await;
        };
        let before = Arc::clone(&live.source);
        let mut source = Source::clone(&before);
        let has = self.open_secrets(&source)?;
        let secrets = secrets.unwrap_or_else(|| has.clone());
        settings.check(secrets.clone())?;
        source.settings = settings;
        if !has
            .iter()
            .map(Secret::expose)
            .eq(secrets.iter().map(Secret::expose))
        {
            let sealed = secrets
                .iter()
                .map(|secret| self.seal(&source, secret, false));
            source.secrets = sealed.collect::<Result<_, _>>()?;
        }
        self.check_refresh(&change, &source, None)?;
        sync::check_routes(&change, &source, None)?;
        replace(&mut change, &before, source, options).await
    }

    /// A source that is not stored yet, with a fresh URL.
    pub(super) fn new_source(
        &self,
        change: &Change<'_>,
        tenant: TenantId,
        new: NewSource,
    ) -> Result<Source, TenancyError> {
        let name = change::name(&new.name)?;
        new.settings.check(new.secrets.clone())?;
        change.check_tenant(tenant)?;
        let count = self.directory().sources(tenant).count();
        change.check_count::<Source>(count, super::service::SOURCES_MAX)?;
        let mut source = Source {
            id: SourceId::from_u128(self.fresh()),
            tenant,
            name,
            revision: Revision::default(),
            key: SourceKey::generate()?,
            settings: new.settings,
            secrets: Vec::new(),
        };
        for secret in &new.secrets {
            let sealed = self.seal(&source, secret, false)?;
            source.secrets.push(sealed);
        }
        sync::check_routes(change, &source, None)?;
        Ok(source)
    }

    /// Declares a destination.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn put_destination(
        &self,
        tenant: TenantId,
        name: &str,
        policy: DestinationPolicy,
        options: PutOptions,
    ) -> Result<Written<Destination>, TenancyError> {
        let name = change::name(name)?;
        policy.check()?;
        let mut change = Change::begin(self).await?;
        let found = self.directory().destination_by_name(tenant, &name).cloned();
        let Some(before) = found else {
            let destination = self.new_destination(&change, tenant, &name, policy)?;
            return create(&mut change, destination, options).await;
        };
        let mut destination = Destination::clone(&before);
        destination.policy = policy;
        self.check_sources_of(&change, &destination)?;
        self.give_signing_key(&mut destination)?;
        replace(&mut change, &before, destination, options).await
    }

    /// A destination that is not stored yet.
    pub(super) fn new_destination(
        &self,
        change: &Change<'_>,
        tenant: TenantId,
        name: &super::Name,
        policy: DestinationPolicy,
    ) -> Result<Destination, TenancyError> {
        change.check_tenant(tenant)?;
        let count = self.directory().destinations(tenant).count();
        change.check_count::<Destination>(count, super::service::DESTINATIONS_MAX)?;
        let mut destination = Destination {
            id: DestinationId::from_u128(self.fresh()),
            tenant,
            name: name.clone(),
            revision: Revision::default(),
            policy,
            paused: None,
            expiring: None,
            signing_keys: Vec::new(),
        };
        self.give_signing_key(&mut destination)?;
        Ok(destination)
    }

    /// Declares a route.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn put_route(
        &self,
        tenant: TenantId,
        name: &str,
        (source, destination): (SourceId, DestinationId),
        filter: Option<Filter>,
        options: PutOptions,
    ) -> Result<Written<Route>, TenancyError> {
        let name = change::name(name)?;
        let mut change = Change::begin(self).await?;
        let from = self.own_source(&change, tenant, source)?;
        let to = own_destination(&change, tenant, destination)?;
        self.check_refresh(&change, &from, Some(&to))?;
        sync::check_routes(&change, &from, Some(&to))?;
        let mut routes = change.records().routes.values();
        let before = routes
            .find(|route| route.tenant == tenant && route.name == name)
            .cloned();
        let filter = filter.map(Arc::new);
        let Some(before) = before else {
            let count = self.directory().routes(tenant).count();
            change.check_count::<Route>(count, super::service::ROUTES_MAX)?;
            let route = Route {
                id: RouteId::from_u128(self.fresh()),
                tenant,
                name,
                revision: Revision::default(),
                source,
                destination,
                filter,
            };
            check_routes(&change, &route)?;
            return create(&mut change, route, options).await;
        };
        let mut route = Route::clone(&before);
        (route.source, route.destination) = (source, destination);
        let document = |filter: &Arc<Filter>| filter.document().clone();
        if route.filter.as_ref().map(document) != filter.as_ref().map(document) {
            route.filter = filter;
        }
        check_routes(&change, &route)?;
        replace(&mut change, &before, route, options).await
    }
}

async fn create<R: Recorded + Clone>(
    change: &mut Change<'_>,
    record: R,
    options: PutOptions,
) -> Result<Written<R>, TenancyError> {
    if options.expected.is_some() {
        return Err(TenancyError::Conflict("it does not exist".to_owned()));
    }
    Ok(Written::Created(match options.dry_run {
        true => Arc::new(record),
        false => change.put(record, None).await?,
    }))
}

async fn replace<R: Recorded + Clone + PartialEq>(
    change: &mut Change<'_>,
    before: &Arc<R>,
    record: R,
    options: PutOptions,
) -> Result<Written<R>, TenancyError> {
    check_version(*before.revision(), options.expected)?;
    if record == **before {
        return Ok(Written::Same(Arc::clone(before)));
    }
    let version = record.revision().version;
    Ok(Written::Changed(match options.dry_run {
        true => Arc::new(record),
        false => change.put(record, Some(version)).await?,
    }))
}
