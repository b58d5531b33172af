//! What holds for every preset: a signed request verifies, a changed one does not, and no input
//! makes verification panic.

use proptest::prelude::*;

use super::{
    super::{
        Bound, Credentials, PreloadedKeys, Preset, PublicKey, Request, Scheme, Secret,
        SignedRequest, Verifier, preset, presets,
        rule::{Check, Encoding, KeyEncoding, Kind, Layout, TimestampFrom},
        signatures::decode,
        template::{Part, Place},
    },
    headers,
};

pub(super) const NOW_MS: u64 = 1_760_000_000_123;

/// Presets whose signature covers less than the whole body. A new one must be listed here, so that
/// nobody loses coverage unnoticed.
const BODY_NOT_COVERED: [&str; 9] = [
    "adyen",        // eight fields of each item
    "braintree",    // the form field bt_payload
    "dropbox-sign", // event time and type
    "mailgun",      // timestamp and token
    "mandrill",     // decoded form fields, not their spelling
    "mercadopago",  // id, request id and time
    "plivo-v2",     // URL and nonce
    "plivo-v3",     // URL, nonce and decoded form fields
    "twilio",       // decoded form fields, not their spelling
];

fn secret_for(preset: &Preset) -> &'static str {
    match preset.rules[0].spec.key {
        KeyEncoding::Base64 | KeyEncoding::Base64Any => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        KeyEncoding::Hex => "00ff11ee22dd33cc44bb55aa6699778800ff11ee22dd33cc44bb55aa66997788",
        _ => "user:It's a secret",
    }
}

pub(super) fn verifier_for(preset: &'static Preset) -> Verifier {
    let mut secret = secret_for(preset).to_owned();
    if preset.rules[0].spec.key_prefix.is_none() && preset.rules[0].spec.key != KeyEncoding::Utf8 {
        secret = secret.replace("whsec_", "");
    }
    let vars = [
        "public_key",
        "application_key",
        "audience",
        "email",
        "verify_token",
        "webhook_id",
    ];
    let credentials = Credentials {
        secrets: vec![Secret::from_text(secret)],
        vars: vars
            .iter()
            .map(|&name| (name.to_owned(), format!("{name}1")))
            .collect(),
        public_keys: Vec::new(),
    };
    Verifier::new(Scheme::Preset(preset), credentials).unwrap()
}

pub(super) fn symmetric() -> impl Iterator<Item = &'static Preset> {
    presets().filter(|preset| preset.rules[0].is_symmetric())
}

fn signing() -> impl Iterator<Item = &'static Preset> {
    symmetric()
}

/// A body of the kind the preset reads: JSON where its rule looks into JSON, a form likewise.
fn body_for(preset: &Preset, bytes: &[u8]) -> (Vec<u8>, &'static str) {
    match preset.rules[0].check {
        Check::PlivoV3 => {
            let body = format!("b={}&a=x", hex::encode(bytes)).into_bytes();
            return (body, "application/x-www-form-urlencoded");
        }
        Check::Hygraph => return (hex::encode(bytes).into_bytes(), "text/plain"),
        _ => {}
    }
    let Check::Signed(signed) = &preset.rules[0].check else {
        let json = preset.rules[0].spec.each.is_some();
        return (if json { Vec::new() } else { bytes.to_vec() }, "text/plain");
    };
    let reads = |kind: fn(&Place) -> bool| {
        let content = signed.content.0.iter().any(|part| match part {
            Part::From(place) => kind(place),
            _ => false,
        });
        content || signed.places.iter().any(kind)
    };
    let forms = [Part::FormSorted, Part::FormSortedDedup];
    if reads(|place| matches!(place, Place::Json(..))) {
        (
            format!("{{\"random\":\"{}\"}}", hex::encode(bytes)).into_bytes(),
            "application/json",
        )
    } else if reads(|place| matches!(place, Place::Form(_)))
        || forms.iter().any(|part| signed.content.uses(part))
    {
        let body = format!("b={}&a=x", hex::encode(bytes)).into_bytes();
        (body, "application/x-www-form-urlencoded")
    } else {
        (bytes.to_vec(), "application/octet-stream")
    }
}

