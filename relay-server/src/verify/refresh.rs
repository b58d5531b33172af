//! Signing an old request again, so that a service which checks the time itself accepts what has
//! waited for hours.
//!
//! Exactly the headers that carry the scheme's signature and time are replaced. Body and URL stay as
//! they were received, so a scheme that signs inside of them cannot be refreshed.

use protocol::frame::Headers;

use super::{
    Bound, Request, Rule, Scheme, SignError, SignedRequest, Verifier,
    rule::{BodyTransform, Check, Kind, Signed, TimestampFrom},
    sign::sign,
    special,
    template::Place,
};

impl Scheme {
    /// Whether requests can be signed again by any of its rules, whatever the credentials will be.
    ///
    /// # Errors
    /// Why not; refuse to save settings that ask for it.
    pub fn check_refresh(&self) -> Result<(), SignError> {
        let mut checked = self.rules().iter().map(check);
        let first = checked.next().unwrap_or(Err(SignError::Unsupported));
        checked.fold(first, Result::or)
    }
}

impl Verifier {
    /// Whether requests of this scheme can be signed again. What needs no signature, or carries a
    /// mere token, can: there is little or nothing to do.
    ///
    /// # Errors
    /// Why not; refuse to save settings that ask for it.
    pub fn check_refresh(&self) -> Result<(), SignError> {
        self.bound.iter().try_for_each(|bound| check(&bound.rule))
    }

    /// The header fields of an old request, signed again with the newest secret as if it was sent now.
    ///
    /// # Errors
    /// The scheme cannot be signed again, or this request does not carry its signature; deliver it as
    /// it was received.
    pub fn refresh(
        &self,
        request: &Request<'_>,
        received_at_ms: u64,
        now_ms: u64,
    ) -> Result<Headers, SignError> {
        self.check_refresh()?;
        let mut signed = SignedRequest {
            method: request.method.to_owned(),
            url: request.url.to_owned(),
            headers: request.headers.clone(),
            body: Vec::new(),
        };
        let carried: Vec<_> = self
            .bound
            .iter()
            .filter(|bound| carries(bound, request))
            .collect();
        if carried.is_empty() {
            return Err(SignError::NotSigned);
        }
        for bound in carried {
            signed.body = match bound.rule.spec.body_transform {
                Some(BodyTransform::Gunzip) => special::gunzip(request.body),
                None => None,
            }
            .unwrap_or_else(|| request.body.to_vec());
            match &bound.rule.check {
                Check::Jwt { from, .. } => {
                    let age_ms = now_ms.saturating_sub(received_at_ms);
                    special::refresh_jwt(bound, from, &mut signed, age_ms)?;
                }
                // What is no header stays as it came, and a token does not age.
                Check::Token { from, .. } if !in_header(from) => {}
                _ => sign(bound, &mut signed, now_ms)?,
            }
        }
        Ok(signed.headers)
    }
}

fn in_header(place: &Place) -> bool {
    matches!(place, Place::Header(_))
}

/// Whether one rule can sign an old request again.
fn check(rule: &Rule) -> Result<(), SignError> {
    let ensure = |fits: bool| fits.then_some(()).ok_or(SignError::NotInHeaders);
    match &rule.check {
        Check::Open | Check::Basic | Check::Token { .. } => Ok(()),
        Check::Signed(signed) => {
            if !matches!(rule.spec.kind, Kind::Hmac | Kind::Hash) {
                return Err(SignError::NeedsPrivateKey);
            }
            let time_in_header = signed.timestamp.as_ref().is_none_or(|it| match &it.from {
                TimestampFrom::Capture(_) => true,
                TimestampFrom::Place(place) => in_header(place),
            });
            ensure(signed.places.iter().all(in_header) && time_in_header)
        }
        Check::Jwt { from, .. } => {
            if !rule.is_symmetric() {
                return Err(SignError::NeedsPrivateKey);
            }
            ensure(in_header(from))
        }
        Check::Hook0 | Check::Contentful | Check::PlivoV3 | Check::Hygraph => Ok(()),
        Check::HttpSignature if rule.is_symmetric() => Err(SignError::Unsupported),
        Check::HttpSignature | Check::Sns => Err(SignError::NeedsPrivateKey),
    }
}

/// Whether a request carries what a rule would replace.
fn carries(bound: &Bound, request: &Request<'_>) -> bool {
    let has = |name: &str| request.headers.get(name).is_some();
    let has_place = |place: &Place| matches!(place, Place::Header(name) if has(name));
    match &bound.rule.check {
        Check::Open => true,
        Check::Basic => has("authorization"),
        Check::Token { from, .. } => has_place(from) || !in_header(from),
        Check::Jwt { from, .. } => has_place(from),
        Check::Signed(Signed { places, .. }) => places.iter().any(has_place),
        Check::Hook0 => has("x-hook0-signature"),
        Check::Contentful => has("x-contentful-signature"),
        Check::PlivoV3 => has("x-plivo-signature-v3"),
        Check::Hygraph => has("gcms-signature"),
        Check::HttpSignature | Check::Sns => false,
    }
}
