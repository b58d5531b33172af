//! The declarative rule: how a provider signs, checked and ready to be evaluated.

use std::collections::BTreeMap;

pub use super::spec::{
    BodyTransform, ClaimHash, Encoding, Hash, HttpSignatureAlgorithm, KeyEncoding, Kind, OneOrMany,
    Parse, RuleSpec, Separator, SignatureSpec, TimeUnit, TimestampSpec, UrlMode,
};
use super::template::{Part, Place, Template};

/// A rule that cannot work, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {problem}")]
pub struct RuleError {
    /// JSON pointer to the field.
    pub pointer: &'static str,
    /// What is wrong and what to write instead.
    pub problem: String,
}

fn wrong(pointer: &'static str, problem: impl Into<String>) -> RuleError {
    let problem = problem.into();
    RuleError { pointer, problem }
}

/// A checked rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) spec: RuleSpec,
    pub(super) check: Check,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Check {
    Open,
    Token { from: Place, prefix: Option<String> },
    Basic,
    Signed(Signed),
    Jwt { from: Place, aud: Option<Template> },
    HttpSignature,
    Sns,
    Hook0,
    Contentful,
    PlivoV3,
    Hygraph,
}

/// A signature over a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signed {
    pub(super) content: Template,
    pub(super) places: Vec<Place>,
    pub(super) layout: Layout,
    pub(super) encoding: Encoding,
    pub(super) timestamp: Option<Timestamp>,
}

/// How signatures stand in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    Raw {
        prefix: String,
    },
    List {
        item: char,
        pair: char,
        keys: Vec<String>,
    },
    Positional {
        item: char,
    },
}

/// Where the signed time is, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timestamp {
    pub(super) from: TimestampFrom,
    pub(super) unit: TimeUnit,
    pub(super) tolerance_ms: Option<u64>,
    pub(super) reject_future: bool,
    pub(super) optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimestampFrom {
    Capture(String),
    Place(Place),
}

impl Rule {
    /// Checks a rule as it was written.
    ///
    /// # Errors
    /// Names the first field that cannot work; show it beside that field.
    pub fn compile(spec: &RuleSpec) -> Result<Self, RuleError> {
        let check = match spec.kind {
            Kind::None => Check::Open,
            Kind::Basic => Check::Basic,
            Kind::Sns => Check::Sns,
            Kind::Hook0 => Check::Hook0,
            Kind::Contentful => Check::Contentful,
            Kind::PlivoV3 => Check::PlivoV3,
            Kind::Hygraph => Check::Hygraph,
            Kind::Token => Check::Token {
                from: token_place(spec)?,
                prefix: spec.prefix.clone(),
            },
            Kind::Jwt => {
                if spec.algs.is_empty() {
                    return Err(wrong("/algs", "list the algorithms to take, such as HS256"));
                }
                let aud = spec.aud.as_deref().map(Template::parse).transpose();
                Check::Jwt {
                    from: token_place(spec)?,
                    aud: aud.map_err(|problem| wrong("/aud", problem))?,
                }
            }
            Kind::HttpSig => match spec.alg {
                Some(_) => Check::HttpSignature,
                None => return Err(wrong("/alg", "name hmac-sha256 or ed25519")),
            },
            _ => Check::Signed(Signed::compile(spec)?),
        };
        Ok(Self {
            spec: spec.clone(),
            check,
        })
    }

    /// Puts the source's settings into `{var:name}` holes; the missing name on failure.
    pub(super) fn bind(&self, vars: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut bound = self.clone();
        for value in bound.spec.require.values_mut() {
            fill(value, vars)?;
        }
        for value in bound.spec.claims.values_mut() {
            if let serde_json::Value::String(text) = value {
                fill(text, vars)?;
            }
        }
        match &mut bound.check {
            Check::Signed(signed) => {
                signed.content.bind(vars)?;
                match &mut signed.layout {
                    Layout::Raw { prefix } => fill(prefix, vars)?,
                    Layout::List { keys, .. } => {
                        keys.iter_mut().try_for_each(|key| fill(key, vars))?;
                    }
                    Layout::Positional { .. } => {}
                }
            }
            Check::Jwt { aud: Some(aud), .. } => aud.bind(vars)?,
            _ => {}
        }
        Ok(bound)
    }

    /// Whether the rule checks a signature, not a mere token, and needs a credential to do so.
    pub fn is_signature(&self) -> bool {
        !matches!(self.check, Check::Open | Check::Token { .. } | Check::Basic)
    }

    /// Whether the rule works with a secret shared with the provider.
    pub fn is_symmetric(&self) -> bool {
        match self.spec.kind {
            Kind::Hmac | Kind::Hash | Kind::Token | Kind::Basic | Kind::Hook0 => true,
            Kind::Contentful | Kind::PlivoV3 | Kind::Hygraph => true,
            Kind::Jwt => self.spec.algs.iter().any(|alg| alg.starts_with("HS")),
            Kind::HttpSig => self.spec.alg == Some(HttpSignatureAlgorithm::HmacSha256),
            Kind::Ed25519 | Kind::EcdsaP256Sha256 | Kind::RsaSha256 | Kind::RsaSha1 => false,
            Kind::Sns | Kind::None => false,
        }
    }
}

