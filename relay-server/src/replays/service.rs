//! All jobs of the relay: made, shown, paused, resumed and cancelled. The runner does their work.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::id::{ReplayId, TenantId};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    Count, Job, JobSpec, JobState, Stuck,
    documents::{read, to_resource},
    job::Reached,
    runner::Pace,
};
use crate::{
    ids,
    lifecycle::DeliveryState,
    store::{Events, Put, Queries, ResourceKind, Settings, StoreError},
    tenancy::Tenancy,
};

/// Jobs of a tenant that have not ended.
const ACTIVE_MAX: usize = 20;

/// Jobs of a tenant that have ended and are kept.
const ENDED_MAX: usize = 100;

/// A job to make.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The caller's name for it.
    pub key: Option<String>,
    /// What the caller asked, as a digest.
    pub asked: String,
    /// What it is to do.
    pub spec: JobSpec,
}

/// What became of a request for a job.
#[derive(Debug)]
pub enum Created {
    /// A new one runs.
    New(Job),
    /// The same was asked before under the same key.
    Before(Job),
}

/// Why a job is not made or changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// The tenant has no such job.
    #[error("no such replay")]
    Unknown,
    /// Something else was asked under the same key.
    #[error("another replay was asked for under this Idempotency-Key: use a fresh key")]
    KeyReused,
    /// The tenant has as many as it may.
    #[error("{ACTIVE_MAX} replays have not ended yet: wait for one, or cancel one")]
    TooMany,
    /// It has ended.
    #[error(transparent)]
    Stuck(#[from] Stuck),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of the deliveries of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Owed at the moment.
    pub open: u64,
    /// Delivered.
    pub done: u64,
    /// Ended otherwise.
    pub failed: u64,
}

/// A job, and how fast it may go.
pub(super) struct Slot {
    pub(super) id: ReplayId,
    pub(super) tenant: TenantId,
    /// Held while the job is worked on, so that a change comes between two pieces of work.
    pub(super) work: tokio::sync::Mutex<Work>,
}

pub(super) struct Work {
    pub(super) job: Job,
    pub(super) pace: Option<Pace>,
}

/// All jobs. Share it in an `Arc`.
pub struct Replays {
    pub(super) settings: Arc<dyn Settings>,
    pub(super) events: Arc<dyn Events>,
    pub(super) queries: Arc<dyn Queries>,
    pub(super) tenancy: Arc<Tenancy>,
    slots: Mutex<BTreeMap<ReplayId, Arc<Slot>>>,
    making: tokio::sync::Mutex<()>,
    pub(super) wake: Notify,
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replays").finish_non_exhaustive()
    }
}

impl Replays {
    /// Reads the jobs that there are.
    ///
    /// # Errors
    ///
    /// The settings cannot be read: do not start.
    pub async fn open(
        settings: Arc<dyn Settings>,
        events: Arc<dyn Events>,
        queries: Arc<dyn Queries>,
        tenancy: Arc<Tenancy>,
    ) -> Result<Self, StoreError> {
        let mut slots = BTreeMap::new();
        for resource in settings.load().await? {
            if resource.kind != ResourceKind::Replay {
                continue;
            }
            match read(&resource) {
                Some(job) => {
                    slots.insert(job.id, slot(job));
                }
                None => {
                    warn!(name = %resource.name, "a replay job cannot be read and is left alone")
                }
            }
        }
        Ok(Self {
            settings,
            events,
            queries,
            tenancy,
            slots: Mutex::new(slots),
            making: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
        })
    }

