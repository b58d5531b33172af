//! Listeners: an expiring destination of its own for `relay-agent listen`, so that a laptop never
//! competes with production, and nothing is kept for it once it is gone.

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, PoisonError},
};

use protocol::id::{AgentId, DestinationId, RouteId, SourceId, TenantId};
use serde_json::Value;

use super::{
    Destination, DestinationPolicy, Expiring, Invalid, LiveSource, Name, Revision, Route, Scope,
    Tenancy, TenancyError, Token, change,
    change::Change,
    service::{check_routes, remove_routes},
};
use crate::{
    clock::Timestamp,
    lifecycle::{EndReason, filter::Filter},
    store::DestinationKey,
};

/// Listeners of one tenant at a time.
const LISTENERS_MAX: usize = 100;

/// Whether a listener is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Presence {
    sessions: u32,
    idle_since: Timestamp,
}

/// What a listener listens to.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its destination.
    pub destination: Arc<Destination>,
    /// The sources that are routed to it.
    pub sources: Vec<Arc<LiveSource>>,
}

impl Tenancy {
    /// Makes, or finds again, the destination of a listener, and routes the sources it names to it
    /// (`*` is all there are), or those of their events that pass its filter. It counts as having a session until [`Tenancy::listener_left`].
    ///
    /// # Errors
    ///
    /// `Forbidden` without the scope `listen`, `Invalid` for a source that is not there, `Filter`.
    pub async fn open_listen(
        &self,
        token: &Token,
        agent: AgentId,
        sources: &[String],
        filter: Option<&Value>,
    ) -> Result<Listener, TenancyError> {
        let Some(tenant) = token.tenant.filter(|_| token.may(Scope::Listen)) else {
            return Err(TenancyError::Forbidden(
                "listen; it lacks the scope `listen`",
            ));
        };
        let filter = filter.map(Filter::parse).transpose()?.map(Arc::new);
        let mut change = Change::begin(self).await?;
        change.check_tenant(tenant)?;
        let wanted = self.listened_sources(tenant, sources)?;
        let destination = self
            .listener_destination(&mut change, tenant, token, agent)
            .await?;
        self.route_listener(&mut change, &destination, &wanted, filter)
            .await?;
        self.listener_came(destination.id);
        // Dropped first: the directory shows the routes only after the change.
        drop(change);
        let directory = self.directory();
        let sources = wanted
            .iter()
            .filter_map(|id| directory.source(tenant, *id).cloned())
            .collect();
        Ok(Listener {
            destination,
            sources,
        })
    }

    fn listened_sources(
        &self,
        tenant: TenantId,
        names: &[String],
    ) -> Result<BTreeSet<SourceId>, TenancyError> {
        let directory = self.directory();
        if names.iter().any(|name| name == "*") {
            return Ok(directory.sources(tenant).map(|source| source.id).collect());
        }
        let mut wanted = BTreeSet::new();
        for name in names {
            let unknown = || {
                let shown: String = name.chars().take(64).collect();
                Invalid::new("sources", format!("the tenant has no source `{shown}`"))
            };
            let name: Name = name.parse().map_err(|_| unknown())?;
            let live = directory
                .source_by_name(tenant, &name)
                .ok_or_else(unknown)?;
            wanted.insert(live.source.id);
        }
        if wanted.is_empty() {
            return Err(Invalid::new("sources", "name at least one source, or `*`").into());
        }
        Ok(wanted)
    }

    async fn listener_destination(
        &self,
        change: &mut Change<'_>,
        tenant: TenantId,
        token: &Token,
        agent: AgentId,
    ) -> Result<Arc<Destination>, TenancyError> {
        let expiring = Expiring {
            agent,
            token: token.id,
        };
        let mut count = 0;
        let mut found = None;
        for destination in change.records().destinations.values() {
            let Some(listener) = destination
                .expiring
                .filter(|_| destination.tenant == tenant)
            else {
                continue;
            };
            count += 1;
            if listener.agent == agent {
                found = Some(Arc::clone(destination));
            }
        }
        match found {
            Some(destination) if destination.expiring == Some(expiring) => Ok(destination),
            Some(destination) => {
                let version = destination.revision.version;
                let mut destination = Arc::unwrap_or_clone(destination);
                destination.expiring = Some(expiring);
                change.put(destination, Some(version)).await
            }
            None => {
                change.check_count::<Destination>(count, LISTENERS_MAX)?;
                let destination = Destination {
                    id: DestinationId::from_u128(self.fresh()),
                    tenant,
                    name: change::name(&format!("listen-{}", bare(&agent)))?,
                    revision: Revision::default(),
                    policy: DestinationPolicy::default(),
                    paused: None,
                    expiring: Some(expiring),
                    signing_keys: Vec::new(),
                };
                change.put(destination, None).await
            }
        }
    }

