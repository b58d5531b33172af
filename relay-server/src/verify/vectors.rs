//! Runs files of recorded requests, so that rules and presets can be held against what providers'
//! own libraries say.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use protocol::frame::Headers;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Credentials, PublicKey, Refusal, Request, Rule, RuleSpec, Scheme, Secret, Verifier, preset,
    rule::{Encoding, Parse},
};

/// Largest body a record may ask for by repetition, in bytes.
const REPEAT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One recorded request and whether it must verify. Fields that only document are ignored.
#[derive(Debug, Deserialize)]
struct Vector {
    id: String,
    provider: String,
    valid: bool,
    #[serde(default)]
    scheme: Option<Value>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    body_base64: Option<String>,
    #[serde(default)]
    body_repeat: Option<Repeat>,
    /// Unix seconds; without it ages are not checked.
    #[serde(default)]
    now: Option<f64>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    secrets: Option<Vec<String>>,
    #[serde(default)]
    secret_hex: Option<String>,
    #[serde(default)]
    public_key: Option<String>,
    #[serde(default)]
    public_key_base64: Option<String>,
    #[serde(default)]
    public_key_pem: Option<String>,
    #[serde(default)]
    cert_pem: Option<String>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
}

/// A body of one text, many times.
#[derive(Debug, Deserialize)]
struct Repeat {
    byte: String,
    count: usize,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Records whose outcome is the expected one, exceptions included.
    pub passed: usize,
    /// Records with another outcome: id and what happened.
    pub mismatches: Vec<(String, String)>,
    /// Records that a preset deliberately does not judge: id and reason.
    pub exceptions: Vec<(String, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, reason) in &self.exceptions {
            writeln!(f, "exception {id}: {reason}")?;
        }
        for (id, what) in &self.mismatches {
            writeln!(f, "MISMATCH {id}: {what}")?;
        }
        write!(
            f,
            "{} passed, {} failed",
            self.passed,
            self.mismatches.len()
        )
    }
}

/// Runs all records of a JSON list: by the record's own rule, or with `presets` by the shipped
/// preset of its provider.
///
/// # Errors
/// The text is not such a list.
pub fn run(json: &[u8], presets: bool) -> Result<Report, String> {
    let vectors: Vec<Vector> = serde_json::from_slice(json)
        .map_err(|error| format!("not a list of verification vectors: {error}"))?;
    let mut report = Report::default();
    for vector in &vectors {
        match vector.judge(presets) {
            Ok(exception) => {
                report.passed += 1;
                let id = vector.id.clone();
                report
                    .exceptions
                    .extend(exception.map(|reason| (id, reason)));
            }
            Err(what) => report.mismatches.push((vector.id.clone(), what)),
        }
    }
    Ok(report)
}

impl Vector {
    /// `Ok` when the outcome is the expected one, with the reason if it is an exception.
    fn judge(&self, presets: bool) -> Result<Option<String>, String> {
        let own = self.own_rule();
        if !presets && own.is_some() {
            return self.expect(self.outcome(&own_scheme(own)?)?).map(|()| None);
        }
        let Some(preset) = preset(&self.provider) else {
            self.expect(self.outcome(&own_scheme(own)?)?)?;
            return Ok(Some(format!(
                "`{}` is no preset; its own rule was used",
                self.provider
            )));
        };
        if let Some(Ok(own)) = &own
            && !preset
                .rules
                .iter()
                .any(|rule| same_scheme(&rule.spec, &own.spec))
        {
            self.expect(self.outcome(&own_scheme(Some(Ok(own.clone())))?)?)?;
            return Ok(Some(
                "it uses a rule of its own; that rule was used".to_owned(),
            ));
        }
        let outcome = self.outcome(&Scheme::Preset(preset))?;
        let stricter = match &outcome {
            Err(Outcome::Refused(Refusal::Future { .. })) => "refuses times in the future",
            Err(Outcome::Refused(Refusal::Stale { .. })) => "refuses times this old",
            _ => return self.expect(outcome).map(|()| None),
        };
        if self.valid && own.is_some() && self.outcome(&own_scheme(own)?)?.is_ok() {
            return Ok(Some(format!(
                "the preset is stricter than the record: it {stricter}"
            )));
        }
        self.expect(outcome).map(|()| None)
    }

    fn own_rule(&self) -> Option<Result<Rule, String>> {
        let mut scheme = self.scheme.clone()?;
        translate(&mut scheme);
        let spec = serde_json::from_value::<RuleSpec>(scheme).map_err(|error| error.to_string());
        Some(spec.and_then(|spec| Rule::compile(&spec).map_err(|error| error.to_string())))
    }

    fn expect(&self, outcome: Result<(), Outcome>) -> Result<(), String> {
        match (self.valid, outcome) {
            (true, Ok(())) | (false, Err(_)) => Ok(()),
            (true, Err(outcome)) => Err(format!("expected valid, got invalid: {outcome}")),
            (false, Ok(())) => Err("expected invalid, got valid".to_owned()),
        }
    }

