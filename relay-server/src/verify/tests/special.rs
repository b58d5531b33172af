//! Schemes that no rule expresses, and keys that live at the provider.

use std::sync::Arc;

use base64::{Engine as _, prelude::*};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::{
    super::{
        Credentials, PreloadedKeys, PublicKey, Refusal, Request, Scheme, Secret, Verified,
        Verifier, preset,
    },
    VECTORS, headers,
};

const NOW_MS: u64 = 1_760_000_000_000;
const URL: &str = "https://relay.test/in/k/a b?x=1&y=a%20b";

fn with_secret(provider: &str) -> Verifier {
    let scheme = Scheme::Preset(preset(provider).unwrap());
    Verifier::new(scheme, Credentials::secret("s3cret")).unwrap()
}

fn with_key(provider: &str, key: PublicKey, vars: &[(&str, &str)]) -> Verifier {
    let credentials = Credentials {
        public_keys: vec![key],
        vars: vars
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..Credentials::default()
    };
    Verifier::new(Scheme::Preset(preset(provider).unwrap()), credentials).unwrap()
}

fn check(verifier: &Verifier, pairs: &[(&str, &str)], body: &str) -> Result<Verified, Refusal> {
    let headers = headers(pairs);
    let request = Request {
        method: "POST",
        url: URL,
        headers: &headers,
        body: body.as_bytes(),
    };
    verifier.verify(&request, NOW_MS)
}

fn mac(text: &str) -> hmac::Tag {
    hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, b"s3cret"),
        text.as_bytes(),
    )
}

#[test]
fn contentful_signs_a_canonical_request() {
    let verifier = with_secret("contentful");
    let time = NOW_MS.to_string();
    let listed = "X-Contentful-Timestamp,x-contentful-signed-headers,content-type";
    let text = format!(
        "POST\n/in/k/a%20b?x%253D1%2526y%253Da%252520b\ncontent-type:application/json;\
         x-contentful-signed-headers:{listed};x-contentful-timestamp:{time}\n{{}}"
    );
    let signature = hex::encode(mac(&text));
    let pairs = |signature, time| {
        [
            ("x-contentful-signature", signature),
            ("x-contentful-signed-headers", listed),
            ("x-contentful-timestamp", time),
            ("content-type", "application/json"),
        ]
    };
    assert!(check(&verifier, &pairs(&signature, &time), "{}").is_ok());
    assert_eq!(
        check(&verifier, &pairs(&signature, &time), "[]"),
        Err(Refusal::Mismatch)
    );
    let old = (NOW_MS - 31_000).to_string();
    let refused = check(&verifier, &pairs(&signature, &old), "{}");
    assert!(matches!(refused, Err(Refusal::Stale { .. })));
    let unlisted = [
        ("x-contentful-signature", signature.as_str()),
        ("x-contentful-signed-headers", "content-type"),
        ("x-contentful-timestamp", &time),
        ("content-type", "application/json"),
    ];
    assert!(matches!(
        check(&verifier, &unlisted, "{}"),
        Err(Refusal::Malformed { .. })
    ));
}

