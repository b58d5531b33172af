//! The declarative rule: how a provider signs, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::template::{Part, Place, Template};

/// A rule as users write it in a source's settings, in JSON or TOML. Which fields count depends on
/// `kind`; [`Rule::compile`] says what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The family of schemes.
    pub kind: Kind,
    /// `sha1`, `sha256`, `sha384` or `sha512`, for `hmac` and `hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// How the key is made from the text of the secret; `utf8` unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyEncoding,
    /// Removed from the front of the secret before it is decoded, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
    /// What is signed: text with holes such as `{timestamp}.{body}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Endings that some senders add to the signed text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_alt_suffix: Vec<String>,
    /// Parts of the request that are absent count as empty instead of being refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missing_as_empty: bool,
    /// How signatures are written; `hex` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Where the signatures are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<SignatureSpec>,
    /// Where the signed time is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampSpec>,
    /// Headers that must have exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// `twilio`: the URL is also tried with and without its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_mode: Option<UrlMode>,
    /// Query parameter that, when present, must be the SHA-256 of the body in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_sha256_query: Option<String>,
    /// Form field that holds the JSON document when the body is a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_field: Option<String>,
    /// `gunzip`: the signature covers the inflated body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_transform: Option<BodyTransform>,
    /// Header that names the address of the provider's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_url_header: Option<String>,
    /// Where the token is, for `token` and `jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Text in front of the token, case aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `jwt`: the algorithms taken; the token's own header never decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algs: Vec<String>,
    /// `jwt`: issuers taken, one or a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<OneOrMany>,
    /// `jwt`: the audience, a template such as `{url}` or `{var:audience}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// `jwt`: claims that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require_claims: Vec<String>,
    /// `jwt`: claims that must have these values; text values may hold `{var:name}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, serde_json::Value>,
    /// `jwt`: clock difference forgiven for `nbf` and `exp`, in seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub leeway: u64,
    /// `jwt`: greatest age by `iat`, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// `jwt`: the claim with the SHA-256 of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_hash: Option<ClaimHash>,
    /// `jwt`: the claim with the SHA-256 of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<ClaimHash>,
    /// `jwt`: where the provider publishes its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// `http-sig`: `hmac-sha256` or `ed25519`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<HttpSignatureAlgorithm>,
    /// `http-sig`: the body must have the digest that Content-Digest names, covered or not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub check_digest: bool,
    /// `http-sig`: components every signature must cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub must_cover: Vec<String>,
    /// `http-sig`, `hook0` and `contentful`: greatest difference to the signed time, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Name of the top-level JSON array whose every item must pass alone; the rule's pointers then
    /// start with `/{name}/0/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }
    };
}

words! {
    /// The family a rule belongs to.
    Kind {
        /// A keyed MAC over the content.
        Hmac = "hmac",
        /// A plain digest over content that includes the secret.
        Hash = "hash",
        /// A shared token, compared.
        Token = "token",
        /// HTTP basic authentication; the secret is `user:password`.
        Basic = "basic",
        /// Ed25519 over the content.
        Ed25519 = "ed25519",
        /// ECDSA on P-256 with SHA-256, signature in ASN.1.
        EcdsaP256Sha256 = "ecdsa-p256-sha256",
        /// RSA PKCS#1 v1.5 with SHA-256.
        RsaSha256 = "rsa-sha256",
        /// RSA PKCS#1 v1.5 with SHA-1, where the provider knows nothing better.
        RsaSha1 = "rsa-sha1",
        /// A compact JWS whose claims carry digests.
        Jwt = "jwt",
        /// RFC 9421 HTTP message signatures.
        HttpSig = "http-sig",
        /// Amazon SNS messages.
        Sns = "sns",
        /// Hook0's list of covered headers.
        Hook0 = "hook0",
        /// Contentful's canonical request.
        Contentful = "contentful",
        /// Plivo's third signature version.
        PlivoV3 = "plivo-v3",
        /// Hygraph's JSON envelope.
        Hygraph = "hygraph",
        /// Nothing is checked; must be chosen explicitly.
        None = "none",
    }
}

