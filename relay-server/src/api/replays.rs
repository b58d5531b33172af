//! Replay jobs: many events delivered again.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
};
use protocol::id::{ReplayId, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Answer, ApiState, OneOfTwo,
    auth::InTenant,
    dead_letters::DeadLetterChoice,
    destinations,
    events::EventChoice,
    extract::{Body, bad},
    pages::{List, PageParams},
    unanswered,
};
use crate::{
    problem::{Code, Problem},
    replays::{Created, FilterDocument, Item, Job, JobSpec, NewJob, Progress, ReplayError, Take},
    store::Replayable,
};

/// Ids in one request.
const IDS_MAX: usize = 1_000;

/// The fastest pace that can be asked for, in deliveries a second.
const RATE_MAX: u32 = 100_000;

/// The longest `Idempotency-Key`, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// What to replay: one of `ids`, `events` and `dead_letters`.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewReplay {
    ids: Vec<String>,
    events: Option<EventChoice>,
    dead_letters: Option<DeadLetterChoice>,
    /// Where to, by id or name; wherever each went, or would go now, unless given.
    to: Option<String>,
    rate_per_second: Option<u32>,
    dry_run: bool,
}

/// How many, by reason.
type ByReason = BTreeMap<String, u64>;

/// A job and how far it is.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct JobView {
    id: String,
    /// `running`, `paused`, `cancelled`, `done`.
    state: &'static str,
    /// `ids`, `events`, `dead_letters`.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<usize>,
    to: Option<String>,
    to_name: Option<String>,
    rate_per_second: Option<u32>,
    /// Deliveries it was to make when it was created; missing if they were too many to count.
    total: Option<u64>,
    /// Deliveries it has made: `open`, `done` and `failed` together.
    made: u64,
    open: u64,
    done: u64,
    failed: u64,
    /// What it passed over so far, by reason.
    excluded: ByReason,
    created_at: String,
    updated_at: String,
    ended_at: Option<String>,
}

/// What a job would do.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct DryRunView {
    dry_run: bool,
    /// Deliveries it would make.
    total: u64,
    /// False if there are more than could be counted in time.
    complete: bool,
    excluded: ByReason,
}

/// Either.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(super) enum CreatedView {
    Job(Box<JobView>),
    DryRun(DryRunView),
}

fn excluded(by_reason: impl IntoIterator<Item = (crate::replays::Exclusion, u64)>) -> ByReason {
    let entries = by_reason.into_iter();
    let named = entries.map(|(why, count)| (why.as_str().to_owned(), count));
    named.collect()
}

fn view(state: &ApiState, job: Job, progress: Progress) -> JobView {
    let (what, filter, ids) = match &job.spec.take {
        Take::Ids(ids) => ("ids", None, Some(ids.len())),
        Take::All(Replayable::Events(filter)) => ("events", Some(filter.into()), None),
        Take::All(Replayable::DeadLetters(filter)) => ("dead_letters", Some(filter.into()), None),
    };
    let directory = state.tenancy.directory();
    let to = job.spec.to;
    let known = to.and_then(|to| directory.destination(job.tenant, to));
    JobView {
        id: job.id.to_string(),
        state: job.state.as_str(),
        what,
        filter,
        ids,
        to: to.map(|to| to.to_string()),
        to_name: known.map(|it| it.name.to_string()),
        rate_per_second: job.spec.rate_per_second,
        total: job.total,
        made: progress.open + progress.done + progress.failed,
        open: progress.open,
        done: progress.done,
        failed: progress.failed,
        excluded: excluded(job.excluded),
        created_at: job.created_at.to_string(),
        updated_at: job.updated_at.to_string(),
        ended_at: job.ended_at.map(|at| at.to_string()),
    }
}

async fn show_job(state: &ApiState, job: Job) -> Result<JobView, Problem> {
    let progress = state.replays.progress(&job).await.map_err(unanswered)?;
    Ok(view(state, job, progress))
}

impl NewReplay {
    fn spec(&self, state: &ApiState, tenant: TenantId) -> Result<JobSpec, Problem> {
        let take = match (&self.ids[..], &self.events, &self.dead_letters) {
            ([], Some(choice), None) => {
                Take::All(Replayable::Events(choice.filter(state, tenant)?))
            }
            ([], None, Some(choice)) => {
                Take::All(Replayable::DeadLetters(choice.filter(state, tenant)?))
            }
            ([_, ..], None, None) => Take::Ids(items(&self.ids)?),
            _ => {
                let why = "give one of ids, events and dead_letters; {} as a filter takes all";
                return Err(bad("ids", why));
            }
        };
        let to = self.to.as_deref();
        let to = to.map(|text| destinations::find(state, tenant, text).map(|it| it.id));
        if self
            .rate_per_second
            .is_some_and(|rate| !(1..=RATE_MAX).contains(&rate))
        {
            return Err(bad("rate_per_second", format!("must be 1 to {RATE_MAX}")));
        }
        Ok(JobSpec {
            take,
            to: to.transpose()?,
            rate_per_second: self.rate_per_second,
        })
    }

