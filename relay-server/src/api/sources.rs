//! Sources. Secrets come in and never go out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::extract::{Path, State};
use http::StatusCode;
use protocol::id::{DestinationId, SourceId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::InTenant,
    complete,
    conditions::{Declared, IfMatch, PutParams, declared, name_of},
    destinations,
    extract::{Body, Params, nullable},
    pages::{List, PageParams},
};
use crate::{
    problem::{Code, Problem},
    tenancy::{
        Dedupe, Invalid, IpRange, LiveSource, Name, NewSource, NotReady, OnTimeout, SchemeChoice,
        Source, SourceSettings, SyncAnswer, SyncSettings, TenancyError,
    },
    verify::{Preset, RuleSpec, Secret},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct SourceView {
    id: String,
    name: String,
    /// Where the provider posts.
    url: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleSpec>,
    vars: BTreeMap<String, String>,
    public_keys: Vec<String>,
    /// `ready`, `awaiting_handshake` until the provider has brought the secret, or `unusable` if its
    /// settings or secrets no longer work.
    state: &'static str,
    /// When each secret was added; the secrets themselves are never shown.
    secrets: Vec<SecretView>,
    methods: Vec<String>,
    body_bytes_max: u64,
    dedupe: DedupeView,
    ip_allow: Vec<String>,
    rate_per_second: Option<u32>,
    sync: Option<SyncView>,
    version: u64,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct SecretView {
    added_at: String,
    /// Whether the provider brought it in a handshake.
    by_handshake: bool,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct SyncView {
    /// The name of the destination whose service answers; none while there is none.
    destination: Option<String>,
    timeout_ms: u64,
    on_timeout: OnTimeout,
    answer: Option<SyncAnswer>,
    /// How many requests are held now.
    held: usize,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct DedupeView {
    window_s: u64,
    body_hash: bool,
    header: Option<String>,
}

fn view(state: &ApiState, source: &Source) -> SourceView {
    let settings = &source.settings;
    let (preset, rule) = match &settings.scheme {
        SchemeChoice::Preset(name) => (Some(name.clone()), None),
        SchemeChoice::Own(rule) => (None, Some((**rule).clone())),
    };
    let secrets = source.secrets.iter().map(|secret| SecretView {
        added_at: secret.added_at.to_string(),
        by_handshake: secret.by_handshake,
    });
    SourceView {
        id: source.id.to_string(),
        name: source.name.to_string(),
        url: format!("{}/in/{}", state.public_url, source.key),
        enabled: settings.enabled,
        preset,
        rule,
        vars: settings.vars.clone(),
        public_keys: settings.public_keys.clone(),
        state: readiness(state, source),
        secrets: secrets.collect(),
        methods: settings.methods(),
        body_bytes_max: settings.body_bytes_max,
        dedupe: DedupeView {
            window_s: settings.dedupe.window.as_secs(),
            body_hash: settings.dedupe.body_hash,
            header: settings.dedupe.header.clone(),
        },
        ip_allow: settings.ip_allow.iter().map(ToString::to_string).collect(),
        rate_per_second: settings.rate_per_second,
        sync: settings
            .sync
            .as_ref()
            .map(|sync| sync_view(state, source, sync)),
        version: source.revision.version,
        created_at: source.revision.created_at.to_string(),
        updated_at: source.revision.updated_at.to_string(),
    }
}

fn sync_view(state: &ApiState, source: &Source, sync: &SyncSettings) -> SyncView {
    let directory = state.tenancy.directory();
    let live = directory.source(source.tenant, source.id);
    let answering = live.and_then(|live| live.answering).or(sync.destination);
    let answering = answering.and_then(|id| directory.destination(source.tenant, id));
    SyncView {
        destination: answering.map(|it| it.name.to_string()),
        timeout_ms: u64::try_from(sync.timeout.as_millis()).unwrap_or(u64::MAX),
        on_timeout: sync.on_timeout,
        answer: sync.answer.clone(),
        held: state.ingress.held_of(source.id),
    }
}

fn readiness(state: &ApiState, source: &Source) -> &'static str {
    if source.awaits_handshake() {
        return "awaiting_handshake";
    }
    let directory = state.tenancy.directory();
    let live = directory.source(source.tenant, source.id);
    match live.map(|live| &live.verifier) {
        Some(Err(NotReady::Unusable(_))) => "unusable",
        _ => "ready",
    }
}

/// A source to create. Not `Debug`: it holds secrets.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSourceBody {
    /// Needed to create one; in a declaration the path has it.
    name: Option<String>,
    preset: Option<String>,
    rule: Option<Box<RuleSpec>>,
    secret: Option<String>,
    secrets: Option<Vec<String>>,
    enabled: Option<bool>,
    vars: Option<BTreeMap<String, String>>,
    public_keys: Option<Vec<String>>,
    methods: Option<Vec<String>>,
    body_bytes_max: Option<u64>,
    dedupe: Option<DedupeChange>,
    ip_allow: Option<Vec<String>>,
    rate_per_second: Option<u32>,
    sync: Option<SyncBody>,
}

/// How providers wait; what is absent is what suits the provider. Replaced as a whole.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct SyncBody {
    /// By id or name.
    destination: Option<String>,
    timeout_ms: Option<u64>,
    on_timeout: Option<OnTimeout>,
    answer: Option<SyncAnswer>,
}

impl SyncBody {
    /// The settings, with what suits the source's provider filled in.
    fn read(self, preset: Option<&Preset>, destination: Option<DestinationId>) -> SyncSettings {
        let mut sync = SyncSettings::new(preset);
        sync.destination = destination;
        set(
            &mut sync.timeout,
            self.timeout_ms.map(Duration::from_millis),
        );
        set(&mut sync.on_timeout, self.on_timeout);
        set(&mut sync.answer, self.answer.map(Some));
        sync
    }
}

/// What changes; what is absent stays as it is, and `null` takes a limit away.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
pub(super) struct SourceChange {
    preset: Option<String>,
    rule: Option<Box<RuleSpec>>,
    enabled: Option<bool>,
    vars: Option<BTreeMap<String, String>>,
    public_keys: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    methods: Option<Option<Vec<String>>>,
    body_bytes_max: Option<u64>,
    dedupe: Option<DedupeChange>,
    ip_allow: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    rate_per_second: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    sync: Option<Option<SyncBody>>,
    /// The version the change is based on.
    version: Option<u64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things"
)]
struct DedupeChange {
    window_s: Option<u64>,
    body_hash: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    header: Option<Option<String>>,
}

