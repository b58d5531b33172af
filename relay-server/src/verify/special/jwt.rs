//! JSON web tokens whose claims carry digests of the request.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::{digest, hmac, signature};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::super::{
    Bound, Refusal, Request, SignError, SignedRequest, Verified, Verifier,
    keys::KeyUrl,
    public_key::{PublicKey, PublicKeyKind},
    rule::{ClaimHash, Encoding, RuleSpec},
    template::{Place, Scope, Template},
    time::fresh,
};

/// Longest token read, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

pub(in super::super) fn jwt(
    verifier: &Verifier,
    bound: &Bound,
    from: &Place,
    aud: Option<&Template>,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let spec = &bound.rule.spec;
    let malformed = |why| Refusal::malformed(from.to_string(), why);
    let value = from
        .value(request, None)?
        .ok_or_else(|| Refusal::missing(from.to_string()))?;
    let text = std::str::from_utf8(&value).map_err(|_| malformed("it is not UTF-8"))?;
    let prefix = spec.prefix.as_deref().unwrap_or_default();
    let text = match text.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => rest,
        _ => text,
    };
    let token = Token::parse(text).ok_or_else(|| malformed("expected a compact JWS"))?;
    if !spec.algs.contains(&token.alg) {
        return Err(malformed("its algorithm is not one the rule takes"));
    }
    let verified = token.check_signature(verifier, bound)?;
    check_claims(spec, &token.claims, now)?;
    if let Some(aud) = aud {
        let scope = Scope {
            request,
            url: request.url,
            timestamp: None,
            secret: None,
            json_field: None,
            missing_as_empty: false,
        };
        let wanted = aud.render(&scope)?;
        let is_wanted =
            |value: &Value| value.as_str().is_some_and(|text| text.as_bytes() == wanted);
        let named = match token.claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(is_wanted),
            Some(one) => is_wanted(one),
            None => false,
        };
        if !named {
            return Err(claim("aud"));
        }
    }
    if let Some(hash) = &spec.url_hash {
        check_hash(&token.claims, hash, request.url.as_bytes())?;
    }
    if let Some(hash) = &spec.body_hash {
        check_hash(&token.claims, hash, request.body)?;
    }
    Ok(verified)
}

fn claim(name: &str) -> Refusal {
    let what = format!("claim {name}");
    Refusal::Unexpected { what }
}

/// A token taken apart; nothing in it is trusted yet.
struct Token<'t> {
    signed: &'t str,
    alg: String,
    kid: Option<String>,
    claims: Map<String, Value>,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let object = |part| serde_json::from_slice::<Map<String, Value>>(&decode(part)?).ok();
        let head = object(head)?;
        let field = |name: &str| Some(head.get(name)?.as_str()?.to_owned());
        Some(Self {
            signed,
            alg: field("alg")?,
            kid: field("kid"),
            claims: object(claims)?,
            signature: decode(signature)?,
        })
    }

    /// The algorithm was compared with the rule's list; a shared secret never checks a public-key
    /// algorithm, nor the other way round.
    fn check_signature(&self, verifier: &Verifier, bound: &Bound) -> Result<Verified, Refusal> {
        let message = self.signed.as_bytes();
        let credential = if let Some(algorithm) = mac_algorithm(&self.alg) {
            bound.keys.iter().position(|key| {
                let tag = hmac::sign(&hmac::Key::new(algorithm, &key.bytes), message);
                tag.as_ref().ct_eq(&self.signature).into()
            })
        } else {
            let published;
            let keys = match &bound.rule.spec.jwks {
                Some(url) if verifier.credentials.public_keys.is_empty() => {
                    published = published_keys(verifier, url)?;
                    &published
                }
                _ => &verifier.credentials.public_keys,
            };
            keys.iter().position(|key| self.signed_by(key))
        };
        match credential {
            Some(_) => Ok(Verified { credential }),
            None => Err(Refusal::Mismatch),
        }
    }

    fn signed_by(&self, key: &PublicKey) -> bool {
        let message = self.signed.as_bytes();
        let named = key.id.is_none() || self.kid.is_none() || key.id == self.kid;
        named
            && match self.alg.as_str() {
                "ES256" => key.verifies(
                    &signature::ECDSA_P256_SHA256_FIXED,
                    PublicKeyKind::P256,
                    message,
                    &self.signature,
                ),
                "RS256" => key.verifies_rsa(false, message, &self.signature),
                "EdDSA" => key.verifies_ed25519(message, &self.signature),
                _ => false,
            }
    }
}

fn published_keys(verifier: &Verifier, url: &str) -> Result<Vec<PublicKey>, Refusal> {
    // The address comes from the rule, not from the request.
    let url = KeyUrl::pinned(url, |_, _| true).ok_or(Refusal::UntrustedKeyUrl)?;
    let keys = verifier.keys.keys(&url);
    keys.ok_or(Refusal::KeyUnavailable { url })
}