    /// What is asked, in a few bytes.
    fn digest(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        hex::encode(Sha256::digest(text))
    }
}

fn items(ids: &[String]) -> Result<Vec<Item>, Problem> {
    if ids.len() > IDS_MAX {
        let why = format!("at most {IDS_MAX} at a time; use a filter for more");
        return Err(bad("ids", why));
    }
    let mut items: Vec<Item> = Vec::with_capacity(ids.len());
    for id in ids {
        let item = id.parse().map_err(|error| bad("ids", error))?;
        if !items.contains(&item) {
            items.push(item);
        }
    }
    Ok(items)
}

pub(super) async fn create(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    IdempotencyKey(key): IdempotencyKey,
    Body(asked): Body<NewReplay>,
) -> Result<OneOfTwo<CreatedView, 202, 200>, Problem> {
    let spec = asked.spec(&state, tenant)?;
    if asked.dry_run {
        let count = state
            .replays
            .dry_run(tenant, &spec)
            .await
            .map_err(unanswered)?;
        let view = CreatedView::DryRun(DryRunView {
            dry_run: true,
            total: count.total,
            complete: count.complete,
            excluded: excluded(count.excluded),
        });
        return Ok(OneOfTwo::Other(Answer::ok(view).unchanged(true)));
    }
    let new = NewJob {
        key,
        asked: asked.digest(),
        spec,
    };
    let created = state.replays.create(tenant, new).await;
    let (is_new, job) = match created.map_err(|error| refused(&error))? {
        Created::New(job) => (true, job),
        Created::Before(job) => (false, job),
    };
    let view = CreatedView::Job(Box::new(show_job(&state, job).await?));
    Ok(match is_new {
        true => OneOfTwo::One(Answer::accepted(view)),
        false => OneOfTwo::Other(Answer::ok(view).unchanged(true)),
    })
}

/// The caller's name for what is to be made. What every repeat gets is remembered for a while; a job
/// keeps its name as long as it is kept, restarts or not.
#[derive(Debug)]
pub(super) struct IdempotencyKey(Option<String>);

impl FromRequestParts<ApiState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        let key = value.to_str().ok().map(str::trim);
        match key {
            Some(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => {
                let why = format!("must be 1 to {KEY_BYTES_MAX} visible characters");
                Err(bad("Idempotency-Key", why))
            }
        }
    }
}

fn refused(error: &ReplayError) -> Problem {
    match error {
        ReplayError::Unknown => Problem::new(Code::NotFound),
        ReplayError::KeyReused => Problem::new(Code::Idempotency),
        ReplayError::TooMany | ReplayError::Stuck(_) => {
            Problem::new(Code::Conflict).detail(error.to_string())
        }
        ReplayError::Store(error) => unanswered(error.clone()),
    }
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    page: super::extract::Params<PageParams>,
) -> Result<Answer<List<JobView>>, Problem> {
    let jobs = state.replays.of_tenant(tenant).await;
    let (jobs, next) = page.0.cut(jobs, |job| job.id)?;
    let mut views = Vec::with_capacity(jobs.len());
    for job in jobs {
        views.push(show_job(&state, job).await?);
    }
    Ok(Answer::ok(List::part(views, next)))
}

fn parse_id(text: &str) -> Result<ReplayId, Problem> {
    text.parse().map_err(|_| Problem::new(Code::NotFound))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(replay): Path<String>,
) -> Result<Answer<JobView>, Problem> {
    let job = state.replays.get(tenant, parse_id(&replay)?).await;
    let job = job.map_err(|error| refused(&error))?;
    Ok(Answer::ok(show_job(&state, job).await?))
}

pub(super) async fn pause(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(replay): Path<String>,
) -> Result<Answer<JobView>, Problem> {
    let changed = state.replays.pause(tenant, parse_id(&replay)?).await;
    answer_change(&state, changed).await
}

pub(super) async fn resume(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(replay): Path<String>,
) -> Result<Answer<JobView>, Problem> {
    let changed = state.replays.resume(tenant, parse_id(&replay)?).await;
    answer_change(&state, changed).await
}

pub(super) async fn cancel(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(replay): Path<String>,
) -> Result<Answer<JobView>, Problem> {
    let changed = state.replays.cancel(tenant, parse_id(&replay)?).await;
    answer_change(&state, changed).await
}

async fn answer_change(
    state: &ApiState,
    changed: Result<Job, ReplayError>,
) -> Result<Answer<JobView>, Problem> {
    let job = changed.map_err(|error| refused(&error))?;
    Ok(Answer::ok(show_job(state, job).await?))
}