impl DedupeChange {
    fn apply(self, dedupe: &mut Dedupe) {
        set(&mut dedupe.window, self.window_s.map(Duration::from_secs));
        set(&mut dedupe.body_hash, self.body_hash);
        set(&mut dedupe.header, self.header);
    }
}

fn set<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

/// The settings that a change asks for, with texts read.
struct Changes {
    scheme: Option<SchemeChoice>,
    ip_allow: Option<Vec<IpRange>>,
    answering: Option<DestinationId>,
    rest: SourceChange,
}

impl SourceChange {
    fn read(mut self, state: &ApiState, tenant: TenantId) -> Result<Changes, Problem> {
        let named = self
            .sync
            .iter()
            .flatten()
            .find_map(|sync| sync.destination.as_deref());
        let answering = match named {
            None => None,
            Some(named) => match destinations::find(state, tenant, named) {
                Ok(destination) => Some(destination.id),
                Err(_) => return Err(invalid("sync.destination", "there is no such destination")),
            },
        };
        let scheme = match (self.preset.take(), self.rule.take()) {
            (None, None) => None,
            (Some(name), None) => Some(SchemeChoice::Preset(name)),
            (None, Some(rule)) => Some(SchemeChoice::Own(rule)),
            (Some(_), Some(_)) => {
                return Err(invalid("preset", "give a preset or a rule, not both"));
            }
        };
        let ip_allow = match self.ip_allow.take() {
            None => None,
            Some(ranges) => {
                let ranges: Result<_, _> = ranges.iter().map(|range| range.parse()).collect();
                Some(ranges.map_err(|error| invalid("ip_allow", error))?)
            }
        };
        Ok(Changes {
            scheme,
            ip_allow,
            answering,
            rest: self,
        })
    }
}