#[test]
fn plivo_signs_the_sorted_query_and_form() {
    let verifier = with_secret("plivo-v3");
    let text = "https://relay.test/in/k/a b?x=1&y=a b.A1B2.nonce";
    let signature = format!("AAAA,{}", BASE64_STANDARD.encode(mac(text)));
    let pairs = [
        ("X-Plivo-Signature-V3", signature.as_str()),
        ("X-Plivo-Signature-V3-Nonce", "nonce"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    assert!(check(&verifier, &pairs, "B=2&A=1").is_ok());
    assert_eq!(check(&verifier, &pairs, "B=2&A=2"), Err(Refusal::Mismatch));
}

#[test]
fn hygraph_signs_an_envelope() {
    let verifier = with_secret("hygraph");
    let body = "{\"a\":\"\u{e4}\\n\"}\t\u{1f}";
    let text = format!(
        r#"{{"Body":"{{\"a\":\"ä\\n\"}}\t\u001f","EnvironmentName":"master","TimeStamp":{NOW_MS}}}"#
    );
    let header = format!(
        "sign={}, env=master, t={NOW_MS}",
        BASE64_STANDARD.encode(mac(&text))
    );
    let found = check(&verifier, &[("gcms-signature", &header)], body);
    assert!(found.is_ok(), "{found:?} {text}");
    let other = header.replace("master", "main");
    assert_eq!(
        check(&verifier, &[("gcms-signature", &other)], body),
        Err(Refusal::Mismatch)
    );
}

#[test]
fn graph_wants_the_client_state_in_every_item() {
    let verifier = with_secret("ms-graph");
    let good = r#"{"value":[{"clientState":"s3cret"},{"clientState":"s3cret"}]}"#;
    assert!(check(&verifier, &[], good).is_ok());
    for bad in [
        good.replacen("s3cret", "other", 1),
        r#"{"value":[{"clientState":"s3cret"},{}]}"#.to_owned(),
        r#"{"value":[]}"#.to_owned(),
        "{}".to_owned(),
    ] {
        assert!(check(&verifier, &[], &bad).is_err(), "{bad}");
    }
}

#[test]
fn adyen_wants_every_item_of_a_batch_signed() {
    let key = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00";
    let scheme = Scheme::Preset(preset("adyen").unwrap());
    let verifier = Verifier::new(scheme, Credentials::secret(key)).unwrap();
    let vectors: Vec<Value> = serde_json::from_slice(VECTORS).unwrap();
    let vector = vectors
        .iter()
        .find(|vector| vector["id"] == "adyen-2")
        .unwrap();
    let body = BASE64_STANDARD
        .decode(vector["body_base64"].as_str().unwrap())
        .unwrap();
    let mut batch: Value = serde_json::from_slice(&body).unwrap();
    assert!(check(&verifier, &[], &batch.to_string()).is_ok());
    let item = batch["notificationItems"][0].clone();
    batch["notificationItems"]
        .as_array_mut()
        .unwrap()
        .push(item);
    assert!(check(&verifier, &[], &batch.to_string()).is_ok());
    batch["notificationItems"][1]["NotificationRequestItem"]["amount"]["value"] = json!(1);
    assert_eq!(
        check(&verifier, &[], &batch.to_string()),
        Err(Refusal::Mismatch)
    );
}

#[test]
fn dropbox_sign_reads_the_json_field_of_a_multipart_form() {
    let verifier = with_secret("dropbox-sign");
    let hash = hex::encode(mac("1348177752account_confirmed"));
    let part = |hash: &str| {
        format!(
            "--b0\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{{\"event\":{{\"event_time\":\
             \"1348177752\",\"event_type\":\"account_confirmed\",\"event_hash\":\"{hash}\"}}}}\r\n--b0--\r\n"
        )
    };
    let pairs = [("Content-Type", "multipart/form-data; boundary=b0")];
    assert!(check(&verifier, &pairs, &part(&hash)).is_ok());
    let other = hash.replace(&hash[..2], if hash.starts_with("00") { "01" } else { "00" });
    assert_eq!(
        check(&verifier, &pairs, &part(&other)),
        Err(Refusal::Mismatch)
    );
    let headers = headers(&pairs);
    let body = part(&hash);
    let request = Request {
        method: "POST",
        url: URL,
        headers: &headers,
        body: body.as_bytes(),
    };
    let preset = preset("dropbox-sign").unwrap();
    assert_eq!(
        preset.event_type(&request).as_deref(),
        Some("account_confirmed")
    );
    assert_eq!(
        preset.accepted.body.as_deref(),
        Some("Hello API Event Received")
    );
}

#[test]
fn discord_pings_are_answered_when_signed() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let key = PublicKey::parse(&hex::encode(pair.public_key())).unwrap();
    let time = (NOW_MS / 1000).to_string();
    for (provider, body, status, answer) in [
        (
            "discord-interactions",
            r#"{"type":1}"#,
            200,
            r#"{"type":1}"#,
        ),
        (
            "discord-webhook-events",
            r#"{"version":1,"type":0}"#,
            204,
            "",
        ),
    ] {
        let verifier = with_key(provider, key.clone(), &[]);
        let signature = hex::encode(pair.sign(format!("{time}{body}").as_bytes()));
        let pairs = headers(&[
            ("X-Signature-Ed25519", &signature),
            ("X-Signature-Timestamp", &time),
        ]);
        let request = Request {
            method: "POST",
            url: URL,
            headers: &pairs,
            body: body.as_bytes(),
        };
        let found = verifier.handshake(&request, false, NOW_MS).unwrap();
        assert_eq!(
            (found.status, found.body.as_slice()),
            (status, answer.as_bytes())
        );
        let spoiled = format!("{body} ");
        let request = Request {
            body: spoiled.as_bytes(),
            ..request
        };
        assert_eq!(verifier.handshake(&request, false, NOW_MS), None);
        assert_eq!(verifier.verify(&request, NOW_MS), Err(Refusal::Mismatch));
        assert_eq!(verifier.preset().unwrap().refused_status, 401);
    }
}

#[test]
fn sns_confirms_only_when_told_to_and_takes_keys_only_from_amazon() {
    let vectors: Vec<Value> = serde_json::from_slice(VECTORS).unwrap();
    let vector = vectors
        .iter()
        .find(|vector| vector["id"] == "sns-subscription-confirmation")
        .unwrap();
    let body = BASE64_STANDARD
        .decode(vector["body_base64"].as_str().unwrap())
        .unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    let key = PublicKey::parse(vector["cert_pem"].as_str().unwrap()).unwrap();
    let pairs = headers(&[("x-amz-sns-message-type", "SubscriptionConfirmation")]);
    let request = Request {
        method: "POST",
        url: URL,
        headers: &pairs,
        body: &body,
    };

    let silent = with_key("aws-sns", key.clone(), &[]);
    assert_eq!(silent.handshake(&request, false, NOW_MS), None);
    let eager = with_key("aws-sns", key.clone(), &[("confirm_subscription", "yes")]);
    let answer = eager.handshake(&request, false, NOW_MS).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.confirm_url.as_deref(),
        message["SubscribeURL"].as_str()
    );
    let picky = [
        ("confirm_subscription", "yes"),
        ("topic_arn", "arn:aws:sns:us-east-1:1:other"),
    ];
    assert_eq!(
        with_key("aws-sns", key.clone(), &picky).handshake(&request, false, NOW_MS),
        None
    );

    let scheme = || Scheme::Preset(preset("aws-sns").unwrap());
    let fetching = Verifier::new(scheme(), Credentials::default()).unwrap();
    let url = message["SigningCertURL"].as_str().unwrap();
    match fetching.verify(&request, NOW_MS) {
        Err(Refusal::KeyUnavailable { url: asked }) => assert_eq!(asked.as_str(), url),
        other => panic!("{other:?}"),
    }
    let mut keys = PreloadedKeys::default();
    keys.insert(url, key);
    let preloaded = Verifier::with_keys(scheme(), Credentials::default(), Arc::new(keys)).unwrap();
    assert!(preloaded.verify(&request, NOW_MS).is_ok());
    let forged = String::from_utf8(body.clone())
        .unwrap()
        .replace(url, "https://evil.test/a.pem");
    let request = Request {
        body: forged.as_bytes(),
        ..request
    };
    assert_eq!(
        preloaded.verify(&request, NOW_MS),
        Err(Refusal::UntrustedKeyUrl)
    );
}

