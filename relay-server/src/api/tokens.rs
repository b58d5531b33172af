//! Tokens: of a tenant, or, for an operator who names none, the operators' own.

use std::{sync::Arc, time::Duration};

use axum::extract::{Path, State};
use http::StatusCode;
use protocol::id::{TenantId, TokenId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState,
    auth::OwnerOfTokens,
    complete,
    extract::{Body, Params, bad},
    pages::{List, PageParams},
    views::parse_time,
};
use crate::{
    problem::{Code, Problem},
    tenancy::{InvalidIpRange, NewToken, OVERLAP_DEFAULT, Scope, Token, TokenKind},
};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct TokenView {
    id: String,
    name: String,
    kind: &'static str,
    scopes: Vec<&'static str>,
    destinations: Option<Vec<String>>,
    expires_at: Option<String>,
    /// The addresses it may be used from; any if empty.
    ip_allow: Vec<String>,
    /// To the minute; null if never.
    last_used_at: Option<String>,
    /// Until when the text it had before its rotation is accepted, too.
    previous_until: Option<String>,
    created_at: String,
}

/// A token with its text, which is shown this once. Not `Debug`.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    view: TokenView,
    token: String,
}

fn view(state: &ApiState, token: &Token) -> TokenView {
    let names = token.destinations.as_ref();
    TokenView {
        id: token.id.to_string(),
        name: token.name.to_string(),
        kind: token.kind.as_str(),
        scopes: token.scopes.iter().map(|scope| scope.as_str()).collect(),
        destinations: names.map(|names| names.iter().map(ToString::to_string).collect()),
        expires_at: token.expires_at.map(|time| time.to_string()),
        ip_allow: token.ip_allow.iter().map(ToString::to_string).collect(),
        last_used_at: state.tenancy.last_used(token.id).map(|at| at.to_string()),
        previous_until: {
            let now = state.tenancy.now();
            let until = token.previous.map(|(_, until)| until);
            until
                .filter(|until| *until > now)
                .map(|until| until.to_string())
        },
        created_at: token.revision.created_at.to_string(),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTokenBody {
    name: String,
    kind: String,
    #[serde(default)]
    scopes: Vec<String>,
    destinations: Option<Vec<String>>,
    expires_at: Option<String>,
    /// The addresses it may be used from: `192.0.2.7`, `10.0.0.0/8`.
    #[serde(default)]
    ip_allow: Vec<String>,
}

impl NewTokenBody {
    fn read(self) -> Result<NewToken, Problem> {
        let kind: TokenKind = self
            .kind
            .parse()
            .map_err(|()| bad("kind", "must be agent, api or ingest"))?;
        let scopes = self.scopes.iter().map(|scope| scope.parse());
        let scopes: Vec<Scope> = scopes.collect::<Result<_, ()>>().map_err(|()| {
            let known: Vec<_> = kind.scopes().iter().map(|scope| scope.as_str()).collect();
            bad(
                "scopes",
                format!("tokens of kind {kind} can have: {}", known.join(", ")),
            )
        })?;
        let expires_at = match &self.expires_at {
            None => None,
            Some(text) => Some(parse_time("expires_at", text)?),
        };
        let ranges = self.ip_allow.iter().map(|range| range.parse());
        let ip_allow = ranges.collect::<Result<_, InvalidIpRange>>();
        let ip_allow = ip_allow.map_err(|error| bad("ip_allow", error))?;
        Ok(NewToken {
            name: self.name,
            kind,
            scopes,
            destinations: self.destinations,
            expires_at,
            ip_allow,
        })
    }
}

fn find(state: &ApiState, owner: Option<TenantId>, text: &str) -> Result<Arc<Token>, Problem> {
    let directory = state.tenancy.directory();
    let id = text.parse::<TokenId>().ok();
    let is_it = |token: &&Arc<Token>| Some(token.id) == id || token.name.as_str() == text;
    let found = directory.tokens(owner).find(is_it);
    found.cloned().ok_or(Problem::new(Code::NotFound))
}

pub(super) async fn list(
    OwnerOfTokens(owner): OwnerOfTokens,
    State(state): State<ApiState>,
    Params(page): Params<PageParams>,
) -> Result<Answer<List<TokenView>>, Problem> {
    let directory = state.tenancy.directory();
    page.page(
        directory.tokens(owner),
        |it| it.id,
        |token| view(&state, token),
    )
}

pub(super) async fn create(
    OwnerOfTokens(owner): OwnerOfTokens,
    State(state): State<ApiState>,
    Body(new): Body<NewTokenBody>,
) -> Result<Answer<CreatedToken, 201>, Problem> {
    let new = new.read()?;
    let tenancy = Arc::clone(&state.tenancy);
    let created = complete(async move { tenancy.create_token(owner, new).await }).await?;
    let (token, text) = created;
    Ok(Answer::created(CreatedToken {
        view: view(&state, &token),
        token: text.expose().to_owned(),
    }))
}

pub(super) async fn show(
    OwnerOfTokens(owner): OwnerOfTokens,
    State(state): State<ApiState>,
    Path(token): Path<String>,
) -> Result<Answer<TokenView>, Problem> {
    Ok(Answer::ok(view(&state, &*find(&state, owner, &token)?)))
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the text it has goes on being accepted; a day unless given.
    overlap_s: Option<u64>,
}

/// A new text for a token: what it is called, may do and belongs to stays.
pub(super) async fn rotate(
    OwnerOfTokens(owner): OwnerOfTokens,
    State(state): State<ApiState>,
    Path(token): Path<String>,
    Body(rotation): Body<Rotation>,
) -> Result<Answer<CreatedToken>, Problem> {
    let id = find(&state, owner, &token)?.id;
    let overlap = rotation
        .overlap_s
        .map_or(OVERLAP_DEFAULT, Duration::from_secs);
    let tenancy = Arc::clone(&state.tenancy);
    let rotate = async move { tenancy.rotate_token(owner, id, overlap).await };
    let (token, text) = complete(rotate).await?;
    Ok(Answer::ok(CreatedToken {
        view: view(&state, &token),
        token: text.expose().to_owned(),
    }))
}

pub(super) async fn delete(
    OwnerOfTokens(owner): OwnerOfTokens,
    State(state): State<ApiState>,
    Path(token): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = find(&state, owner, &token)?.id;
    let tenancy = state.tenancy;
    complete(async move { tenancy.delete_token(owner, id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