fn mac_algorithm(alg: &str) -> Option<hmac::Algorithm> {
    match alg {
        "HS256" => Some(hmac::HMAC_SHA256),
        "HS384" => Some(hmac::HMAC_SHA384),
        "HS512" => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn check_claims(
    spec: &RuleSpec,
    claims: &Map<String, Value>,
    now: Option<u64>,
) -> Result<(), Refusal> {
    for name in &spec.require_claims {
        if !claims.contains_key(name) {
            return Err(Refusal::missing(format!("claim {name}")));
        }
    }
    if let Some(issuers) = &spec.iss {
        let issuer = claims.get("iss").and_then(Value::as_str);
        if !issuer.is_some_and(|issuer| issuers.as_slice().iter().any(|known| known == issuer)) {
            return Err(claim("iss"));
        }
    }
    for (name, wanted) in &spec.claims {
        if claims.get(name) != Some(wanted) {
            return Err(claim(name));
        }
    }
    let Some(now) = now else {
        return Ok(());
    };
    let now = i128::from(now);
    let leeway = i128::from(spec.leeway) * 1000;
    if let Some(not_before) = time(claims, "nbf")?
        && not_before > now + leeway
    {
        return fresh(not_before - now, spec.leeway * 1000, true);
    }
    if let Some(expires) = time(claims, "exp")?
        && expires <= now - leeway
    {
        return Err(Refusal::Stale {
            age_s: u64::try_from((now - expires) / 1000).unwrap_or(u64::MAX),
            tolerance_s: spec.leeway,
        });
    }
    match (spec.max_age, time(claims, "iat")?) {
        (Some(max_age), Some(issued)) => fresh(issued - now, max_age.saturating_mul(1000), true),
        (Some(_), None) => Err(Refusal::missing("claim iat")),
        (None, _) => Ok(()),
    }
}

/// A time claim in milliseconds.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i128>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) => Ok(Some((seconds * 1000.0) as i128)),
            None => Err(Refusal::malformed(
                format!("claim {name}"),
                "expected a number",
            )),
        },
    }
}

fn check_hash(claims: &Map<String, Value>, hash: &ClaimHash, bytes: &[u8]) -> Result<(), Refusal> {
    let found = claims.get(&hash.claim).and_then(Value::as_str);
    let fits = if hash.absent_when_empty && bytes.is_empty() {
        matches!(claims.get(&hash.claim), None | Some(Value::Null)) || found == Some("")
    } else {
        found == Some(text_digest(bytes, hash.encoding).as_str())
    };
    let what = format!("claim {}", hash.claim);
    if fits {
        Ok(())
    } else {
        Err(Refusal::BodyDigest { what })
    }
}

fn text_digest(bytes: &[u8], encoding: Encoding) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    match encoding {
        Encoding::Hex => hex::encode(digest),
        Encoding::Base64 => BASE64_STANDARD.encode(digest),
        Encoding::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(digest),
    }
}

/// The same token as if it was made `age_ms` later: its claims but for the times, signed again.
pub(in super::super) fn refresh(
    bound: &Bound,
    from: &Place,
    request: &mut SignedRequest,
    age_ms: u64,
) -> Result<(), SignError> {
    let key = bound.keys.last().ok_or(SignError::NeedsPrivateKey)?;
    let value = from.value(&request.as_request(), None);
    let value = value.ok().flatten().ok_or(SignError::NotSigned)?;
    let text = String::from_utf8_lossy(&value).into_owned();
    let (prefix, token) = text.split_at(text.rfind(' ').map_or(0, |space| space + 1));
    let parsed = Token::parse(token).ok_or(SignError::NotSigned)?;
    let algorithm = mac_algorithm(&parsed.alg).ok_or(SignError::NeedsPrivateKey)?;
    let mut claims = parsed.claims;
    for name in ["iat", "nbf", "exp"] {
        if let Some(value) = claims.get_mut(name)
            && let Some(seconds) = value.as_f64()
        {
            // Times are whole seconds far below 2^53.
            *value = ((seconds as i64).saturating_add_unsigned(age_ms / 1000)).into();
        }
    }
    let head = parsed.signed.split('.').next().unwrap_or_default();
    let claims = BASE64_URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string());
    let signed = format!("{head}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(algorithm, &key.bytes), signed.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(tag);
    request.put(from, &format!("{prefix}{signed}.{signature}"))
}

/// Makes the token a provider would send; `None` when the rule wants a public-key algorithm.
pub(in super::super) fn sign(
    bound: &Bound,
    aud: Option<&Template>,
    request: &Request<'_>,
    now_unix_ms: u64,
) -> Option<String> {
    let spec = &bound.rule.spec;
    let key = bound.keys.last()?;
    let (alg, algorithm) = spec
        .algs
        .iter()
        .find_map(|alg| Some((alg.as_str(), mac_algorithm(alg)?)))?;
    let now = now_unix_ms / 1000;
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), now.into());
    claims.insert("nbf".to_owned(), now.saturating_sub(1).into());
    claims.insert("exp".to_owned(), now.saturating_add(60).into());
    let issuer = spec.iss.as_ref().and_then(|iss| iss.as_slice().first());
    claims.insert(
        "iss".to_owned(),
        issuer.map_or("test", String::as_str).into(),
    );
    if let Some(aud) = aud {
        let scope = Scope {
            request,
            url: request.url,
            timestamp: None,
            secret: None,
            json_field: None,
            missing_as_empty: false,
        };
        let aud = String::from_utf8(aud.render(&scope).ok()?).ok()?;
        claims.insert("aud".to_owned(), aud.into());
    }
    claims.extend(spec.claims.clone());
    for (hash, bytes) in [
        (&spec.url_hash, request.url.as_bytes()),
        (&spec.body_hash, request.body),
    ] {
        if let Some(hash) = hash
            && !(hash.absent_when_empty && bytes.is_empty())
        {
            claims.insert(hash.claim.clone(), text_digest(bytes, hash.encoding).into());
        }
    }
    let head = serde_json::json!({"alg": alg, "typ": "JWT"}).to_string();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!(
        "{}.{}",
        part(&head),
        part(&Value::Object(claims).to_string())
    );
    let tag = hmac::sign(&hmac::Key::new(algorithm, &key.bytes), signed.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(tag);
    let prefix = spec.prefix.as_deref().unwrap_or_default();
    Some(format!("{prefix}{signed}.{signature}"))
}
