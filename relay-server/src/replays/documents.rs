//! Jobs as JSON in the store, apart from the types they become.

use protocol::id::{DestinationId, ReplayId};
use serde::{Deserialize, Serialize};

use super::job::{Excluded, Item, Job, JobSpec, JobState, Reached, Take};
use crate::{
    clock::Timestamp,
    lifecycle::Ending,
    store::{
        Cursor, DeadLetterFilter, EndingFilter, EventFilter, Replayable, Resource, ResourceKind,
    },
};

/// What a job takes, with ids as texts; empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct FilterDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "type")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TakeDocument {
    Events(FilterDocument),
    DeadLetters(FilterDocument),
    Ids(Vec<String>),
}

#[derive(Serialize, Deserialize)]
struct JobDocument {
    key: Option<String>,
    asked: String,
    take: TakeDocument,
    to: Option<String>,
    rate_per_second: Option<u32>,
    state: JobState,
    total: Option<u64>,
    excluded: Excluded,
    after: Option<String>,
    upto: String,
    ids_taken: usize,
    all_taken: bool,
    ended_at: Option<u64>,
}

/// A job as the store takes it.
pub(super) fn to_resource(job: &Job) -> Resource {
    let take = match &job.spec.take {
        Take::All(Replayable::Events(filter)) => TakeDocument::Events(filter.into()),
        Take::All(Replayable::DeadLetters(filter)) => TakeDocument::DeadLetters(filter.into()),
        Take::Ids(items) => TakeDocument::Ids(items.iter().map(ToString::to_string).collect()),
    };
    let document = JobDocument {
        key: job.key.clone(),
        asked: job.asked.clone(),
        take,
        to: job.spec.to.map(|to| to.to_string()),
        rate_per_second: job.spec.rate_per_second,
        state: job.state,
        total: job.total,
        excluded: job.excluded.clone(),
        after: job.reached.after.clone().map(|cursor| cursor.0),
        upto: job.reached.upto.0.clone(),
        ids_taken: job.reached.ids,
        all_taken: job.reached.all,
        ended_at: job.ended_at.map(|at| at.0),
    };
    Resource {
        kind: ResourceKind::Replay,
        id: job.id.as_u128(),
        tenant: Some(job.tenant),
        name: match &job.key {
            // The store keeps names unique: of two that ask at once, one makes the job.
            Some(key) => format!("key {key}"),
            None => job.id.to_string(),
        },
        // Structs of texts and numbers always have a JSON form.
        document: serde_json::to_string(&document).unwrap_or_default(),
        version: job.version,
        created_at: job.created_at,
        updated_at: job.updated_at,
    }
}

/// Reads a stored job; `None` if it is none that this version knows.
pub(super) fn read(resource: &Resource) -> Option<Job> {
    let document: JobDocument = serde_json::from_str(&resource.document).ok()?;
    let take = match document.take {
        TakeDocument::Events(filter) => Take::All(Replayable::Events(filter.events()?)),
        TakeDocument::DeadLetters(filter) => {
            Take::All(Replayable::DeadLetters(filter.dead_letters()?))
        }
        TakeDocument::Ids(ids) => {
            let items = ids.iter().map(|id| id.parse().ok());
            Take::Ids(items.collect::<Option<_>>()?)
        }
    };
    let to = document.to.map(|to| to.parse::<DestinationId>().ok());
    let to = match to {
        Some(to) => Some(to?),
        None => None,
    };
    Some(Job {
        id: ReplayId::from_u128(resource.id),
        tenant: resource.tenant?,
        key: document.key,
        asked: document.asked,
        spec: JobSpec {
            take,
            to,
            rate_per_second: document.rate_per_second,
        },
        state: document.state,
        total: document.total,
        excluded: document.excluded,
        reached: Reached {
            after: document.after.map(Cursor),
            upto: Cursor(document.upto),
            ids: document.ids_taken,
            all: document.all_taken,
        },
        version: resource.version,
        created_at: resource.created_at,
        updated_at: resource.updated_at,
        ended_at: document.ended_at.map(Timestamp),
    })
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(id) => id.fmt(f),
            Self::DeadLetter(id) => id.fmt(f),
        }
    }
}

