//! Old requests signed again: they verify at once, and nothing but signature and time has changed.

use proptest::prelude::*;

use super::{
    super::{Credentials, Preset, Scheme, SignError, SignedRequest, Verifier, preset, presets},
    headers,
    properties::{NOW_MS, signed_request, symmetric, verifier_for},
    verifier,
};

const LATER_MS: u64 = NOW_MS + 10 * 3_600_000;

/// Presets whose signature or time stands in the body or the URL.
const NOT_IN_HEADERS: [&str; 6] = [
    "adyen",
    "braintree",
    "dropbox-sign",
    "linear", // its time is a field of the body
    "mailgun",
    "pandadoc", // a parameter of the URL
];

fn signed(verifier: &Verifier, body: &str) -> SignedRequest {
    let mut request = SignedRequest {
        method: "POST".to_owned(),
        url: "https://relay.test/in/key".to_owned(),
        headers: headers(&[
            ("x-first", "1"),
            ("content-type", "application/json"),
            ("x-last", "1"),
        ]),
        body: body.as_bytes().to_vec(),
    };
    verifier.sign(&mut request, NOW_MS).unwrap();
    request
}

/// The request as a service would get it ten hours later.
fn refreshed(verifier: &Verifier, request: &SignedRequest) -> SignedRequest {
    let headers = verifier.refresh(&request.as_request(), NOW_MS, LATER_MS);
    SignedRequest {
        headers: headers.unwrap(),
        ..request.clone()
    }
}

#[test]
fn only_schemes_that_sign_in_headers_with_a_shared_secret_are_refreshed() {
    for preset in symmetric() {
        let expected = match preset.name {
            name if NOT_IN_HEADERS.contains(&name) => Err(SignError::NotInHeaders),
            "mailchannels" => Err(SignError::Unsupported),
            _ => Ok(()),
        };
        assert_eq!(
            verifier_for(preset).check_refresh(),
            expected,
            "{}",
            preset.name
        );
    }
    let key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let credentials = Credentials {
        public_keys: vec![super::super::PublicKey::parse(key).unwrap()],
        ..Credentials::default()
    };
    let discord = Scheme::Preset(preset("discord-interactions").unwrap());
    let verifier = Verifier::new(discord, credentials).unwrap();
    assert_eq!(verifier.check_refresh(), Err(SignError::NeedsPrivateKey));
    assert_eq!(
        verifier.refresh(&signed(&verifier_none(), "{}").as_request(), 0, 1),
        Err(SignError::NeedsPrivateKey)
    );
}

fn verifier_none() -> Verifier {
    verifier("none", &[])
}

fn refreshable() -> impl Iterator<Item = &'static Preset> {
    presets().filter(|preset| {
        preset.rules[0].is_symmetric() && verifier_for(preset).check_refresh().is_ok()
    })
}

/// The names of the headers whose values differ; panics if anything else does.
fn changed(before: &SignedRequest, after: &SignedRequest) -> Vec<String> {
    assert_eq!(
        (&before.method, &before.url, &before.body),
        (&after.method, &after.url, &after.body)
    );
    assert_eq!(before.headers.0.len(), after.headers.0.len());
    let pairs = before.headers.0.iter().zip(&after.headers.0);
    let differ = pairs.filter_map(|(before, after)| {
        assert_eq!(before.0, after.0);
        let name = String::from_utf8(before.0.to_ascii_lowercase()).unwrap();
        (before.1 != after.1).then_some(name)
    });
    differ.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_waited_for_hours_verifies_again(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for preset in refreshable() {
            let verifier = verifier_for(preset);
            let request = signed_request(preset, &verifier, &bytes);
            let fresh = refreshed(&verifier, &request);
            let verified = verifier.verify(&fresh.as_request(), LATER_MS);
            prop_assert!(verified.is_ok(), "{}: {verified:?}", preset.name);
            changed(&request, &fresh);
        }
    }
}

#[test]
fn exactly_signature_and_time_are_replaced() {
    let check = |name: &str, secret: &str, expected: &[&str]| {
        let verifier = verifier(name, &[secret]);
        let request = signed(&verifier, r#"{"id":"evt_1"}"#);
        let fresh = refreshed(&verifier, &request);
        assert_eq!(changed(&request, &fresh), expected, "{name}");
        let stale = verifier.verify(&request.as_request(), LATER_MS);
        assert_eq!(stale.is_err(), !expected.is_empty(), "{name}: {stale:?}");
    };
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    check("stripe", "whsec_x", &["stripe-signature"]);
    check(
        "standard-webhooks",
        key,
        &["webhook-timestamp", "webhook-signature"],
    );
    check(
        "slack",
        "x",
        &["x-slack-request-timestamp", "x-slack-signature"],
    );
    check("github", "x", &[]);
    check("none", "x", &[]);
}

#[test]
fn the_newest_secret_signs() {
    let old = verifier("stripe", &["old"]);
    let request = signed(&old, "{}");
    let both = verifier("stripe", &["old", "new"]);
    let fresh = refreshed(&both, &request);
    assert!(old.verify(&fresh.as_request(), LATER_MS).is_err());
    let new = verifier("stripe", &["new"]);
    assert!(new.verify(&fresh.as_request(), LATER_MS).is_ok());
}

#[test]
fn a_request_without_a_signature_gets_none() {
    let stripe = verifier("stripe", &["x"]);
    let request = signed(&verifier_none(), "{}");
    let refused = stripe.refresh(&request.as_request(), NOW_MS, LATER_MS);
    assert_eq!(refused, Err(SignError::NotSigned));
}

#[test]
fn what_an_earlier_signature_covered_is_covered_again() {
    let check = |name: &str, field: &str, value: &str| {
        let verifier = verifier(name, &["It's a secret"]);
        let mut request = signed(&verifier, "text");
        request.set_header(field, value);
        let fresh = refreshed(&verifier, &request);
        assert_eq!(
            verifier.verify(&fresh.as_request(), LATER_MS).map(drop),
            Ok(()),
            "{name}"
        );
        let mut forged = fresh.clone();
        forged.set_header("x-first", "2");
        let verified = verifier.verify(&forged.as_request(), LATER_MS);
        (
            String::from_utf8_lossy(fresh.headers.get(field).unwrap()).into_owned(),
            verified.is_ok(),
        )
    };
    let (list, holds) = check(
        "contentful",
        "x-contentful-signed-headers",
        "x-first,x-contentful-signed-headers,x-contentful-timestamp",
    );
    assert_eq!((list.split(',').count(), holds), (3, false));
    let (value, holds) = check("hook0", "x-hook0-signature", "t=1,h=x-first x-last,v1=00");
    assert!(value.contains(",h=x-first x-last,v1=") && !holds, "{value}");
    let (value, _) = check("hygraph", "gcms-signature", "sign=x, env=staging, t=1");
    assert!(value.contains("env=staging"), "{value}");
}
