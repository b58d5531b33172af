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
    rule::{
        BodyTransform, Check, Encoding, Kind, Layout, Signed, TimeUnit, Timestamp, TimestampFrom,
        UrlMode,
    },
    special,
    template::{Place, Scope},
};

/// Signatures tried per request: more than any rotation sends.
pub(super) const SIGNATURES_MAX: usize = 16;

/// Longest text of one signature place, in bytes: sixteen RSA signatures of 8192 bits.
const SIGNATURE_TEXT_BYTES_MAX: usize = 32 * 1024;

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
        Some(timestamp) => timestamp.text(&found, bound, request)?,
        None => None,
    };
    if let (Some(rule), Some(text)) = (&signed.timestamp, &timestamp) {
        rule.check(text, now)?;
    }
    if let Some(parameter) = &bound.rule.spec.body_sha256_query {
        check_body_digest(parameter, request)?;
    }
    for url in urls(request.url, bound.rule.spec.url_mode) {
        let scope = Scope {
            request,
            url: &url,
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
        let endings = bound.rule.spec.content_alt_suffix.iter().map(|suffix| {
            let mut mac = mac.clone();
            mac.update(suffix.as_bytes());
            mac.sign()
        });
        let endings: Vec<_> = endings.collect();
        if endings
            .iter()
            .chain([&mac.sign()])
            .any(|tag| any_equal(tag.as_ref(), signatures))
        {
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
        .any(|signature| expected.ct_eq(signature).into())
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

/// The signatures of a request, and what stood beside them.
struct Signatures {
    decoded: Vec<Vec<u8>>,
    /// Keys of the list that carry no signature, such as the time.
    captures: Vec<(String, String)>,
}

impl Signatures {
    fn find(bound: &Bound, signed: &Signed, request: &Request<'_>) -> Result<Self, Refusal> {
        let mut texts = Vec::new();
        let mut captures = Vec::new();
        let json_field = bound.rule.spec.json_field.as_deref();
        for place in &signed.places {
            let Some(value) = place.value(request, json_field)? else {
                continue;
            };
            if value.len() > SIGNATURE_TEXT_BYTES_MAX {
                return Err(Refusal::malformed(place.to_string(), "it is too long"));
            }
            let text = std::str::from_utf8(&value)
                .map_err(|_| Refusal::malformed(place.to_string(), "it is not UTF-8"))?;
            signed
                .layout
                .split(text, &mut texts, &mut captures, place)?;
        }
        let first = signed
            .places
            .first()
            .map(Place::to_string)
            .unwrap_or_default();
        if texts.is_empty() {
            return Err(Refusal::missing(format!("signature in {first}")));
        }
        if texts.len() > SIGNATURES_MAX {
            return Err(Refusal::TooManySignatures {
                max: SIGNATURES_MAX,
            });
        }
        let decode = |text: &String| decode(text, signed.encoding);
        let decoded: Vec<_> = texts.iter().filter_map(decode).collect();
        if decoded.is_empty() {
            return Err(Refusal::malformed(
                first,
                match signed.encoding {
                    Encoding::Hex => "expected a signature in hex",
                    Encoding::Base64 => "expected a signature in base64",
                    Encoding::Base64Url => "expected a signature in URL-safe base64",
                },
            ));
        }
        Ok(Self { decoded, captures })
    }
}

impl Layout {
    fn split(
        &self,
        value: &str,
        signatures: &mut Vec<String>,
        captures: &mut Vec<(String, String)>,
        place: &Place,
    ) -> Result<(), Refusal> {
        match self {
            Self::Raw { prefix } => {
                signatures.extend(
                    value
                        .trim_ascii()
                        .strip_prefix(prefix.as_str())
                        .map(str::to_owned),
                );
            }
            Self::Positional { item } => {
                let mut items = value.split(*item).map(str::trim_ascii);
                capture("0", items.next().unwrap_or_default(), captures, place)?;
                signatures.extend(items.filter(|item| !item.is_empty()).map(str::to_owned));
            }
            Self::List { item, pair, keys } => {
                for (key, value) in value.split(*item).filter_map(|item| item.split_once(*pair)) {
                    let (key, value) = (key.trim_ascii(), value.trim_ascii());
                    if keys.iter().any(|wanted| wanted == key) {
                        signatures.push(value.to_owned());
                    } else {
                        capture(key, value, captures, place)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A key that comes twice with different values leaves open which one was signed.
fn capture(
    key: &str,
    value: &str,
    captures: &mut Vec<(String, String)>,
    place: &Place,
) -> Result<(), Refusal> {
    match captures.iter().find(|(known, _)| known == key) {
        Some((_, known)) if known == value => {}
        // Older signature versions may repeat during a rotation; they are not looked at.
        Some((_, known)) if known.len() >= 32 && value.len() >= 32 => {}
        Some(_) => {
            let what = format!("a key of {place}");
            return Err(Refusal::Duplicate { what });
        }
        None if captures.len() >= SIGNATURES_MAX => {
            return Err(Refusal::TooManySignatures {
                max: SIGNATURES_MAX,
            });
        }
        None => captures.push((key.to_owned(), value.to_owned())),
    }
    Ok(())
}

/// Decodes strictly: whole bytes only, canonical, no blanks.
pub(super) fn decode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    let bytes = match encoding {
        Encoding::Hex => hex::decode(text).ok(),
        Encoding::Base64 => BASE64_STANDARD.decode(text).ok(),
        Encoding::Base64Url => {
            let standard = text
                .trim_end_matches('=')
                .replace('-', "+")
                .replace('_', "/");
            base64::prelude::BASE64_STANDARD_NO_PAD
                .decode(standard)
                .ok()
        }
    };
    bytes.filter(|bytes| !bytes.is_empty())
}

impl Timestamp {
    /// The time as it was written: this text is what was signed.
    fn text(
        &self,
        found: &Signatures,
        bound: &Bound,
        request: &Request<'_>,
    ) -> Result<Option<String>, Refusal> {
        let (text, what) = match &self.from {
            TimestampFrom::Capture(key) => {
                let captured = found.captures.iter().find(|(known, _)| known == key);
                (
                    captured.map(|(_, value)| value.clone()),
                    format!("timestamp {key}="),
                )
            }
            TimestampFrom::Place(place) => {
                let json_field = bound.rule.spec.json_field.as_deref();
                let value = place.value(request, json_field)?;
                let text = match value.map(|value| String::from_utf8(value.into_owned())) {
                    Some(Ok(text)) => Some(text),
                    Some(Err(_)) => {
                        return Err(Refusal::malformed(place.to_string(), "it is not UTF-8"));
                    }
                    None => None,
                };
                (text, place.to_string())
            }
        };
        match text {
            None if !self.optional => Err(Refusal::missing(what)),
            text => Ok(text),
        }
    }

    fn check(&self, text: &str, now: Option<u64>) -> Result<(), Refusal> {
        let then = unix_ms(text, self.unit)
            .ok_or_else(|| Refusal::malformed("timestamp", "it is not written as the rule says"))?;
        let (Some(tolerance), Some(now)) = (self.tolerance_ms, now) else {
            return Ok(());
        };
        let ahead = then - i128::from(now);
        fresh(ahead, tolerance, self.reject_future)
    }
}

/// Refuses a time that is too far from now. `ahead` is negative for the past.
pub(super) fn fresh(ahead_ms: i128, tolerance_ms: u64, reject_future: bool) -> Result<(), Refusal> {
    let seconds = |ms: i128| u64::try_from(ms / 1000).unwrap_or(u64::MAX);
    let tolerance_s = tolerance_ms / 1000;
    if -ahead_ms > i128::from(tolerance_ms) {
        return Err(Refusal::Stale {
            age_s: seconds(-ahead_ms),
            tolerance_s,
        });
    }
    if reject_future && ahead_ms > i128::from(tolerance_ms) {
        return Err(Refusal::Future {
            ahead_s: seconds(ahead_ms),
            tolerance_s,
        });
    }
    Ok(())
}

/// Reads a time strictly: digits only for numbers, no signs, no fractions.
pub(super) fn unix_ms(text: &str, unit: TimeUnit) -> Option<i128> {
    let number = || {
        let digits = (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i128>().ok()).flatten()
    };
    let milliseconds = |time: jiff::Timestamp| i128::from(time.as_millisecond());
    match unit {
        TimeUnit::Seconds => number().map(|seconds| seconds * 1000),
        TimeUnit::Millis => number(),
        TimeUnit::Micros => number().map(|micros| micros / 1000),
        TimeUnit::Rfc3339 => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Some(milliseconds(time)),
            Err(_) => utc(text.parse().ok()?).map(milliseconds),
        },
        TimeUnit::HttpDate => {
            let time = httpdate::parse_http_date(text).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            i128::try_from(since.as_millis()).ok()
        }
        TimeUnit::ScalrDate => {
            let bare = text
                .strip_suffix(" UTC")
                .or_else(|| text.strip_suffix(" GMT"))?;
            let time = jiff::civil::DateTime::strptime("%a %d %b %Y %H:%M:%S", bare).ok()?;
            utc(time).map(milliseconds)
        }
    }
}

fn utc(time: jiff::civil::DateTime) -> Option<jiff::Timestamp> {
    jiff::tz::Offset::UTC.to_timestamp(time).ok()
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

/// The URL in every form the provider may have signed.
fn urls(url: &str, mode: Option<UrlMode>) -> Vec<Cow<'_, str>> {
    let variants = || {
        mode?;
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
            found.push(Cow::Owned(format!("{scheme}://{authority}{target}")));
            if query.contains('\'') {
                let query = query.replace('\'', "%27");
                found.push(Cow::Owned(format!("{scheme}://{authority}{path}{query}")));
            }
        }
        Some(found)
    };
    variants().unwrap_or_else(|| vec![Cow::Borrowed(url)])
}

impl Key {
    /// The MAC of a message in one piece, with SHA-256.
    pub(super) fn mac(&self, pieces: &[&[u8]]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        pieces.iter().for_each(|piece| mac.update(piece));
        mac.sign()
    }
}