    /// Adds the routes that are missing, removes those that are not wanted any more, and gives the
    /// others the filter.
    async fn route_listener(
        &self,
        change: &mut Change<'_>,
        destination: &Destination,
        wanted: &BTreeSet<SourceId>,
        filter: Option<Arc<Filter>>,
    ) -> Result<(), TenancyError> {
        let id = destination.id;
        let unwanted = |route: &Route| route.destination == id && !wanted.contains(&route.source);
        remove_routes(change, unwanted).await?;
        let all = change.records().routes.values();
        let there = all.filter(|route| route.destination == id);
        let there: Vec<Route> = there.map(|route| Route::clone(route)).collect();
        let mut missing = wanted.clone();
        for mut route in there {
            missing.remove(&route.source);
            if route.filter != filter {
                route.filter.clone_from(&filter);
                check_routes(change, &route)?;
                let version = route.revision.version;
                change.put(route, Some(version)).await?;
            }
        }
        for source in &missing {
            let route = Route {
                id: RouteId::from_u128(self.fresh()),
                tenant: destination.tenant,
                name: change::name(&format!("listen-{}-{}", bare(&id), bare(source)))?,
                revision: Revision::default(),
                source: *source,
                destination: id,
                filter: filter.clone(),
            };
            check_routes(change, &route)?;
            change.put(route, None).await?;
        }
        Ok(())
    }

    /// Notes that a session of a listener has ended.
    pub fn listener_left(&self, destination: DestinationId) {
        let now = self.clock.now();
        if let Some(presence) = self.presence().get_mut(&destination) {
            presence.sessions = presence.sessions.saturating_sub(1);
            presence.idle_since = now;
        }
    }

    /// The listeners that have been gone for long enough to end; call it every few seconds.
    pub fn listeners_to_expire(&self, now: Timestamp) -> Vec<DestinationKey> {
        let directory = self.directory();
        let mut due = Vec::new();
        self.presence().retain(|id, presence| {
            let Some(destination) = directory.records().destinations.get(id) else {
                // It was just made and is not shown yet, or it has been deleted by hand.
                return presence.sessions > 0;
            };
            if self.has_expired(*presence, now) {
                due.push(DestinationKey {
                    tenant: destination.tenant,
                    destination: *id,
                });
            }
            true
        });
        due
    }

    /// Ends a listener: what it was still owed expires, its destination and routes go. Does nothing
    /// if it came back meanwhile.
    ///
    /// # Errors
    ///
    /// The store failed: try again later.
    pub async fn expire_listen(&self, key: DestinationKey) -> Result<(), TenancyError> {
        let mut change = Change::begin(self).await?;
        let presence = self.presence().get(&key.destination).copied();
        if presence.is_some_and(|presence| !self.has_expired(presence, self.clock.now())) {
            return Ok(());
        }
        let destination = change.records().destinations.get(&key.destination).cloned();
        let listens = |it: &Arc<Destination>| it.tenant == key.tenant && it.expiring.is_some();
        if let Some(destination) = destination.filter(listens) {
            self.end_destination(&mut change, &destination, EndReason::Expired)
                .await?;
        }
        self.presence().remove(&key.destination);
        Ok(())
    }

    /// After a start every listener gets its time to come back.
    pub(super) fn watch_restored_listeners(&self) {
        let presence = Presence {
            sessions: 0,
            idle_since: self.clock.now(),
        };
        let directory = self.directory();
        let destinations = directory.records().destinations.values();
        for destination in destinations.filter(|destination| destination.expiring.is_some()) {
            self.presence().insert(destination.id, presence);
        }
    }

    fn listener_came(&self, destination: DestinationId) {
        let now = self.clock.now();
        let mut listeners = self.presence();
        let presence = listeners.entry(destination).or_insert(Presence {
            sessions: 0,
            idle_since: now,
        });
        presence.sessions = presence.sessions.saturating_add(1);
    }

    fn has_expired(&self, presence: Presence, now: Timestamp) -> bool {
        presence.sessions == 0 && now.since(presence.idle_since) >= self.config.listen_expiry
    }

    fn presence(&self) -> MutexGuard<'_, std::collections::HashMap<DestinationId, Presence>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id without its prefix.
fn bare(id: &impl ToString) -> String {
    let text = id.to_string();
    text.split_once('_')
        .map_or_else(String::new, |(_, rest)| rest.to_owned())
}
