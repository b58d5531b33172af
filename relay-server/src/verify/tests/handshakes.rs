//! The documented exchange of every handshake.

use super::{
    super::{Answer, Credentials, Request, Scheme, Secret, SignedRequest, Verifier, preset},
    headers,
};

const NOW_MS: u64 = 1_760_000_000_000;

fn credentials(secret: &str, vars: &[(&str, &str)]) -> Credentials {
    Credentials {
        secrets: vec![Secret::from_text(secret)],
        vars: vars
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        public_keys: Vec::new(),
    }
}

struct Exchange {
    provider: &'static str,
    secret: &'static str,
    vars: &'static [(&'static str, &'static str)],
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    /// Sign it as the provider would first.
    signed: bool,
    awaiting: bool,
}

const PLAIN: Exchange = Exchange {
    provider: "",
    secret: "secret",
    vars: &[],
    method: "GET",
    target: "",
    headers: &[],
    body: "",
    signed: false,
    awaiting: false,
};

fn play(exchange: &Exchange) -> Option<Answer> {
    let scheme = Scheme::Preset(preset(exchange.provider).unwrap());
    let verifier = Verifier::new(scheme, credentials(exchange.secret, exchange.vars)).unwrap();
    let mut request = SignedRequest {
        method: exchange.method.to_owned(),
        url: format!("https://relay.test/in/k{}", exchange.target),
        headers: headers(exchange.headers),
        body: exchange.body.as_bytes().to_vec(),
    };
    if exchange.signed {
        verifier.sign(&mut request, NOW_MS).unwrap();
    }
    verifier.handshake(&request.as_request(), exchange.awaiting, NOW_MS)
}

