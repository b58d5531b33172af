//! A simulated relay: the real match, settler, holdings and sessions of the protocol, driven as the
//! tasks of `dispatch` and `session` drive them.

mod sessions;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use protocol::{
    frame::ToAgent,
    id::{AgentId, DeliveryId, SessionId, TenantId},
    session::RelaySession,
};
use tokio::sync::mpsc;

use super::{
    Flaw,
    chance::{Dice, SharedDice, VirtualClock},
    check::{Check, millis},
    plan::DestinationPlan,
    watched::{Watched, at_once, lock},
    wire::LinkId,
};
use crate::{
    clock::Clock as _,
    dispatch::{
        DispatchHandle, Outlet, Rulebook, Rules, ServiceView, TenantRules,
        driver::{EXPIRED_HOLD, EXPIRED_MAX, SILENCE_LOOK, SLEEP_MAX},
    },
    lifecycle::EndReason,
    session::holdings::Holdings,
    settle::{Reported, Settler},
    store::{DestinationKey, Due, Events as _, Held, Lease, LeaseInfo, StoreError, Want},
};

/// How long tasks rest when the store fails, in milliseconds.
const STORE_PAUSE_MS: u64 = 500;

/// Questions to the store at a time.
const JOBS_MAX: usize = 64;

/// What the settings say at the moment.
#[derive(Debug)]
pub(super) struct Settings(pub(super) Mutex<BTreeMap<DestinationKey, Rules>>);

/// The relay's copy of them, which may be blind on purpose.
struct Book(Arc<Settings>, Option<Flaw>);

impl Rulebook for Book {
    fn destination(&self, key: DestinationKey) -> Option<Rules> {
        let mut rules = lock(&self.0.0).get(&key).cloned()?;
        match self.1 {
            Some(Flaw::PausesIgnored) => rules.pause = None,
            Some(Flaw::RateIgnored) => rules.rate_per_second = None,
            _ => {}
        }
        Some(rules)
    }

    fn tenant(&self, _: TenantId) -> TenantRules {
        TenantRules::default()
    }
}

/// What a relay needs to start.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) clock: Arc<VirtualClock>,
    pub(super) store: Arc<Watched>,
    pub(super) due: Arc<Due>,
    pub(super) check: Arc<Mutex<Check>>,
    pub(super) settings: Arc<Settings>,
    pub(super) destinations: Arc<Vec<DestinationPlan>>,
    pub(super) flaw: Option<Flaw>,
}

/// A relay.
pub(super) struct Relay {
    around: Surroundings,
    dice: Dice,
    pub(super) dispatch: DispatchHandle,
    settler: Settler,
    sessions: BTreeMap<LinkId, Session>,
    settlings: BTreeMap<LinkId, Settling>,
    holdings: BTreeMap<AgentId, Holdings>,
    jobs: BTreeMap<(u64, u64), Job>,
    jobs_made: u64,
    claims: usize,
    sessions_made: u128,
    listen_at: Instant,
    /// What it wants to be sent, and links it closes.
    pub(super) sent: Vec<(LinkId, ToAgent)>,
    pub(super) closed: Vec<LinkId>,
    /// When each agent was last handed something of each destination.
    handed: BTreeMap<(DestinationKey, AgentId), u64>,
}

enum Job {
    Claimed(Vec<Want>, Result<Vec<Lease>, StoreError>),
    Settle(LinkId),
    Prune(AgentId),
}

struct Session {
    id: SessionId,
    machine: RelaySession,
    outlet: Outlet,
    leases: mpsc::Receiver<Vec<Lease>>,
    serving: Option<Serving>,
    is_replaced: bool,
}

#[derive(Clone)]
struct Serving {
    agent: AgentId,
    tenant: TenantId,
    served: BTreeMap<String, (DestinationKey, Duration)>,
}

/// Receipts of one session on their way to the store.
struct Settling {
    agent: AgentId,
    tenant: TenantId,
    reported: Vec<Reported>,
    is_busy: bool,
}