/// A token as Plaid makes it, with the key it is signed by.
fn es256(claims: &Value, kid: &str) -> (String, PublicKey) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let head = json!({"alg": "ES256", "kid": kid, "typ": "JWT"}).to_string();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(&head), part(&claims.to_string()));
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(32);
    let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": number(x), "y": number(y)});
    (token, PublicKey::parse(&jwk.to_string()).unwrap())
}

#[test]
fn plaid_signs_a_digest_of_the_body() {
    let digest = hex::encode(ring::digest::digest(&ring::digest::SHA256, b"{}"));
    let claims = |iat: u64| json!({"iat": iat, "request_body_sha256": digest});
    let (token, key) = es256(&claims(NOW_MS / 1000), "k1");
    let header = [("Plaid-Verification", token.as_str())];
    let verifier = with_key("plaid", key.clone(), &[]);
    assert!(check(&verifier, &header, "{}").is_ok());
    assert!(matches!(
        check(&verifier, &header, "{ }"),
        Err(Refusal::BodyDigest { .. })
    ));
    let other_kid = with_key("plaid", key.named("k2"), &[]);
    assert_eq!(check(&other_kid, &header, "{}"), Err(Refusal::Mismatch));
    let (old, key) = es256(&claims(NOW_MS / 1000 - 301), "k1");
    let refused = check(
        &with_key("plaid", key, &[]),
        &[("Plaid-Verification", &old)],
        "{}",
    );
    assert!(matches!(refused, Err(Refusal::Stale { .. })));
}