fn status_and_body(exchange: &Exchange) -> (u16, String) {
    let answer = play(exchange).unwrap_or_else(|| panic!("{} was no handshake", exchange.provider));
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of all exchanges")]
fn challenges_are_answered_as_documented() {
    for (exchange, status, body) in [
        (
            Exchange {
                provider: "slack",
                method: "POST",
                signed: true,
                body: r#"{"token":"t","challenge":"3eZbrw1aB","type":"url_verification"}"#,
                ..PLAIN
            },
            200,
            "3eZbrw1aB",
        ),
        (
            Exchange {
                provider: "zoom",
                secret: "Zoom",
                method: "POST",
                signed: true,
                body: r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1,"event":"endpoint.url_validation"}"#,
                ..PLAIN
            },
            200,
            r#"{"encryptedToken":"5a1b8d5d8247baacf3b04b24047d72606b5d7a6844179e63233788b7a6a9d706","plainToken":"qgg8vlvZRS6UYooatFL8Aw"}"#,
        ),
        (
            Exchange {
                provider: "x-twitter",
                target: "?crc_token=foo",
                ..PLAIN
            },
            200,
            r#"{"response_token":"sha256=dzukRpPHVT1u4g9h6l0nV6mk9KRNKEGuTpW1LkzWLbQ="}"#,
        ),
        (
            Exchange {
                provider: "meta",
                vars: &[("verify_token", "meatyhamhock")],
                target: "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock",
                ..PLAIN
            },
            200,
            "1158201444",
        ),
        (
            Exchange {
                provider: "meta",
                vars: &[("verify_token", "meatyhamhock")],
                target: "?hub.mode=subscribe&hub.challenge=1&hub.verify_token=other",
                ..PLAIN
            },
            403,
            "",
        ),
        (
            Exchange {
                provider: "meta",
                target: "?hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
                ..PLAIN
            },
            403,
            "",
        ),
        (
            Exchange {
                provider: "websub",
                target: "?hub.mode=unsubscribe&hub.topic=t&hub.challenge=c1",
                ..PLAIN
            },
            200,
            "c1",
        ),
        (
            Exchange {
                provider: "websub",
                vars: &[("topic", "mine")],
                target: "?hub.mode=subscribe&hub.topic=other&hub.challenge=c1",
                ..PLAIN
            },
            404,
            "",
        ),
        (
            Exchange {
                provider: "dropbox",
                target: "?challenge=a%2Bb",
                ..PLAIN
            },
            200,
            "a+b",
        ),
        (
            Exchange {
                provider: "nylas",
                target: "?challenge=bc609b38",
                ..PLAIN
            },
            200,
            "bc609b38",
        ),
        (
            Exchange {
                provider: "okta",
                headers: &[("X-Okta-Verification-Challenge", "abc")],
                ..PLAIN
            },
            200,
            r#"{"verification":"abc"}"#,
        ),
        (
            Exchange {
                provider: "ms-graph",
                method: "POST",
                target: "?validationToken=Validation%3A+Testing",
                ..PLAIN
            },
            200,
            "Validation: Testing",
        ),
        (
            Exchange {
                provider: "azure-eventgrid",
                method: "POST",
                headers: &[("aeg-event-type", "SubscriptionValidation")],
                body: r#"[{"id":"2d","data":{"validationCode":"512d38b6","validationUrl":"https://x"}}]"#,
                ..PLAIN
            },
            200,
            r#"{"validationResponse":"512d38b6"}"#,
        ),
        (
            Exchange {
                provider: "cloudevents-webhook",
                method: "OPTIONS",
                headers: &[("WebHook-Request-Origin", "eventemitter.example.com")],
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "cloudevents-webhook",
                method: "OPTIONS",
                vars: &[("allowed_origin", "a.example")],
                headers: &[("WebHook-Request-Origin", "b.example")],
                ..PLAIN
            },
            405,
            "",
        ),
        (
            Exchange {
                provider: "asana",
                method: "POST",
                headers: &[("X-Hook-Secret", "b537207f")],
                awaiting: true,
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "notion",
                method: "POST",
                awaiting: true,
                body: r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#,
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "monday",
                method: "POST",
                body: r#"{"challenge":"3eZbrw1aBm"}"#,
                ..PLAIN
            },
            200,
            r#"{"challenge":"3eZbrw1aBm"}"#,
        ),
        (
            Exchange {
                provider: "braintree",
                secret: "integration_private_key",
                vars: &[("public_key", "integration_public_key")],
                target: "?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53",
                ..PLAIN
            },
            200,
            "integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4",
        ),
        (
            Exchange {
                provider: "braintree",
                vars: &[("public_key", "p")],
                target: "?bt_challenge=NOTHEX",
                ..PLAIN
            },
            400,
            "",
        ),
        (
            Exchange {
                provider: "trello",
                method: "HEAD",
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "mandrill",
                method: "HEAD",
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "intercom",
                method: "HEAD",
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "twitch",
                method: "POST",
                signed: true,
                headers: &[(
                    "Twitch-Eventsub-Message-Type",
                    "webhook_callback_verification",
                )],
                body: r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{}}"#,
                ..PLAIN
            },
            200,
            "pogchamp-kappa-360noscope-vohiyo",
        ),
        (
            Exchange {
                provider: "smartsheet",
                method: "POST",
                headers: &[("Smartsheet-Hook-Challenge", "d78dd1d3")],
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "ringcentral",
                method: "POST",
                headers: &[("Validation-Token", "v1")],
                ..PLAIN
            },
            200,
            "",
        ),
        (
            Exchange {
                provider: "worldline",
                headers: &[("X-GCS-Webhooks-Endpoint-Verification", "w-1")],
                ..PLAIN
            },
            200,
            "w-1",
        ),
        (
            Exchange {
                provider: "onfleet",
                target: "?check=abc",
                ..PLAIN
            },
            200,
            "abc",
        ),
    ] {
        let (found_status, found_body) = status_and_body(&exchange);
        assert_eq!(
            (found_status, found_body.as_str()),
            (status, body),
            "{}",
            exchange.provider
        );
    }
}

#[test]
fn echoes_in_headers_carry_the_challenge() {
    for (exchange, name, value) in [
        (
            Exchange {
                provider: "asana",
                method: "POST",
                headers: &[("X-Hook-Secret", "b537207f")],
                awaiting: true,
                ..PLAIN
            },
            "X-Hook-Secret",
            "b537207f",
        ),
        (
            Exchange {
                provider: "smartsheet",
                method: "POST",
                headers: &[("Smartsheet-Hook-Challenge", "d78")],
                ..PLAIN
            },
            "Smartsheet-Hook-Response",
            "d78",
        ),
        (
            Exchange {
                provider: "ringcentral",
                method: "POST",
                headers: &[("Validation-Token", "v1")],
                ..PLAIN
            },
            "Validation-Token",
            "v1",
        ),
        (
            Exchange {
                provider: "cloudevents-webhook",
                method: "OPTIONS",
                headers: &[("WebHook-Request-Origin", "o.example")],
                ..PLAIN
            },
            "WebHook-Allowed-Origin",
            "o.example",
        ),
        (
            Exchange {
                provider: "cloudevents-webhook",
                method: "OPTIONS",
                headers: &[("WebHook-Request-Origin", "o.example")],
                ..PLAIN
            },
            "WebHook-Allowed-Rate",
            "*",
        ),
        (
            Exchange {
                provider: "dropbox",
                target: "?challenge=x",
                ..PLAIN
            },
            "X-Content-Type-Options",
            "nosniff",
        ),
    ] {
        let answer = play(&exchange).unwrap();
        assert_eq!(
            answer.headers.get(name),
            Some(value.as_bytes()),
            "{}",
            exchange.provider
        );
    }
}

