//! Amazon SNS: named JSON fields, signed with a certificate that the message points at.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::super::{
    Refusal, Request, Verified, Verifier,
    keys::{KeyUrl, sns_pin},
};

const NOTIFICATION: [&str; 6] = [
    "Message",
    "MessageId",
    "Subject",
    "Timestamp",
    "TopicArn",
    "Type",
];
const CONFIRMATION: [&str; 7] = [
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
];

pub(in super::super) fn sns(
    verifier: &Verifier,
    request: &Request<'_>,
) -> Result<Verified, Refusal> {
    let message: Map<String, Value> = serde_json::from_slice(request.body)
        .map_err(|_| Refusal::malformed("body", "it is not a JSON object"))?;
    let text = |name: &str| message.get(name).and_then(Value::as_str);
    let required = |name: &str| text(name).ok_or_else(|| Refusal::missing(format!("json:/{name}")));
    let names: &[&str] = match required("Type")? {
        "Notification" => &NOTIFICATION,
        "SubscriptionConfirmation" | "UnsubscribeConfirmation" => &CONFIRMATION,
        _ => {
            return Err(Refusal::malformed(
                "json:/Type",
                "it is no type of SNS message",
            ));
        }
    };
    let mut signed = String::new();
    for name in names {
        match message.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => signed.extend([name, "\n", value, "\n"]),
            Some(_) => {
                return Err(Refusal::malformed(
                    format!("json:/{name}"),
                    "expected a text",
                ));
            }
        }
    }
    let sha1 = match required("SignatureVersion")? {
        "1" => true,
        "2" => false,
        _ => {
            return Err(Refusal::malformed(
                "json:/SignatureVersion",
                "expected 1 or 2",
            ));
        }
    };
    let signature = BASE64_STANDARD
        .decode(required("Signature")?)
        .map_err(|_| Refusal::malformed("json:/Signature", "expected base64"))?;
    let fetched;
    let keys = if verifier.credentials.public_keys.is_empty() {
        let url = KeyUrl::pinned(required("SigningCertURL")?, sns_pin);
        let url = url.ok_or(Refusal::UntrustedKeyUrl)?;
        fetched = verifier
            .keys
            .keys(&url)
            .ok_or(Refusal::KeyUnavailable { url })?;
        &fetched
    } else {
        &verifier.credentials.public_keys
    };
    let credential = keys
        .iter()
        .position(|key| key.verifies_rsa(sha1, signed.as_bytes(), &signature));
    match credential {
        Some(_) => Ok(Verified { credential }),
        None => Err(Refusal::Mismatch),
    }
}
