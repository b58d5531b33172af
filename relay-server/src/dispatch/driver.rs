//! The dispatcher's task: it asks the store, passes leases on, and decides nothing.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{
    handle::{DispatchHandle, Shared},
    machine::{Assigned, Moment},
};
use crate::{
    lifecycle::EndReason,
    settle::Settler,
    store::{DestinationKey, Due, Events, Held, Lease, StoreError, Want},
};

/// Questions to the store at a time. A slow answer, from a backlog on disk, holds up no other.
const JOBS_MAX: usize = 64;

/// Expired leases settled in one go.
pub(crate) const EXPIRED_MAX: usize = 1024;

/// How long expired leases stay unclaimable while they are settled as lost.
pub(crate) const EXPIRED_HOLD: Duration = Duration::from_secs(10);

/// How long to wait when the store fails.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// The longest sleep, in case a clock jumps.
pub(crate) const SLEEP_MAX: Duration = Duration::from_secs(30);

/// The shortest sleep, so that a time just missed does not spin.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// How often to look for deliveries of which nothing was heard.
pub(crate) const SILENCE_LOOK: Duration = Duration::from_secs(30);

/// What woke the dispatcher.
enum Wake {
    Due(HashSet<DestinationKey>),
    Told,
    Done(Done),
    Settings,
    Time,
    Stop,
}

/// What the store has done.
enum Done {
    Claimed(Claimed),
    Nothing,
}

/// The store's answer.
struct Claimed {
    wants: Vec<Want>,
    leases: Result<Vec<Lease>, StoreError>,
}

/// Matches due deliveries with credit.
pub struct Dispatcher {
    shared: Arc<Shared>,
    store: Arc<dyn Events>,
    due: Arc<Due>,
    settler: Arc<Settler>,
    settings: watch::Receiver<u64>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    listen_at: Instant,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher for what `handle` is told. `settings` tells that the rulebook has changed.
    pub fn new(
        handle: &DispatchHandle,
        store: Arc<dyn Events>,
        due: Arc<Due>,
        settler: Arc<Settler>,
        settings: watch::Receiver<u64>,
    ) -> Self {
        Self {
            shared: Arc::clone(&handle.0),
            store,
            due,
            settler,
            settings,
            jobs: FuturesUnordered::new(),
            listen_at: handle.0.clock.instant() + SILENCE_LOOK,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.claim();
            self.shared.turns.send_modify(|turns| *turns += 1);
            let sleep = self.sleep().await;
            match self.wait(sleep, &stop).await {
                Wake::Due(keys) => {
                    let moment = self.shared.moment();
                    self.shared.state().dispatch.handle_due(keys, moment);
                }
                Wake::Told => {}
                Wake::Done(Done::Claimed(claimed)) => self.take(claimed).await,
                Wake::Done(Done::Nothing) => {}
                Wake::Settings => self.heed_settings(),
                Wake::Time => self.time_has_come().await,
                Wake::Stop => return,
            }
        }
    }

    /// Asks the store for everything there is room for.
    fn claim(&mut self) {
        while self.jobs.len() < JOBS_MAX {
            let moment = self.shared.moment();
            let wants = {
                let dispatch = &mut self.shared.state().dispatch;
                dispatch.handle_timeout(moment);
                dispatch.take_news();
                dispatch.plan(moment)
            };
            if wants.is_empty() {
                return;
            }
            let store = Arc::clone(&self.store);
            let claim = async move {
                let leases = store.claim(&wants).await;
                if leases.is_err() {
                    time::sleep(STORE_PAUSE).await;
                }
                Done::Claimed(Claimed { wants, leases })
            };
            self.jobs.push(claim.boxed());
        }
    }

    /// How long nothing happens by itself.
    async fn sleep(&mut self) -> Duration {
        let store = match self.store.next_wake().await {
            Ok(wake) => wake.map(|at| at.since(self.store.now())),
            Err(error) => {
                error!(%error, "the store cannot say when something falls due");
                Some(STORE_PAUSE)
            }
        };
        let own = self
            .shared
            .state()
            .dispatch
            .poll_timeout(self.shared.moment());
        let next = [store, own].into_iter().flatten().min();
        next.map_or(SLEEP_MAX, |sleep| sleep.clamp(SLEEP_MIN, SLEEP_MAX))
    }

