//! How sessions and the settler speak to the dispatcher: they change the shared match and wake it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::id::{AgentId, DeliveryId, SessionId, TenantId};
use tokio::sync::{Notify, mpsc, watch};

use super::{
    machine::{Dispatch, Moment},
    rules::{Rules, TenantRules},
    view::LineView,
};
use crate::{
    clock::Clock,
    lifecycle::{Excuse, Sign},
    store::{DestinationKey, Held, Lease, LeaseInfo},
};

/// Where the leases of one session go. Each delivery in it is covered by credit, so that a channel
/// of [`protocol::limits::WINDOW_DELIVERIES_MAX`] times its destinations never fills.
pub type Outlet = mpsc::Sender<Vec<Lease>>;

/// What the settings say at the moment.
pub trait Rulebook: Send + Sync + 'static {
    /// Of a destination; `None` when it is gone.
    fn destination(&self, key: DestinationKey) -> Option<Rules>;

    /// Of a tenant.
    fn tenant(&self, tenant: TenantId) -> TenantRules;
}

/// The dispatcher, for everybody else.
#[derive(Clone)]
pub struct DispatchHandle(pub(crate) Arc<Shared>);

/// What the dispatcher and its handles share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rulebook: Box<dyn Rulebook>,
    pub(super) notify: Notify,
    /// How often the task's loop has turned.
    pub(super) turns: watch::Sender<u64>,
    pub(super) state: Mutex<State>,
}

/// The match, and the ends of the sessions' channels.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) dispatch: Dispatch,
    pub(super) outlets: HashMap<SessionId, Outlet>,
}

impl fmt::Debug for DispatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DispatchHandle").finish_non_exhaustive()
    }
}

impl DispatchHandle {
    /// A match in which nobody stands yet.
    pub fn new(clock: Arc<dyn Clock>, rulebook: Box<dyn Rulebook>) -> Self {
        Self(Arc::new(Shared {
            clock,
            rulebook,
            notify: Notify::new(),
            turns: watch::Sender::default(),
            state: Mutex::default(),
        }))
    }

    /// A session of an agent serves a destination from now on; leases last `ttl` and go to `outlet`.
    pub fn join(
        &self,
        session: SessionId,
        agent: AgentId,
        key: DestinationKey,
        ttl: Duration,
        outlet: Outlet,
    ) {
        let rulebook = &self.0.rulebook;
        let rules = rulebook.destination(key).unwrap_or_default();
        let rules = (rules, rulebook.tenant(key.tenant));
        let mut state = self.0.state();
        state.outlets.insert(session, outlet);
        let moment = self.0.moment();
        state
            .dispatch
            .handle_join(session, agent, key, ttl, rules, moment);
        self.0.tell(state);
    }

    /// A session takes more.
    pub fn credit(&self, session: SessionId, key: DestinationKey, deliveries: u64, bytes: u64) {
        let moment = self.0.moment();
        let mut state = self.0.state();
        state
            .dispatch
            .handle_credit(session, key, deliveries, bytes, moment);
        self.0.tell(state);
    }

    /// A session serves nothing any more.
    pub fn leave(&self, session: SessionId) {
        let moment = self.0.moment();
        let mut state = self.0.state();
        state.outlets.remove(&session);
        state.dispatch.handle_leave(session, moment);
        self.0.tell(state);
    }

    /// Attempts of an agent have ended; answers which of them an outage excuses. `luck` is uniform
    /// in 0..1.
    pub fn outcomes(
        &self,
        agent: AgentId,
        outcomes: &[(LeaseInfo, Sign)],
        luck: impl Fn() -> f64,
    ) -> Vec<Excuse> {
        let moment = self.0.moment();
        let mut state = self.0.state();
        let excuses = outcomes.iter().map(|(lease, sign)| {
            state
                .dispatch
                .handle_outcome(agent, lease, *sign, moment, luck())
        });
        let excuses = excuses.collect();
        self.0.tell(state);
        excuses
    }

    /// Deliveries came back unattempted, or were lost.
    pub fn returned(&self, held: &[Held]) {
        let moment = self.0.moment();
        let mut state = self.0.state();
        for held in held {
            state
                .dispatch
                .handle_return(held.delivery, held.attempt, moment);
        }
        self.0.tell(state);
    }

    /// An agent that came back still works on these.
    pub fn adopted(&self, agent: AgentId, leases: &[LeaseInfo]) {
        let moment = self.0.moment();
        let mut state = self.0.state();
        for lease in leases {
            state.dispatch.handle_adopt(agent, lease, moment);
        }
    }

    /// How a destination is doing.
    pub fn view(&self, key: DestinationKey) -> Option<LineView> {
        let moment = self.0.moment();
        self.0.state().dispatch.view(key, moment)
    }

    /// The agent that has a delivery in hand.
    pub fn holder(&self, delivery: DeliveryId) -> Option<AgentId> {
        self.0.state().dispatch.holder(delivery)
    }

    /// Has the dispatcher look at everything again: leases have changed.
    pub fn wake(&self) {
        self.0.notify.notify_one();
    }

    /// Returns once the dispatcher's loop has turned, for which it is woken: it lives. Does not return
    /// while the loop hangs. Cancel-safe.
    pub async fn turned(&self) {
        let mut turns = self.0.turns.subscribe();
        self.wake();
        // It fails only without a sender, which is ours.
        let _ = turns.changed().await;
    }
}

impl Shared {
    /// Lets go of the match and wakes the dispatcher if it has something to do.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let has_news = state.dispatch.take_news();
        drop(state);
        if has_news {
            self.notify.notify_one();
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            instant: self.clock.instant(),
            time: self.clock.now(),
        }
    }
}
