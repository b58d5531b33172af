//! Looking at what a job takes: a piece of it, where its events go, and how many there are.

use std::time::{Duration, Instant};

use protocol::id::{DestinationId, EventId, TenantId};

use super::{
    Exclusion, Item, JobSpec, Replays, Take,
    job::{Excluded, Reached},
    plan::{Rules, Target, unless_owed},
};
use crate::{
    lifecycle::Event,
    store::{DeadLetterFilter, EventFilter, Match, Replayable, Span, StoreError},
};

/// How long is counted, at most.
const COUNT_MAX: Duration = Duration::from_secs(10);

/// How many are looked at in one go.
const PIECE: u32 = 250;

/// How much a job would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Deliveries it would make.
    pub total: u64,
    /// What it would pass over.
    pub excluded: Excluded,
    /// Whether everything was counted; if not, there is more than that.
    pub complete: bool,
}

/// Where one match goes, and its event if it had to be read for that.
pub(super) struct Resolved {
    pub(super) targets: Vec<Target>,
    pub(super) event: Option<Event>,
}

impl Replays {
    /// Counts what a job would do now.
    pub(super) async fn count(
        &self,
        tenant: TenantId,
        spec: &JobSpec,
        mut reached: Reached,
    ) -> Result<Count, StoreError> {
        let begun = Instant::now();
        let mut count = Count::default();
        while !reached.all {
            if begun.elapsed() > COUNT_MAX {
                return Ok(count);
            }
            for found in self.take(tenant, &spec.take, &mut reached, PIECE).await? {
                let targets = match &found {
                    Ok(found) => {
                        let resolved = self.resolve(tenant, spec, found).await?;
                        let each = resolved.targets.into_iter();
                        each.map(|target| unless_owed(target, found)).collect()
                    }
                    Err(why) => vec![Err(*why)],
                };
                for target in targets {
                    match target {
                        Ok(_) => count.total += 1,
                        Err(why) => *count.excluded.entry(why).or_default() += 1,
                    }
                }
            }
        }
        count.complete = true;
        Ok(count)
    }

    /// The next piece of what a job takes, at most `limit`; notes how far that is.
    pub(super) async fn take(
        &self,
        tenant: TenantId,
        take: &Take,
        reached: &mut Reached,
        limit: u32,
    ) -> Result<Vec<Result<Match, Exclusion>>, StoreError> {
        match take {
            Take::All(selection) => {
                let span = reached.span();
                let page = self.queries.select(tenant, selection, &span, limit).await?;
                reached.all = page.next.is_none();
                reached.after = page.next;
                Ok(page.rows.into_iter().map(Ok).collect())
            }
            Take::Ids(items) => {
                let next = items.iter().skip(reached.ids).take(limit as usize);
                let mut found = Vec::new();
                for item in next {
                    found.push(self.find(tenant, *item, reached).await?);
                }
                reached.ids += found.len();
                reached.all = reached.ids >= items.len();
                Ok(found)
            }
        }
    }

    async fn find(
        &self,
        tenant: TenantId,
        item: Item,
        reached: &Reached,
    ) -> Result<Result<Match, Exclusion>, StoreError> {
        let selection = match item {
            Item::Event(id) => Replayable::Events(EventFilter {
                id: Some(id),
                ..EventFilter::default()
            }),
            Item::DeadLetter(id) => Replayable::DeadLetters(DeadLetterFilter {
                id: Some(id),
                ..DeadLetterFilter::default()
            }),
        };
        let span = Span {
            after: None,
            upto: reached.upto.clone(),
        };
        let mut page = self.queries.select(tenant, &selection, &span, 1).await?;
        Ok(page.rows.pop().ok_or(Exclusion::NotFound))
    }

    /// Where a match goes.
    pub(super) async fn resolve(
        &self,
        tenant: TenantId,
        spec: &JobSpec,
        found: &Match,
    ) -> Result<Resolved, StoreError> {
        let exists = |to: DestinationId| {
            let directory = self.tenancy.directory();
            directory.destination(tenant, to).is_some()
        };
        let rules = Rules {
            to: spec.to,
            exists: &exists,
        };
        if let Some(targets) = rules.targets(found) {
            return Ok(Resolved {
                targets,
                event: None,
            });
        }
        Ok(match self.read(tenant, found.event).await? {
            Ok(event) => {
                let directory = self.tenancy.directory();
                let source = directory.source(tenant, event.source);
                let routed = source.map(|live| live.route(&event).destinations);
                Resolved {
                    targets: rules.existing(&routed.unwrap_or_default()),
                    event: Some(event),
                }
            }
            Err(why) => Resolved {
                targets: vec![Err(why)],
                event: None,
            },
        })
    }

    /// An event, whole.
    pub(super) async fn read(
        &self,
        tenant: TenantId,
        event: EventId,
    ) -> Result<Result<Event, Exclusion>, StoreError> {
        match self.queries.event(tenant, event).await {
            Ok(Some(detail)) => Ok(Ok(detail.event)),
            Ok(None) => Ok(Err(Exclusion::NotFound)),
            Err(StoreError::Corrupt(_)) => Ok(Err(Exclusion::Damaged)),
            Err(error) => Err(error),
        }
    }
}