#[test]
fn secrets_are_taken_only_while_awaited() {
    let hook = Exchange {
        provider: "asana",
        method: "POST",
        headers: &[("X-Hook-Secret", "new")],
        awaiting: true,
        ..PLAIN
    };
    assert_eq!(
        play(&hook).unwrap().store_secret,
        Some(Secret::from_text("new"))
    );
    assert_eq!(
        play(&Exchange {
            awaiting: false,
            ..hook
        }),
        None
    );
    let blank = Exchange {
        provider: "asana",
        method: "POST",
        headers: &[("X-Hook-Secret", " ")],
        awaiting: true,
        ..PLAIN
    };
    assert_eq!(play(&blank).unwrap().status, 400);

    // The first secret comes before the source can have a verifier at all.
    let request = Request {
        method: "POST",
        url: "https://relay.test/in/k",
        headers: &headers(&[]),
        body: br#"{"verification_token":"secret_x"}"#,
    };
    let notion = preset("notion").unwrap();
    let none = Credentials::default();
    let answer = super::super::handshake::answer(notion, None, &none, &request, true, NOW_MS);
    assert_eq!(
        answer.unwrap().store_secret,
        Some(Secret::from_text("secret_x"))
    );
    assert_eq!(
        super::super::handshake::answer(notion, None, &none, &request, false, NOW_MS),
        None
    );
}

#[test]
fn challenges_without_a_valid_signature_are_not_answered() {
    for (provider, body, headers) in [
        (
            "slack",
            r#"{"type":"url_verification","challenge":"c"}"#,
            &[][..],
        ),
        (
            "zoom",
            r#"{"event":"endpoint.url_validation","payload":{"plainToken":"t"}}"#,
            &[],
        ),
        (
            "twitch",
            r#"{"challenge":"c"}"#,
            &[(
                "Twitch-Eventsub-Message-Type",
                "webhook_callback_verification",
            )],
        ),
    ] {
        let exchange = Exchange {
            provider,
            method: "POST",
            body,
            headers,
            ..PLAIN
        };
        assert_eq!(play(&exchange), None, "{provider}");
    }
}

#[test]
fn hostile_echoes_are_refused() {
    for target in [
        "?challenge=a%0d%0aSet-Cookie:x",
        "?challenge=%00",
        "?challenge=%1b%5b",
    ] {
        let exchange = Exchange {
            provider: "dropbox",
            target,
            ..PLAIN
        };
        assert_eq!(status_and_body(&exchange), (400, String::new()), "{target}");
    }
    let long: &'static str = format!("?challenge={}", "x".repeat(1025)).leak();
    let exchange = Exchange {
        provider: "dropbox",
        target: long,
        ..PLAIN
    };
    assert_eq!(status_and_body(&exchange).0, 400);
    let markup = Exchange {
        provider: "dropbox",
        target: "?challenge=<script>",
        ..PLAIN
    };
    let answer = play(&markup).unwrap();
    assert_eq!(
        answer.headers.get("content-type"),
        Some(b"text/plain".as_slice())
    );
}

#[test]
fn ordinary_events_are_no_handshakes() {
    for provider in super::super::presets().filter(|preset| preset.name != "worldline") {
        let verifier =
            match Verifier::new(Scheme::Preset(provider), credentials("user:secret", &[])) {
                Ok(verifier) => verifier,
                Err(_) => continue,
            };
        let headers = headers(&[("Content-Type", "application/json")]);
        let url = "https://relay.test/in/k";
        let request = Request {
            method: "POST",
            url,
            headers: &headers,
            body: br#"{"id":"1","type":"x"}"#,
        };
        assert_eq!(
            verifier.handshake(&request, true, NOW_MS),
            None,
            "{}",
            provider.name
        );
    }
}
