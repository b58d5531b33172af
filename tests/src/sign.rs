//! Signatures as providers make them, written from their documentation and not from the relay's code.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The value of Stripe's `Stripe-Signature`.
pub fn stripe(secret: &str, at_s: u64, body: &[u8]) -> String {
    let mac = hmac_sha256(
        secret.as_bytes(),
        &[at_s.to_string().as_bytes(), b".", body],
    );
    format!("t={at_s},v1={}", hex::encode(mac))
}

/// The value of GitHub's `X-Hub-Signature-256`.
pub fn github(secret: &str, body: &[u8]) -> String {
    format!(
        "sha256={}",
        hex::encode(hmac_sha256(secret.as_bytes(), &[body]))
    )
}

/// The value of `webhook-signature` of Standard Webhooks; `secret` starts with `whsec_`.
pub fn standard_webhooks(secret: &str, id: &str, at_s: u64, body: &[u8]) -> String {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let mac = hmac_sha256(
        &key,
        &[id.as_bytes(), b".", at_s.to_string().as_bytes(), b".", body],
    );
    format!("v1,{}", STANDARD.encode(mac))
}

/// The SHA-256 of a body, for comparing what is too long to print.
pub fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// HMAC-SHA-256 over the parts.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}