pub(super) fn signed_request(
    preset: &'static Preset,
    verifier: &Verifier,
    bytes: &[u8],
) -> SignedRequest {
    let (body, content_type) = body_for(preset, bytes);
    let mut request = SignedRequest {
        method: "POST".to_owned(),
        url: "https://relay.test/in/key/rest?q=1".to_owned(),
        headers: headers(&[("Content-Type", content_type), ("Host", "relay.test")]),
        body,
    };
    verifier.sign(&mut request, NOW_MS).unwrap();
    request
}

fn accepts(verifier: &Verifier, request: &SignedRequest) -> bool {
    verifier.verify(&request.as_request(), NOW_MS).is_ok()
}

fn with_header(
    request: &SignedRequest,
    name: &str,
    change: impl Fn(&mut Vec<u8>),
) -> SignedRequest {
    let mut request = request.clone();
    for (known, value) in &mut request.headers.0 {
        if known.eq_ignore_ascii_case(name.as_bytes()) {
            let mut changed = value.to_vec();
            change(&mut changed);
            *value = changed.into();
        }
    }
    request
}

fn flip(bytes: &mut [u8], bit: usize) {
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// The request with one bit of its decoded signature flipped, written back in the same encoding.
fn with_other_signature(
    bound: &Bound,
    request: &SignedRequest,
    bit: usize,
) -> Option<SignedRequest> {
    let (name, encoding) = match &bound.rule.check {
        Check::Signed(signed) => match signed.places.first() {
            Some(Place::Header(name)) => (name.as_str(), signed.encoding),
            _ => return None,
        },
        Check::Jwt {
            from: Place::Header(name),
            ..
        } => (name.as_str(), Encoding::Base64Url),
        Check::Contentful => ("x-contentful-signature", Encoding::Hex),
        Check::PlivoV3 => ("X-Plivo-Signature-V3", Encoding::Base64),
        Check::Hygraph => ("gcms-signature", Encoding::Base64),
        Check::Hook0 => ("X-Hook0-Signature", Encoding::Hex),
        _ => return None,
    };
    Some(with_header(request, name, |value| {
        let text = String::from_utf8(value.clone()).unwrap();
        let (before, rest) = text.split_at(signature_start(&bound.rule.check, &text));
        let end = match bound.rule.check {
            Check::Hygraph => rest.find(',').unwrap(),
            _ => rest.len(),
        };
        let (signature, after) = rest.split_at(end);
        let mut decoded = decode(signature, encoding).unwrap();
        flip(&mut decoded, bit);
        use base64::{Engine as _, prelude::*};
        let changed = match encoding {
            Encoding::Hex => hex::encode(decoded),
            Encoding::Base64 => BASE64_STANDARD.encode(decoded),
            Encoding::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(decoded),
        };
        *value = format!("{before}{changed}{after}").into_bytes();
    }))
}

/// Where the encoded signature begins in the header that carries it.
fn signature_start(check: &Check, text: &str) -> usize {
    match check {
        Check::Signed(signed) => match &signed.layout {
            Layout::Raw { prefix } => prefix.len(),
            Layout::Positional { item } => text.find(*item).unwrap() + 1,
            Layout::List { pair, keys, .. } => {
                let key = format!("{}{pair}", keys[0]);
                text.rfind(&key).unwrap() + key.len()
            }
        },
        Check::Jwt { .. } => text.rfind('.').unwrap() + 1,
        Check::Hygraph => text.find("sign=").unwrap() + "sign=".len(),
        Check::Hook0 => text.find("v0=").unwrap() + "v0=".len(),
        _ => 0,
    }
}

/// The request with a time that is still fresh, but not the signed one, in the signature list.
fn with_other_captured_time(bound: &Bound, request: &SignedRequest) -> Option<SignedRequest> {
    let Check::Signed(signed) = &bound.rule.check else {
        return None;
    };
    let (Some(Place::Header(name)), Some(timestamp)) = (signed.places.first(), &signed.timestamp)
    else {
        return None;
    };
    matches!(timestamp.from, TimestampFrom::Capture(_)).then(|| {
        with_header(request, name, |value| {
            let text = String::from_utf8(value.clone()).unwrap();
            assert!(text.contains("=1760000000") || text.starts_with("1760000000"));
            *value = text.replacen("1760000000", "1760000001", 1).into_bytes();
        })
    })
}

/// Names of headers that stand in the signed content.
fn signed_headers(bound: &Bound) -> Vec<String> {
    let Check::Signed(signed) = &bound.rule.check else {
        return Vec::new();
    };
    let mut names: Vec<_> = signed
        .content
        .0
        .iter()
        .filter_map(|part| match part {
            Part::From(Place::Header(name)) => Some(name.clone()),
            _ => None,
        })
        .collect();
    if signed.content.uses(&Part::Timestamp)
        && let Some(timestamp) = &signed.timestamp
        && let TimestampFrom::Place(Place::Header(name)) = &timestamp.from
    {
        names.push(name.clone());
    }
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn one_changed_bit_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), bit: u16) {
        let bit = usize::from(bit);
        for preset in signing() {
            let name = preset.name;
            let verifier = verifier_for(preset);
            let bound = &verifier.bound[0];
            let request = signed_request(preset, &verifier, &bytes);
            prop_assert!(accepts(&verifier, &request), "{name}: {:?}",
                verifier.verify(&request.as_request(), NOW_MS));

            if !preset.rules[0].is_signature() {
                continue; // A token: nothing of the request is covered.
            }
            if !BODY_NOT_COVERED.contains(&name) && preset.covers_body() && !request.body.is_empty() {
                let mut changed = request.clone();
                flip(&mut changed.body, bit);
                prop_assert!(!accepts(&verifier, &changed), "{name}: body");
            }
            if !BODY_NOT_COVERED.contains(&name) && preset.covers_body() {
                let mut changed = request.clone();
                changed.body.push(b'\n');
                prop_assert!(!accepts(&verifier, &changed), "{name}: longer body");
            }
            if let Some(changed) = with_other_signature(bound, &request, bit) {
                prop_assert!(!accepts(&verifier, &changed), "{name}: signature");
            }
            if let Some(changed) = with_other_captured_time(bound, &request) {
                prop_assert!(!accepts(&verifier, &changed), "{name}: captured time");
            }
            for header in signed_headers(bound) {
                let changed = with_header(&request, &header, |value| flip(value, bit));
                prop_assert!(!accepts(&verifier, &changed), "{name}: {header}");
            }
        }
    }

    #[test]
    fn arbitrary_requests_never_panic(
        method in "[A-Z]{0,6}",
        url in ".{0,40}",
        names in prop::collection::vec(0..400usize, 0..6),
        value in prop::collection::vec(any::<u8>(), 0..80),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let all = header_names();
        let chosen = names.iter().map(|&index| {
            (all[index % all.len()].clone().into(), value.clone().into())
        });
        let headers = protocol::frame::Headers(chosen.collect());
        let request = Request { method: &method, url: &url, headers: &headers, body: &body };
        exercise(&request);
    }

    #[test]
    fn almost_right_requests_never_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "t=", "v1=", "v1,", ",", ";", " ", "=", "sha256=", "1760000000", "0a", "AAAA", "-1",
            "1e9", "Bearer ", "Basic ", "a.b.c", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "(\"a\")", "\u{e9}",
        ]), 0..8),
        body in prop::sample::select(vec![
            "", "{}", "[]", "null", "{\"notificationItems\":[{}]}", "{\"value\":[]}", "a=b&c",
            "{\"Type\":\"Notification\"}", "{\"type\":\"url_verification\",\"challenge\":\"x\"}",
        ]),
    ) {
        let value = pieces.concat();
        let all = header_names();
        let pairs: Vec<_> = all.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let headers = headers(&pairs);
        let url = "https://u@h:1/p?challenge=1&hub.mode=x&hub.challenge=y&crc_token=z";
        exercise(&Request { method: "POST", url, headers: &headers, body: body.as_bytes() });
        exercise(&Request { method: "GET", url, headers: &headers, body: body.as_bytes() });
    }
}

