//! Which events go.
//!
//! For each tenant a *floor* is found: everything older goes that may. Then all events below the highest
//! floor are passed once in order of acceptance, because that is how they lie in the tables.

use std::{collections::HashMap, sync::Arc, time::Duration};

use protocol::id::TenantId;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::{
    core::Core,
    projection::chores::{self, Chore, Done, Excess, Passed, Stands},
};
use crate::{
    clock::Timestamp,
    lifecycle::EndReason,
    store::{Retention, Retentions, StoreError, Swept},
};

/// Tenants looked at in one question.
const TENANTS_AT_ONCE: usize = 256;

/// Events of one tenant that one sweep lets go of at most.
const PER_TENANT_MAX: usize = 1_000_000;

/// Events passed in one step.
const STEP: usize = 512;

/// With more changes waiting, a sweep waits.
const LAG_MAX: usize = 2_000;

/// How long a sweep rests between steps at least, and how long when changes wait.
const REST: Duration = Duration::from_millis(5);

/// How long a sweep waits at most for the projection before it goes on all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one tenant keeps.
#[derive(Debug, Clone, Copy)]
struct Floor {
    seq: u64,
    dead_before: Timestamp,
    pending_before: Timestamp,
}

/// What is still there of what was passed: sequence and bytes of each event, in order.
#[derive(Debug, Default)]
pub(super) struct Occupied {
    /// Everything before this sequence was passed.
    pub(super) end: u64,
    pub(super) kept: Vec<(u64, u64)>,
}

impl Core {
    /// Lets go of what no retention keeps, and says what is left of what it passed.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        retentions: &dyn Retentions,
        swept: &mut Swept,
    ) -> Result<Occupied, StoreError> {
        let now = self.clock.now();
        let floors = self.floors(retentions, now).await?;
        let Some(end) = floors.values().map(|floor| floor.seq).max() else {
            return Ok(Occupied::default());
        };
        let mut occupied = Occupied {
            end,
            kept: Vec::new(),
        };
        let mut after = 0;
        loop {
            let began = Instant::now();
            let (passed, expired) = self.step(&floors, after, now, swept, &mut occupied).await?;
            self.expire(expired, swept).await;
            let Some(last) = passed else { break };
            after = last;
            self.rest(began.elapsed()).await?;
        }
        debug!(events = swept.events, kept = occupied.kept.len(), "swept");
        Ok(occupied)
    }

    async fn floors(
        self: &Arc<Self>,
        retentions: &dyn Retentions,
        now: Timestamp,
    ) -> Result<HashMap<TenantId, Floor>, StoreError> {
        let mut floors = HashMap::new();
        for tenants in self.ledger.all().chunks(TENANTS_AT_ONCE) {
            let asked: Vec<(TenantId, Retention, Excess)> = tenants
                .iter()
                .map(|(tenant, usage)| {
                    let retention = retentions.of(*tenant);
                    let over = |most: Option<u64>, has: u64| {
                        most.map_or(0, |most| has.saturating_sub(most))
                    };
                    let excess = Excess {
                        before: before(now, retention.age),
                        events: over(retention.events, usage.events),
                        bytes: over(retention.bytes, usage.bytes),
                    };
                    (*tenant, retention, excess)
                })
                .collect();
            let found = self
                .projection
                .read(move |connection| {
                    let mut found = Vec::new();
                    for (tenant, retention, excess) in asked {
                        let floor = chores::floor(connection, tenant, excess, PER_TENANT_MAX)?;
                        found.extend(floor.map(|seq| (tenant, retention, seq)));
                    }
                    Ok(found)
                })
                .await?;
            floors.extend(found.into_iter().map(|(tenant, retention, seq)| {
                let floor = Floor {
                    seq,
                    dead_before: before(now, retention.dead_age),
                    pending_before: before(now, retention.pending_age),
                };
                (tenant, floor)
            }));
        }
        Ok(floors)
    }

    /// Passes some events. Names the last one, if there was any, and those whose deliveries are owed for
    /// too long.
    async fn step(
        self: &Arc<Self>,
        floors: &HashMap<TenantId, Floor>,
        after: u64,
        now: Timestamp,
        swept: &mut Swept,
        occupied: &mut Occupied,
    ) -> Result<(Option<u64>, Vec<Passed>), StoreError> {
        // Nothing is owed again between looking and letting go.
        let _turn = self.requeues.lock().await;
        let end = occupied.end;
        let passed = self
            .projection
            .read(move |connection| chores::pass(connection, after, end, STEP))
            .await?;
        let last = passed.last().map(|one| one.seq);
        let (mut gone, mut expired) = (Vec::new(), Vec::new());
        for one in passed {
            match fate(&one, floors.get(&one.tenant)) {
                Fate::Goes => gone.push(one.seq),
                Fate::Stays => occupied.kept.push((one.seq, one.bytes)),
                Fate::Expires => {
                    occupied.kept.push((one.seq, one.bytes));
                    expired.push(one);
                }
            }
        }
        if !gone.is_empty() {
            let chore = Chore::Drop { events: gone, now };
            let Done { dropped } = self.projection.have_done(chore).await?;
            swept.events += dropped.values().map(|usage| usage.events).sum::<u64>();
            self.ledger.take_off(&dropped);
        }
        Ok((last, expired))
    }

    /// Ends what was owed for too long; the next sweep lets it go.
    async fn expire(self: &Arc<Self>, expired: Vec<Passed>, swept: &mut Swept) {
        for one in expired {
            let open = self
                .projection
                .read(move |connection| chores::open_of(connection, one.seq))
                .await;
            for delivery in open.unwrap_or_default() {
                match self.end(one.tenant, delivery, EndReason::Expired).await {
                    Ok(ended) => swept.expired += u64::from(ended),
                    Err(error) => {
                        warn!(%error, %delivery, "a delivery is owed for too long and could not be ended");
                        return;
                    }
                }
            }
        }
    }

    /// Leaves the disk and the projection to others for as long as a step took.
    async fn rest(&self, took: Duration) -> Result<(), StoreError> {
        self.check_open()?;
        tokio::time::sleep(took.max(REST)).await;
        let until = Instant::now() + PATIENCE;
        while self.projection.lag() > LAG_MAX && Instant::now() < until {
            tokio::time::sleep(REST).await;
        }
        self.check_open()
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.0.saturating_sub(age))
}

enum Fate {
    Goes,
    Stays,
    Expires,
}

fn fate(one: &Passed, floor: Option<&Floor>) -> Fate {
    let Some(floor) = floor else {
        return Fate::Stays;
    };
    match one.stands {
        Stands::Open if one.received_at < floor.pending_before => Fate::Expires,
        _ if one.seq >= floor.seq => Fate::Stays,
        Stands::Ended => Fate::Goes,
        Stands::Dead if one.received_at < floor.dead_before => Fate::Goes,
        Stands::Dead | Stands::Stops | Stands::Open => Fate::Stays,
    }
}
