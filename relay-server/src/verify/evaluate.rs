//! The evaluator: one request against one rule.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{digest, hmac, signature};
use subtle::ConstantTimeEq as _;

use super::{
    Bound, Refusal, Request, Verified, Verifier,
    credentials::{Key, digest_algorithm},
    keys::{self, KeyUrl},
    public_key::{PublicKey, PublicKeyKind},
    rule::{BodyTransform, Check, Kind, Signed, UrlMode},
    signatures::Signatures,
    special,
    template::{Place, Scope},
};

/// Items of a batch checked one by one.
const ITEMS_MAX: usize = 5000;

pub(super) fn verify(
    verifier: &Verifier,
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let inflated;
    let mut request = *request;
    if bound.rule.spec.body_transform == Some(BodyTransform::Gunzip)
        && request.body.starts_with(&[0x1f, 0x8b])
    {
        inflated = special::gunzip(request.body)
            .ok_or_else(|| Refusal::malformed("body", "expected gzip of at most 16 MiB"))?;
        request.body = &inflated;
    }
    let Some(array) = &bound.rule.spec.each else {
        return verify_one(verifier, bound, &request, now);
    };
    let mut verified = None;
    for item in special::items(request.body, array, ITEMS_MAX)? {
        let body = format!("{{{}:[{item}]}}", serde_json::Value::from(array.as_str()));
        let request = Request {
            body: body.as_bytes(),
            ..request
        };
        verified = Some(verify_one(verifier, bound, &request, now)?);
    }
    verified.ok_or_else(|| Refusal::malformed(format!("json:/{array}"), "expected an item"))
}

fn verify_one(
    verifier: &Verifier,
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    for (name, expected) in &bound.rule.spec.require {
        match request.header(name)? {
            None => return Err(Refusal::missing(format!("header:{name}"))),
            Some(value) if value == expected.as_bytes() => {}
            Some(_) => {
                let what = format!("header:{name}");
                return Err(Refusal::Unexpected { what });
            }
        }
    }
    match &bound.rule.check {
        Check::Open => Ok(Verified { credential: None }),
        Check::Token { from, prefix } => token(bound, request, from, prefix.as_deref()),
        Check::Basic => basic(bound, request),
        Check::Signed(signed) => signed_request(verifier, bound, signed, request, now),
        Check::Jwt { from, aud } => special::jwt(verifier, bound, from, aud.as_ref(), request, now),
        Check::HttpSignature => special::http_signature(verifier, bound, request, now),
        Check::Sns => special::sns(verifier, request),
        Check::Hook0 => special::hook0(bound, request, now),
        Check::Contentful => special::contentful(bound, request, now),
        Check::PlivoV3 => special::plivo_v3(bound, request),
        Check::Hygraph => special::hygraph(bound, request, now),
    }
}

/// Compares digests, so that neither the length nor the place of a difference takes time.
fn token(
    bound: &Bound,
    request: &Request<'_>,
    from: &Place,
    prefix: Option<&str>,
) -> Result<Verified, Refusal> {
    let value = place_value(from, bound, request)?;
    let token = match prefix {
        Some(prefix) => match value.split_at_checked(prefix.len()) {
            Some((start, token)) if start.eq_ignore_ascii_case(prefix.as_bytes()) => token,
            _ => {
                return Err(Refusal::malformed(
                    from.to_string(),
                    "it lacks the rule's prefix",
                ));
            }
        },
        None => &value,
    };
    same_as_a_secret(bound, token)
}

fn basic(bound: &Bound, request: &Request<'_>) -> Result<Verified, Refusal> {
    let what = "header:Authorization";
    let malformed = || Refusal::malformed(what, "expected `Basic` and base64");
    let value = request
        .header("Authorization")?
        .ok_or_else(|| Refusal::missing(what))?;
    let (scheme, rest) = value.split_at_checked(6).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(malformed());
    }
    let pair = BASE64_STANDARD
        .decode(rest.trim_ascii())
        .map_err(|_| malformed())?;
    same_as_a_secret(bound, &pair)
}