/// Every header that any preset's rule reads.
fn header_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "Authorization",
        "Signature",
        "Signature-Input",
        "Content-Digest",
        "X-Hook0-Signature",
        "x-contentful-signature",
        "x-contentful-signed-headers",
        "x-contentful-timestamp",
        "gcms-signature",
        "X-Plivo-Signature-V3",
        "X-Plivo-Signature-V3-Nonce",
        "Content-Type",
    ]
    .map(str::to_owned)
    .into();
    for rule in presets().flat_map(|preset| &preset.rules) {
        names.extend(rule.spec.require.keys().cloned());
        if let Check::Signed(signed) = &rule.check {
            let content = signed.content.0.iter().filter_map(|part| match part {
                Part::From(place) => Some(place),
                _ => None,
            });
            let places = content.chain(&signed.places);
            names.extend(places.filter_map(|place| match place {
                Place::Header(name) => Some(name.clone()),
                _ => None,
            }));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn exercise(request: &Request<'_>) {
    for preset in presets() {
        let verifier = permissive(preset);
        let outcome = verifier.verify(request, NOW_MS);
        let open = preset.rules[0].spec.kind == Kind::None;
        assert!(open || outcome.is_err(), "{} accepted it", preset.name);
        let _ = preset.event_id(request);
        let _ = preset.event_type(request);
        let _ = verifier.handshake(request, true, NOW_MS);
    }
}

fn permissive(preset: &'static Preset) -> Verifier {
    if preset.rules[0].is_symmetric() {
        return verifier_for(preset);
    }
    let keys = std::sync::Arc::new(PreloadedKeys::default());
    let mut credentials = Credentials {
        public_keys: vec![PublicKey::parse(&"ab".repeat(32)).unwrap()],
        ..Credentials::default()
    };
    for name in ["webhook_id", "audience", "email"] {
        credentials.vars.insert(name.to_owned(), name.to_owned());
    }
    Verifier::with_keys(Scheme::Preset(preset), credentials, keys).unwrap()
}

#[test]
fn presets_that_cover_less_than_the_body_are_listed() {
    let partial: Vec<_> = symmetric()
        .filter(|preset| preset.rules[0].is_signature() && !preset.covers_body())
        .map(|preset| preset.name)
        .filter(|name| *name != "monday") // a token about the endpoint only
        .collect();
    assert_eq!(partial, BODY_NOT_COVERED);
}

/// Partial coverage is still coverage: what these schemes sign is refused when it changes.
#[test]
fn signed_parts_of_partly_covered_requests_are_refused_when_changed() {
    for (name, signed) in [
        ("adyen", "pspReference"),
        ("dropbox-sign", "event_type"),
        ("mailgun", "token"),
        ("braintree", "bt_payload="),
        ("mandrill", "b="),
        ("plivo-v3", "b="),
        ("twilio", "b="),
    ] {
        let preset = preset(name).unwrap();
        let verifier = verifier_for(preset);
        let mut request = signed_request(preset, &verifier, b"abc");
        let text = String::from_utf8(request.body.clone()).unwrap();
        let at = text.find(signed).unwrap() + signed.len();
        let at = at
            + text[at..]
                .find(|c: char| c.is_ascii_alphanumeric())
                .unwrap();
        request.body[at] = if request.body[at] == b'z' { b'y' } else { b'z' };
        assert!(!accepts(&verifier, &request), "{name}: {text}");
    }
}

#[test]
fn nothing_verifies_with_another_secret() {
    for preset in signing() {
        let request = signed_request(preset, &verifier_for(preset), b"{}");
        let mut other = secret_for(preset)
            .replace("00ff", "00fe")
            .replace("MfKQ", "MfKR");
        if preset.rules[0].spec.key_prefix.is_none() {
            other = other.replace("whsec_", "");
        }
        other = other.replace("It's", "Its");
        let mut credentials = verifier_for(preset).credentials.clone();
        credentials.secrets = vec![Secret::from_text(other)];
        let verifier = Verifier::new(Scheme::Preset(preset), credentials).unwrap();
        assert!(!accepts(&verifier, &request), "{}", preset.name);
    }
}

#[test]
fn empty_and_blank_secrets_are_errors_of_configuration() {
    for preset in symmetric() {
        for secret in ["", " ", "\n", "whsec_"] {
            if secret == "whsec_" && preset.rules[0].spec.key_prefix.is_none() {
                continue;
            }
            let mut credentials = verifier_for(preset).credentials.clone();
            credentials.secrets = vec![Secret::from_text(secret)];
            let verifier = Verifier::new(Scheme::Preset(preset), credentials);
            assert!(verifier.is_err(), "{} took {secret:?}", preset.name);
        }
        let mut credentials = verifier_for(preset).credentials.clone();
        credentials.secrets.clear();
        assert!(
            Verifier::new(Scheme::Preset(preset), credentials).is_err(),
            "{}",
            preset.name
        );
    }
}
