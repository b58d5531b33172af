//! Why a request was not accepted as the provider's: a closed list, with words for people.

/// Why verification refused a request. Holds names and numbers only, never a secret, a signature or
/// a part of the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The rule needs this part of the request, and it is not there.
    #[error("the request has no {what}")]
    Missing {
        /// The part, as the rule names it: `header:Stripe-Signature`.
        what: String,
    },
    /// A header came twice with different values, so it is open which one the service would read.
    #[error("the request carries {what} more than once, with different values")]
    Duplicate {
        /// The part, as the rule names it.
        what: String,
    },
    /// A part of the request is not written the way the rule says.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The part, as the rule names it.
        what: String,
        /// What was expected.
        why: &'static str,
    },
    /// A header that the rule pins has another value.
    #[error("{what} does not have the value the rule requires")]
    Unexpected {
        /// The part, as the rule names it.
        what: String,
    },
    /// The signed time is too old.
    #[error("the signed timestamp is {age_s} s old; at most {tolerance_s} s are accepted")]
    Stale {
        /// Age in seconds at the time of the check.
        age_s: u64,
        /// What the rule accepts, in seconds.
        tolerance_s: u64,
    },
    /// The signed time lies too far ahead.
    #[error(
        "the signed timestamp is {ahead_s} s in the future; at most {tolerance_s} s are accepted"
    )]
    Future {
        /// Distance in seconds at the time of the check.
        ahead_s: u64,
        /// What the rule accepts, in seconds.
        tolerance_s: u64,
    },
    /// The body is not the one that a signed digest names.
    #[error("the body does not have the digest that {what} names")]
    BodyDigest {
        /// Where the digest was.
        what: String,
    },
    /// No secret of the source explains the signature.
    #[error("the signature does not match: made with another secret, or over other bytes")]
    Mismatch,
    /// The source has no secret or key that fits the rule.
    #[error("the source has no secret or public key for this rule")]
    NoSecret,
    /// More signatures than anyone sends during a rotation.
    #[error("the request carries more than {max} signatures")]
    TooManySignatures {
        /// The limit.
        max: usize,
    },
    /// The key lives at a pinned address and is not at hand; fetch it, then verify again.
    #[error("the provider's public key is not at hand")]
    KeyUnavailable {
        /// Where the key is published; already checked against the rule's pin.
        url: super::keys::KeyUrl,
    },
    /// The request names a key at an address that the provider does not publish keys at.
    #[error("the request names a signing key at an address that is not the provider's")]
    UntrustedKeyUrl,
}

impl Refusal {
    /// A stable word for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Duplicate { .. } => "duplicate",
            Self::Malformed { .. } => "malformed",
            Self::Unexpected { .. } => "unexpected",
            Self::Stale { .. } => "stale",
            Self::Future { .. } => "future",
            Self::BodyDigest { .. } => "body-digest",
            Self::Mismatch => "mismatch",
            Self::NoSecret => "no-secret",
            Self::TooManySignatures { .. } => "too-many-signatures",
            Self::KeyUnavailable { .. } => "key-unavailable",
            Self::UntrustedKeyUrl => "untrusted-key-url",
        }
    }

    /// What to do next, for the owner of the source.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "check that signing is turned on at the provider and that no proxy drops the header"
            }
            Self::Duplicate { .. } => "find the proxy that adds the second header and stop it",
            Self::Malformed { .. } => "check that the source uses the right provider preset",
            Self::Unexpected { .. } => {
                "check that the source uses the right provider preset and settings"
            }
            Self::Stale { .. } => {
                "an old request was replayed, or a clock is wrong: compare `date -u` on the relay"
            }
            Self::Future { .. } => "a clock is wrong: compare `date -u` on the relay",
            Self::BodyDigest { .. } => "something between provider and relay changed the body",
            Self::Mismatch => {
                "copy the secret again from the provider; then look for a proxy that changes the body"
            }
            Self::NoSecret => "add the provider's signing secret to the source",
            Self::TooManySignatures { .. } => "remove retired secrets at the provider",
            Self::KeyUnavailable { .. } => {
                "let the relay reach the address, or preload the key for networks without egress"
            }
            Self::UntrustedKeyUrl => "treat the request as forged",
        }
    }

    /// The named part of the request is absent.
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }

    /// The named part of the request is not written as expected.
    pub(super) fn malformed(what: impl Into<String>, why: &'static str) -> Self {
        Self::Malformed {
            what: what.into(),
            why,
        }
    }
}