    async fn wait(&mut self, sleep: Duration, stop: &CancellationToken) -> Wake {
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            Some(done) = self.jobs.next() => Wake::Done(done),
            keys = self.due.wait() => Wake::Due(keys),
            () = self.shared.notify.notified() => Wake::Told,
            Ok(()) = self.settings.changed() => Wake::Settings,
            () = time::sleep(sleep) => Wake::Time,
        }
    }

    /// Passes leases on to the sessions that should have them.
    async fn take(&mut self, Claimed { wants, leases }: Claimed) {
        let moment = self.shared.moment();
        let leases = match leases {
            Ok(leases) => leases,
            Err(error) => {
                error!(%error, "the store failed to hand out deliveries");
                self.shared.state().dispatch.handle_failed(&wants, moment);
                return;
            }
        };
        let (orphans, aged) = self.shared.hand_over(&wants, leases, moment);
        if !orphans.is_empty()
            && let Err(error) = self.store.release(&orphans).await
        {
            error!(%error, "leases that nobody has room for will run out");
        }
        if !aged.is_empty() {
            self.jobs
                .push(expire(Arc::clone(&self.store), aged).boxed());
        }
    }

    /// Something fell due or a lease expired.
    async fn time_has_come(&mut self) {
        match self.store.take_expired(EXPIRED_HOLD, EXPIRED_MAX).await {
            Ok(expired) if expired.is_empty() => {}
            Ok(expired) => self.settler.settle_lost(expired).await,
            Err(error) => error!(%error, "the store failed to name expired leases"),
        }
        let moment = self.shared.moment();
        if moment.instant >= self.listen_at {
            self.listen_at = moment.instant + SILENCE_LOOK;
            self.shared.state().dispatch.handle_silence(moment);
        }
    }

    /// Reads the rulebook anew for everybody.
    fn heed_settings(&mut self) {
        self.settings.mark_unchanged();
        let keys: Vec<_> = self.shared.state().dispatch.keys().collect();
        let rulebook = &self.shared.rulebook;
        let moment = self.shared.moment();
        let mut tenants = BTreeSet::new();
        for key in keys {
            let rules = rulebook.destination(key);
            let dispatch = &mut self.shared.state().dispatch;
            dispatch.handle_rules(key, rules, moment);
            if tenants.insert(key.tenant) {
                dispatch.handle_tenant_rules(key.tenant, rulebook.tenant(key.tenant), moment);
            }
        }
    }
}

impl Shared {
    /// Decides who gets which lease and puts it into their channels; what nobody takes is for the
    /// store: to be released, or ended because it is too old.
    pub(crate) fn hand_over(
        &self,
        wants: &[Want],
        leases: Vec<Lease>,
        moment: Moment,
    ) -> (Vec<Held>, Vec<Held>) {
        let mut state = self.state();
        let Assigned {
            batches,
            mut orphans,
            aged,
        } = state.dispatch.handle_claimed(wants, leases, moment);
        for (session, batch) in batches {
            let unsent = match state.outlets.get(&session) {
                Some(outlet) => match outlet.try_send(batch) {
                    Ok(()) => continue,
                    Err(unsent) => unsent.into_inner(),
                },
                None => batch,
            };
            debug!(%session, "a session ended before its leases reached it");
            for lease in &unsent {
                let (delivery, attempt) = (lease.info.delivery, lease.info.attempt);
                state.dispatch.handle_return(delivery, attempt, moment);
                orphans.push(Held::of(&lease.info));
            }
            state.outlets.remove(&session);
            state.dispatch.handle_leave(session, moment);
        }
        (orphans, aged)
    }
}

/// Ends what waited longer than its destination wants it to.
async fn expire(store: Arc<dyn Events>, aged: Vec<Held>) -> Done {
    let ends = aged.iter().map(|held| async {
        let ended = store
            .end(held.tenant, held.delivery, EndReason::Expired)
            .await;
        match ended {
            Ok(_) => info!(delivery = %held.delivery, "a delivery became too old and has expired"),
            Err(error) => error!(%error, delivery = %held.delivery, "a delivery that is too old could not be ended; its lease will run out"),
        }
    });
    futures_util::future::join_all(ends).await;
    Done::Nothing
}