impl Changes {
    fn apply(self, settings: &mut SourceSettings) {
        let change = self.rest;
        set(&mut settings.scheme, self.scheme);
        set(&mut settings.ip_allow, self.ip_allow);
        set(&mut settings.enabled, change.enabled);
        set(&mut settings.vars, change.vars);
        set(&mut settings.public_keys, change.public_keys);
        set(&mut settings.methods, change.methods);
        set(&mut settings.body_bytes_max, change.body_bytes_max);
        set(&mut settings.rate_per_second, change.rate_per_second);
        if let Some(dedupe) = change.dedupe {
            dedupe.apply(&mut settings.dedupe);
        }
        if let Some(sync) = change.sync {
            let answering = self.answering;
            settings.sync = sync.map(|sync| sync.read(settings.preset(), answering));
        }
    }
}

impl NewSourceBody {
    /// The settings, and the secrets if any are named.
    fn read(
        self,
        state: &ApiState,
        tenant: TenantId,
    ) -> Result<(SourceSettings, Option<Vec<Secret>>), Problem> {
        let change = SourceChange {
            preset: self.preset,
            rule: self.rule,
            enabled: self.enabled,
            vars: self.vars,
            public_keys: self.public_keys,
            methods: self.methods.map(Some),
            body_bytes_max: self.body_bytes_max,
            dedupe: self.dedupe,
            ip_allow: self.ip_allow,
            rate_per_second: self.rate_per_second.map(Some),
            sync: self.sync.map(Some),
            version: None,
        };
        let is_given = self.secret.is_some() || self.secrets.is_some();
        let mut changes = change.read(state, tenant)?;
        let Some(scheme) = changes.scheme.take() else {
            let why = "say how requests are verified: a provider's preset, a rule, or the preset `none` to check nothing";
            return Err(invalid("preset", why));
        };
        let mut settings = SourceSettings::new(scheme);
        changes.apply(&mut settings);
        let secrets = self.secrets.into_iter().flatten().chain(self.secret);
        let secrets: Vec<_> = secrets.map(Secret::from_text).collect();
        Ok((settings, is_given.then_some(secrets)))
    }
}

fn invalid(field: &'static str, why: impl ToString) -> Problem {
    let (field, why) = (field.into(), why.to_string());
    Problem::from(&TenancyError::Invalid(Invalid { field, why }))
}

/// A source of a tenant by id or name.
pub(super) fn find(
    state: &ApiState,
    tenant: TenantId,
    text: &str,
) -> Result<Arc<LiveSource>, Problem> {
    let directory = state.tenancy.directory();
    let found = match text.parse() {
        Ok(id) => directory.source(tenant, id),
        Err(_) => {
            let name: Option<Name> = text.parse().ok();
            name.and_then(|name| directory.source_by_name(tenant, &name))
        }
    };
    found.cloned().ok_or(Problem::new(Code::NotFound))
}

/// The id of a source for a filter. A deleted one is still known to its events, so any id will do.
pub(super) fn find_id(state: &ApiState, tenant: TenantId, text: &str) -> Result<SourceId, Problem> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    find(state, tenant, text).map(|live| live.source.id)
}

pub(super) async fn list(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Params(page): Params<PageParams>,
) -> Result<Answer<List<SourceView>>, Problem> {
    let directory = state.tenancy.directory();
    page.page(
        directory.sources(tenant),
        |it| it.id,
        |source| view(&state, source),
    )
}

