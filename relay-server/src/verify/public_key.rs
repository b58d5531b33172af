//! Public keys and certificates of providers, in any of the forms they are published in.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

/// A provider's public key. The kind comes from the key itself, so that a request cannot choose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub(super) kind: PublicKeyKind,
    /// Raw point or integer pair, as ring takes it.
    bytes: Vec<u8>,
    /// The name by which tokens refer to it (`kid`), if it has one.
    pub(super) id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublicKeyKind {
    Ed25519,
    P256,
    Rsa,
}

/// Keys read of one set: more than any provider has in use.
const KEYS_MAX: usize = 32;

/// Text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: paste PEM, base64 (raw Ed25519 or DER) or hex as the provider shows it")]
pub struct InvalidKey;

impl PublicKey {
    /// Reads a JWK, PEM (public key or certificate), `whpk_` + base64, base64 of a raw Ed25519 key or of a
    /// DER public key, or hex of a raw Ed25519 key.
    ///
    /// # Errors
    /// The text is none of these; ask for it again.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        if text.starts_with('{') {
            let jwk = serde_json::from_str(text).map_err(|_| InvalidKey)?;
            return Self::from_jwk(&jwk).ok_or(InvalidKey);
        }
        if text.starts_with("-----BEGIN") {
            return Self::from_pem(text);
        }
        let text = text.strip_prefix("whpk_").unwrap_or(text);
        if text.len() == 64
            && let Ok(bytes) = hex::decode(text)
        {
            return Ok(Self::new(PublicKeyKind::Ed25519, bytes));
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| InvalidKey)?;
        match bytes.len() {
            32 => Ok(Self::new(PublicKeyKind::Ed25519, bytes)),
            _ => Self::from_spki(&bytes).ok_or(InvalidKey),
        }
    }

    /// Reads what a provider publishes at an address: a JWK set, of which keys of unknown kinds are
    /// left out, or a single key in any form that [`Self::parse`] reads.
    ///
    /// # Errors
    /// There is no usable key in it.
    pub fn parse_published(text: &[u8]) -> Result<Vec<Self>, InvalidKey> {
        let text = std::str::from_utf8(text).map_err(|_| InvalidKey)?;
        let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
        let set = document.as_ref().and_then(|it| it.get("keys")?.as_array());
        let Some(set) = set else {
            return Self::parse(text).map(|key| vec![key]);
        };
        let objects = set.iter().filter_map(serde_json::Value::as_object);
        let keys: Vec<_> = objects.take(KEYS_MAX).filter_map(Self::from_jwk).collect();
        if keys.is_empty() {
            return Err(InvalidKey);
        }
        Ok(keys)
    }

    pub(super) fn new(kind: PublicKeyKind, bytes: Vec<u8>) -> Self {
        let id = None;
        Self { kind, bytes, id }
    }

    /// Gives the key the name by which tokens refer to it.
    #[must_use]
    pub fn named(self, id: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            ..self
        }
    }

    fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        let certificate = text.starts_with("-----BEGIN CERTIFICATE-----");
        let base64: String = text
            .lines()
            .map(str::trim)
            .skip(1)
            .take_while(|line| !line.starts_with("-----END"))
            .collect();
        let der = BASE64_STANDARD.decode(base64).map_err(|_| InvalidKey)?;
        let key = if certificate {
            certificate_spki(&der).and_then(Self::from_spki)
        } else {
            Self::from_spki(&der)
        };
        key.ok_or(InvalidKey)
    }

    /// JSON web key: EC on P-256, RSA, or Ed25519.
    fn from_jwk(jwk: &serde_json::Map<String, serde_json::Value>) -> Option<Self> {
        let field = |name: &str| jwk.get(name)?.as_str();
        let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(field(name)?).ok();
        let (kind, key) = match (field("kty")?, field("crv")) {
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                (x.len() == 32 && y.len() == 32).then_some(())?;
                (PublicKeyKind::P256, [&[4], &x[..], &y].concat())
            }
            ("OKP", Some("Ed25519")) => (PublicKeyKind::Ed25519, bytes("x")?),
            ("RSA", _) => {
                let numbers = [der_integer(&bytes("n")?), der_integer(&bytes("e")?)].concat();
                (PublicKeyKind::Rsa, der(SEQUENCE, &numbers))
            }
            _ => return None,
        };
        let key = Self::new(kind, key);
        Some(match field("kid") {
            Some(id) => key.named(id),
            None => key,
        })
    }

    /// SubjectPublicKeyInfo: SEQUENCE { SEQUENCE { OID, .. }, BIT STRING }.
    fn from_spki(der: &[u8]) -> Option<Self> {
        let (info, _) = element(der, SEQUENCE)?;
        let (algorithm, rest) = element(info, SEQUENCE)?;
        let (oid, parameters) = element(algorithm, OID)?;
        let (bits, _) = element(rest, BIT_STRING)?;
        let key = bits.strip_prefix(&[0])?.to_vec();
        let kind = match oid {
            [0x2b, 0x65, 0x70] if key.len() == 32 => PublicKeyKind::Ed25519,
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => PublicKeyKind::Rsa,
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01] => {
                let (curve, _) = element(parameters, OID)?;
                let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
                (curve == p256).then_some(PublicKeyKind::P256)?
            }
            _ => return None,
        };
        Some(Self::new(kind, key))
    }

    /// Whether `signature` over `message` was made by the owner of this key.
    pub(super) fn verifies(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        kind: PublicKeyKind,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.kind == kind
            && UnparsedPublicKey::new(algorithm, &self.bytes)
                .verify(message, signature)
                .is_ok()
    }

    /// RSA PKCS#1 v1.5, where SHA-1 is still what a provider signs with.
    pub(super) fn verifies_rsa(&self, sha1: bool, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = if sha1 {
            &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY
        } else {
            &signature::RSA_PKCS1_2048_8192_SHA256
        };
        self.verifies(algorithm, PublicKeyKind::Rsa, message, signature)
    }

    pub(super) fn verifies_ed25519(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifies(
            &signature::ED25519,
            PublicKeyKind::Ed25519,
            message,
            signature,
        )
    }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

fn der_integer(number: &[u8]) -> Vec<u8> {
    let number = &number[number.iter().take_while(|&&byte| byte == 0).count()..];
    let positive = number.first().is_some_and(|&byte| byte >= 0x80);
    der(
        INTEGER,
        &[if positive { &[0][..] } else { &[] }, number].concat(),
    )
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut element = vec![tag];
    match content.len() {
        0..0x80 => element.push(low),
        _ => element.extend([0x82, high, low]),
    }
    element.extend_from_slice(content);
    element
}

/// Certificate: SEQUENCE { TBS SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject,
/// SubjectPublicKeyInfo, .. }, .. }.
fn certificate_spki(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&0xa0) {
        rest = any_element(rest)?.2;
    }
    for _ in 0..5 {
        rest = any_element(rest)?.2;
    }
    Some(rest)
}

/// Content of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any_element(der)?;
    (found == tag).then_some((content, rest))
}

fn any_element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let len = bytes
                .iter()
                .fold(0, |len, &byte| len << 8 | usize::from(byte));
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}