fn same_as_a_secret(bound: &Bound, value: &[u8]) -> Result<Verified, Refusal> {
    let value = digest::digest(&digest::SHA256, value);
    let mut found = None;
    for (index, key) in bound.keys.iter().enumerate() {
        if bool::from(key.digest.as_ref().ct_eq(value.as_ref())) {
            found = found.or(Some(index));
        }
    }
    match found {
        Some(_) => Ok(Verified { credential: found }),
        None => Err(Refusal::Mismatch),
    }
}

fn place_value<'a>(
    place: &Place,
    bound: &Bound,
    request: &Request<'a>,
) -> Result<Cow<'a, [u8]>, Refusal> {
    place
        .value(request, bound.rule.spec.json_field.as_deref())?
        .ok_or_else(|| Refusal::missing(place.to_string()))
}

fn signed_request(
    verifier: &Verifier,
    bound: &Bound,
    signed: &Signed,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let found = Signatures::find(bound, signed, request)?;
    let timestamp = match &signed.timestamp {
        Some(timestamp) => timestamp.text(found.time, bound, request)?,
        None => None,
    };
    if let (Some(rule), Some(text)) = (&signed.timestamp, &timestamp) {
        rule.check(text, now)?;
    }
    if let Some(parameter) = &bound.rule.spec.body_sha256_query {
        check_body_digest(parameter, request)?;
    }
    let variants = bound
        .rule
        .spec
        .url_mode
        .and_then(|UrlMode::Twilio| with_and_without_port(request.url));
    let plain = [Cow::Borrowed(request.url)];
    for url in variants.as_deref().unwrap_or(&plain) {
        let scope = Scope {
            request,
            url,
            timestamp: timestamp.as_deref(),
            secret: None,
            json_field: bound.rule.spec.json_field.as_deref(),
            missing_as_empty: bound.rule.spec.missing_as_empty,
        };
        let verified = match bound.rule.spec.kind {
            Kind::Hmac => with_mac(bound, signed, &scope, &found.decoded)?,
            Kind::Hash => with_digest(bound, signed, &scope, &found.decoded)?,
            _ => with_public_key(verifier, bound, signed, &scope, &found.decoded)?,
        };
        if let Some(verified) = verified {
            return Ok(verified);
        }
    }
    Err(Refusal::Mismatch)
}

fn with_mac(
    bound: &Bound,
    signed: &Signed,
    scope: &Scope<'_>,
    signatures: &[Vec<u8>],
) -> Result<Option<Verified>, Refusal> {
    for (index, key) in bound.keys.iter().enumerate() {
        let scope = Scope {
            secret: Some(&key.text),
            ..*scope
        };
        let mut mac = hmac::Context::with_key(&key.mac);
        signed
            .content
            .feed(&scope, &mut |piece| mac.update(piece))?;
        let fits = |mac: hmac::Context| any_equal(mac.sign().as_ref(), signatures);
        let with_ending = bound.rule.spec.content_alt_suffix.iter().any(|suffix| {
            let mut mac = mac.clone();
            mac.update(suffix.as_bytes());
            fits(mac)
        });
        if with_ending || fits(mac) {
            let credential = Some(index);
            return Ok(Some(Verified { credential }));
        }
    }
    Ok(None)
}

fn with_digest(
    bound: &Bound,
    signed: &Signed,
    scope: &Scope<'_>,
    signatures: &[Vec<u8>],
) -> Result<Option<Verified>, Refusal> {
    let Some(hash) = bound.rule.spec.hash else {
        return Ok(None);
    };
    for (index, key) in bound.keys.iter().enumerate() {
        let scope = Scope {
            secret: Some(&key.text),
            ..*scope
        };
        let mut digest = digest::Context::new(digest_algorithm(hash));
        signed
            .content
            .feed(&scope, &mut |piece| digest.update(piece))?;
        if any_equal(digest.finish().as_ref(), signatures) {
            let credential = Some(index);
            return Ok(Some(Verified { credential }));
        }
    }
    Ok(None)
}

fn any_equal(expected: &[u8], signatures: &[Vec<u8>]) -> bool {
    signatures
        .iter()
        .any(|signature| same_bytes(expected, signature))
}

