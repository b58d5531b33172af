//! A job and how it may change. Pure.

use std::collections::BTreeMap;

use protocol::id::{DeliveryId, DestinationId, EventId, ReplayId, TenantId};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    store::{Cursor, Replayable, Span},
};

/// What a job is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    /// What it replays.
    pub take: Take,
    /// Where to; wherever each event went, or would go now, if none.
    pub to: Option<DestinationId>,
    /// Deliveries a second at most.
    pub rate_per_second: Option<u32>,
}

/// What a job replays.
#[derive(Debug, Clone, PartialEq)]
pub enum Take {
    /// Everything that matches and was there when the job was made.
    All(Replayable),
    /// These.
    Ids(Vec<Item>),
}

/// One thing to replay, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(EventId),
    /// A dead letter: the event of this delivery, to where that was to go.
    DeadLetter(DeliveryId),
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It replays, or waits for what it replayed.
    Running,
    /// It makes no more deliveries until it is resumed.
    Paused,
    /// It makes no more deliveries, and ends those that are owed.
    Cancelled,
    /// Everything it made has ended.
    Done,
}

impl JobState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }
}

/// Why something that matches is not replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// The event is still owed to the destination: there is nothing to replay yet.
    StillOwed,
    /// It leads nowhere (any more).
    NoDestination,
    /// There is no such event or dead letter (any more).
    NotFound,
    /// Its stored bytes are damaged.
    Damaged,
}

impl Exclusion {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StillOwed => "still_owed",
            Self::NoDestination => "no_destination",
            Self::NotFound => "not_found",
            Self::Damaged => "damaged",
        }
    }
}

/// How many were excluded, by reason.
pub type Excluded = BTreeMap<Exclusion, u64>;

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id, which its deliveries carry.
    pub id: ReplayId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The caller's name for it, so that asking twice makes one.
    pub key: Option<String>,
    /// What the caller asked, as a digest: another question under the same key is a mistake.
    pub asked: String,
    /// What it does.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// How many deliveries it was to make when it was made, if that could be counted in time.
    pub total: Option<u64>,
    /// What was passed over so far.
    pub excluded: Excluded,
    /// How far it is.
    pub reached: Reached,
    /// Counts what was stored of it.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it had nothing more to do.
    pub ended_at: Option<Timestamp>,
}

/// How far a job is in the list of what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Up to here in the list that matches.
    pub after: Option<Cursor>,
    /// Where that list ends.
    pub upto: Cursor,
    /// So many of the ids.
    pub ids: usize,
    /// Nothing is left of either.
    pub all: bool,
}

impl Reached {
    /// Nowhere yet.
    pub fn start(upto: Cursor) -> Self {
        Self {
            after: None,
            upto,
            ids: 0,
            all: false,
        }
    }

    /// What is left of a list.
    pub fn span(&self) -> Span {
        Span {
            after: self.after.clone(),
            upto: self.upto.clone(),
        }
    }
}

/// A job that has ended cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job is {}: {}", .0.as_str(), "it has ended, create a new one")]
pub struct Stuck(pub JobState);

impl Job {
    /// Whether it still has something to do.
    pub fn is_active(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Makes no more deliveries for now. False if that is so already.
    pub fn pause(&mut self) -> Result<bool, Stuck> {
        self.turn(JobState::Running, JobState::Paused)
    }

    /// Goes on. False if it does already.
    pub fn resume(&mut self) -> Result<bool, Stuck> {
        self.turn(JobState::Paused, JobState::Running)
    }

    /// Makes no more deliveries for good. False if that is so already.
    pub fn cancel(&mut self) -> Result<bool, Stuck> {
        match self.state {
            JobState::Running | JobState::Paused => {
                self.state = JobState::Cancelled;
                Ok(true)
            }
            JobState::Cancelled => Ok(false),
            JobState::Done => Err(Stuck(self.state)),
        }
    }

    fn turn(&mut self, from: JobState, to: JobState) -> Result<bool, Stuck> {
        if self.state == to {
            return Ok(false);
        }
        if self.state != from {
            return Err(Stuck(self.state));
        }
        self.state = to;
        Ok(true)
    }
}