    /// The outer error says that the record cannot be run at all.
    fn outcome(&self, scheme: &Scheme) -> Result<Result<(), Outcome>, String> {
        let headers = self.headers()?;
        let body = self.body()?;
        let request = Request {
            method: self.method.as_deref().unwrap_or("POST"),
            url: self.url.as_deref().unwrap_or_default(),
            headers: &headers,
            body: &body,
        };
        let verifier = match Verifier::new(scheme.clone(), self.credentials()?) {
            Ok(verifier) => verifier,
            Err(error) => return Ok(Err(Outcome::Unusable(error.to_string()))),
        };
        let now = self.now.map(|seconds| (seconds.max(0.0) * 1000.0) as u64);
        let verified = verifier.verify_at(&request, now);
        Ok(verified.map(|_| ()).map_err(Outcome::Refused))
    }

    fn headers(&self) -> Result<Headers, String> {
        let mut headers = Headers::default();
        for (name, value) in &self.headers {
            let values = match value {
                Value::Array(values) => values.iter().collect(),
                one => vec![one],
            };
            for value in values {
                let value = value.as_str().ok_or("a header is not a text")?;
                headers
                    .0
                    .push((name.clone().into(), value.to_owned().into()));
            }
        }
        Ok(headers)
    }

    fn body(&self) -> Result<Vec<u8>, String> {
        match (&self.body_base64, &self.body_repeat) {
            (Some(base64), _) => BASE64_STANDARD
                .decode(base64)
                .map_err(|_| "body_base64 is not base64".to_owned()),
            (None, Some(repeat)) => match repeat.byte.len().checked_mul(repeat.count) {
                Some(0..=REPEAT_BYTES_MAX) => Ok(repeat.byte.repeat(repeat.count).into_bytes()),
                _ => Err("body_repeat is too large".to_owned()),
            },
            (None, None) => Ok(Vec::new()),
        }
    }

    fn credentials(&self) -> Result<Credentials, String> {
        let mut secrets = Vec::new();
        if let Some(hex) = &self.secret_hex {
            let key = hex::decode(hex).map_err(|_| "secret_hex is not hex")?;
            secrets.push(Secret::from_key(key));
        }
        let texts = self.secret.iter().chain(self.secrets.iter().flatten());
        secrets.extend(texts.map(Secret::from_text));
        let forms = [
            &self.cert_pem,
            &self.public_key_pem,
            &self.public_key_base64,
            &self.public_key,
        ];
        let keys = forms
            .into_iter()
            .flatten()
            .take(1)
            .map(|text| PublicKey::parse(text));
        Ok(Credentials {
            secrets,
            vars: self.vars.clone(),
            public_keys: keys
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
        })
    }
}

/// Turns what recorded files say in words into the rule language.
fn translate(scheme: &mut Value) {
    let Some(fields) = scheme.as_object_mut() else {
        return;
    };
    for remark in ["unverified", "jwk"] {
        fields.remove(remark);
    }
    for (field, words, rule) in [
        ("kind", "jwt-es256", "jwt"),
        ("kind", "jwt-rs256", "jwt"),
        ("aud", "endpoint URL", "{url}"),
        ("aud", "configured", "{var:audience}"),
        (
            "body_transform",
            "inflate gzip by magic 1f8b before HMAC",
            "gunzip",
        ),
    ] {
        if let Some(value) = fields.get_mut(field)
            && value == words
        {
            *value = rule.into();
        }
    }
}

fn own_scheme(own: Option<Result<Rule, String>>) -> Result<Scheme, String> {
    let rule = own.ok_or("the record has no rule, and its provider no preset")?;
    let rule = rule.map_err(|error| format!("its rule cannot be used: {error}"))?;
    Ok(Scheme::Own(rule.into()))
}

/// Why a record did not verify.
enum Outcome {
    Refused(Refusal),
    /// The secret cannot be used with the rule, so nothing verifies.
    Unusable(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unusable(why) => f.write_str(why),
        }
    }
}

/// Whether two rules describe the same way to sign; tolerances and what a preset adds do not count.
fn same_scheme(left: &RuleSpec, right: &RuleSpec) -> bool {
    let core = |spec: &RuleSpec| {
        let mut core = spec.clone();
        core.encoding = core.encoding.or(Some(Encoding::Hex));
        core.timestamp = None;
        core.tolerance = None;
        core.each = None;
        core.json_field = None;
        core.key_url_header = None;
        core.body_transform = None;
        core.must_cover.clear();
        if let Some(sig) = &mut core.sig {
            sig.parse = sig.parse.or(Some(Parse::Raw));
            sig.prefix = sig.prefix.take().filter(|prefix| !prefix.is_empty());
            sig.from = super::rule::OneOrMany::Many(sig.from.as_slice().to_vec());
            let keys = sig.keys.as_ref().map(|keys| keys.as_slice().to_vec());
            sig.keys = keys.map(super::rule::OneOrMany::Many);
        }
        core
    };
    core(left) == core(right)
}