#[test]
fn a_token_cannot_choose_its_algorithm() {
    let claims = json!({"iat": NOW_MS / 1000, "request_body_sha256": ""});
    let (_, key) = es256(&claims, "k1");
    let verifier = with_key("plaid", key, &[]);
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    for alg in ["none", "HS256", "RS256", "es256", ""] {
        let head = json!({"alg": alg}).to_string();
        let signed = format!("{}.{}", part(&head), part(&claims.to_string()));
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac(&signed)));
        let refused = check(&verifier, &[("Plaid-Verification", &token)], "{}");
        assert!(
            matches!(refused, Err(Refusal::Malformed { .. })),
            "{alg}: {refused:?}"
        );
    }
}

#[test]
fn pubsub_keys_are_asked_for_at_the_published_address() {
    let vars = [
        ("audience", "https://relay.test"),
        ("email", "a@b.iam.gserviceaccount.com"),
    ];
    let credentials = Credentials {
        vars: vars
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..Credentials::default()
    };
    let scheme = Scheme::Preset(preset("google-pubsub").unwrap());
    let verifier = Verifier::new(scheme.clone(), credentials).unwrap();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let token = format!("Bearer {}.{}.AAAA", part(r#"{"alg":"RS256"}"#), part("{}"));
    match check(&verifier, &[("Authorization", &token)], "{}") {
        Err(Refusal::KeyUnavailable { url }) => {
            assert_eq!(url.as_str(), "https://www.googleapis.com/oauth2/v3/certs");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        Verifier::new(scheme, Credentials::default()).is_err(),
        "settings are required"
    );
}

#[test]
fn stripe_ignores_the_test_scheme_and_takes_any_current_signature() {
    let verifier = with_secret("stripe");
    let time = NOW_MS / 1000;
    let good = hex::encode(mac(&format!("{time}.{{}}")));
    let stale = hex::encode(mac("0.{}"));
    let check = |header: String| check(&verifier, &[("Stripe-Signature", &header)], "{}");
    assert!(check(format!("t={time},v1={stale},v1={good},v0=x")).is_ok());
    assert!(check(format!("v1={good}, t={time}")).is_ok());
    assert!(check(format!("t={time},v0={good}")).is_err());
    assert!(check(format!("t={time},{good}")).is_err());
    assert!(check(format!("t={time},t={},v1={good}", time + 1)).is_err());
    assert!(check(format!("t=+{time},v1={good}")).is_err());
    assert!(check(format!("t={time},{}", format!("v1={good},").repeat(17))).is_err());
    let (old, ahead) = (time - 301, time + 301);
    let signed = |time: u64| format!("t={time},v1={}", hex::encode(mac(&format!("{time}.{{}}"))));
    assert!(matches!(check(signed(old)), Err(Refusal::Stale { .. })));
    assert!(matches!(check(signed(ahead)), Err(Refusal::Future { .. })));
    assert!(check(signed(time - 300)).is_ok() && check(signed(time + 300)).is_ok());
}

#[test]
fn duplicate_signature_headers_must_agree() {
    let verifier = with_secret("github");
    let good = format!("sha256={}", hex::encode(mac("{}")));
    let twice = [
        ("X-Hub-Signature-256", good.as_str()),
        ("x-hub-signature-256", &good),
    ];
    assert!(check(&verifier, &twice, "{}").is_ok());
    let differing = [twice[0], ("X-Hub-Signature-256", "sha256=00")];
    assert!(matches!(
        check(&verifier, &differing, "{}"),
        Err(Refusal::Duplicate { .. })
    ));
    // SHA-1 and unprefixed signatures are not looked at.
    let bare = hex::encode(mac("{}"));
    assert!(check(&verifier, &[("X-Hub-Signature-256", &bare)], "{}").is_err());
    assert!(check(&verifier, &[("X-Hub-Signature", &good)], "{}").is_err());
}

#[test]
fn debug_output_shows_no_secret() {
    let credentials = Credentials::secret("s3cret");
    let shown = format!(
        "{credentials:?} {:?} {:?}",
        Secret::from_text("s3cret"),
        with_secret("stripe")
    );
    assert!(!shown.contains("s3cret"));
}
