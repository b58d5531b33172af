//! Challenges that providers send to prove who owns a URL, answered at the edge by declarative rules.

use std::{collections::BTreeMap, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use protocol::frame::Headers;
use ring::{digest, hmac};
use serde::Deserialize;

use super::{Credentials, Preset, Request, Secret, Verifier, keys, template::Place};
use crate::json::Pointer;

/// Longest text a challenge may make the relay echo, in bytes.
const ECHO_BYTES_MAX: usize = 1024;

/// What to send back at once. The request is no event and is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// All headers to send, content type included.
    pub headers: Headers,
    /// Body.
    pub body: Vec<u8>,
    /// The secret that this handshake brought; store it and end the state "awaiting handshake"
    /// before answering.
    pub store_secret: Option<Secret>,
    /// An https address of the provider that must be fetched once (GET, no redirects) to confirm.
    pub confirm_url: Option<String>,
}

/// One handshake, as data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handshake {
    /// Its name.
    pub id: String,
    /// The method it uses.
    #[serde(default)]
    method: Option<String>,
    /// Places that must have these values.
    #[serde(default)]
    equals: BTreeMap<String, String>,
    /// Places that must be filled.
    #[serde(default)]
    present: Vec<String>,
    /// The request must carry a valid signature.
    #[serde(default)]
    signed: bool,
    /// What must hold, else `else_status`: allowed values by place.
    #[serde(default)]
    check: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    else_status: Option<u16>,
    status: u16,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// Fields of a JSON body.
    #[serde(default)]
    json: Option<serde_json::Map<String, serde_json::Value>>,
    /// Where the secret is that this handshake brings.
    #[serde(default)]
    store_secret: Option<String>,
    /// Where the address is that confirms a subscription.
    #[serde(default)]
    confirm_url: Option<String>,
}

static HANDSHAKES: LazyLock<Vec<Handshake>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("handshakes.json"))
        .unwrap_or_else(|error| panic!("handshakes.json: {error}"))
});

impl Handshake {
    /// The method it uses; POST unless it names one.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("POST")
    }
}

impl Handshake {
    /// Whether it brings the secret that later events are signed with.
    pub(super) fn brings_secret(&self) -> bool {
        self.store_secret.is_some()
    }
}

/// The handshake of this name.
pub(super) fn handshake(id: &str) -> Option<&'static Handshake> {
    HANDSHAKES.iter().find(|handshake| handshake.id == id)
}

/// Answers a challenge of this preset, if the request is one. Without a verifier (the source still
/// waits for its secret) only unsigned challenges are answered.
pub fn answer(
    preset: &Preset,
    verifier: Option<&Verifier>,
    credentials: &Credentials,
    request: &Request<'_>,
    awaiting: bool,
    now_unix_ms: u64,
) -> Option<Answer> {
    let exchange = Exchange {
        credentials,
        request,
    };
    let handshake = preset.handshakes.iter().find(|handshake| {
        (handshake.store_secret.is_none() || awaiting) && exchange.matches(handshake)
    })?;
    if handshake.signed && verifier?.verify(request, now_unix_ms).is_err() {
        return None; // Refused like any event with a bad signature.
    }
    if handshake.confirm_url.is_some() && !exchange.confirms() {
        return None;
    }
    if !exchange.passes(handshake) {
        return Some(Answer::empty(handshake.else_status.unwrap_or(400)));
    }
    Some(
        exchange
            .answer(handshake)
            .unwrap_or_else(|| Answer::empty(400)),
    )
}

impl Answer {
    fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Headers::default(),
            body: Vec::new(),
            store_secret: None,
            confirm_url: None,
        }
    }

    fn header(&mut self, name: &str, value: &str) {
        let pair = (name.to_owned().into(), value.to_owned().into());
        self.headers.0.push(pair);
    }
}

/// One request and what the source knows.
struct Exchange<'a> {
    credentials: &'a Credentials,
    request: &'a Request<'a>,
}

