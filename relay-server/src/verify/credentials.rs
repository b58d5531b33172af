//! What proves that a request came from the provider: secrets and public keys of a source.

use std::{collections::BTreeMap, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ring::{digest, hmac};
use zeroize::Zeroizing;

use super::{
    public_key::PublicKey,
    rule::{Hash, KeyEncoding, Kind, Rule},
};

/// Secrets accepted in parallel: more than a rotation needs.
pub const SECRETS_MAX: usize = 16;

/// A secret shared with the provider. Overwritten when dropped; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    /// The bytes are the key itself, whatever the rule says about decoding.
    is_key: bool,
}

impl Secret {
    /// A secret as the provider shows it. Not trimmed: strip the newline of a file before.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self {
            bytes: Zeroizing::new(text.into().into_bytes()),
            is_key: false,
        }
    }

    /// A key already decoded.
    pub fn from_key(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Zeroizing::new(bytes),
            is_key: true,
        }
    }

    /// The secret as it was given, to encrypt and store it.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// All that a source knows to check signatures with.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Several during a rotation, oldest first: any of them is taken, the newest signs and answers
    /// challenges.
    pub secrets: Vec<Secret>,
    /// Settings that rules name as `{var:name}`, such as PayPal's webhook id.
    pub vars: BTreeMap<String, String>,
    /// Keys or certificates of the provider.
    pub public_keys: Vec<PublicKey>,
}

impl Credentials {
    /// One secret and nothing else.
    pub fn secret(text: impl Into<String>) -> Self {
        Self {
            secrets: vec![Secret::from_text(text)],
            ..Self::default()
        }
    }
}

/// Credentials that cannot work with a rule. Never holds the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Nothing to check with.
    #[error("this provider needs a signing secret; none is set")]
    NoSecret,
    /// Nothing to check with.
    #[error("this provider signs with a private key; set its public key or certificate")]
    NoPublicKey,
    /// An empty secret would accept anyone.
    #[error("secret {position} is empty or blank")]
    EmptySecret {
        /// Which one, from 1.
        position: usize,
    },
    /// The secret is not written as the provider writes it.
    #[error("secret {position} is not {expected}; copy it again from the provider")]
    MalformedSecret {
        /// Which one, from 1.
        position: usize,
        /// The encoding.
        expected: &'static str,
    },
    /// The rule needs a setting.
    #[error("this provider needs the setting `{name}`")]
    MissingSetting {
        /// Its name.
        name: String,
    },
    /// More than anyone needs.
    #[error("at most {SECRETS_MAX} secrets are taken; remove retired ones")]
    TooManySecrets,
}

/// A secret made ready for one rule.
pub(super) struct Key {
    /// As given, for rules that put it into the content, and for basic authentication.
    pub(super) text: Zeroizing<Vec<u8>>,
    /// Decoded.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Keyed once, for rules with one hash.
    pub(super) mac: hmac::Key,
    /// What tokens are compared by.
    pub(super) digest: digest::Digest,
}

impl Key {
    /// Decodes a secret the way the rule says.
    pub(super) fn new(
        secret: &Secret,
        position: usize,
        rule: &Rule,
    ) -> Result<Self, CredentialError> {
        let text = secret.bytes.clone();
        if text.is_empty() || (!secret.is_key && text.trim_ascii().is_empty()) {
            return Err(CredentialError::EmptySecret { position });
        }
        let bytes = if secret.is_key {
            text.clone()
        } else {
            let prefix = rule.spec.key_prefix.as_deref().unwrap_or_default();
            let bare = text.strip_prefix(prefix.as_bytes()).unwrap_or(&text);
            decode(bare, rule.spec.key)
                .map_err(|expected| CredentialError::MalformedSecret { position, expected })?
        };
        if bytes.is_empty() {
            return Err(CredentialError::EmptySecret { position });
        }
        let mac = match (rule.spec.kind, rule.spec.hash) {
            (Kind::Hmac, Some(hash)) => hmac::Key::new(hmac_algorithm(hash), &bytes),
            _ => hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        };
        let digest = digest::digest(&digest::SHA256, &text);
        Ok(Self {
            text,
            bytes,
            mac,
            digest,
        })
    }
}

fn decode(text: &[u8], encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let decoded = match encoding {
        KeyEncoding::Utf8 => Ok(text.to_vec()),
        KeyEncoding::Utf8Nfkd => Ok(super::nfkd::decompose(text)),
        KeyEncoding::Sha1 => Ok(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text)
            .as_ref()
            .to_vec()),
        KeyEncoding::Hex => hex::decode(text).map_err(|_| "hex"),
        KeyEncoding::Base64 => GeneralPurpose::new(&alphabet::STANDARD, lenient)
            .decode(text)
            .map_err(|_| "base64"),
        KeyEncoding::Base64Any => {
            let standard: Zeroizing<Vec<u8>> = Zeroizing::new(
                text.iter()
                    .map(|byte| match byte {
                        b'-' => b'+',
                        b'_' => b'/',
                        &other => other,
                    })
                    .collect(),
            );
            GeneralPurpose::new(&alphabet::STANDARD, lenient)
                .decode(&*standard)
                .map_err(|_| "base64")
        }
    };
    decoded.map(Zeroizing::new)
}

pub(super) fn hmac_algorithm(hash: Hash) -> hmac::Algorithm {
    match hash {
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    }
}

pub(super) fn digest_algorithm(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    }
}