/// Compares in a time that depends on the length only, eight bytes at a time.
pub(super) fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let pairs = left.iter().zip(right);
    let words = pairs.map(|(l, r)| u64::from_le_bytes(*l).ct_eq(&u64::from_le_bytes(*r)));
    words
        .fold(left_rest.ct_eq(right_rest), |all, word| all & word)
        .into()
}

fn with_public_key(
    verifier: &Verifier,
    bound: &Bound,
    signed: &Signed,
    scope: &Scope<'_>,
    signatures: &[Vec<u8>],
) -> Result<Option<Verified>, Refusal> {
    let message = signed.content.render(scope)?;
    let fetched;
    let public_keys = match &bound.rule.spec.key_url_header {
        Some(header) if verifier.credentials.public_keys.is_empty() => {
            fetched = key_by_header(verifier, header, scope.request)?;
            &fetched
        }
        _ => &verifier.credentials.public_keys,
    };
    let matches = |key: &PublicKey| {
        signatures
            .iter()
            .any(|signature| match bound.rule.spec.kind {
                Kind::Ed25519 => key.verifies_ed25519(&message, signature),
                Kind::EcdsaP256Sha256 => key.verifies(
                    &signature::ECDSA_P256_SHA256_ASN1,
                    PublicKeyKind::P256,
                    &message,
                    signature,
                ),
                Kind::RsaSha256 => key.verifies_rsa(false, &message, signature),
                Kind::RsaSha1 => key.verifies_rsa(true, &message, signature),
                _ => false,
            })
    };
    let credential = public_keys.iter().position(matches);
    Ok(credential.map(|index| Verified {
        credential: Some(index),
    }))
}

/// PayPal names its certificate in a header; only its own hosts are believed.
fn key_by_header(
    verifier: &Verifier,
    header: &str,
    request: &Request<'_>,
) -> Result<Vec<PublicKey>, Refusal> {
    let value = request.header(header)?;
    let value = value.ok_or_else(|| Refusal::missing(format!("header:{header}")))?;
    let url = std::str::from_utf8(value).ok();
    let url = url
        .and_then(|url| KeyUrl::pinned(url, keys::paypal_pin))
        .ok_or(Refusal::UntrustedKeyUrl)?;
    let keys = verifier.keys.keys(&url);
    keys.ok_or(Refusal::KeyUnavailable { url })
}

fn check_body_digest(parameter: &str, request: &Request<'_>) -> Result<(), Refusal> {
    let Some(expected) = request.query_value(parameter) else {
        return Ok(());
    };
    let actual = hex::encode(digest::digest(&digest::SHA256, request.body));
    if bool::from(actual.as_bytes().ct_eq(&expected)) {
        return Ok(());
    }
    let what = format!("query:{parameter}");
    Err(Refusal::BodyDigest { what })
}

/// The URL in every form Twilio may have signed: without and with its port, and with `'` escaped.
fn with_and_without_port(url: &str) -> Option<Vec<Cow<'static, str>>> {
    let (scheme, rest) = url.split_once("://")?;
    let standard = match scheme {
        "https" => "443",
        "http" => "80",
        _ => return None,
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rfind('@').map_or(0, |at| at + 1);
    let port = authority[host..].find(':').map(|colon| host + colon);
    let bare = &authority[..port.unwrap_or(authority.len())];
    let port = port.map(|colon| &authority[colon + 1..]);
    let port = port.filter(|port| !port.is_empty()).unwrap_or(standard);
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut found = Vec::new();
    for authority in [bare.to_owned(), format!("{bare}:{port}")] {
        found.push(format!("{scheme}://{authority}{target}").into());
        if query.contains('\'') {
            let query = query.replace('\'', "%27");
            found.push(format!("{scheme}://{authority}{path}{query}").into());
        }
    }
    Some(found)
}

impl Key {
    /// The MAC of a message in one piece, with SHA-256.
    pub(super) fn mac(&self, pieces: &[&[u8]]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        pieces.iter().for_each(|piece| mac.update(piece));
        mac.sign()
    }
}
