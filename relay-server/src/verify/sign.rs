//! Signing as the provider would, for tests and demos.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use protocol::frame::Headers;
use ring::{digest, hmac};
use serde_json::{Map, Value};

use super::{
    Bound, Request,
    credentials::{Key, digest_algorithm},
    rule::{Check, Encoding, Kind, Layout, Signed, TimeUnit, Timestamp, TimestampFrom},
    special,
    template::{Part, Place, Scope, urlencode},
};

/// A request to be signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignedRequest {
    /// The method.
    pub method: String,
    /// The source's public URL with path and query.
    pub url: String,
    /// Headers; signing adds to them.
    pub headers: Headers,
    /// The body; signing changes it where the provider puts the signature there.
    pub body: Vec<u8>,
}

impl SignedRequest {
    /// The same request, to verify it.
    pub fn as_request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            url: &self.url,
            headers: &self.headers,
            body: &self.body,
        }
    }

    /// Sets a header where it stands, or at the end; there is one of it then.
    pub(super) fn set_header(&mut self, name: &str, value: &str) {
        let mut value = Some(value.to_owned().into());
        self.headers.0.retain_mut(|(known, old)| {
            if !known.eq_ignore_ascii_case(name.as_bytes()) {
                return true;
            }
            let new = value.take();
            let is_first = new.is_some();
            *old = new.unwrap_or_default();
            is_first
        });
        if let Some(value) = value {
            self.headers.0.push((name.to_owned().into(), value));
        }
    }

    /// Puts a value where a rule looks for it.
    pub(super) fn put(&mut self, place: &Place, value: &str) -> Result<(), SignError> {
        match place {
            Place::Header(name) => self.set_header(name, value),
            Place::Query(name) => {
                let mark = if self.url.contains('?') { '&' } else { '?' };
                self.url
                    .push_str(&format!("{mark}{name}={}", urlencode(value.as_bytes())));
            }
            Place::Form(name) => {
                if !self.body.is_empty() {
                    self.body.push(b'&');
                }
                let field = format!("{name}={}", urlencode(value.as_bytes()));
                self.body.extend_from_slice(field.as_bytes());
            }
            Place::Json(pointer, _) => {
                let mut document = match self.body.trim_ascii() {
                    b"" => Value::Object(Map::new()),
                    body => serde_json::from_slice(body).map_err(|_| SignError::NeedsJson)?,
                };
                set(&mut document, pointer.steps(), value);
                self.body = document.to_string().into_bytes();
            }
        }
        Ok(())
    }
}

/// Sets a place in a document, making the objects and lists on the way.
fn set(document: &mut Value, steps: &[String], value: &str) {
    let Some((step, rest)) = steps.split_first() else {
        *document = value.into();
        return;
    };
    if let (Ok(0), Value::Null | Value::Array(_)) = (step.parse::<usize>(), &*document) {
        if !document.is_array() {
            *document = Value::Array(vec![Value::Null]);
        }
        if let Some(first) = document.get_mut(0) {
            set(first, rest, value);
        }
        return;
    }
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    if let Value::Object(fields) = document {
        set(
            fields.entry(step.clone()).or_insert(Value::Null),
            rest,
            value,
        );
    }
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Only the provider can.
    #[error("only the provider holds the private key of this scheme")]
    NeedsPrivateKey,
    /// The signature goes into a JSON body.
    #[error("this provider signs inside a JSON body: give a JSON object as body")]
    NeedsJson,
    /// The signature covers the body as a text.
    #[error("this provider signs the body as text: give one that is UTF-8")]
    NeedsText,
    /// The relay can check this scheme, but not make it.
    #[error("the relay can check this scheme, but cannot sign with it")]
    Unsupported,
    /// An old request cannot be signed again without changing it.
    #[error("its signature or its time stands in the body or the URL, which stay as they came")]
    NotInHeaders,
    /// An old request does not carry the signature of its scheme.
    #[error("the request does not carry a signature of this scheme")]
    NotSigned,
}

pub(super) fn sign(
    bound: &Bound,
    request: &mut SignedRequest,
    now_unix_ms: u64,
) -> Result<(), SignError> {
    if matches!(bound.rule.check, Check::Open) {
        return Ok(());
    }
    let key = bound.keys.last().ok_or(SignError::NeedsPrivateKey)?;
    let secret = || String::from_utf8(key.text.to_vec()).map_err(|_| SignError::Unsupported);
    for (name, value) in &bound.rule.spec.require {
        request.set_header(name, value);
    }
    match &bound.rule.check {
        Check::Token { from, prefix } => {
            let prefix = prefix.as_deref().unwrap_or_default();
            request.put(from, &format!("{prefix}{}", secret()?))
        }
        Check::Basic => {
            let pair = BASE64_STANDARD.encode(&*key.text);
            request.set_header("Authorization", &format!("Basic {pair}"));
            Ok(())
        }
        Check::Signed(signed) => signed.sign(bound, key, request, now_unix_ms),
        Check::Jwt { from, aud } => {
            let token = special::sign_jwt(bound, aud.as_ref(), &request.as_request(), now_unix_ms);
            request.put(from, &token.ok_or(SignError::NeedsPrivateKey)?)
        }
        Check::Hook0 => special::sign_hook0(key, request, now_unix_ms),
        Check::Contentful => special::sign_contentful(key, request, now_unix_ms),
        Check::PlivoV3 => {
            special::sign_plivo_v3(key, request, now_unix_ms);
            Ok(())
        }
        Check::Hygraph => special::sign_hygraph(key, request, now_unix_ms),
        _ => Err(SignError::Unsupported),
    }
}

