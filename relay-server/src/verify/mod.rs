//! Verification: is this request from the provider, and what does the provider expect back?
//!
//! Pure: no I/O, no clock, total on any input. In the order of use:
//!
//! - [`rule`]: the declarative rule, as data; [`mod@preset`]: one for every provider;
//! - [`credentials`]: the secrets and public keys of a source;
//! - [`Verifier`]: both together, keys prepared; checks, signs and answers requests;
//! - [`handshake`]: challenges answered at the edge;
//! - [`refusal`]: why a request was refused, in words;
//! - [`vectors`], [`debugger`] and [`command`]: the same from the command line.

mod spec;

pub mod rule;

pub mod preset;

pub mod credentials;

mod public_key;

mod nfkd;

pub mod keys;

mod request;

mod template;

mod time;

mod signatures;

mod evaluate;

mod special;

mod sign;

mod refresh;

pub mod sample;

pub mod handshake;

pub mod refusal;

pub mod vectors;

pub mod http_file;

pub mod debugger;

pub mod command;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use credentials::{CredentialError, Credentials, Secret};
pub use handshake::Answer;
pub use keys::{KeySource, KeyUrl, PreloadedKeys};
pub use preset::{Preset, SyncDefaults, preset, presets};
pub use public_key::{InvalidKey, PublicKey};
pub use refusal::Refusal;
pub use request::Request;
pub use rule::{Rule, RuleError, RuleSpec};
pub use sign::{SignError, SignedRequest};

use credentials::{Key, SECRETS_MAX};
use rule::{Check, Kind};

/// What a source checks requests with: a preset or a rule of the user's own.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// A provider that ships with the relay.
    Preset(&'static Preset),
    /// A rule from the source's settings.
    Own(Arc<Rule>),
}

impl Scheme {
    fn rules(&self) -> &[Rule] {
        match self {
            Self::Preset(preset) => &preset.rules,
            Self::Own(rule) => std::slice::from_ref(rule),
        }
    }
}

/// Proof that a request came from the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Which secret or public key explained the signature, from 0. `None` when the scheme has none
    /// or the key came from the provider.
    pub credential: Option<usize>,
}

/// A scheme with the credentials of one source, ready for requests. Build it when the source is
/// loaded, again when its secrets change.
pub struct Verifier {
    scheme: Scheme,
    bound: Vec<Bound>,
    credentials: Credentials,
    keys: Arc<dyn KeySource>,
}

/// One rule with its keys.
struct Bound {
    rule: Rule,
    keys: Vec<Key>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Joins a scheme with credentials. Keys that live at the provider are not at hand.
    ///
    /// # Errors
    /// The credentials cannot work with the scheme; refuse to save the source.
    pub fn new(scheme: Scheme, credentials: Credentials) -> Result<Self, CredentialError> {
        Self::with_keys(scheme, credentials, Arc::new(PreloadedKeys::default()))
    }

    /// As [`Verifier::new`], with a source of the keys that live at the provider.
    ///
    /// # Errors
    /// The credentials cannot work with the scheme; refuse to save the source.
    pub fn with_keys(
        scheme: Scheme,
        credentials: Credentials,
        keys: Arc<dyn KeySource>,
    ) -> Result<Self, CredentialError> {
        if credentials.secrets.len() > SECRETS_MAX {
            return Err(CredentialError::TooManySecrets);
        }
        let mut bound = Vec::new();
        let mut unfit = None;
        for rule in scheme.rules() {
            match Bound::new(rule, &credentials) {
                Ok(rule) => bound.push(rule),
                Err(error) => unfit = unfit.or(Some(error)),
            }
        }
        match unfit {
            Some(error) if bound.is_empty() => return Err(error),
            Some(
                error @ (CredentialError::EmptySecret { .. }
                | CredentialError::MalformedSecret { .. }),
            ) => return Err(error),
            _ => {}
        }
        Ok(Self {
            scheme,
            bound,
            credentials,
            keys,
        })
    }

    /// Checks one request at a wall-clock time in milliseconds.
    ///
    /// # Errors
    /// Why the request is not accepted. [`Refusal::KeyUnavailable`] is the one a retry can change:
    /// fetch the key and verify again, else answer 503.
    pub fn verify(&self, request: &Request<'_>, now_unix_ms: u64) -> Result<Verified, Refusal> {
        self.verify_at(request, Some(now_unix_ms))
    }

    /// As [`Verifier::verify`]; without a time, ages are not checked. For recorded vectors only.
    pub(super) fn verify_at(
        &self,
        request: &Request<'_>,
        now_unix_ms: Option<u64>,
    ) -> Result<Verified, Refusal> {
        let mut refusal = Refusal::NoSecret;
        for bound in &self.bound {
            match evaluate::verify(self, bound, request, now_unix_ms) {
                Ok(verified) => return Ok(verified),
                // The most telling refusal is of the rule whose signature was there.
                Err(other) if matches!(refusal, Refusal::Missing { .. } | Refusal::NoSecret) => {
                    refusal = other;
                }
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Signs a request as the provider would, for tests and demos.
    ///
    /// # Errors
    /// The scheme cannot sign (the provider's private key is needed).
    pub fn sign(&self, request: &mut SignedRequest, now_unix_ms: u64) -> Result<(), SignError> {
        let mut outcome = Err(SignError::NeedsPrivateKey);
        for bound in &self.bound {
            outcome = sign::sign(bound, request, now_unix_ms);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The answer to a provider's challenge, or `None` when the request is an event.
    ///
    /// `awaiting` says that the source waits for a handshake that brings its secret; only then may
    /// an [`Answer`] name a secret to store.
    pub fn handshake(
        &self,
        request: &Request<'_>,
        awaiting: bool,
        now_unix_ms: u64,
    ) -> Option<Answer> {
        let Scheme::Preset(preset) = self.scheme else {
            return None;
        };
        handshake::answer(
            preset,
            Some(self),
            &self.credentials,
            request,
            awaiting,
            now_unix_ms,
        )
    }

    /// The preset, if the source uses one.
    pub fn preset(&self) -> Option<&'static Preset> {
        match self.scheme {
            Scheme::Preset(preset) => Some(preset),
            Scheme::Own(_) => None,
        }
    }
}

impl Bound {
    fn new(rule: &Rule, credentials: &Credentials) -> Result<Self, CredentialError> {
        if rule.is_symmetric() && credentials.secrets.is_empty() {
            return Err(CredentialError::NoSecret);
        }
        let asymmetric = matches!(
            rule.check,
            Check::Signed(_) | Check::HttpSignature | Check::Jwt { .. }
        ) && !rule.is_symmetric();
        let keys_elsewhere = rule.spec.key_url_header.is_some() || rule.spec.jwks.is_some();
        if asymmetric && credentials.public_keys.is_empty() && !keys_elsewhere {
            return Err(CredentialError::NoPublicKey);
        }
        let bound = rule
            .bind(&credentials.vars)
            .map_err(|name| CredentialError::MissingSetting { name })?;
        let keys = if rule.is_symmetric() || rule.spec.kind == Kind::None {
            let secrets = credentials.secrets.iter().enumerate();
            secrets
                .map(|(index, secret)| Key::new(secret, index + 1, &bound))
                .collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Self { rule: bound, keys })
    }
}