    /// Counts what a job would do, and makes none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn dry_run(&self, tenant: TenantId, spec: &JobSpec) -> Result<Count, StoreError> {
        let upto = self.queries.newest().await?;
        self.count(tenant, spec, Reached::start(upto)).await
    }

    /// Makes a job; durable before this returns.
    ///
    /// # Errors
    ///
    /// Nothing was made, but for `Store(Indeterminate)`: ask again under the same key.
    pub async fn create(&self, tenant: TenantId, new: NewJob) -> Result<Created, ReplayError> {
        if let Some(before) = self.asked_before(tenant, &new).await? {
            return Ok(Created::Before(before));
        }
        let reached = Reached::start(self.queries.newest().await?);
        let count = self.count(tenant, &new.spec, reached.clone()).await?;
        let _turn = self.making.lock().await;
        if let Some(before) = self.asked_before(tenant, &new).await? {
            return Ok(Created::Before(before));
        }
        self.make_room(tenant).await?;
        let now = self.events.now();
        let mut job = Job {
            id: ReplayId::from_u128(ids::fresh(now)),
            tenant,
            key: new.key,
            asked: new.asked,
            spec: new.spec,
            state: JobState::Running,
            total: count.complete.then_some(count.total),
            excluded: Default::default(),
            reached,
            version: 0,
            created_at: now,
            updated_at: now,
            ended_at: None,
        };
        match self.settings.put(to_resource(&job), None).await? {
            Put::Stored(version) => job.version = version,
            Put::NameTaken | Put::Conflict { .. } => return Err(ReplayError::KeyReused),
        }
        info!(replay = %job.id, total = job.total, "a replay was asked for");
        self.slots().insert(job.id, slot(job.clone()));
        self.wake.notify_one();
        Ok(Created::New(job))
    }

    /// The job that was made under the same key.
    async fn asked_before(
        &self,
        tenant: TenantId,
        new: &NewJob,
    ) -> Result<Option<Job>, ReplayError> {
        if new.key.is_none() {
            return Ok(None);
        }
        let known = self.of_tenant(tenant).await;
        match known.into_iter().find(|job| job.key == new.key) {
            Some(job) if job.asked == new.asked => Ok(Some(job)),
            Some(_) => Err(ReplayError::KeyReused),
            None => Ok(None),
        }
    }

    /// Refuses one too many, and forgets the oldest of those that have ended.
    async fn make_room(&self, tenant: TenantId) -> Result<(), ReplayError> {
        let (active, ended): (Vec<_>, Vec<_>) = self
            .of_tenant(tenant)
            .await
            .into_iter()
            .partition(Job::is_active);
        if active.len() >= ACTIVE_MAX {
            return Err(ReplayError::TooMany);
        }
        for old in ended.iter().skip(ENDED_MAX - 1) {
            self.forget(old.id).await?;
        }
        Ok(())
    }

    pub(super) async fn forget(&self, job: ReplayId) -> Result<(), StoreError> {
        let kind = ResourceKind::Replay;
        self.settings.remove(kind, job.as_u128()).await?;
        self.slots().remove(&job);
        Ok(())
    }

    /// The jobs of a tenant, newest first.
    pub async fn of_tenant(&self, tenant: TenantId) -> Vec<Job> {
        let slots: Vec<_> = self.all().into_iter().rev().collect();
        let mut jobs = Vec::new();
        for slot in slots.iter().filter(|slot| slot.tenant == tenant) {
            jobs.push(slot.work.lock().await.job.clone());
        }
        jobs
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// `Unknown`.
    pub async fn get(&self, tenant: TenantId, id: ReplayId) -> Result<Job, ReplayError> {
        let slot = self.slot(tenant, id)?;
        let work = slot.work.lock().await;
        Ok(work.job.clone())
    }

    /// What became of a job's deliveries.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn progress(&self, job: &Job) -> Result<Progress, StoreError> {
        let mut progress = Progress::default();
        for state in DeliveryState::ALL {
            let count = self.queries.replayed(job.tenant, job.id, state).await?;
            match state {
                DeliveryState::Pending | DeliveryState::Retry => progress.open += count,
                DeliveryState::Delivered => progress.done += count,
                DeliveryState::Dead
                | DeliveryState::Cancelled
                | DeliveryState::Expired
                | DeliveryState::Quarantined => progress.failed += count,
            }
        }
        Ok(progress)
    }

    /// Makes no more deliveries for now; what is owed goes on.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    pub async fn pause(&self, tenant: TenantId, id: ReplayId) -> Result<Job, ReplayError> {
        self.change(tenant, id, Job::pause).await
    }

    /// Goes on.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    pub async fn resume(&self, tenant: TenantId, id: ReplayId) -> Result<Job, ReplayError> {
        self.change(tenant, id, Job::resume).await
    }

    /// Makes no more deliveries, and ends those that are owed.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    pub async fn cancel(&self, tenant: TenantId, id: ReplayId) -> Result<Job, ReplayError> {
        self.change(tenant, id, Job::cancel).await
    }

    async fn change(
        &self,
        tenant: TenantId,
        id: ReplayId,
        change: impl FnOnce(&mut Job) -> Result<bool, Stuck>,
    ) -> Result<Job, ReplayError> {
        let slot = self.slot(tenant, id)?;
        let mut work = slot.work.lock().await;
        let mut job = work.job.clone();
        if change(&mut job)? {
            self.save(&mut job).await?;
            info!(replay = %id, state = job.state.as_str(), "a replay was changed");
            work.job = job.clone();
            self.wake.notify_one();
        }
        Ok(job)
    }

    /// Makes a job as it is now durable.
    pub(super) async fn save(&self, job: &mut Job) -> Result<(), StoreError> {
        job.updated_at = self.events.now();
        for _ in 0..2 {
            let put = self.settings.put(to_resource(job), Some(job.version)).await;
            match put? {
                Put::Stored(version) => {
                    job.version = version;
                    return Ok(());
                }
                // An earlier change of ours, of which it was not known whether it was stored.
                Put::Conflict {
                    current: Some(version),
                } => job.version = version,
                Put::Conflict { current: None } | Put::NameTaken => break,
            }
        }
        let why = format!("the job {} is no longer among the settings", job.id);
        Err(StoreError::Unavailable(why))
    }

    fn slot(&self, tenant: TenantId, id: ReplayId) -> Result<Arc<Slot>, ReplayError> {
        let slots = self.slots();
        let slot = slots.get(&id).filter(|slot| slot.tenant == tenant);
        slot.cloned().ok_or(ReplayError::Unknown)
    }

    /// Every job there is, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<ReplayId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(job: Job) -> Arc<Slot> {
    Arc::new(Slot {
        id: job.id,
        tenant: job.tenant,
        work: tokio::sync::Mutex::new(Work { job, pace: None }),
    })
}
