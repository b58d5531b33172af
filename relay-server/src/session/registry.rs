//! Every live session and what agent instances hold, for the whole relay.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use protocol::id::{AgentId, DestinationId, SessionId, TenantId};
use tokio_util::sync::CancellationToken;

use super::holdings::Holdings;
use crate::clock::Timestamp;

/// An agent instance of a tenant.
pub(super) type InstanceKey = (TenantId, AgentId);

/// Every live session of the relay.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<SessionId, Arc<LiveSession>>,
    instances: DashMap<InstanceKey, Arc<Mutex<Holdings>>>,
    presence: DashMap<(TenantId, DestinationId), Presence>,
}

/// Who serves a destination.
#[derive(Debug, Default)]
struct Presence {
    sessions: usize,
    /// When the last one left.
    left: Option<Instant>,
}

/// How long it is remembered who has left, if very many have.
const LEFT_REMEMBERED: Duration = Duration::from_secs(60);

/// Destinations that are remembered without regard to that.
const PRESENCE_KEPT: usize = 4096;

/// A live session, as the rest of the relay sees it.
#[derive(Debug)]
pub(super) struct LiveSession {
    pub(super) id: SessionId,
    pub(super) tenant: TenantId,
    pub(super) agent: AgentId,
    pub(super) name: String,
    pub(super) program: String,
    /// What carries it.
    pub(super) transport: &'static str,
    pub(super) destinations: Vec<DestinationId>,
    pub(super) since: Timestamp,
    /// The last round trip, in microseconds; 0 before the first.
    pub(super) rtt_us: AtomicU64,
    /// The agent takes nothing from it any more.
    pub(super) replaced: CancellationToken,
}

/// A live session, for people.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// The agent instance.
    pub agent: AgentId,
    /// What people call the agent.
    pub name: String,
    /// Its program and version.
    pub program: String,
    /// What carries it: `websocket` or `poll`.
    pub transport: &'static str,
    /// What it serves.
    pub destinations: Vec<DestinationId>,
    /// When it was welcomed.
    pub since: Timestamp,
    /// The last round trip of a heartbeat, in microseconds.
    pub rtt_us: Option<u64>,
}

impl Registry {
    pub(super) fn add(&self, session: LiveSession) -> Arc<LiveSession> {
        let session = Arc::new(session);
        for &destination in &session.destinations {
            let key = (session.tenant, destination);
            self.presence.entry(key).or_default().sessions += 1;
        }
        self.sessions.insert(session.id, Arc::clone(&session));
        session
    }

    /// Forgets a session, and its instance once it holds nothing.
    pub(super) fn remove(&self, session: SessionId) {
        let Some((_, session)) = self.sessions.remove(&session) else {
            return;
        };
        let (key, now) = ((session.tenant, session.agent), Instant::now());
        self.prune(key, now);
        for &destination in &session.destinations {
            if let Some(mut presence) = self.presence.get_mut(&(session.tenant, destination)) {
                presence.sessions = presence.sessions.saturating_sub(1);
                presence.left = Some(now);
            }
        }
        if self.presence.len() > PRESENCE_KEPT {
            self.presence.retain(|_, presence| {
                let is_recent = |left| now.duration_since(left) < LEFT_REMEMBERED;
                presence.sessions > 0 || presence.left.is_some_and(is_recent)
            });
        }
    }

    /// A session that an agent instance takes nothing from any more ends. Whether it was there.
    pub(super) fn replace(&self, (tenant, agent): InstanceKey, session: SessionId) -> bool {
        let Some(session) = self.sessions.get(&session) else {
            return false;
        };
        let is_its = session.tenant == tenant && session.agent == agent;
        if is_its {
            session.replaced.cancel();
        }
        is_its
    }

    /// What an instance holds.
    pub(super) fn holdings(&self, key: InstanceKey) -> Arc<Mutex<Holdings>> {
        Arc::clone(&self.instances.entry(key).or_default())
    }

    /// Forgets what an instance that did not return has held.
    pub(super) fn prune(&self, key: InstanceKey, now: Instant) {
        self.instances.remove_if(&key, |_, holdings| {
            // Somebody else may hold on to it: a session that is live.
            let mut held = lock(holdings);
            held.prune(now);
            held.is_empty() && Arc::strong_count(holdings) == 1
        });
    }

    /// How many sessions are live.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is live.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether any live session is carried by this.
    pub(crate) fn has_transport(&self, transport: &str) -> bool {
        self.sessions
            .iter()
            .any(|session| session.transport == transport)
    }

    /// Whether any live session serves a destination.
    pub fn serves(&self, tenant: TenantId, destination: DestinationId) -> bool {
        let presence = self.presence.get(&(tenant, destination));
        presence.is_some_and(|presence| presence.sessions > 0)
    }

    /// When a destination that nobody serves counts as left alone: `patience` after its last session.
    /// `None` while somebody serves it.
    pub(crate) fn absent_until(
        &self,
        tenant: TenantId,
        destination: DestinationId,
        patience: Duration,
    ) -> Option<Instant> {
        let now = Instant::now();
        match self.presence.get(&(tenant, destination)) {
            Some(presence) if presence.sessions > 0 => None,
            Some(presence) => Some(presence.left.map_or(now, |left| left + patience)),
            None => Some(now),
        }
    }

    /// What people call an agent that is connected.
    pub fn agent_name(&self, tenant: TenantId, agent: AgentId) -> Option<String> {
        self.sessions
            .iter()
            .find(|session| session.tenant == tenant && session.agent == agent)
            .map(|session| session.name.clone())
    }

    /// The live sessions of a tenant, oldest first.
    pub fn of_tenant(&self, tenant: TenantId) -> Vec<SessionView> {
        let mut views: Vec<_> = self
            .sessions
            .iter()
            .filter(|session| session.tenant == tenant)
            .map(|session| session.view())
            .collect();
        views.sort_by_key(|view| view.id);
        views
    }
}

impl LiveSession {
    fn view(&self) -> SessionView {
        let rtt_us = self.rtt_us.load(Ordering::Relaxed);
        SessionView {
            id: self.id,
            agent: self.agent,
            name: self.name.clone(),
            program: self.program.clone(),
            transport: self.transport,
            destinations: self.destinations.clone(),
            since: self.since,
            rtt_us: (rtt_us > 0).then_some(rtt_us),
        }
    }
}

/// Locks holdings; a panic elsewhere does not make them wrong.
pub(super) fn lock(holdings: &Mutex<Holdings>) -> MutexGuard<'_, Holdings> {
    holdings.lock().unwrap_or_else(PoisonError::into_inner)
}