impl Signed {
    fn sign(
        &self,
        bound: &Bound,
        key: &Key,
        request: &mut SignedRequest,
        now_unix_ms: u64,
    ) -> Result<(), SignError> {
        if !matches!(bound.rule.spec.kind, Kind::Hmac | Kind::Hash) {
            return Err(SignError::NeedsPrivateKey);
        }
        let time = match &self.timestamp {
            Some(timestamp) => Some(timestamp.write(bound, request, now_unix_ms)?),
            None => None,
        };
        self.fill_content(bound, request, now_unix_ms)?;
        let signature = self.signature(bound, key, request, time.as_deref())?;
        let has_value = |place: &&Place| {
            let value = place.value(&request.as_request(), None);
            matches!(value, Ok(Some(_)))
        };
        let place = self.places.iter().find(has_value);
        let place = place
            .or(self.places.first())
            .ok_or(SignError::Unsupported)?;
        let text = match &self.layout {
            Layout::Raw { prefix } => format!("{prefix}{signature}"),
            Layout::Positional { item } => format!("{}{item}{signature}", time.unwrap_or_default()),
            Layout::List { item, pair, keys } => {
                let key = keys.first().map(String::as_str).unwrap_or_default();
                let signature = format!("{key}{pair}{signature}");
                match (&self.timestamp, time) {
                    (
                        Some(Timestamp {
                            from: TimestampFrom::Capture(name),
                            ..
                        }),
                        Some(time),
                    ) => {
                        format!("{name}{pair}{time}{item}{signature}")
                    }
                    _ => signature,
                }
            }
        };
        request.put(place, &text)
    }

    /// Gives every signed part that the caller left out a value.
    fn fill_content(
        &self,
        bound: &Bound,
        request: &mut SignedRequest,
        now_unix_ms: u64,
    ) -> Result<(), SignError> {
        let json_field = bound.rule.spec.json_field.as_deref();
        for part in &self.content.0 {
            if let Part::From(place) = part
                && matches!(place.value(&request.as_request(), json_field), Ok(None))
            {
                request.put(place, &format!("test_{now_unix_ms}"))?;
            }
        }
        Ok(())
    }

    fn signature(
        &self,
        bound: &Bound,
        key: &Key,
        request: &SignedRequest,
        timestamp: Option<&str>,
    ) -> Result<String, SignError> {
        let scope = Scope {
            request: &request.as_request(),
            url: &request.url,
            timestamp,
            secret: Some(&key.text),
            json_field: bound.rule.spec.json_field.as_deref(),
            missing_as_empty: bound.rule.spec.missing_as_empty,
        };
        let content = self
            .content
            .render(&scope)
            .map_err(|_| SignError::Unsupported)?;
        let tag: Vec<u8> = match (bound.rule.spec.kind, bound.rule.spec.hash) {
            (Kind::Hash, Some(hash)) => digest::digest(digest_algorithm(hash), &content)
                .as_ref()
                .to_vec(),
            _ => hmac::sign(&key.mac, &content).as_ref().to_vec(),
        };
        Ok(match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => BASE64_STANDARD.encode(tag),
            Encoding::Base64Url => base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(tag),
        })
    }
}

impl Timestamp {
    /// Writes the time the way the provider does, and puts it into its place unless that is the
    /// signature's own.
    fn write(
        &self,
        bound: &Bound,
        request: &mut SignedRequest,
        now_unix_ms: u64,
    ) -> Result<String, SignError> {
        let time = i64::try_from(now_unix_ms).ok();
        let time = time.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let time = time.ok_or(SignError::Unsupported)?;
        let text = match self.unit {
            TimeUnit::Seconds => (now_unix_ms / 1000).to_string(),
            TimeUnit::Millis => now_unix_ms.to_string(),
            TimeUnit::Micros => now_unix_ms.saturating_mul(1000).to_string(),
            TimeUnit::Rfc3339 => time.to_string(),
            TimeUnit::HttpDate => time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            TimeUnit::ScalrDate => time.strftime("%a %d %b %Y %H:%M:%S UTC").to_string(),
        };
        if let TimestampFrom::Place(place) = &self.from {
            let json_field = bound.rule.spec.json_field.as_deref();
            let absent = matches!(place.value(&request.as_request(), json_field), Ok(None));
            if !self.optional || !absent {
                request.put(place, &text)?;
            }
        }
        Ok(text)
    }
}