fn fill(text: &mut String, vars: &BTreeMap<String, String>) -> Result<(), String> {
    while let Some((before, rest)) = text.split_once("{var:") {
        let Some((name, after)) = rest.split_once('}') else {
            return Ok(());
        };
        let value = vars.get(name).ok_or_else(|| name.to_owned())?;
        if value.contains("{var:") {
            return Err(name.to_owned());
        }
        *text = format!("{before}{value}{after}");
    }
    Ok(())
}

fn token_place(spec: &RuleSpec) -> Result<Place, RuleError> {
    let Some(from) = &spec.from else {
        return Err(wrong(
            "/from",
            "say where the token is, as in `header:Authorization`",
        ));
    };
    Place::parse(from).map_err(|hint| wrong("/from", hint))
}

impl Signed {
    fn compile(spec: &RuleSpec) -> Result<Self, RuleError> {
        let keyed = matches!(spec.kind, Kind::Hmac | Kind::Hash);
        if keyed && spec.hash.is_none() {
            return Err(wrong("/hash", "name sha1, sha256, sha384 or sha512"));
        }
        if spec.key_prefix.as_deref() == Some("") {
            return Err(wrong("/key_prefix", "leave it out or name the prefix"));
        }
        let Some(content) = &spec.content else {
            return Err(wrong("/content", "say what is signed, such as `{body}`"));
        };
        let content = Template::parse(content).map_err(|problem| wrong("/content", problem))?;
        if spec.kind == Kind::Hash && !content.uses(&Part::Secret) {
            return Err(wrong(
                "/content",
                "a plain hash proves nothing unless its content includes `{secret}`",
            ));
        }
        if !content
            .0
            .iter()
            .any(|part| !matches!(part, Part::Text(_) | Part::Secret))
        {
            return Err(wrong(
                "/content",
                "it covers no part of the request; add `{body}`",
            ));
        }
        if content.uses(&Part::Timestamp) && spec.timestamp.is_none() {
            return Err(wrong(
                "/timestamp",
                "`{timestamp}` is signed: say where it is",
            ));
        }
        let Some(sig) = &spec.sig else {
            return Err(wrong("/sig", "say where the signature is"));
        };
        let layout = Layout::compile(sig)?;
        let timestamp = match &spec.timestamp {
            Some(timestamp) => Some(Timestamp::compile(timestamp, &layout)?),
            None => None,
        };
        let places: Result<Vec<_>, _> = sig
            .from
            .as_slice()
            .iter()
            .map(|p| Place::parse(p))
            .collect();
        let places = places.map_err(|hint| wrong("/sig/from", hint))?;
        if places.is_empty() {
            return Err(wrong("/sig/from", "name at least one place"));
        }
        let encoding = spec.encoding.unwrap_or(Encoding::Hex);
        Ok(Self {
            content,
            places,
            layout,
            encoding,
            timestamp,
        })
    }
}

impl Layout {
    fn compile(sig: &SignatureSpec) -> Result<Self, RuleError> {
        let item = sig.sep.map(Separator::char);
        Ok(match sig.parse.unwrap_or(Parse::Raw) {
            Parse::Raw => Self::Raw {
                prefix: sig.prefix.clone().unwrap_or_default(),
            },
            Parse::Positional => Self::Positional {
                item: item.ok_or_else(|| wrong("/sig/sep", "say what separates the items"))?,
            },
            Parse::List => Self::List {
                item: item.ok_or_else(|| wrong("/sig/sep", "say what separates the items"))?,
                pair: match sig.kv {
                    Some(kv) => kv.char(),
                    None => return Err(wrong("/sig/kv", "say what separates key and value")),
                },
                keys: match &sig.keys {
                    Some(keys) if !keys.as_slice().is_empty() => keys.as_slice().to_vec(),
                    _ => return Err(wrong("/sig/keys", "name the keys that carry signatures")),
                },
            },
        })
    }
}

impl Timestamp {
    fn compile(spec: &TimestampSpec, layout: &Layout) -> Result<Self, RuleError> {
        let from = match spec.from.strip_prefix("cap:") {
            Some(_) if matches!(layout, Layout::Raw { .. }) => {
                return Err(wrong(
                    "/timestamp/from",
                    "a raw signature has no keys to capture",
                ));
            }
            Some(key) => TimestampFrom::Capture(key.to_owned()),
            None => TimestampFrom::Place(
                Place::parse(&spec.from).map_err(|hint| wrong("/timestamp/from", hint))?,
            ),
        };
        if let Some(tolerance) = spec.tolerance
            && !(0.0..=1e12).contains(&tolerance)
        {
            return Err(wrong("/timestamp/tolerance", "give seconds, 0 or more"));
        }
        Ok(Self {
            from,
            unit: spec.unit.unwrap_or(TimeUnit::Seconds),
            tolerance_ms: spec.tolerance.map(|seconds| (seconds * 1000.0) as u64),
            reject_future: spec.reject_future,
            optional: spec.optional,
        })
    }
}