pub(super) async fn create(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Body(mut new): Body<NewSourceBody>,
) -> Result<Answer<SourceView, 201>, Problem> {
    let missing = || Problem::new(Code::Request).detail("missing field `name`");
    let name = new.name.take().ok_or_else(missing)?;
    let (settings, secrets) = new.read(&state, tenant)?;
    let new = NewSource {
        name,
        settings,
        secrets: secrets.unwrap_or_default(),
    };
    let tenancy = Arc::clone(&state.tenancy);
    let source = complete(async move { tenancy.create_source(tenant, new).await }).await?;
    Ok(Answer::created(view(&state, &source)).version(source.revision.version))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
) -> Result<Answer<SourceView>, Problem> {
    let live = find(&state, tenant, &source)?;
    let version = live.source.revision.version;
    Ok(Answer::ok(view(&state, &live.source)).version(version))
}

/// Declares a source: what is absent has its default, but for the secrets, which stay.
pub(super) async fn put(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
    if_match: IfMatch,
    Params(params): Params<PutParams>,
    Body(new): Body<NewSourceBody>,
) -> Result<Declared<SourceView>, Problem> {
    let name = match source.parse::<SourceId>() {
        Ok(_) => find(&state, tenant, &source)?.source.name.to_string(),
        Err(_) => name_of(source, new.name.as_deref())?,
    };
    let (settings, secrets) = new.read(&state, tenant)?;
    let options = params.options(if_match);
    let tenancy = Arc::clone(&state.tenancy);
    let put = async move {
        tenancy
            .put_source(tenant, &name, settings, secrets, options)
            .await
    };
    let written = complete(put)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(declared(
        &written,
        options,
        |it| it.revision.version,
        |it| view(&state, it),
    ))
}

pub(super) async fn update(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
    if_match: IfMatch,
    Body(change): Body<SourceChange>,
) -> Result<Answer<SourceView>, Problem> {
    let id = find(&state, tenant, &source)?.source.id;
    let version = if_match.or(change.version);
    let changes = change.read(&state, tenant)?;
    let tenancy = Arc::clone(&state.tenancy);
    let update = async move {
        let apply = |settings: &mut SourceSettings| changes.apply(settings);
        tenancy.update_source(tenant, id, version, apply).await
    };
    let source = complete(update)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(Answer::ok(view(&state, &source)).version(source.revision.version))
}

/// A secret to add. Not `Debug`.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSecret {
    secret: String,
    /// Whether the secrets it has stop being valid at once.
    #[serde(default)]
    drop_old: bool,
}

pub(super) async fn rotate_secret(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
    Body(new): Body<NewSecret>,
) -> Result<Answer<SourceView>, Problem> {
    let id = find(&state, tenant, &source)?.source.id;
    let secret = Secret::from_text(new.secret);
    let tenancy = Arc::clone(&state.tenancy);
    let rotate = async move {
        tenancy
            .rotate_secret(tenant, id, secret, new.drop_old)
            .await
    };
    Ok(Answer::ok(view(&state, &*complete(rotate).await?)))
}

/// A secret that goes out: the only kind that does. Not `Debug`.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct HandshakeSecret {
    secret: String,
}

/// The secret that the provider brought in a handshake, and that its owner must show to it.
pub(super) async fn handshake_secret(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
) -> Result<Answer<HandshakeSecret>, Problem> {
    let live = find(&state, tenant, &source)?;
    let secret = state.tenancy.handshake_secret(&live.source);
    let secret = secret.map_err(|error| Problem::from(&error))?;
    Ok(Answer::ok(HandshakeSecret {
        secret: String::from_utf8_lossy(secret.expose()).into_owned(),
    }))
}

pub(super) async fn delete(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let id = find(&state, tenant, &source)?.source.id;
    let tenancy = state.tenancy;
    let expected = if_match.or(None);
    let delete = async move { tenancy.delete_source(tenant, id, expected).await };
    complete(delete)
        .await
        .map_err(|problem| if_match.refused(problem))?;
    Ok(StatusCode::NO_CONTENT)
}
