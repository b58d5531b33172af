//! RFC 9421 HTTP message signatures with RFC 9530 digests: one signature, and the components that
//! providers use.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest;

use super::{
    super::{
        Bound, Refusal, Request, Verified, Verifier, rule::HttpSignatureAlgorithm, time::fresh,
    },
    by_mac, text_header,
};

/// Components one signature may cover.
const COMPONENTS_MAX: usize = 64;

pub(in super::super) fn http_signature(
    verifier: &Verifier,
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let spec = &bound.rule.spec;
    let input = Input::parse(text_header(request, "Signature-Input")?).ok_or_else(|| {
        Refusal::malformed(
            "header:Signature-Input",
            "expected one list of quoted components",
        )
    })?;
    let signature = dictionary_bytes(text_header(request, "Signature")?, input.label)
        .ok_or_else(|| Refusal::malformed("header:Signature", "expected `label=:base64:`"))?;
    for needed in &spec.must_cover {
        if !input.components.contains(&needed.as_str()) {
            return Err(Refusal::missing(format!("signed component {needed}")));
        }
    }
    input.check_time(spec.tolerance, now)?;
    if spec.check_digest || input.components.contains(&"content-digest") {
        check_digest(request)?;
    }
    let base = input.base(request)?;
    match spec.alg {
        Some(HttpSignatureAlgorithm::HmacSha256) => by_mac(bound, &[base.as_bytes()], &[signature]),
        _ => {
            let keys = &verifier.credentials.public_keys;
            let credential = keys
                .iter()
                .position(|key| key.verifies_ed25519(base.as_bytes(), &signature));
            match credential {
                Some(_) => Ok(Verified { credential }),
                None => Err(Refusal::Mismatch),
            }
        }
    }
}

/// What Signature-Input says was signed.
struct Input<'h> {
    label: &'h str,
    components: Vec<&'h str>,
    /// The list with its parameters, as it is signed.
    parameters: &'h str,
    /// Only the parameters.
    tail: &'h str,
}

impl<'h> Input<'h> {
    fn parse(text: &'h str) -> Option<Self> {
        let (label, parameters) = text.trim().split_once('=')?;
        let (list, tail) = parameters.strip_prefix('(')?.split_once(')')?;
        let mut components = Vec::new();
        for item in list.split(' ').filter(|item| !item.is_empty()) {
            let name = item.strip_prefix('"')?.strip_suffix('"')?;
            if name.is_empty() || name.contains('"') || components.len() >= COMPONENTS_MAX {
                return None;
            }
            components.push(name);
        }
        Some(Self {
            label,
            components,
            parameters,
            tail,
        })
    }

    fn parameter(&self, name: &str) -> Option<&'h str> {
        let pairs = self.tail.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    }

    fn check_time(&self, tolerance_s: Option<f64>, now: Option<u64>) -> Result<(), Refusal> {
        let (Some(tolerance_s), Some(now)) = (tolerance_s, now) else {
            return Ok(());
        };
        let created = self.parameter("created");
        let created = created.ok_or_else(|| Refusal::missing("parameter created"))?;
        let created: u32 = created
            .parse()
            .map_err(|_| Refusal::malformed("parameter created", "expected Unix seconds"))?;
        let tolerance_ms = (tolerance_s.max(0.0) * 1000.0) as u64;
        fresh(
            i128::from(created) * 1000 - i128::from(now),
            tolerance_ms,
            true,
        )
    }

    /// The text that was signed.
    fn base(&self, request: &Request<'_>) -> Result<String, Refusal> {
        let mut base = String::new();
        for &name in &self.components {
            let authority = || {
                let rest = request.url.split_once("://").map_or("", |(_, rest)| rest);
                rest.split(['/', '?', '#'])
                    .next()
                    .unwrap_or_default()
                    .to_ascii_lowercase()
            };
            let value = match name {
                "@method" => request.method.to_owned(),
                "@target-uri" => request.url.to_owned(),
                "@authority" => authority(),
                "@path" if request.path().is_empty() => "/".to_owned(),
                "@path" => request.path().to_owned(),
                "@query" => format!("?{}", request.query()),
                _ if name.starts_with('@') => {
                    return Err(Refusal::malformed(
                        "header:Signature-Input",
                        "it covers a component that is not supported",
                    ));
                }
                _ => text_header(request, name)?.trim().to_owned(),
            };
            base.push_str(&format!("\"{name}\": {value}\n"));
        }
        base.push_str(&format!("\"@signature-params\": {}", self.parameters));
        Ok(base)
    }
}

/// The byte sequence `label=:base64:` of a structured dictionary.
fn dictionary_bytes(header: &str, label: &str) -> Option<Vec<u8>> {
    let value = header.split(',').find_map(|member| {
        let (key, value) = member.trim().split_once('=')?;
        (key == label).then_some(value)
    })?;
    let base64 = value.strip_prefix(':')?.strip_suffix(':')?;
    BASE64_STANDARD.decode(base64).ok()
}

/// Every digest of a known algorithm must fit, and there must be one.
fn check_digest(request: &Request<'_>) -> Result<(), Refusal> {
    let header = text_header(request, "Content-Digest")?;
    let known = [("sha-256", &digest::SHA256), ("sha-512", &digest::SHA512)];
    let mut found = false;
    for (label, algorithm) in known {
        if let Some(expected) = dictionary_bytes(header, label) {
            found = true;
            if digest::digest(algorithm, request.body).as_ref() != expected {
                let what = "header:Content-Digest".to_owned();
                return Err(Refusal::BodyDigest { what });
            }
        }
    }
    if found {
        return Ok(());
    }
    Err(Refusal::malformed(
        "header:Content-Digest",
        "expected sha-256 or sha-512",
    ))
}
