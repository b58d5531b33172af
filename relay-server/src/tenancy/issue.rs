//! New tokens: which scopes go with which kind, and who may have them.

use protocol::id::{TenantId, TokenId};

use super::{
    Invalid, IpRange, Name, Revision, Scope, TenancyError, Token, TokenKind, TokenText, change,
    documents::Stored as _,
};
use crate::{
    clock::Timestamp,
    ids,
    store::{Put, Settings},
};

const TOKEN_DESTINATIONS_MAX: usize = 256;

const TOKEN_RANGES_MAX: usize = 64;

/// A token to create.
#[derive(Debug)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// Who it is for.
    pub kind: TokenKind,
    /// What it may do; the least that is useful for its kind if empty.
    pub scopes: Vec<Scope>,
    /// The only destinations it may serve, by name.
    pub destinations: Option<Vec<String>>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The addresses it may be used from; any if empty.
    pub ip_allow: Vec<IpRange>,
}

impl NewToken {
    /// Checks it and draws its secret.
    pub(super) fn issue(
        self,
        tenant: Option<TenantId>,
        id: u128,
        now: Timestamp,
    ) -> Result<(Token, TokenText), TenancyError> {
        let name = change::name(&self.name)?;
        let scopes = self.checked_scopes(tenant.is_none())?;
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(Invalid::new("expires_at", "lies in the past").into());
        }
        let destinations = match self.destinations {
            None => None,
            Some(_) if self.kind != TokenKind::Agent => {
                return Err(Invalid::new("destinations", "restrict agent tokens only").into());
            }
            Some(names) if names.is_empty() || names.len() > TOKEN_DESTINATIONS_MAX => {
                let why = format!("name 1 to {TOKEN_DESTINATIONS_MAX}, or leave it out for all");
                return Err(Invalid::new("destinations", why).into());
            }
            Some(names) => {
                let names = names.iter().map(|name| name.parse());
                let names: Result<Vec<Name>, _> = names.collect();
                Some(names.map_err(|error| Invalid::new("destinations", error))?)
            }
        };
        if self.ip_allow.len() > TOKEN_RANGES_MAX {
            let why = format!("at most {TOKEN_RANGES_MAX} ranges");
            return Err(Invalid::new("ip_allow", why).into());
        }
        let text = TokenText::generate(self.kind)?;
        let token = Token {
            id: TokenId::from_u128(id),
            tenant,
            name,
            revision: Revision::default(),
            kind: self.kind,
            scopes,
            destinations,
            expires_at: self.expires_at,
            revoked_at: None,
            ip_allow: self.ip_allow,
            hash: text.hash(),
            previous: None,
        };
        Ok((token, text))
    }

    fn checked_scopes(&self, for_operator: bool) -> Result<Vec<Scope>, Invalid> {
        let mut scopes = self.scopes.clone();
        if scopes.is_empty() {
            scopes.push(match self.kind {
                TokenKind::Agent => Scope::Connect,
                TokenKind::Api if for_operator => Scope::Operator,
                TokenKind::Api => Scope::Tenant,
                TokenKind::Ingest => Scope::Ingest,
            });
        }
        if let Some(odd) = scopes
            .iter()
            .find(|scope| !self.kind.scopes().contains(scope))
        {
            let why = format!(
                "tokens of kind {} cannot have the scope `{}`",
                self.kind,
                odd.as_str()
            );
            return Err(Invalid::new("scopes", why));
        }
        let is_operator = scopes.contains(&Scope::Operator);
        if is_operator != for_operator {
            let why = if for_operator {
                "a token without a tenant is an operator's: its kind is api and its scope operator"
            } else {
                "the scope `operator` belongs to tokens without a tenant"
            };
            return Err(Invalid::new("scopes", why));
        }
        Ok(scopes)
    }
}

/// Creates an operator's token in a store that nothing else has open, for `init`.
///
/// # Errors
///
/// `NameTaken` if there is one of this name; see [`TenancyError`].
pub async fn create_operator_token(
    settings: &dyn Settings,
    name: &str,
    now: Timestamp,
) -> Result<TokenText, TenancyError> {
    let new = NewToken {
        name: name.to_owned(),
        kind: TokenKind::Api,
        scopes: vec![Scope::Operator],
        destinations: None,
        expires_at: None,
        ip_allow: Vec::new(),
    };
    let (mut token, text) = new.issue(None, ids::fresh(now), now)?;
    token.revision.created_at = now;
    token.revision.updated_at = now;
    match settings.put(token.to_resource(), None).await? {
        Put::Stored(_) => Ok(text),
        Put::NameTaken | Put::Conflict { .. } => Err(TenancyError::NameTaken {
            kind: "token",
            name: name.to_owned(),
        }),
    }
}
