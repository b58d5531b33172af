//! Which requests of agents are let in: those with an agent's token.

use std::sync::Arc;

use http::{Request, header};
use protocol::id::TenantId;
use tracing::info;

use super::driver::SessionContext;
use crate::{
    listener::Remote,
    problem::{Code, Problem},
    tenancy::{Scope, Token, TokenKind},
};

/// A token that may open a session.
#[derive(Debug, Clone)]
pub struct Authorised {
    /// Whose agents it is for.
    pub tenant: TenantId,
    /// The token.
    pub token: Arc<Token>,
}

pub(super) fn authorise<B>(
    context: &SessionContext,
    request: &Request<B>,
) -> Result<Authorised, Problem> {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let text = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, text)) = text else {
        return Err(Problem::new(Code::Unauthorised));
    };
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0);
    let token = context
        .tenancy
        .authenticate(text.trim(), remote)
        .map_err(|refusal| {
            info!(reason = %refusal, "refused a token of an agent");
            Problem::from(refusal)
        })?;
    let connects =
        token.kind == TokenKind::Agent && (token.may(Scope::Connect) || token.may(Scope::Listen));
    let tenant = token.tenant.filter(|_| connects);
    let tenant = tenant
        .ok_or_else(|| Problem::new(Code::Forbidden).detail("The token is not an agent's."))?;
    Ok(Authorised { tenant, token })
}
