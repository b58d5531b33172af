//! Who calls, and for which tenant.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Query},
    http::{header, request::Parts},
};
use protocol::id::TenantId;
use serde::Deserialize;

use super::ApiState;
use crate::{
    listener::Remote,
    problem::{Code, Problem},
    tenancy::{Name, Scope, Tenant, Token, TokenKind},
};

/// A caller with a valid API token.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Token>);

/// A caller with a valid token of an agent.
#[derive(Debug)]
pub(super) struct AgentCaller {
    pub(super) tenant: TenantId,
    pub(super) token: Arc<Token>,
}

/// An operator: a caller who may manage tenants.
#[derive(Debug)]
pub(super) struct Operator;

/// A caller and the tenant that the request is about.
#[derive(Debug)]
pub(super) struct InTenant(pub(super) TenantId);

/// A caller and whose tokens the request is about: a tenant's, or the operators'.
#[derive(Debug)]
pub(super) struct OwnerOfTokens(pub(super) Option<TenantId>);

impl Caller {
    /// What records of a change call it.
    pub(super) fn name(&self) -> String {
        format!("{} ({})", self.0.name, self.0.id)
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = authenticate(parts, state)?;
        if token.kind != TokenKind::Api {
            let why = format!(
                "the API takes tokens of kind api; this one is of kind {}",
                token.kind
            );
            return Err(Problem::new(Code::Forbidden).detail(why));
        }
        Ok(Self(token))
    }
}

/// The valid token that a request carries, of any kind.
pub(super) fn authenticate(parts: &Parts, state: &ApiState) -> Result<Arc<Token>, Problem> {
    let unauthorised = || Problem::new(Code::Unauthorised);
    let header = parts
        .headers
        .get(header::AUTHORIZATION)
        .ok_or_else(unauthorised)?;
    let header = header.to_str().map_err(|_| unauthorised())?;
    let (scheme, text) = header.split_once(' ').ok_or_else(unauthorised)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorised());
    }
    let remote = parts.extensions.get::<Remote>().map(|remote| remote.0);
    let token = state.tenancy.authenticate(text.trim(), remote);
    token.map_err(Problem::from)
}

impl FromRequestParts<ApiState> for AgentCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = authenticate(parts, state)?;
        let is_agent = token.kind == TokenKind::Agent
            && (token.may(Scope::Connect) || token.may(Scope::Listen));
        match token.tenant {
            Some(tenant) if is_agent => Ok(Self { tenant, token }),
            _ => Err(Problem::new(Code::Forbidden).detail("The token is not an agent's.")),
        }
    }
}

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Caller(token) = Caller::from_request_parts(parts, state).await?;
        if token.may(Scope::Operator) {
            return Ok(Self);
        }
        Err(Problem::new(Code::Forbidden).detail("this needs a token with the scope `operator`"))
    }
}

impl FromRequestParts<ApiState> for InTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match OwnerOfTokens::from_request_parts(parts, state).await?.0 {
            Some(tenant) => Ok(Self(tenant)),
            None => Err(Problem::new(Code::TenantMissing)),
        }
    }
}

#[derive(Deserialize)]
struct TenantParameter {
    tenant: Option<String>,
}

impl FromRequestParts<ApiState> for OwnerOfTokens {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Caller(token) = Caller::from_request_parts(parts, state).await?;
        let named = match Query::<TenantParameter>::try_from_uri(&parts.uri) {
            Ok(Query(parameter)) => parameter.tenant,
            Err(_) => return Err(Problem::new(Code::Request).detail("the query cannot be read")),
        };
        let Some(named) = named else {
            return Ok(Self(token.tenant));
        };
        let tenant = find_tenant(state, &named)?;
        let is_its_own = token.tenant == Some(tenant.id);
        if is_its_own || token.may(Scope::Operator) {
            return Ok(Self(Some(tenant.id)));
        }
        Err(Problem::new(Code::NotFound))
    }
}

/// A tenant by id or name.
pub(super) fn find_tenant(state: &ApiState, text: &str) -> Result<Arc<Tenant>, Problem> {
    let directory = state.tenancy.directory();
    let found = match text.parse::<TenantId>() {
        Ok(id) => directory.tenant(id),
        Err(_) => {
            let name: Option<Name> = text.parse().ok();
            name.and_then(|name| directory.tenant_by_name(&name))
        }
    };
    found.cloned().ok_or(Problem::new(Code::NotFound))
}
