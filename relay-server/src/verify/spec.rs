//! The rule as users write it: fields and words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A rule as users write it in a source's settings, in JSON or TOML. Which fields count depends on
/// `kind`; [`super::Rule::compile`] says what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
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
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
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