words! {
    /// A hash function.
    Hash { /// SHA-1.
        Sha1 = "sha1", /// SHA-256.
        Sha256 = "sha256", /// SHA-384.
        Sha384 = "sha384", /// SHA-512.
        Sha512 = "sha512" }
}

words! {
    /// How the key is made from the secret's text.
    KeyEncoding {
        /// The text itself.
        Utf8 = "utf8",
        /// Standard base64, padding optional.
        Base64 = "base64",
        /// Either base64 alphabet, padding optional.
        Base64Any = "base64-any",
        /// Hex digits.
        Hex = "hex",
        /// The text after Unicode compatibility decomposition.
        Utf8Nfkd = "utf8-nfkd",
        /// The SHA-1 of the text.
        Sha1 = "sha1",
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "the macro that names the variants has no default"
)]
impl Default for KeyEncoding {
    fn default() -> Self {
        Self::Utf8
    }
}

words! {
    /// How signatures are written.
    Encoding {
        /// Hex in either case.
        Hex = "hex",
        /// Standard base64, padded and canonical.
        Base64 = "base64",
        /// URL-safe base64, canonical.
        Base64Url = "base64url",
    }
}

words! {
    /// How signatures are taken out of their place.
    Parse {
        /// The whole value, after a prefix.
        Raw = "raw",
        /// A list of keys and values.
        List = "list",
        /// A time, then signatures.
        Positional = "positional",
    }
}

words! {
    /// A separator, by name.
    Separator { /// `,`
        Comma = "comma", /// `;`
        Semicolon = "semicolon", /// A blank.
        Space = "space", /// `&`
        Amp = "amp", /// `|`
        Pipe = "pipe", /// `=`
        Eq = "eq", /// `:`
        Colon = "colon" }
}

impl Separator {
    pub(super) fn char(self) -> char {
        match self {
            Self::Comma => ',',
            Self::Semicolon => ';',
            Self::Space => ' ',
            Self::Amp => '&',
            Self::Pipe => '|',
            Self::Eq => '=',
            Self::Colon => ':',
        }
    }
}

words! {
    /// How a time is written.
    TimeUnit { /// Unix seconds.
        Seconds = "s", /// Unix milliseconds.
        Millis = "ms", /// Unix microseconds.
        Micros = "us", /// RFC 3339; without a zone it is UTC.
        Rfc3339 = "rfc3339", /// As in HTTP's Date header.
        HttpDate = "http-date", /// `Wed 05 Jul 2017 10:20:30 UTC`.
        ScalrDate = "scalr-date" }
}

words! {
    /// Variants of the URL that are tried.
    UrlMode { /// With and without port, and with `'` escaped.
        Twilio = "twilio" }
}

words! {
    /// What happened to the body after it was signed.
    BodyTransform { /// Compressed with gzip, recognised by its magic bytes.
        Gunzip = "gunzip" }
}

words! {
    /// Algorithms of HTTP message signatures.
    HttpSignatureAlgorithm { /// HMAC-SHA256.
        HmacSha256 = "hmac-sha256", /// Ed25519.
        Ed25519 = "ed25519" }
}

/// One text or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A claim that holds a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimHash {
    /// Name of the claim.
    pub claim: String,
    /// `hex` or `base64`.
    pub encoding: Encoding,
    /// The claim must be absent when the body is empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub absent_when_empty: bool,
}

/// Where signatures are and how they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureSpec {
    /// One place or several, such as `header:X-Signature`.
    pub from: OneOrMany,
    /// `raw` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parse: Option<Parse>,
    /// Text in front of a raw signature; it must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Between items of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sep: Option<Separator>,
    /// Between key and value of an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<Separator>,
    /// Keys whose values are signatures; all others are captured, not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<OneOrMany>,
}

/// Where the signed time is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampSpec {
    /// `cap:t` (a key of the signature list), or a place such as `header:X-Timestamp`.
    pub from: String,
    /// `s` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// Greatest age in seconds; without it the time is signed but not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The tolerance also holds ahead; true unless given.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub reject_future: bool,
    /// Requests without the time pass. Only for times inside a signed body.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_true(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

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