/// A text that names neither an event nor a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event (evt_...) or of a dead letter (dlv_...)")]
pub struct NoItem;

impl std::str::FromStr for Item {
    type Err = NoItem;

    fn from_str(text: &str) -> Result<Self, NoItem> {
        if let Ok(event) = text.parse() {
            return Ok(Self::Event(event));
        }
        text.parse().map(Self::DeadLetter).map_err(|_| NoItem)
    }
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

fn text(it: Option<impl ToString>) -> Option<String> {
    it.map(|it| it.to_string())
}

impl From<&EventFilter> for FilterDocument {
    fn from(filter: &EventFilter) -> Self {
        let state = match filter.unrouted {
            true => Some("unrouted".to_owned()),
            false => text(filter.state),
        };
        Self {
            id: text(filter.id),
            source: text(filter.source),
            destination: text(filter.destination),
            state,
            event_type: filter.event_type.clone(),
            since: time(filter.since),
            until: time(filter.until),
            ..Self::default()
        }
    }
}

impl From<&DeadLetterFilter> for FilterDocument {
    fn from(filter: &DeadLetterFilter) -> Self {
        let (status, failure) = match filter.last {
            Some(EndingFilter::Status(from, to)) => (Some(format!("{from}-{to}")), None),
            Some(EndingFilter::Is(ending)) => (None, Some(ending.to_string())),
            None => (None, None),
        };
        Self {
            id: text(filter.id),
            source: text(filter.source),
            destination: text(filter.destination),
            event: text(filter.event),
            event_type: filter.event_type.clone(),
            reason: filter.reason.clone(),
            status,
            failure,
            since: time(filter.since),
            until: time(filter.until),
            ..Self::default()
        }
    }
}

/// Reads a field that may be missing; `None` if it is there and cannot be read.
fn parse<T: std::str::FromStr>(field: Option<&String>) -> Option<Option<T>> {
    match field {
        Some(text) => Some(Some(text.parse().ok()?)),
        None => Some(None),
    }
}

fn parse_time(field: Option<&String>) -> Option<Option<Timestamp>> {
    let time: Option<jiff::Timestamp> = parse(field)?;
    match time {
        Some(time) => Some(Some(Timestamp(u64::try_from(time.as_millisecond()).ok()?))),
        None => Some(None),
    }
}

impl FilterDocument {
    fn events(&self) -> Option<EventFilter> {
        let unrouted = self.state.as_deref() == Some("unrouted");
        let state = self.state.as_ref().filter(|_| !unrouted);
        let state = match state {
            Some(text) => {
                let mut all = crate::lifecycle::DeliveryState::ALL.into_iter();
                Some(all.find(|state| state.as_str() == text)?)
            }
            None => None,
        };
        Some(EventFilter {
            id: parse(self.id.as_ref())?,
            source: parse(self.source.as_ref())?,
            destination: parse(self.destination.as_ref())?,
            state,
            unrouted,
            event_type: self.event_type.clone(),
            since: parse_time(self.since.as_ref())?,
            until: parse_time(self.until.as_ref())?,
        })
    }

    fn dead_letters(&self) -> Option<DeadLetterFilter> {
        let last = match (&self.status, &self.failure) {
            (Some(range), _) => {
                let (from, to) = range.split_once('-')?;
                Some(EndingFilter::Status(from.parse().ok()?, to.parse().ok()?))
            }
            (None, Some(failure)) => Some(EndingFilter::Is(failure.parse::<Ending>().ok()?)),
            (None, None) => None,
        };
        Some(DeadLetterFilter {
            id: parse(self.id.as_ref())?,
            source: parse(self.source.as_ref())?,
            destination: parse(self.destination.as_ref())?,
            event: parse(self.event.as_ref())?,
            event_type: self.event_type.clone(),
            reason: self.reason.clone(),
            last,
            since: parse_time(self.since.as_ref())?,
            until: parse_time(self.until.as_ref())?,
        })
    }
}