impl Relay {
    pub(super) fn start(around: &Surroundings, mut dice: Dice, incarnation: u64) -> Self {
        let clock = Arc::clone(&around.clock);
        let book = Box::new(Book(Arc::clone(&around.settings), around.flaw));
        let dispatch = DispatchHandle::new(Arc::clone(&clock) as _, book);
        let plans = Arc::clone(&around.destinations);
        let policies = move |key| {
            let plan = plans.iter().find(|plan| plan.key == key);
            plan.map(|plan| plan.judge.clone())
        };
        let luck = SharedDice::new(Dice::new(dice.roll(u64::MAX)));
        let store = Arc::clone(&around.store);
        let settler = Settler::new(store, dispatch.clone(), Box::new(policies))
            .with_luck(Box::new(move || luck.luck()));
        around.store.watch(dispatch.clone());
        Self {
            around: around.clone(),
            dice,
            dispatch,
            settler,
            sessions: BTreeMap::new(),
            settlings: BTreeMap::new(),
            holdings: BTreeMap::new(),
            jobs: BTreeMap::new(),
            jobs_made: 0,
            claims: 0,
            sessions_made: u128::from(incarnation) << 32,
            listen_at: clock.instant() + SILENCE_LOOK,
            sent: Vec::new(),
            closed: Vec::new(),
            handed: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.around.clock.instant()
    }

    fn later(&mut self, after_ms: u64, job: Job) {
        self.jobs_made += 1;
        let at = self.around.clock.elapsed_ms() + after_ms;
        self.jobs.insert((at, self.jobs_made), job);
    }

    /// How long the store takes to answer, in milliseconds.
    fn store_ms(&mut self) -> u64 {
        let slowest = *self.dice.pick(&[1, 5, 30]);
        self.dice.roll(slowest)
    }

    /// When something happens by itself, in milliseconds.
    pub(super) fn next_wake(&mut self) -> u64 {
        let now_ms = self.around.clock.elapsed_ms();
        let moment = self.dispatch.0.moment();
        let store = at_once(self.around.store.next_wake()).ok().flatten();
        // Asking may have told that something has fallen due.
        if self.take_due() {
            return now_ms;
        }
        let store = store.map(|at| at.since(self.around.store.now()));
        let own = self.dispatch.0.state().dispatch.poll_timeout(moment);
        let own = own.filter(|_| self.around.flaw != Some(Flaw::ProbesForgotten));
        let sleep = store.into_iter().chain(own).min().unwrap_or(SLEEP_MAX);
        let sleep = sleep.clamp(Duration::from_millis(1), SLEEP_MAX);
        let sleep_ms = u64::try_from(sleep.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        let sessions = self.sessions.values();
        let timeouts = sessions.filter_map(|session| session.machine.poll_timeout());
        let timeouts = timeouts.map(|at| self.around.clock.ms_of(at));
        let jobs = self.jobs.first_key_value().map(|((at, _), _)| *at);
        let next = timeouts.chain(jobs).chain([now_ms + sleep_ms]).min();
        next.unwrap_or(now_ms + 1)
    }

    /// Does all that is due.
    pub(super) fn run(&mut self, is_timeout: bool) {
        let now_ms = self.around.clock.elapsed_ms();
        while let Some(first) = self
            .jobs
            .first_entry()
            .filter(|first| first.key().0 <= now_ms)
        {
            let job = first.remove();
            self.perform_job(job);
        }
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            let now = self.now();
            if let Some(session) = self.sessions.get_mut(&link)
                && session.machine.poll_timeout().is_some_and(|at| at <= now)
            {
                session.machine.handle_timeout(now);
            }
            self.perform(link);
        }
        if is_timeout {
            self.time_has_come();
        }
        self.dispatch();
    }

    /// Something fell due or a lease expired.
    fn time_has_come(&mut self) {
        let expired = at_once(self.around.store.take_expired(EXPIRED_HOLD, EXPIRED_MAX));
        if let Ok(expired) = expired
            && !expired.is_empty()
        {
            at_once(self.settler.settle_lost(expired));
        }
        if self.now() >= self.listen_at {
            self.listen_at = self.now() + SILENCE_LOOK;
            let moment = self.dispatch.0.moment();
            self.dispatch.0.state().dispatch.handle_silence(moment);
        }
    }

    fn perform_job(&mut self, job: Job) {
        match job {
            Job::Claimed(wants, leases) => {
                self.claims -= 1;
                self.take(&wants, leases);
            }
            Job::Settle(link) => self.settle(link),
            Job::Prune(agent) => {
                let now = self.now();
                if let Some(holdings) = self.holdings.get_mut(&agent) {
                    holdings.prune(now);
                }
            }
        }
    }

    /// Passes on what has fallen due; whether anything has.
    fn take_due(&self) -> bool {
        let Some(keys) = self.around.due.wait().now_or_never() else {
            return false;
        };
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        let moment = self.dispatch.0.moment();
        self.dispatch.0.state().dispatch.handle_due(keys, moment);
        true
    }

    /// Asks the store for everything there is room for.
    fn dispatch(&mut self) {
        self.take_due();
        while self.claims < JOBS_MAX {
            let moment = self.dispatch.0.moment();
            let wants = {
                let dispatch = &mut self.dispatch.0.state().dispatch;
                if self.around.flaw != Some(Flaw::ProbesForgotten) {
                    dispatch.handle_timeout(moment);
                }
                dispatch.take_news();
                dispatch.plan(moment)
            };
            if wants.is_empty() {
                return;
            }
            self.check_rests(&wants);
            let leases = at_once(self.around.store.claim(&wants));
            let rest = if leases.is_err() { STORE_PAUSE_MS } else { 0 };
            let takes = rest + self.store_ms();
            self.claims += 1;
            self.later(takes, Job::Claimed(wants, leases));
        }
    }

    /// Nothing is asked for where somebody rests.
    fn check_rests(&self, wants: &[Want]) {
        let now = self.around.clock.now();
        let settings = lock(&self.around.settings.0);
        let mut wants = wants.iter();
        let rests = wants.find(|want| {
            settings
                .get(&want.key)
                .is_some_and(|it| it.rest(now).is_some())
        });
        if let Some(want) = rests {
            let destination = want.key.destination;
            lock(&self.around.check).fail(format!("{destination} rests, and is served"));
        }
    }

    fn take(&mut self, wants: &[Want], leases: Result<Vec<Lease>, StoreError>) {
        let moment = self.dispatch.0.moment();
        let Ok(leases) = leases else {
            return self
                .dispatch
                .0
                .state()
                .dispatch
                .handle_failed(wants, moment);
        };
        let views: BTreeMap<_, _> = wants
            .iter()
            .filter_map(|want| Some((want.key, self.dispatch.view(want.key)?)))
            .collect();
        let infos: Vec<_> = leases
            .iter()
            .map(|lease| (lease.info, lease.event.received_at))
            .collect();
        let (orphans, aged) = self.dispatch.0.hand_over(wants, leases, moment);
        let returned: HashSet<_> = orphans
            .iter()
            .chain(&aged)
            .map(|held| held.delivery)
            .collect();
        for held in &aged {
            let event = infos
                .iter()
                .find(|(info, _)| info.delivery == held.delivery);
            let received_at = event.map(|(_, at)| *at).unwrap_or_default();
            self.check_age(held, received_at, moment.time);
        }
        if !orphans.is_empty() {
            let _ = at_once(self.around.store.release(&orphans));
        }
        for held in aged {
            let _ = at_once(
                self.around
                    .store
                    .end(held.tenant, held.delivery, EndReason::Expired),
            );
        }
        self.check_breakers(wants, &views, &infos, &returned);
        // What was put into the channels is taken out at once, as by tasks that are idle.
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            while let Some(batch) = self
                .sessions
                .get_mut(&link)
                .and_then(|it| it.leases.try_recv().ok())
            {
                self.offer(link, batch);
            }
            self.perform(link);
        }
    }

