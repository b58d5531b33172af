//! Sync mode: sources whose providers wait for the service's own answer.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use protocol::id::DestinationId;
use serde::{Deserialize, Serialize};

use super::{Destination, Invalid, Source, TenancyError, change::Change};
use crate::{
    lifecycle::Order,
    verify::{Preset, SyncDefaults},
};

/// How long a provider waits unless the source says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// What is left to the relay of the time that a provider gives.
const RESERVE: Duration = Duration::from_millis(500);

const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_HEADERS_MAX: usize = 32;

/// How a source has its providers wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSettings {
    /// Whose service answers, if the source has more than one route.
    pub destination: Option<DestinationId>,
    /// How long a provider waits.
    pub timeout: Duration,
    /// What becomes of an event that was not answered in time.
    pub on_timeout: OnTimeout,
    /// What the provider is answered then; absent for the usual answer.
    pub answer: Option<SyncAnswer>,
}

/// What becomes of an event whose provider did not get the service's answer.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It stays owed, and is delivered later.
    #[default]
    Keep,
    /// It ends as expired, and is never delivered later.
    Expire,
}

/// An answer instead of the service's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncAnswer {
    /// Its status.
    pub status: u16,
    /// Its header fields.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(default)]
    pub body: String,
}

impl SyncSettings {
    /// What suits a provider, if one is known.
    pub fn new(preset: Option<&Preset>) -> Self {
        let own = preset.and_then(|preset| preset.sync.as_ref());
        let usual = || longest(preset).map_or(TIMEOUT_DEFAULT, |max| max.min(TIMEOUT_DEFAULT));
        Self {
            destination: None,
            timeout: own.map_or_else(usual, |own| Duration::from_millis(own.timeout_ms)),
            on_timeout: OnTimeout::default(),
            answer: own.map(SyncAnswer::from),
        }
    }

    /// Checks what can be checked without the routes.
    pub(super) fn check(&self, preset: Option<&Preset>) -> Result<(), Invalid> {
        let most = preset.and_then(|preset| preset.timeout_s);
        let most = most.map_or(TIMEOUT_MAX, |limit| {
            TIMEOUT_MAX.min(Duration::from_secs(limit))
        });
        if !(TIMEOUT_MIN..=most).contains(&self.timeout) {
            let why = format!(
                "must be 100 to {} ms, which is all that the provider or the relay waits",
                most.as_millis()
            );
            return Err(Invalid::new("sync.timeout_ms", why));
        }
        self.answer.as_ref().map_or(Ok(()), SyncAnswer::check)
    }
}

/// The longest that leaves a provider's limit something in reserve.
fn longest(preset: Option<&Preset>) -> Option<Duration> {
    let limit = Duration::from_secs(preset?.timeout_s?);
    Some(limit.saturating_sub(RESERVE).max(limit / 2))
}

impl From<&SyncDefaults> for SyncAnswer {
    fn from(defaults: &SyncDefaults) -> Self {
        Self {
            status: defaults.status,
            headers: defaults.headers.clone(),
            body: defaults.body.clone(),
        }
    }
}

impl SyncAnswer {
    fn check(&self) -> Result<(), Invalid> {
        if !(200..600).contains(&self.status) {
            return Err(Invalid::new("sync.answer.status", "must be 200 to 599"));
        }
        if self.headers.len() > ANSWER_HEADERS_MAX || self.body.len() > ANSWER_BYTES_MAX {
            let why =
                format!("at most {ANSWER_HEADERS_MAX} header fields and {ANSWER_BYTES_MAX} bytes");
            return Err(Invalid::new("sync.answer", why));
        }
        if matches!(self.status, 204 | 304) && !self.body.is_empty() {
            return Err(Invalid::new("sync.answer.body", "204 and 304 have none"));
        }
        for (name, value) in &self.headers {
            let known = HeaderName::from_bytes(name.as_bytes());
            let is_ours = |name: &HeaderName| {
                let name = name.as_str();
                let of_connection = [
                    "connection",
                    "content-length",
                    "transfer-encoding",
                    "upgrade",
                ];
                of_connection.contains(&name) || name.starts_with("hookferry-")
            };
            if known.as_ref().map_or(true, is_ours) || HeaderValue::from_str(value).is_err() {
                let why = format!("`{name}` cannot be set, or its value is none of HTTP");
                return Err(Invalid::new("sync.answer.headers", why));
            }
        }
        Ok(())
    }
}

/// The destination whose service answers: the one that is named, else the only one. What listeners made
/// for themselves counts if there is nothing else.
pub(super) fn answering<'a>(
    sync: &SyncSettings,
    targets: impl Iterator<Item = &'a Destination> + Clone,
) -> Result<Option<DestinationId>, Invalid> {
    if let Some(named) = sync.destination {
        return Ok(targets.map(|it| it.id).find(|id| *id == named));
    }
    let lasting = targets.clone().filter(|it| it.expiring.is_none());
    let mut distinct: Vec<_> = lasting.map(|it| it.id).collect();
    if distinct.is_empty() {
        distinct = targets.map(|it| it.id).take(1).collect();
    }
    distinct.sort_unstable();
    distinct.dedup();
    match distinct[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => {
            let why =
                "the source has routes to several destinations: name the one whose service answers";
            Err(Invalid::new("sync.destination", why))
        }
    }
}

/// Checks a source together with its routes, and one that is about to be made.
pub(super) fn check_routes(
    change: &Change<'_>,
    source: &Source,
    also: Option<&Destination>,
) -> Result<(), TenancyError> {
    let Some(sync) = &source.settings.sync else {
        return Ok(());
    };
    let records = change.records();
    let routed = records
        .routes
        .values()
        .filter(|route| route.source == source.id)
        .filter_map(|route| records.destinations.get(&route.destination))
        .map(AsRef::as_ref)
        // The changed one counts, not what it was.
        .filter(|it| also.is_none_or(|also| also.id != it.id))
        .chain(also);
    let answering = answering(sync, routed.clone())?;
    if let (Some(named), None) = (sync.destination, answering) {
        let known = records.destinations.get(&named);
        let is_own = known.is_some_and(|it| it.tenant == source.tenant);
        // A source is made before its first route.
        if !is_own || routed.clone().next().is_some() {
            let why = "is no destination that the source has a route to";
            return Err(Invalid::new("sync.destination", why).into());
        }
    }
    let ordered = routed
        .clone()
        .find(|it| Some(it.id) == answering && it.policy.order != Order::None);
    if let Some(ordered) = ordered {
        let why = format!(
            "`{}` delivers in order, so nobody can be answered out of turn: let an unordered destination answer",
            ordered.name
        );
        return Err(Invalid::new("sync.destination", why).into());
    }
    Ok(())
}
