//! What the signature debugger says about the usual mistakes.

use super::super::{
    Credentials, Rule, RuleSpec, Scheme, Secret, SignedRequest, Verifier,
    debugger::{Finding, examine},
    preset,
};

const NOW_MS: u64 = 1_760_000_000_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn signed(provider: &str, secret: &str, body: &str) -> (Scheme, SignedRequest) {
    let scheme = Scheme::Preset(preset(provider).unwrap());
    let mut request = SignedRequest {
        method: "POST".to_owned(),
        url: "https://relay.test/in/k".to_owned(),
        body: body.as_bytes().to_vec(),
        ..SignedRequest::default()
    };
    let verifier = Verifier::new(scheme.clone(), Credentials::secret(secret)).unwrap();
    verifier.sign(&mut request, NOW_MS).unwrap();
    (scheme, request)
}

fn advice(scheme: &Scheme, secret: &str, request: &SignedRequest, now_ms: u64) -> String {
    match examine(scheme, &Credentials::secret(secret), request, now_ms) {
        Finding::Valid(_) => panic!("it is valid"),
        Finding::Invalid { reason, advice } => format!("{reason}\n{}", advice.join("\n")),
    }
}

#[test]
fn each_usual_mistake_is_named() {
    let (stripe, good) = signed("stripe", SECRET, "{\"a\": \"b c\", \"d\":1}\n");
    let right = examine(&stripe, &Credentials::secret(SECRET), &good, NOW_MS);
    assert!(matches!(right, Finding::Valid(_)));

    let late = advice(&stripe, SECRET, &good, NOW_MS + 600_000);
    assert!(
        late.contains("600 s old") && late.contains("signature itself is right"),
        "{late}"
    );

    let blank = advice(&stripe, &format!(" {SECRET}\t"), &good, NOW_MS);
    assert!(blank.contains("blanks around the secret"), "{blank}");

    let spoil = |body: &str| SignedRequest {
        body: body.as_bytes().to_vec(),
        ..good.clone()
    };
    let cut = advice(&stripe, SECRET, &spoil("{\"a\": \"b c\", \"d\":1}"), NOW_MS);
    assert!(cut.contains("a newline is added to the body"), "{cut}");
    let other = advice(&stripe, "whsec_other", &good, NOW_MS);
    assert!(
        other.contains("does not match") && other.contains("copy the secret"),
        "{other}"
    );
    assert!(!other.contains("whsec_other"), "a secret is shown");

    let (github, compact) = signed("github", SECRET, "{\"a\":\"b c\",\"d\":1}");
    let spaced = SignedRequest {
        body: b"{\"a\": \"b c\", \"d\": 1}".to_vec(),
        ..compact.clone()
    };
    let respaced = advice(&github, SECRET, &spaced, NOW_MS);
    assert!(respaced.contains("without blanks"), "{respaced}");

    let bitbucket = Scheme::Preset(preset("gitea").unwrap());
    let elsewhere = advice(&bitbucket, SECRET, &compact, NOW_MS);
    assert!(elsewhere.contains("preset `github`"), "{elsewhere}");

    let (square, request) = signed("square", SECRET, "{}");
    let moved = SignedRequest {
        url: "http://relay.test/in/k/".to_owned(),
        ..request.clone()
    };
    let moved = advice(&square, SECRET, &moved, NOW_MS);
    assert!(moved.contains("does not match"), "{moved}");
    let slash = SignedRequest {
        url: "https://relay.test/in/k/".to_owned(),
        ..request
    };
    let slash = advice(&square, SECRET, &slash, NOW_MS);
    assert!(
        slash.contains("with the URL https://relay.test/in/k:"),
        "{slash}"
    );

    let (webhooks, request) = signed("standard-webhooks", SECRET, "{}");
    let Scheme::Preset(preset) = webhooks else {
        panic!()
    };
    let mut spec = preset.rules[0].spec.clone();
    spec.key = super::super::rule::KeyEncoding::Utf8;
    let as_text = Scheme::Own(Rule::compile(&spec).unwrap().into());
    let decoded = advice(&as_text, SECRET, &request, NOW_MS);
    assert!(decoded.contains("decoded from base64"), "{decoded}");
}

#[test]
fn several_secrets_say_which_one_matched() {
    let (scheme, request) = signed("stripe", SECRET, "{}");
    let credentials = Credentials {
        secrets: vec![Secret::from_text("old"), Secret::from_text(SECRET)],
        ..Credentials::default()
    };
    match examine(&scheme, &credentials, &request, NOW_MS) {
        Finding::Valid(verified) => assert_eq!(verified.credential, Some(1)),
        other => panic!("{other:?}"),
    }
}

/// A user's rule is checked when it is saved, and the error points at the field.
#[test]
fn errors_of_own_rules_point_at_the_field() {
    for (rule, pointer) in [
        (r#"{"kind":"hmac"}"#, "/hash"),
        (r#"{"kind":"hmac","hash":"sha256"}"#, "/content"),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{nobody}"}"#,
            "/content",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"fixed"}"#,
            "/content",
        ),
        (
            r#"{"kind":"hash","hash":"sha256","content":"{body}"}"#,
            "/content",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{timestamp}{body}"}"#,
            "/timestamp",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}"}"#,
            "/sig",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}","sig":{"from":"X-Sig"}}"#,
            "/sig/from",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}","sig":{"from":[]}}"#,
            "/sig/from",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}","sig":{"from":"header:X","parse":"list"}}"#,
            "/sig/sep",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}","sig":{"from":"header:X"},"timestamp":{"from":"cap:t"}}"#,
            "/timestamp/from",
        ),
        (
            r#"{"kind":"hmac","hash":"sha256","content":"{body}","sig":{"from":"header:X"},"timestamp":{"from":"header:T","tolerance":-1}}"#,
            "/timestamp/tolerance",
        ),
        (r#"{"kind":"token"}"#, "/from"),
        (r#"{"kind":"jwt","from":"header:X"}"#, "/algs"),
        (r#"{"kind":"http-sig"}"#, "/alg"),
    ] {
        let spec: RuleSpec = serde_json::from_str(rule).unwrap();
        assert_eq!(Rule::compile(&spec).unwrap_err().pointer, pointer, "{rule}");
    }
    let unknown = serde_json::from_str::<RuleSpec>(r#"{"kind":"token","form":"header:X"}"#);
    assert!(unknown.unwrap_err().to_string().contains("form"));
    let toml = "kind = 'token'\nfrom = 'header:X'\n";
    assert!(Rule::compile(&toml::from_str(toml).unwrap()).is_ok());
}