    fn check_age(
        &self,
        held: &Held,
        received_at: crate::clock::Timestamp,
        now: crate::clock::Timestamp,
    ) {
        let mut check = lock(&self.around.check);
        let key = check.owed.get(&held.delivery).map(|owed| owed.key);
        let most = key.and_then(|key| check.plan(key)?.rules.age_max);
        if most.is_none_or(|most| received_at.after(most) > now) {
            check.fail(format!("{} expired before its time", held.delivery));
        }
    }

    /// While a service is down, its agent gets one delivery at a time, when a probe is due.
    fn check_breakers(
        &mut self,
        wants: &[Want],
        views: &BTreeMap<DestinationKey, crate::dispatch::LineView>,
        infos: &[(LeaseInfo, crate::clock::Timestamp)],
        returned: &HashSet<DeliveryId>,
    ) {
        let now_ms = self.around.clock.elapsed_ms();
        let wall = self.around.clock.now();
        let handed: HashSet<DeliveryId> = infos
            .iter()
            .map(|(info, _)| info.delivery)
            .filter(|delivery| !returned.contains(delivery))
            .collect();
        for want in wants {
            let Some(view) = views.get(&want.key) else {
                continue;
            };
            for agent in &view.agents {
                let hands = self
                    .dispatch
                    .0
                    .state()
                    .dispatch
                    .in_hands(agent.agent, want.key);
                let got = hands.iter().filter(|id| handed.contains(id)).count();
                if got == 0 {
                    continue;
                }
                let last = self.handed.insert((want.key, agent.agent), now_ms);
                let is_allowed = match agent.service {
                    ServiceView::Down {
                        probe_at: Some(at), ..
                    } => got == 1 && at.0 <= wall.0 + 1,
                    // A probe of which nothing was heard for twice its lease has vanished.
                    ServiceView::Down { probe_at: None, .. } => {
                        let silent_ms = now_ms - last.unwrap_or_default();
                        got == 1 && silent_ms >= 2 * millis(want.ttl)
                    }
                    ServiceView::Recovering { at_a_time } => {
                        u64::from(agent.in_hand) + got as u64 <= at_a_time
                    }
                    ServiceView::Up => true,
                };
                if !is_allowed {
                    let (who, what) = (agent.agent, want.key.destination);
                    let mut check = lock(&self.around.check);
                    check.fail(format!(
                        "{who} got {got} of {what} and its service is {:?}",
                        agent.service
                    ));
                }
            }
        }
    }

    /// Reads the rulebook anew for everybody.
    pub(super) fn heed_settings(&mut self) {
        let moment = self.dispatch.0.moment();
        let dispatch = &mut self.dispatch.0.state().dispatch;
        let keys: Vec<_> = dispatch.keys().collect();
        for key in keys {
            let rules = self.dispatch.0.rulebook.destination(key);
            dispatch.handle_rules(key, rules, moment);
        }
    }
}
