//! The task that does the work of all jobs, a piece of each in turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::id::DeliveryId;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Exclusion, Job, JobState, Replays,
    service::{Slot, Work},
};
pub(super) use crate::dispatch::Bucket as Pace;
use crate::{
    ids,
    lifecycle::{DeliveryState, EndReason, Event, Order},
    store::{DeliveryFilter, Match, NewDelivery, Replay, Replayed, StoreError},
};

/// Matches taken in one go.
const PIECE_MAX: u32 = 200;

/// Deliveries of a job that wait for their first attempt.
const PENDING_MAX: u64 = 1_000;

/// Deliveries of a job that are owed, waiting for a retry included.
const OPEN_MAX: u64 = 100_000;

/// When to look again while deliveries of a job are under way.
const SOON: Duration = Duration::from_millis(200);

/// When to look again while all of them wait for a retry, or the store is in trouble.
const LATER: Duration = Duration::from_secs(2);

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// When a job is worked on again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Now,
    In(Duration),
    Never,
}

impl Replays {
    /// Works until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let mut sleep = SLEEP_MAX;
            for slot in self.all() {
                if stop.is_cancelled() {
                    return;
                }
                match self.step(&slot).await {
                    Next::Now => sleep = Duration::ZERO,
                    Next::In(wait) => sleep = sleep.min(wait),
                    Next::Never => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = time::sleep(sleep) => {}
            }
        }
    }

    /// One piece of work of every job; whether any of them could go on at once.
    #[cfg(test)]
    pub(super) async fn step_all(&self) -> bool {
        let mut busy = false;
        for slot in self.all() {
            busy |= self.step(&slot).await == Next::Now;
        }
        busy
    }

    /// One piece of work of one job.
    async fn step(&self, slot: &Slot) -> Next {
        let mut work = slot.work.lock().await;
        if !work.job.is_active() {
            return Next::Never;
        }
        let directory = self.tenancy.directory();
        let is_orphan = directory.tenant(slot.tenant).is_none();
        drop(directory);
        let done = if is_orphan {
            self.forget(slot.id).await.map(|()| Next::Never)
        } else {
            match work.job.state {
                JobState::Running => self.advance(&mut work).await,
                JobState::Cancelled => self.wind_up(&mut work.job).await,
                JobState::Paused | JobState::Done => Ok(Next::Never),
            }
        };
        done.unwrap_or_else(|error| {
            warn!(replay = %slot.id, %error, "a replay cannot go on; it is tried again");
            Next::In(LATER)
        })
    }

    async fn advance(&self, work: &mut Work) -> Result<Next, StoreError> {
        let job = &work.job;
        let count = async |state| self.queries.replayed(job.tenant, job.id, state).await;
        let pending = count(DeliveryState::Pending).await?;
        let open = pending + count(DeliveryState::Retry).await?;
        if job.reached.all {
            if open == 0 {
                return self.finish(&mut work.job, JobState::Done).await;
            }
            return Ok(Next::In(if pending > 0 { SOON } else { LATER }));
        }
        if open >= OPEN_MAX {
            return Ok(Next::In(LATER));
        }
        let now = Instant::now();
        let room = PENDING_MAX.saturating_sub(pending).min(OPEN_MAX - open);
        let room = u32::try_from(room).unwrap_or(u32::MAX).min(PIECE_MAX);
        let allowed = work.pace(now).map_or(room, |pace| pace.available(now));
        // Small pieces cost as much as large ones.
        if room < PIECE_MAX / 2 {
            return Ok(Next::In(SOON));
        }
        if allowed == 0 {
            let ready = work.pace(now).map_or(now, |pace| pace.ready_at());
            return Ok(Next::In(
                ready
                    .saturating_duration_since(now)
                    .max(Duration::from_millis(1)),
            ));
        }
        let made = self.replay_piece(&mut work.job, room.min(allowed)).await?;
        if let Some(pace) = work.pace(now) {
            pace.take(made, now);
        }
        Ok(Next::Now)
    }

    /// Replays the next piece of a job, and notes how far it is. How many deliveries were made.
    async fn replay_piece(&self, job: &mut Job, limit: u32) -> Result<u32, StoreError> {
        let mut reached = job.reached.clone();
        let mut excluded = Vec::new();
        let mut replays = Vec::new();
        let (tenant, spec) = (job.tenant, &job.spec);
        for found in self.take(tenant, &spec.take, &mut reached, limit).await? {
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    excluded.push(why);
                    continue;
                }
            };
            let resolved = self.resolve(tenant, spec, &found).await?;
            let mut event = resolved.event;
            for target in resolved.targets {
                match target {
                    Ok(to) => match self.delivery(job, &found, to, &mut event).await? {
                        Ok(replay) => replays.push(replay),
                        Err(why) => excluded.push(why),
                    },
                    Err(why) => excluded.push(why),
                }
            }
        }
        let mut made = 0;
        for replayed in self.events.replay(&replays).await? {
            match replayed {
                // Made before a crash that forgot how far the job was.
                Replayed::Owed | Replayed::Repeated(_) => made += 1,
                Replayed::StillOwed(_) => excluded.push(Exclusion::StillOwed),
                Replayed::Unknown => excluded.push(Exclusion::NotFound),
            }
        }
        // Only now: what is noted before it is made would be lost in a crash.
        job.reached = reached;
        for why in excluded {
            *job.excluded.entry(why).or_default() += 1;
        }
        self.save(job).await?;
        Ok(made)
    }

    /// A delivery of a match to a destination. The event is read only if its order key needs it.
    async fn delivery(
        &self,
        job: &Job,
        found: &Match,
        to: protocol::id::DestinationId,
        event: &mut Option<Event>,
    ) -> Result<Result<Replay, Exclusion>, StoreError> {
        let is_ordered = {
            let directory = self.tenancy.directory();
            let destination = directory.destination(job.tenant, to);
            destination.is_some_and(|it| it.policy.order != Order::None)
        };
        if is_ordered && event.is_none() {
            match self.read(job.tenant, found.event).await? {
                Ok(read) => *event = Some(read),
                Err(why) => return Ok(Err(why)),
            }
        }
        let directory = self.tenancy.directory();
        let order = event
            .as_ref()
            .and_then(|event| directory.order_key(to, event));
        Ok(Ok(Replay {
            tenant: job.tenant,
            event: found.event,
            replay: job.id,
            delivery: NewDelivery {
                id: DeliveryId::from_u128(ids::fresh(self.events.now())),
                destination: to,
                order,
            },
        }))
    }

    /// Ends what is still owed of a cancelled job.
    async fn wind_up(&self, job: &mut Job) -> Result<Next, StoreError> {
        for state in [DeliveryState::Pending, DeliveryState::Retry] {
            let filter = DeliveryFilter {
                replay: Some(job.id),
                state: Some(state),
                ..DeliveryFilter::default()
            };
            let page = self
                .queries
                .deliveries(job.tenant, &filter, None, PIECE_MAX)
                .await?;
            for row in &page.rows {
                self.events
                    .end(job.tenant, row.id, EndReason::Cancelled)
                    .await?;
            }
            if !page.rows.is_empty() || page.next.is_some() {
                return Ok(Next::Now);
            }
        }
        self.finish(job, JobState::Cancelled).await
    }

    async fn finish(&self, job: &mut Job, state: JobState) -> Result<Next, StoreError> {
        let mut ended = job.clone();
        ended.state = state;
        ended.ended_at = Some(self.events.now());
        self.save(&mut ended).await?;
        info!(replay = %job.id, state = state.as_str(), "a replay has ended");
        *job = ended;
        Ok(Next::Never)
    }
}

impl Work {
    /// How fast it may go, if that is limited.
    fn pace(&mut self, now: Instant) -> Option<&mut Pace> {
        let rate = self.job.spec.rate_per_second?;
        Some(self.pace.get_or_insert_with(|| Pace::new(rate, now)))
    }
}