impl Exchange<'_> {
    fn matches(&self, handshake: &Handshake) -> bool {
        let method = handshake.method.as_deref();
        method.is_none_or(|method| method == self.request.method)
            && handshake
                .present
                .iter()
                .all(|place| match place.strip_prefix("json:") {
                    Some(pointer) => Pointer::parse(pointer)
                        .is_some_and(|pointer| pointer.is_present(self.request.body)),
                    None => self.raw(place).is_some(),
                })
            && (handshake.equals.iter())
                .all(|(place, value)| self.raw(place).as_deref() == Some(value))
    }

    /// Every checked place has one of its allowed values. `{var:x}` is a setting that must be set,
    /// `{var:x?}` one that allows anything until it is set, `hex:20-32` that many hex digits.
    fn passes(&self, handshake: &Handshake) -> bool {
        handshake.check.iter().all(|(place, allowed)| {
            let value = self.raw(place).unwrap_or_default();
            allowed.iter().any(|allowed| {
                let var = allowed
                    .strip_prefix("{var:")
                    .and_then(|name| name.strip_suffix('}'));
                match var {
                    Some(name) => match self.credentials.vars.get(name.trim_end_matches('?')) {
                        Some(expected) => same(expected, &value),
                        None => name.ends_with('?'),
                    },
                    None if allowed == "hex:20-32" => {
                        let lower = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                        (20..=32).contains(&value.len()) && value.bytes().all(lower)
                    }
                    None => *allowed == value,
                }
            })
        })
    }

    /// The operator opted in, and the subscription is for the configured topic.
    fn confirms(&self) -> bool {
        let vars = &self.credentials.vars;
        let topic = self.raw("json:/TopicArn");
        vars.get("confirm_subscription")
            .is_some_and(|value| value == "yes")
            && vars
                .get("topic_arn")
                .is_none_or(|wanted| topic.as_ref() == Some(wanted))
    }

    fn answer(&self, handshake: &Handshake) -> Option<Answer> {
        let mut answer = Answer::empty(handshake.status);
        if let Some(content_type) = &handshake.content_type {
            answer.header("Content-Type", content_type);
            answer.header("X-Content-Type-Options", "nosniff");
        }
        for (name, value) in &handshake.headers {
            answer.header(name, &self.fill(value)?);
        }
        answer.body = match &handshake.json {
            Some(fields) => {
                let mut fields = fields.clone();
                for value in fields.values_mut() {
                    if let serde_json::Value::String(text) = value {
                        *text = self.fill(text)?;
                    }
                }
                serde_json::to_vec(&fields).ok()?
            }
            None => self.fill(&handshake.body)?.into_bytes(),
        };
        if let Some(place) = &handshake.store_secret {
            let secret = self
                .echo(place)
                .filter(|secret| !secret.trim().is_empty())?;
            answer.store_secret = Some(Secret::from_text(secret));
        }
        if let Some(place) = &handshake.confirm_url {
            let url = self.raw(place)?;
            let (base, query) = url.split_once('?')?;
            let safe = query.bytes().all(|byte| byte.is_ascii_graphic());
            let host_is_sns = |host: &str, path: &str| keys::sns_pin(host, "/.pem") && path == "/";
            keys::KeyUrl::pinned(base, host_is_sns).filter(|_| safe)?;
            answer.confirm_url = Some(url);
        }
        Some(answer)
    }

    /// Fills `{place}`, `{var:x}` and the keyed functions `{hmac-sha256-hex:place}`,
    /// `{hmac-sha256-base64:place}` and `{braintree:place}`.
    fn fill(&self, text: &str) -> Option<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, hole)) = rest.split_once('{') {
            let (name, after) = hole.split_once('}')?;
            filled.push_str(before);
            filled.push_str(&self.hole(name)?);
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    }

    fn hole(&self, name: &str) -> Option<String> {
        let (function, place) = name.split_once(':')?;
        let secret = || self.credentials.secrets.last().map(Secret::expose);
        let mac = |algorithm, key: &[u8]| {
            let value = self.echo(place)?;
            Some(hmac::sign(
                &hmac::Key::new(algorithm, key),
                value.as_bytes(),
            ))
        };
        Some(match function {
            "var" => match place.split_once('|') {
                Some((name, default)) => {
                    let value = self.credentials.vars.get(name);
                    value.map_or(default, String::as_str).to_owned()
                }
                None => self.credentials.vars.get(place)?.clone(),
            },
            "hmac-sha256-hex" => hex::encode(mac(hmac::HMAC_SHA256, secret()?)?),
            "hmac-sha256-base64" => BASE64_STANDARD.encode(mac(hmac::HMAC_SHA256, secret()?)?),
            "braintree" => {
                let key = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, secret()?);
                hex::encode(mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref())?)
            }
            _ => self.echo(name)?,
        })
    }

    /// A value that may be sent back: bounded, and without control characters.
    fn echo(&self, place: &str) -> Option<String> {
        self.raw(place)
            .filter(|text| text.len() <= ECHO_BYTES_MAX && !text.contains(char::is_control))
    }

    fn raw(&self, place: &str) -> Option<String> {
        let value = Place::parse(place).ok()?.value(self.request, None).ok()??;
        String::from_utf8(value.into_owned()).ok()
    }
}

/// Compares digests, so that a verify token cannot be guessed byte by byte.
fn same(left: &str, right: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    digest(left).as_ref().ct_eq(digest(right).as_ref()).into()
}
